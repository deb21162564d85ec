"""Latency of a run by stage: estimates from its raw samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import add, truediv
from typing import TYPE_CHECKING

from vilt_bench.judge.estimate import (
    LEAST_UNITS,
    PERCENTILES,
    Distribution,
    Estimate,
    KnownPercentiles,
    Samples,
    estimate,
    estimate_of,
    median,
)
from vilt_bench.record.run import WHOLE

if TYPE_CHECKING:
    from vilt_bench.record.run import Run, Series, Trial


@dataclass(frozen=True, slots=True)
class Latencies:
    """All that is estimated of one run, each once; seconds, `None` where it was not measured."""

    whole: Estimate | None
    """Of the uninstrumented passes."""
    total: Estimate | None
    """Of the sum of all stages, pass by pass."""
    stages: Mapping[str, Estimate | None]
    """By the stage's full name, in order; of a component that has several, the sum of them as well, by its name."""
    sum_of_stages: Estimate | None
    """By what factor the sum of an instrumented pass's stages differs from the whole's time beside it."""
    instrumented: Estimate | None
    """By what factor an instrumented pass, from end to end, takes longer than the whole beside it."""


def latencies(run: Run) -> Latencies:
    """Returns all estimates of a run."""
    names = list(dict.fromkeys(name for trial in run.trials for name in trial.samples.stages))
    stages: dict[str, Estimate | None] = {}
    for name in dict.fromkeys([*names, *(name.partition(".")[0] for name in names)]):
        inner = _within(name, names)
        if len(inner) == 1 and inner[0] in stages:  # a component of one stage
            stages[name] = stages[inner[0]]
        else:
            stages[name] = _estimated(run, [_sum(trial.samples, inner) for trial in run.trials])
    totals = [_sum(trial.samples, names) for trial in run.trials]
    return Latencies(
        whole=latency(run),
        total=_estimated(run, totals),
        stages=stages,
        sum_of_stages=_beside_whole(run, totals),
        instrumented=_beside_whole(run, [trial.samples.instrumented.latency_s for trial in run.trials]),
    )


def latency(run: Run, stage: str = WHOLE) -> Estimate | None:
    """Returns the latency in seconds of the whole, of a stage, or of a component; `None` where it was not measured.

    Args:
        run: any run.
        stage: `whole` for the uninstrumented passes, a stage's full name such as `visual_embedder.backbone`, or a
            component such as `visual_embedder`: the sum over its stages, pass by pass. An empty name sums them all.
    """
    if stage == WHOLE:
        found = [_whole(trial.samples) for trial in run.trials]
        return estimate_of([each for each in found if each is not None])
    return _estimated(run, [_samples(trial.samples, stage) for trial in run.trials])


def whole_latency(series: Series) -> Estimate | None:
    """Returns the latency in seconds of one process's uninstrumented passes, whose blocks are the units."""
    found = _whole(series)
    return None if found is None else estimate_of([found])


def blocked_latency(run: Run, stage: str = WHOLE) -> list[list[Sequence[float]]]:
    """Returns latency samples in seconds, by trial by block: those behind `latency`, where all passes were kept."""
    return _blocked(run, [_samples(trial.samples, stage) for trial in run.trials])


def trial_medians(run: Run, stage: str = WHOLE) -> list[tuple[Trial, float]]:
    """Returns the trials that have latency samples, each with their median in seconds."""
    found = [(trial, trial_median(trial.samples, stage)) for trial in run.trials]
    return [(trial, each) for trial, each in found if each is not None]


def trial_median(series: Series, stage: str = WHOLE) -> float | None:
    """Returns the median latency of one process in seconds; `None` where it was not measured."""
    if stage == WHOLE:
        found = _whole(series)
        return None if found is None else found.median
    samples = _samples(series, stage)
    return median(samples) if samples else None


def known_percentiles(series: Series) -> KnownPercentiles | None:
    """Returns what a trial that keeps only some of its passes knows of the whole's latency by all; `None`: nothing."""
    every = series.all_passes
    if (
        every is not None
        and len(every.whole_percentiles_s) == PERCENTILES
        and len(every.whole_medians_s) == len(every.blocks)
    ):
        return KnownPercentiles(series.passes, every.whole_medians_s, every.whole_percentiles_s)
    return None


def _whole(series: Series) -> Distribution | None:
    """Returns the latency of one trial's whole, by all passes that there were; of stages, it is by those kept."""
    if (known := known_percentiles(series)) is not None:
        return known
    blocks = _split(series.whole.latency_s, series.blocks)
    return Samples(blocks) if blocks else None


def _beside_whole(run: Run, passes: Sequence[Sequence[float]]) -> Estimate | None:
    """Returns the ratio of neighbouring passes, of each trial: what both of them met cancels."""
    ratios = []
    for trial, times in zip(run.trials, passes, strict=True):
        wholes = trial.samples.whole.latency_s
        pairs = zip(times, wholes, strict=False)
        ratios.append(
            list(map(truediv, times, wholes)) if all(wholes) else [one / whole for one, whole in pairs if whole]
        )
    return _estimated(run, ratios)


def _estimated(run: Run, samples: Sequence[Sequence[float]]) -> Estimate | None:
    """Returns the estimate from each trial's samples; blocks are told apart where they count."""
    if sum(map(bool, samples)) >= LEAST_UNITS:
        return estimate([[each] for each in samples if each])
    return estimate(_blocked(run, samples))


def _samples(series: Series, stage: str) -> Sequence[float]:
    if stage == WHOLE:
        return series.whole.latency_s
    return _sum(series, _within(stage, list(series.stages)))


def _within(stage: str, names: Sequence[str]) -> list[str]:
    """Returns the names of a stage and of those within it; of all, where the stage has no name."""
    inner = f"{stage}."
    return [name for name in names if not stage or name == stage or name.startswith(inner)]


def _sum(series: Series, stages: Sequence[str]) -> Sequence[float]:
    """Returns the sum of the stages in each pass; the last pass may have been interrupted before its last stage."""
    parts = [series.stages[name].latency_s for name in stages if name in series.stages]
    match parts:
        case []:
            return ()
        case [alone]:
            return alone
        case [one, other]:
            return list(map(add, one, other))
    return list(map(math.fsum, zip(*parts, strict=False)))


def _blocked(run: Run, samples: Sequence[Sequence[float]]) -> list[list[Sequence[float]]]:
    """Returns each trial's samples in blocks."""
    return [_split(each, trial.samples.blocks) for trial, each in zip(run.trials, samples, strict=True)]


def _split(samples: Sequence[float], sizes: Sequence[int]) -> list[Sequence[float]]:
    """Returns the samples in blocks of those sizes; what is left over is a block as well."""
    ends = list(accumulate(sizes, initial=0))
    bounds = pairwise([*ends, len(samples)] if ends[-1] < len(samples) else ends)
    return [block for begin, end in bounds if (block := samples[begin:end])]
