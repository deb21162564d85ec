"""Samples in, an estimate with its interval out; pure Python, no numbers of its own making.

Means and deviations are sums of floats without loss. `statistics` takes exact fractions for some of them: ten times the
time, for digits that no clock has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from statistics import NormalDist
from typing import Literal, Protocol

Blocks = Sequence[Sequence[float]]
"""Samples of one process, by block, in order."""
CONFIDENCE = 0.95
LEAST_UNITS = 3
"""Fewer trials, blocks, processes or pairs of them than this tell nothing of their spread."""
SETTLED = 0.02
"""Warm-up is over when two windows agree within this share."""
NEWTON_FREEDOM = 20
"""From so many degrees of freedom on, three steps find Student's quantile as well as a bisection."""
POOLED = 1000
"""Percentiles that stand for the samples of trials together, where some have no more."""
PERCENTILES = 101
"""From the lowest sample by hundredths to the highest."""


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

    @property
    def ends(self) -> tuple[float, float]:
        """Low and high, in their place the value itself where they are not known."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)

    def within(self, precision: float) -> bool:
        """Returns whether the interval is known, and its half is at most this share of the value."""
        return self.half_width is not None and self.half_width <= precision


class Distribution(Protocol):
    """Samples of one process, as far as an interval asks for them; there is one at least."""

    @property
    def count(self) -> int:
        """How many samples."""

    @property
    def medians(self) -> Sequence[float]:
        """Of the blocks, in order."""

    @property
    def median(self) -> float:
        """Of all samples."""

    def percentile(self, share: float) -> float:
        """Returns the value below which that share (0 to 1) of the samples lies."""


class Samples:
    """A distribution of which every sample is there."""

    def __init__(self, blocks: Blocks) -> None:
        """Take samples by block; there is one at least."""
        self._blocks = blocks
        self.ordered = sorted(chain.from_iterable(blocks))

    @property
    def medians(self) -> Sequence[float]:
        """Of the blocks, in order."""
        return [median(block) for block in self._blocks]

    @property
    def count(self) -> int:
        """How many samples."""
        return len(self.ordered)

    @property
    def median(self) -> float:
        """Of all samples."""
        return _middle(self.ordered)

    def percentile(self, share: float) -> float:
        """Returns the value below which that share (0 to 1) of the samples lies."""
        return _between(self.ordered, share)


@dataclass(frozen=True)
class KnownPercentiles:
    """A distribution of which only this is known; percentiles between two hundredths lie on a straight line."""

    count: int
    medians: Sequence[float]
    percentiles: Sequence[float]
    """The lowest, each hundredth, the highest."""

    @property
    def median(self) -> float:
        """Of all samples."""
        return self.percentiles[PERCENTILES // 2]

    def percentile(self, share: float) -> float:
        """Returns about the value below which that share (0 to 1) of the samples lies."""
        return _between(self.percentiles, share)


def percentiles(samples: Distribution) -> list[float]:
    """Returns the lowest, each hundredth, the highest; the middle one is the median."""
    return [
        samples.median if 2 * place == PERCENTILES - 1 else samples.percentile(place / (PERCENTILES - 1))
        for place in range(PERCENTILES)
    ]


def estimate(blocked: Sequence[Blocks]) -> Estimate | None:
    """Returns the mean of the trials' medians with its interval, `None` without a sample.

    Samples of one process are no independent evidence: with three trials or more the trials' medians are the
    units of a Student t interval. With fewer, the blocks' medians are, and the interval holds for these processes
    only; correlation of successive blocks widens it.

    Args:
        blocked: samples by trial by block, in order.
    """
    trials = [blocks for blocks in ([block for block in blocks if block] for blocks in blocked) if blocks]
    return estimate_of([Samples(blocks) for blocks in trials])


def estimate_of(trials: Sequence[Distribution]) -> Estimate | None:
    """Returns what `estimate` does, of trials whose samples need not all be there; `None` without a trial."""
    if not trials:
        return None
    medians = [trial.median for trial in trials]
    value = mean(medians)
    half: float | None
    if len(trials) >= LEAST_UNITS:
        half, units = student_t(len(medians) - 1) * stdev(medians) / math.sqrt(len(medians)), len(medians)
    else:
        of_blocks = [value for trial in trials for value in trial.medians]
        half, units = _within(trials, of_blocks), len(of_blocks)
    return Estimate(
        value=value,
        low=None if half is None else max(0.0, value - half),
        high=None if half is None else value + half,
        samples=sum(trial.count for trial in trials),
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
    return _between(sorted(samples), share)


def median(values: Sequence[float]) -> float:
    """Returns the middle value, of two their mean."""
    return _middle(sorted(values))


def _middle(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def mean(values: Sequence[float]) -> float:
    """Returns the arithmetic mean."""
    return math.fsum(values) / len(values)


def stdev(values: Sequence[float]) -> float:
    """Returns the sample's standard deviation, in two passes; of equal values it is zero."""
    centre = values[0] + mean([value - values[0] for value in values])
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def _between(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def settled(times: Sequence[float]) -> bool:
    """Returns whether the medians of the last two windows, a third of the times each, agree within 2%."""
    found = windows(len(times))
    return found is not None and agree(*(median(times[begin:end]) for begin, end in found))


def windows(count: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Returns from where to where the two windows go that must agree; `None` where times are too few."""
    window = max(3, count // 3)
    return None if count < 2 * window else ((count - 2 * window, count - window), (count - window, count))


def agree(before: float, after: float) -> bool:
    """Returns whether the medians of two windows are those of times that have settled."""
    return abs(after - before) <= SETTLED * before


def _within(trials: Sequence[Distribution], medians: Sequence[float]) -> float | None:
    """Returns half the interval for these very processes; their blocks, with these medians, are the units."""
    count = len(medians)
    if count < LEAST_UNITS:
        return None
    spread = stdev(medians)
    by_blocks = student_t(count - 1) * spread * math.sqrt(_inflation(medians) / count)
    # Three blocks may agree by chance; the samples' own order statistics keep that from passing for precision.
    return max(by_blocks, _order_half_width(trials))


def _inflation(values: Sequence[float]) -> float:
    """Returns by how much correlation of successive values inflates the variance of their mean: (1 + ρ) / (1 - ρ)."""
    count, centre = len(values), mean(values)
    deviations = [value - centre for value in values]
    variance = math.fsum(deviation**2 for deviation in deviations)
    if not variance:
        return 1.0
    raw = math.fsum(before * after for before, after in pairwise(deviations)) / variance
    # The estimate is low by (1 + 3ρ) / n (Marriott and Pope 1954, first order); without it, drift passes for precision.
    correlation = min(0.9, max(0.0, raw + (1 + 3 * max(0.0, raw)) / count))
    return (1 + correlation) / (1 - correlation)


def _order_half_width(trials: Sequence[Distribution]) -> float:
    """Returns half the distance between the order statistics that hold the median, samples taken as independent."""
    reach = 1.96 / 2 / math.sqrt(sum(trial.count for trial in trials))
    together = trials[0] if len(trials) == 1 else _pooled(trials)
    low, high = (together.percentile(min(1.0, max(0.0, share))) for share in (0.5 - reach, 0.5 + reach))
    return (high - low) / 2


def _pooled(trials: Sequence[Distribution]) -> Distribution:
    """Returns the samples of trials as if of one; percentiles stand for them where a trial has not all of its own."""
    every = [trial.ordered for trial in trials if isinstance(trial, Samples)]
    if len(every) == len(trials):
        return Samples(every)
    most = sum(trial.count for trial in trials)
    sizes = [max(1, round(POOLED * trial.count / most)) for trial in trials]
    return Samples(
        [
            [trial.percentile((place + 0.5) / size) for place in range(size)]
            for trial, size in zip(trials, sizes, strict=True)
        ]
    )


@lru_cache
def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Returns Student's two-sided quantile, from the closed form of its distribution.

    Source: Abramowitz and Stegun, 26.7.5, for where Newton's method begins.
    """
    if freedom < NEWTON_FREEDOM:  # by bisection
        low, high = 0.0, 1e6
        for _ in range(70):
            middle = (low + high) / 2
            low, high = (middle, high) if student_t_probability(middle, freedom) < confidence else (low, middle)
        return high
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    for _ in range(3):
        density = 2 * scale * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
        t += (confidence - student_t_probability(t, freedom)) / density
    return t


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
