"""Samples in, an estimate with its interval out; pure Python, no numbers of its own making."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Literal

Blocks = Sequence[Sequence[float]]
"""Samples of one process, by block, in order."""


CONFIDENCE = 0.95


LEAST_UNITS = 3
"""Fewer trials, blocks, processes or pairs of them than this tell nothing of their spread."""


SETTLED = 0.02
"""Warm-up is over when two windows agree within this share."""


@dataclass(frozen=True)
class Estimate:
    """A median with its 95% interval, in the samples' unit."""

    value: float
    low: float | None
    """`None` where there are too few units to tell."""
    high: float | None
    samples: int
    units: int
    """Trials or blocks: what the interval was computed from."""
    unit: Literal["trial", "block"]

    @property
    def half_width(self) -> float | None:
        """Half the interval as a share of the value; `None` without an interval."""
        if self.high is None or self.value == 0:
            return None
        return (self.high - self.value) / self.value  # low may be cut off at zero

    def within(self, precision: float) -> bool:
        """Returns whether the interval is known, and its half is at most this share of the value."""
        return self.half_width is not None and self.half_width <= precision


def estimate(blocked: Sequence[Blocks]) -> Estimate | None:
    """Returns the mean of the trials' medians with its interval, `None` without a sample.

    Samples of one process are no independent evidence: with three trials or more the trials' medians are the
    units of a Student t interval. With fewer, the blocks' medians are, and the interval holds for these processes
    only; correlation of successive blocks widens it.

    Args:
        blocked: samples by trial by block, in order.
    """
    trials = [blocks for blocks in ([block for block in blocks if block] for blocks in blocked) if blocks]
    if not trials:
        return None
    medians = [median(_flat(blocks)) for blocks in trials]
    value = fmean(medians)
    half: float | None
    if len(trials) >= LEAST_UNITS:
        half, units = student_t(len(medians) - 1) * stdev(medians) / math.sqrt(len(medians)), len(medians)
    else:
        half, units = _within(trials), sum(len(blocks) for blocks in trials)
    return Estimate(
        value=value,
        low=None if half is None else max(0.0, value - half),
        high=None if half is None else value + half,
        samples=sum(len(_flat(blocks)) for blocks in trials),
        units=units,
        unit="trial" if len(trials) >= LEAST_UNITS else "block",
    )


def block_interval(blocks: Blocks) -> Estimate | None:
    """Returns the median of one process's samples with its interval: what the stopping rule asks at a block's end.

    Drift from block to block widens the interval; with fewer than three blocks there is none.
    """
    return estimate([blocks])


def percentile(samples: Sequence[float], share: float) -> float:
    """Returns the value below which that share (0 to 1) of the samples lies, between neighbours by a straight line."""
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def settled(times: Sequence[float]) -> bool:
    """Returns whether the medians of the last two windows, a third of the times each, agree within 2%."""
    window = max(3, len(times) // 3)
    if len(times) < 2 * window:
        return False
    before, after = median(times[-2 * window : -window]), median(times[-window:])
    return abs(after - before) <= SETTLED * before


def _within(trials: Sequence[Blocks]) -> float | None:
    """Returns half the interval for these very processes; their blocks are the units."""
    medians = [median(block) for blocks in trials for block in blocks]
    count = len(medians)
    if count < LEAST_UNITS:
        return None
    spread = stdev(medians)
    by_blocks = student_t(count - 1) * spread * math.sqrt(_inflation(medians) / count)
    # Three blocks may agree by chance; the samples' own order statistics keep that from passing for precision.
    samples = _flat([block for blocks in trials for block in blocks])
    return max(by_blocks, _order_half_width(samples))


def _inflation(values: Sequence[float]) -> float:
    """Returns by how much correlation of successive values inflates the variance of their mean: (1 + ρ) / (1 - ρ)."""
    count, centre = len(values), fmean(values)
    deviations = [value - centre for value in values]
    variance = math.fsum(deviation**2 for deviation in deviations)
    if not variance:
        return 1.0
    raw = math.fsum(before * after for before, after in pairwise(deviations)) / variance
    # The estimate is low by (1 + 3ρ) / n (Marriott and Pope 1954, first order); without it, drift passes for precision.
    correlation = min(0.9, max(0.0, raw + (1 + 3 * max(0.0, raw)) / count))
    return (1 + correlation) / (1 - correlation)


def _order_half_width(samples: Sequence[float]) -> float:
    """Returns half the distance between the order statistics that hold the median, samples taken as independent."""
    reach = 1.96 / 2 / math.sqrt(len(samples))
    low, high = (percentile(samples, min(1.0, max(0.0, share))) for share in (0.5 - reach, 0.5 + reach))
    return (high - low) / 2


def _flat(blocks: Blocks) -> list[float]:
    return [sample for block in blocks for sample in block]


@lru_cache
def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Returns Student's two-sided quantile, by bisection of the closed form of its distribution."""
    low, high = 0.0, 1e6
    for _ in range(70):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_probability(middle, freedom) < confidence else (low, middle)
    return high


def student_t_probability(t: float, freedom: int) -> float:
    """Returns the probability that |T| < t.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    if freedom == 1:
        return 2 * angle / math.pi
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
