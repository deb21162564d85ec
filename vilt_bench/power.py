"""What slowdown can be found with a given noise: by the rule of lockstep comparison, without measuring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, median, stdev

from vilt_bench.statistics import student_t

TOLERANCE = 0.025
ERROR = 0.01
POWER = 0.95
PAIRS = 12
MOST_PAIRS = 60
TRIMMED = 0.2
"""Share of the pairs that the trimmed mean leaves out at either end."""
_TRIMMING_COST = 1.15
"""Variance of a trimmed mean over that of the plain mean, for normal noise: 1.14 with many pairs."""


def pair_noise(ratios: Sequence[float]) -> float | None:
    """Returns the standard deviation of log ratios of identical pairs, as a share; `None` below three."""
    return stdev([math.log(ratio) for ratio in ratios]) if len(ratios) >= 3 else None


def process_noise(samples: Sequence[Sequence[float]]) -> float | None:
    """Returns how much the medians of processes differ: their coefficient of variation; `None` below three."""
    medians = [median(each) for each in samples]
    return stdev(medians) / fmean(medians) if len(medians) >= 3 else None


def sample_noise(samples: Sequence[Sequence[float]]) -> float:
    """Returns how far samples lie from their process's median, typically: the middle of the absolute deviations."""
    return median(abs(value / middle - 1) for each in samples for middle in [median(each)] for value in each)


def detectable(
    noise: float, pairs: int = PAIRS, *, tolerance: float = TOLERANCE, error: float = ERROR, power: float = POWER
) -> float:
    """Returns the smallest slowdown that lockstep finds with that power, as a share.

    A slowdown is found where the trimmed mean of the pairs' log ratios exceeds the tolerance, and Student's t of it
    (one-sided) exceeds chance. Either may be what is hard.

    Args:
        noise: standard deviation of the log ratio of an identical pair.
        pairs: of processes; five at least.
        tolerance: accepted slowdown.
        error: of a false alarm.
        power: share of true slowdowns of that size to be found.
    """
    freedom = pairs - 2 * int(TRIMMED * pairs) - 1
    spread = noise * math.sqrt(_TRIMMING_COST / pairs)
    reach = NormalDist().inv_cdf(power)
    critical = student_t(freedom, 1 - 2 * error)
    # The estimated spread varies too: to first order by 1 / (2 degrees of freedom) of its square.
    by_chance = spread * (critical + reach * math.sqrt(1 + critical**2 / (2 * freedom)))
    by_tolerance = math.log1p(tolerance) + reach * spread
    return math.expm1(max(by_chance, by_tolerance))


def pairs_needed(noise: float, slowdown: float) -> int | None:
    """Returns the least pairs that find such a slowdown; `None` where 60 do not."""
    return next((pairs for pairs in range(6, MOST_PAIRS + 1) if detectable(noise, pairs) <= slowdown), None)
