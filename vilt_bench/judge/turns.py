"""Turns that processes of several cases took beside each other, and how much longer one took than the other in them.

What the machine does meanwhile hits neighbours alike, and cancels in their ratio. Each pair of processes gives one
number; the process is the unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from vilt_bench.judge.estimate import (
    CONFIDENCE,
    LEAST_UNITS,
    Estimate,
    mean,
    median,
    stdev,
    student_t,
    student_t_probability,
)
from vilt_bench.judge.latency import known_percentiles
from vilt_bench.record.run import parse_time

if TYPE_CHECKING:
    from datetime import datetime

    from vilt_bench.record.run import Run, Series, Trial

LEAST_TURNS = 3
"""That two processes took beside each other: of fewer, one that was disturbed is the median."""
FARTHEST = math.log(1000)
"""Of a logarithm that is told as an end of a ratio's interval."""
SPREAD_OF_MEDIAN = 1.2533 * 1.4826
"""Standard error of the median of n normal values, by their median absolute deviation over √n."""


@dataclass(frozen=True, slots=True)
class Turns:
    """What one process took, turn by turn, of those that are given to all cases of a group round by round."""

    trial: int
    started: datetime
    first: int
    """The round of the first, from 0: those before it went to warm-up."""
    medians_s: tuple[float, ...]
    """Of the uninstrumented passes of each."""


@dataclass(frozen=True, slots=True)
class TurnRatio:
    """How much longer one case took than another, as a logarithm."""

    logarithm: float
    error: float
    """Standard error."""
    trials: int
    turns: int
    """Of all trials, that both took beside each other."""

    def probability(self) -> float:
        """Returns that of such a ratio, either way, if both took equally long."""
        if not self.logarithm:
            return 1.0
        if not self.error:
            return 0.0
        return max(0.0, 1 - student_t_probability(abs(self.logarithm) / self.error, self.trials - 1))

    def inverse(self) -> TurnRatio:
        """Returns how much longer the other of the two took."""
        return replace(self, logarithm=-self.logarithm)

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """Returns the ratio with its interval."""
        half = student_t(self.trials - 1, confidence) * self.error
        low, high = (_exp(self.logarithm + sign * half) for sign in (-1, 1))
        return Estimate(math.exp(self.logarithm), low, high, samples=self.turns, units=self.trials, unit="trial")


def turns_of(run: Run) -> tuple[Turns, ...]:
    """Returns the turns of each process, by trial.

    None of a run that has no say: one that failed, is a side of a gate, which has pairs of its own, or has too few
    trials.
    """
    if run.failure is not None or run.side is not None or len(run.trials) < LEAST_UNITS:
        return ()
    return tuple(turns for trial in run.trials if (turns := _turns(trial)) is not None)


def in_turns(one: Sequence[Turns], other: Sequence[Turns]) -> TurnRatio | None:
    """Returns how much longer the other took than the one; `None` where they took too few turns beside each other.

    Of each trial it is the median over the turns of log(other / one), and of those the mean, whose interval is
    Student's t over trials: where the machine drifts or is disturbed this has the coverage that it claims, and is a
    fraction of the interval of unpaired times (`python benchmarks/ranking.py`). Three trials may agree by chance; the
    spread of the turns within them keeps that from passing for precision.
    """
    logs, errors, turns = [], [], 0
    for first, second in _beside(one, other):
        found = _logarithms(first, second)
        if len(found) >= LEAST_TURNS:
            logs.append(median(found))
            errors.append(SPREAD_OF_MEDIAN * median([abs(log - logs[-1]) for log in found]) / math.sqrt(len(found)))
            turns += len(found)
    if len(logs) < LEAST_UNITS:
        return None
    error = math.sqrt(max(stdev(logs) ** 2, mean([each**2 for each in errors])) / len(logs))
    return TurnRatio(mean(logs), error, len(logs), turns)


def _turns(trial: Trial) -> Turns | None:
    started, medians_s = parse_time(trial.started_at), _medians(trial.samples)
    if started is None or not medians_s:
        return None
    return Turns(trial.index, started, len(trial.warmup.blocks), medians_s)


def _medians(series: Series) -> tuple[float, ...]:
    """Returns those of the blocks, by all passes where it is known; what is left over is no turn."""
    if (known := known_percentiles(series)) is not None:
        return tuple(known.medians)
    times = series.whole.latency_s
    ends = accumulate(series.blocks, initial=0)
    return tuple(median(times[begin:end]) for begin, end in pairwise(ends) if begin < end <= len(times))


def _beside(one: Sequence[Turns], other: Sequence[Turns]) -> Iterator[tuple[Turns, Turns]]:
    """Yields the trials that both made in the same turns: none began another one before both had begun this.

    Trials of runs that were joined, or went on at another time, may have equal numbers all the same.
    """
    beside = {turns.trial: (place, turns) for place, turns in enumerate(other)}
    for place, first in enumerate(one):
        if first.trial not in beside:
            continue
        opposite, second = beside[first.trial]
        begun = sorted((first.started, second.started))
        before = [*one[:place][-1:], *other[:opposite][-1:]]
        after = [*one[place + 1 :][:1], *other[opposite + 1 :][:1]]
        if all(each.started <= begun[0] for each in before) and all(begun[1] <= each.started for each in after):
            yield first, second


def _logarithms(one: Turns, other: Turns) -> list[float]:
    """Returns log(other / one) of each round in which both were sampled; none where a clock was too coarse, or set."""
    begin = max(one.first, other.first)
    both = zip(one.medians_s[begin - one.first :], other.medians_s[begin - other.first :], strict=False)
    pairs = list(both)
    if any(before <= 0 or after <= 0 for before, after in pairs):
        return []
    return [math.log(after / before) for before, after in pairs]


def _exp(logarithm: float) -> float | None:
    """Returns the ratio; `None` where it says nothing."""
    return math.exp(logarithm) if abs(logarithm) < FARTHEST else None
