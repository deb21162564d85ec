"""What slowdown can be found with a given noise: by the rule of lockstep comparison, without measuring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev

from vilt_bench.ask.rule import TOLERANCE
from vilt_bench.judge.estimate import LEAST_UNITS
from vilt_bench.judge.pairs import LOOKS, share_left
from vilt_bench.judge.significance import (
    GATE_ERROR,
    PLANNED_PAIRS,
    POWER,
    neighbour_logs,
    pair_log,
    pairs_trimmed,
    smallest_found,
)

MOST_PAIRS = max(LOOKS)
"""A gate goes on to so many, and no farther."""
_TRIMMING_COST = {0.1: 1.06, 0.25: 1.20}
"""Variance of a trimmed mean over that of the plain mean, for normal noise, by the share that is trimmed."""


def pair_noise(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    """Returns how far identical processes that take turns differ: the standard deviation over pairs, as a share.

    Args:
        pairs: the samples of both, in turns A B B A; each pair gives the trimmed mean over neighbours in them.
    """
    logs = [pair_log(found) for first, second in pairs if (found := neighbour_logs(first, second))]
    return stdev(logs) if len(logs) >= LEAST_UNITS else None


def process_noise(samples: Sequence[Sequence[float]]) -> float | None:
    """Returns how much the medians of processes differ: their coefficient of variation; `None` below three."""
    medians = [median(each) for each in samples]
    return stdev(medians) / fmean(medians) if len(medians) >= LEAST_UNITS else None


def sample_noise(samples: Sequence[Sequence[float]]) -> float:
    """Returns how far samples lie from their process's median, typically: the middle of the absolute deviations."""
    return median(abs(value / middle - 1) for each in samples for middle in [median(each)] for value in each)


def detectable(
    noise: float,
    pairs: int = PLANNED_PAIRS,
    *,
    tolerance: float = TOLERANCE,
    error: float = GATE_ERROR / 2,
    power: float = POWER,
) -> float | None:
    """Returns the smallest slowdown that lockstep finds with that power, as a share; `None` where it is the tenfold.

    By what earlier looks have left of the error: they find some of it, so that it is found a little more often.

    Args:
        noise: standard deviation of the log ratio of an identical pair.
        pairs: of processes; five at least.
        tolerance: accepted slowdown.
        error: of a false alarm, of this clock, over all looks; the gate has two clocks.
        power: share of true slowdowns of that size to be found.
    """
    trimmed = pairs_trimmed(pairs)
    freedom = pairs - 2 * int(trimmed * pairs) - 1
    spread = noise * math.sqrt(_TRIMMING_COST[trimmed] / pairs)
    return smallest_found(spread, freedom, tolerance=tolerance, error=error * share_left(pairs), power=power)


def pairs_needed(noise: float, slowdown: float) -> int | None:
    """Returns the least pairs that find such a slowdown; `None` where as many as a gate takes do not."""

    def finds(pairs: int) -> bool:
        found = detectable(noise, pairs)
        return found is not None and found <= slowdown

    return next((pairs for pairs in range(6, MOST_PAIRS + 1) if finds(pairs)), None)
