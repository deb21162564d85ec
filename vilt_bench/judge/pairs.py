"""Pairs of processes that took turns: their evidence, when to look at it, and the decision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from vilt_bench.ask.rule import TOLERANCE, Decides
from vilt_bench.judge.compare import share_of_error
from vilt_bench.judge.comparison import SideName, StageVerdict
from vilt_bench.judge.significance import GATE_ERROR, Evidence, Subject, judge, neighbour_logs, pair_log, paired
from vilt_bench.record.run import WHOLE, Run, Series, Times
from vilt_bench.words import counted

LOOKS = {6: 0.2, 12: 0.45, 18: 0.6, 24: 0.7, 36: 0.8, 48: 0.88, 72: 0.95, 96: 1.0}
"""By number of pairs: the share of the error that is spent by then."""
WARMUP_TURNS = 2
"""Four passes a process, after the first call; two of slow ones, and more where these show that it has not settled."""
SAMPLE_TURNS = 15
"""Thirty passes a process: fewer find less, more find hardly more."""
PASSES = 2 * (1 + 2 * (WARMUP_TURNS + SAMPLE_TURNS))
"""Of a pair that is not short of time, by both processes, the first calls included."""
LEAST_TURNS = 2
"""A pair that was cut off earlier is not judged."""
Verdicts = tuple[StageVerdict, tuple[StageVerdict, ...]]
"""Of the whole, and of the stages."""
BASELINE: SideName = "baseline"
CANDIDATE: SideName = "candidate"


@dataclass(frozen=True)
class Pair:
    """The samples of two processes that took turns: in both series, two passes a turn."""

    baseline: Series
    candidate: Series
    _known: dict[object, float | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What has been computed of these samples, which never change: each look asks for it again."""

    @property
    def turns(self) -> int:
        """How many turns A B B A both have taken."""
        sides = (self.baseline, self.candidate)
        whole = min(len(side.whole.latency_s) for side in sides)
        return whole // 2 + min(len(side.instrumented.latency_s) for side in sides) // 2

    def logarithm(self, stage: str, channel: str) -> float | None:
        """Returns the logarithm of candidate / baseline: the trimmed mean over neighbours in the turns.

        `None` where that clock has no times, or times that no clock should give.
        """

        def compute() -> float | None:
            clock = f"{channel}_s"
            logs = [
                log
                for before, after in self._times(stage)
                for log in neighbour_logs(getattr(before, clock) or (), getattr(after, clock) or ())
            ]
            return pair_log(logs) if logs else None

        return self._once(("logarithm", stage, channel), compute)

    def median_s(self, side: SideName, stage: str, clock: str = "latency_s") -> float | None:
        """Returns the median time of one side's passes by that clock, instrumented ones for a stage."""

        def compute() -> float | None:
            series = self.baseline if side == BASELINE else self.candidate
            column = getattr(series.of(stage), clock)
            return median(column) if column else None

        return self._once(("median", side, stage, clock), compute)

    def is_timed_by_device(self, stage: str) -> bool:
        """Returns whether a side has times of the device's own clock."""
        return any(each.device_time_s for both in self._times(stage) for each in both)

    def _times(self, stage: str) -> list[tuple[Times, Times]]:
        both = [(self.baseline.of(stage), self.candidate.of(stage))]
        # Of the whole, instrumented passes tell as well.
        return [*both, (self.baseline.instrumented, self.candidate.instrumented)] if stage == WHOLE else both

    def _once(self, key: object, compute: Callable[[], float | None]) -> float | None:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


def decide(
    pairs: Iterable[Pair], *, tolerance: float = TOLERANCE, decides: Decides = "total", error: float = GATE_ERROR
) -> tuple[Verdicts, int]:
    """Returns the verdicts and the number of pairs behind them: of the first look that is clear, or of all pairs.

    The probability of a false alarm is spent over the looks; what earlier ones have not spent is left for the last.
    """
    seen: list[Pair] = []
    for pair in pairs:
        seen.append(pair)
        if len(seen) in LOOKS:
            share = share_left(len(seen)) - (1.0 - LOOKS[len(seen)])
            verdicts = judge_pairs(seen, tolerance=tolerance, decides=decides, error=error * share)
            if _is_clear(verdicts, decides) or len(seen) == max(LOOKS):
                return verdicts, len(seen)
    left = error * share_left(len(seen))
    return judge_pairs(seen, tolerance=tolerance, decides=decides, error=left), len(seen)


def share_left(pairs: int) -> float:
    """Returns the share of the error that the looks before so many pairs have left for the last one."""
    return 1.0 - max((share for count, share in LOOKS.items() if count < pairs), default=0.0)


def judge_pairs(pairs: Sequence[Pair], *, tolerance: float, decides: Decides, error: float) -> Verdicts:
    """Returns the verdicts of the whole and of the stages, what decides with that probability of a false alarm."""
    error = share_of_error(error, decides)
    whole = _subject(pairs, WHOLE)
    names = dict.fromkeys(name for pair in pairs for side in (pair.baseline, pair.candidate) for name in side.stages)
    (total,) = judge([whole], tolerance=tolerance, error=error)
    subjects = [_subject(pairs, name) for name in names]
    return total, tuple(judge(subjects, tolerance=tolerance, error=error, whole_s=whole.baseline_s))


def pairs_of(baseline: Run, candidate: Run) -> list[Pair]:
    """Returns the pairs that the records of a gate hold, those that were cut off left out."""
    both = zip(baseline.trials, candidate.trials, strict=False)
    pairs = [Pair(before.samples, after.samples) for before, after in both]
    return [pair for pair in pairs if pair.turns >= LEAST_TURNS]


def evidence(pairs: Sequence[Pair], stage: str = WHOLE) -> tuple[Evidence, ...]:
    """Returns what the clocks that count say of a stage, the one that users feel first."""
    found = []
    by_device = any(pair.is_timed_by_device(stage) for pair in pairs)
    for channel in ("device_time",) if by_device else ("wall_time", "cpu_time"):
        logs = [log for pair in pairs if (log := pair.logarithm(stage, channel)) is not None]
        if len(logs) == len(pairs) and (each := paired(channel, logs)) is not None:
            if channel == "cpu_time":
                before_s, after_s = (_typical_s(pairs, side, stage, "cpu_time_s") for side in (BASELINE, CANDIDATE))
                each = replace(each, baseline_s=before_s, candidate_s=after_s)
            found.append(each)
    return tuple(found)


def _subject(pairs: Sequence[Pair], stage: str) -> Subject:
    return Subject(
        name=stage,
        baseline_s=_typical_s(pairs, BASELINE, stage),
        candidate_s=_typical_s(pairs, CANDIDATE, stage),
        evidence=evidence(pairs, stage),
        obstacle=f"{counted(len(pairs), 'pair')} of processes are too few; allow more --max-time",
    )


def _typical_s(pairs: Sequence[Pair], side: SideName, stage: str, clock: str = "latency_s") -> float | None:
    """Returns the median over a side's processes of their median time by that clock."""
    medians = [each for pair in pairs if (each := pair.median_s(side, stage, clock)) is not None]
    return median(medians) if medians else None


def _is_clear(verdicts: Verdicts, decides: Decides) -> bool:
    total, stages = verdicts
    seen = [total, *(stages if decides == "stages" else ())]
    return any(each.verdict in ("regressed", "missing") for each in seen) or all(
        each.verdict != "inconclusive" for each in seen
    )
