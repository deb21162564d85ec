"""Latency of a run by stage: estimates from its raw samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import add, truediv
from typing import TYPE_CHECKING

from vilt_bench.judge.estimate import PERCENTILES, Distribution, Estimate, Samples, Summary, estimate, estimate_of
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
    names = dict.fromkeys(name for trial in run.trials for name in trial.samples.stages)
    stages = {name: latency(run, name) for name in names}
    for component in dict.fromkeys(name.partition(".")[0] for name in names):
        inner = [name for name in names if name.startswith(f"{component}.")]
        if component not in stages:
            stages[component] = stages[inner[0]] if len(inner) == 1 else latency(run, component)
    return Latencies(
        whole=latency(run),
        total=latency(run, ""),
        stages=stages,
        sum_of_stages=_beside_whole(run, lambda series: _samples(series, "")),
        instrumented=_beside_whole(run, lambda series: series.instrumented.latency_s),
    )


def latency(run: Run, stage: str = WHOLE) -> Estimate | None:
    """Returns the latency in seconds of the whole, of a stage, or of a component; `None` where it was not measured.

    Args:
        run: any run.
        stage: `whole` for the uninstrumented passes, a stage's full name such as `visual_embedder.backbone`, or a
            component such as `visual_embedder`: the sum over its stages, pass by pass. An empty name sums them all.
    """
    found = [_distribution(trial.samples, stage) for trial in run.trials]
    return estimate_of([each for each in found if each is not None])


def blocked_latency(run: Run, stage: str = WHOLE) -> list[list[Sequence[float]]]:
    """Returns latency samples in seconds, by trial by block: those behind `latency`, where all passes were kept."""
    return [_split(_samples(trial.samples, stage), trial.samples.blocks) for trial in run.trials]


def trial_medians(run: Run, stage: str = WHOLE) -> list[tuple[Trial, float]]:
    """Returns the trials that have latency samples, each with their median in seconds."""
    found = [(trial, trial_median(trial.samples, stage)) for trial in run.trials]
    return [(trial, each) for trial, each in found if each is not None]


def trial_median(series: Series, stage: str = WHOLE) -> float | None:
    """Returns the median latency of one process in seconds; `None` where it was not measured."""
    found = _distribution(series, stage)
    return None if found is None else found.median


def _distribution(series: Series, stage: str) -> Distribution | None:
    """Returns the latency of one trial: of the whole by all passes that there were, of stages by those kept."""
    every = series.all_passes
    if (
        stage == WHOLE
        and every is not None
        and len(every.whole_percentiles_s) == PERCENTILES
        and len(every.whole_medians_s) == len(every.blocks)
    ):
        return Summary(series.passes, every.whole_medians_s, every.whole_percentiles_s)
    blocks = _split(_samples(series, stage), series.blocks)
    return Samples(blocks) if blocks else None


def _beside_whole(run: Run, of_series: Callable[[Series], Sequence[float]]) -> Estimate | None:
    """Returns the ratio of neighbouring passes: what both of them met cancels."""
    blocked = []
    for series in (trial.samples for trial in run.trials):
        wholes, passes = series.whole.latency_s, of_series(series)
        if not all(wholes):
            pairs = [(one, whole) for one, whole in zip(passes, wholes, strict=False) if whole]
            passes, wholes = [one for one, _ in pairs], tuple(whole for _, whole in pairs)
        blocked.append(_split(list(map(truediv, passes, wholes)), series.blocks))
    return estimate(blocked)


def _samples(series: Series, stage: str) -> Sequence[float]:
    if stage == WHOLE:
        return series.whole.latency_s
    inner = f"{stage}."
    parts = [
        times.latency_s for name, times in series.stages.items() if not stage or name == stage or name.startswith(inner)
    ]
    match parts:  # the last pass may have been interrupted: its last stages have no time
        case []:
            return ()
        case [alone]:
            return alone
        case [one, other]:
            return list(map(add, one, other))
    return list(map(math.fsum, zip(*parts, strict=False)))


def _split(samples: Sequence[float], sizes: Sequence[int]) -> list[Sequence[float]]:
    """Returns the samples in blocks of those sizes; what is left over is a block as well."""
    blocks, begin = [], 0
    for size in sizes:
        blocks.append(samples[begin : begin + size])
        begin += size
    return [block for block in (*blocks, samples[begin:]) if block]
