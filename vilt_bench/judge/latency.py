"""Latency of a run by stage: an estimate from its raw samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING

from vilt_bench.judge.estimate import Estimate, estimate
from vilt_bench.record.run import WHOLE

if TYPE_CHECKING:
    from vilt_bench.record.run import Run, Series, Trial


def latency(run: Run, stage: str = WHOLE) -> Estimate | None:
    """Returns the latency in seconds of the whole, of a stage, or of a component; `None` where it was not measured.

    Args:
        run: any run.
        stage: `whole` for the uninstrumented passes, a stage's full name such as `visual_embedder.backbone`, or a
            component such as `visual_embedder`: the sum over its stages, pass by pass. An empty name sums them all.
    """
    return estimate(blocked_latency(run, stage))


def blocked_latency(run: Run, stage: str = WHOLE) -> list[list[list[float]]]:
    """Returns the latency samples behind `latency`, in seconds, by trial by block."""
    return [_split(_samples(trial.samples, stage), trial.samples.blocks) for trial in run.trials]


def sum_of_stages(run: Run) -> Estimate | None:
    """Returns by what factor the sum of an instrumented pass's stages differs from the whole's time beside it."""
    return _beside_whole(run, lambda series: _samples(series, ""))


def instrumented(run: Run) -> Estimate | None:
    """Returns by what factor an instrumented pass, from end to end, takes longer than the whole beside it."""
    return _beside_whole(run, lambda series: list(series.instrumented.latency_s))


def _beside_whole(run: Run, of_series: Callable[[Series], list[float]]) -> Estimate | None:
    """Returns the ratio of neighbouring passes: what both of them met cancels."""
    return estimate(
        [
            _split(
                [one / whole for one, whole in zip(of_series(series), series.whole.latency_s, strict=False) if whole],
                series.blocks,
            )
            for series in (trial.samples for trial in run.trials)
        ]
    )


def trial_medians(run: Run, stage: str = WHOLE) -> list[tuple[Trial, float]]:
    """Returns the trials that have latency samples, each with their median in seconds."""
    pairs = [(trial, _samples(trial.samples, stage)) for trial in run.trials]
    return [(trial, median(samples)) for trial, samples in pairs if samples]


def _samples(series: Series, stage: str) -> list[float]:
    if stage == WHOLE:
        return list(series.whole.latency_s)
    parts = [
        times.latency_s
        for name, times in series.stages.items()
        if not stage or name == stage or name.startswith(f"{stage}.")
    ]
    return [math.fsum(passes) for passes in zip(*parts, strict=False)]  # the last pass may have been interrupted


def _split(samples: list[float], sizes: Sequence[int]) -> list[list[float]]:
    """Returns the samples in blocks of those sizes; what is left over is a block as well."""
    rest = iter(samples)
    blocks = [list(islice(rest, size)) for size in sizes]
    return [block for block in [*blocks, list(rest)] if block]
