"""Finds where a history of latencies changed level: exact segmentation proposes, a resampling test decides.

Source: optimal partitioning after Jackson et al., "An algorithm for optimal partitioning of data on an interval"
(2005); the sieve bootstrap after Bühlmann, "Sieve bootstrap for time series" (1997).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vilt_bench.judge.estimate import student_t

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

ERROR = 0.01
"""Probability that a history without a change is said to have one."""
LEAST_RUNS = 8
"""A history of fewer runs tells no change from noise."""
LEAST_SEGMENT = 3
"""Runs on either side of a change: one or two slow runs are no new level."""
LEAST_CHANGE = 0.01
"""As a share: smaller changes of level are not worth a reader's time, however sure."""
PENALTY = 5.0
"""Of a proposed change, in squared errors of one run's noise times the logarithm of the number of runs."""
NEIGHBOURS = 7
"""Runs in whose midst a run may be an outlier."""
OUTLIER = 3.0
"""In robust standard deviations."""
LEAST_RESAMPLES = 1000
MOST_RESAMPLES = 20_000
FAR = 1.25
"""Times the clearest of the first resamples: a split so clear needs no more of them."""
_CHUNK = 200


@dataclass(frozen=True)
class Shift:
    """A change of level: from `index` on, values are `ratio` times those before."""

    index: int
    ratio: float
    low: float
    """Of the 95% interval of the ratio."""
    high: float
    before: float
    """Geometric mean of the values since the change before this one."""
    after: float
    """Geometric mean of the values up to the next change."""
    probability: float
    """Of so clear a change in a history that has none."""


def find_shifts(values: Sequence[float], *, error: float = ERROR, least_change: float = LEAST_CHANGE) -> list[Shift]:
    """Returns the changes of level, in order; none where there are fewer than `LEAST_RUNS` values.

    Levels are compared by ratio. Noise may be correlated from run to run, as a machine's load is, and may have
    outliers: the test resamples the noise that is found here.

    Args:
        values: positive, in order of time.
        error: probability of a change where there is none.
        least_change: as a share; smaller changes are left out.
    """
    if len(values) < LEAST_RUNS:
        return []
    import numpy as np

    logs = _without_outliers(np.log(np.asarray(values, dtype=np.float64)))
    proposed = segment(logs)
    error /= max(1, len(proposed))  # several tests share the one probability
    bounds = [0, *proposed, len(logs)]
    tested: dict[tuple[int, int], float] = {}

    def probability(middle: int) -> float:
        window = bounds[middle - 1], bounds[middle + 1]
        if window not in tested:
            tested[window] = _test(logs[slice(*window)], error)
        return tested[window]

    while len(bounds) > 2:
        weakest = max(range(1, len(bounds) - 1), key=probability)
        if probability(weakest) <= error:
            break
        del bounds[weakest]
    for middle in range(1, len(bounds) - 1):  # neighbours may have gone since the segmentation
        start = bounds[middle - 1]
        bounds[middle] = start + _best_split(logs[start : bounds[middle + 1]])[0]
    shifts = [
        _shift(logs, bounds[middle - 1], bounds[middle], bounds[middle + 1], probability(middle))
        for middle in range(1, len(bounds) - 1)
    ]
    return [shift for shift in shifts if abs(shift.ratio - 1) >= least_change]


def _without_outliers(logs: Array) -> Array:
    """Returns the logarithms with those drawn in that lie far from the median of their neighbours.

    One run that met another job is no level; unclipped, it would hide the levels around it.
    """
    import numpy as np

    reach = NEIGHBOURS // 2
    padded = np.pad(logs, reach, mode="reflect")
    local = np.median(np.lib.stride_tricks.sliding_window_view(padded, NEIGHBOURS), axis=1)
    distance = logs - local
    limit = OUTLIER * 1.4826 * float(np.median(np.abs(distance)))
    clipped: Array = local + np.clip(distance, -limit, limit)
    return clipped


def segment(logs: Array) -> list[int]:
    """Returns where the levels change in the segmentation with the least squared error plus a penalty a change.

    The penalty is above that of the Bayesian information criterion; what is proposed in vain, the test turns down.
    """
    import numpy as np

    count = len(logs)
    # Of differences, so that changes of level count little.
    noise = float((np.diff(logs) ** 2).mean()) / 2
    penalty = PENALTY * max(noise, 1e-18) * math.log(count)
    sums, squares = (
        np.concatenate([[0.0], np.cumsum(part)]) for part in (logs - logs.mean(), (logs - logs.mean()) ** 2)
    )
    best = np.full(count + 1, np.inf)
    best[0] = -penalty
    last = np.zeros(count + 1, dtype=int)
    for end in range(LEAST_SEGMENT, count + 1):
        starts = np.arange(end - LEAST_SEGMENT + 1)
        errors = squares[end] - squares[starts] - (sums[end] - sums[starts]) ** 2 / (end - starts)
        costs = best[starts] + errors + penalty
        last[end] = int(np.argmin(costs))
        best[end] = costs[last[end]]
    found = []
    end = int(last[count])
    while end > 0:
        found.append(end)
        end = int(last[end])
    return found[::-1]


def _best_split(logs: Array) -> tuple[int, float]:
    """Returns the split in two levels that is clearest, and how clear: Student's t of their difference."""
    clearness = _clearness(logs[None])[0]
    place = int(clearness.argmax())
    return LEAST_SEGMENT + place, float(clearness[place])


def _clearness(rows: Array) -> Array:
    """Returns Student's |t| of each split [K] of each row [B, N], `LEAST_SEGMENT` values at least on either side."""
    import numpy as np

    count = rows.shape[1]
    rows = rows - rows.mean(axis=1, keepdims=True)
    total = (rows**2).sum(axis=1, keepdims=True)
    before = np.arange(LEAST_SEGMENT, count - LEAST_SEGMENT + 1)
    sums = np.cumsum(rows, axis=1)[:, before - 1]
    between = sums**2 * count / (before * (count - before))
    within = np.maximum(total - between, 1e-12 * total + 1e-300)
    clearness: Array = np.sqrt(between / within * (count - 2))
    return clearness


def _test(logs: Array, error: float) -> float:
    """Returns the probability of so clear a split if there were one level only, with the noise found around the split.

    Resampling ends early where the probability is plainly above or below `error`.
    """
    import numpy as np

    split, clearest = _best_split(logs)
    residuals = _residuals(logs, split)
    correlation = _correlation(residuals)
    steps = residuals[1:] - correlation * residuals[:-1]
    steps -= steps.mean()
    rng = np.random.default_rng(0)
    resamples = min(MOST_RESAMPLES, math.ceil(20 / error))
    above = done = 0
    highest = 0.0
    while done < resamples and above <= error * resamples:
        rows = rng.choice(steps, size=(_CHUNK, len(logs)))
        for place in range(1, len(logs) if correlation else 0):
            rows[:, place] += correlation * rows[:, place - 1]
        maxima = _clearness(rows).max(axis=1)
        above += int((maxima >= clearest).sum())
        done += _CHUNK
        highest = max(highest, float(maxima.max()))
        if done >= LEAST_RESAMPLES and clearest > FAR * highest:
            return min(error, 1 / (1 + done))
    return (1 + above) / (1 + done)


def _residuals(logs: Array, split: int) -> Array:
    import numpy as np

    return np.concatenate([logs[:split] - logs[:split].mean(), logs[split:] - logs[split:].mean()])


def _correlation(residuals: Array) -> float:
    """Returns the correlation of successive residuals, at least 0.

    The estimate is low by (1 + 3ρ) / n with one level taken out (Marriott and Pope 1954, first order), by more with
    two levels whose split was chosen: 6 (1 + ρ) / n holds false alarms down in simulation.
    """
    power = float((residuals**2).sum())
    raw = float((residuals[1:] * residuals[:-1]).sum()) / power if power else 0.0
    return min(0.9, max(0.0, raw + 6 * (1 + max(0.0, raw)) / len(residuals)))


def _shift(logs: Array, start: int, split: int, end: int, probability: float) -> Shift:
    before, after = logs[start:split], logs[split:end]
    residuals = _residuals(logs[start:end], split - start)
    freedom = end - start - 2
    correlation = _correlation(residuals)
    inflation = (1 + correlation) / (1 - correlation)
    error = math.sqrt(float((residuals**2).sum()) / freedom * inflation * (1 / len(before) + 1 / len(after)))
    change, half = float(after.mean() - before.mean()), student_t(freedom) * error
    return Shift(
        index=split,
        ratio=math.exp(change),
        low=math.exp(change - half),
        high=math.exp(change + half),
        before=math.exp(float(before.mean())),
        after=math.exp(float(after.mean())),
        probability=probability,
    )
