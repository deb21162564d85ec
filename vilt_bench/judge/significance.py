"""Evidence in, verdicts out: trimmed t-tests on the logarithm of candidate / baseline, pure Python.

The unit of evidence is a process, or a pair of processes that were measured together; never a sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean

from vilt_bench.judge.comparison import Ratio, SideName, StageVerdict, Verdict
from vilt_bench.judge.estimate import LEAST_UNITS, student_t, student_t_probability

TRIMMED = 0.2
"""Share of the values that is left out at each end, of processes; Yuen 1974."""
PASSES_TRIMMED = 0.4
"""Likewise of a pair's passes over their neighbours': a burst of load that hits one of two leaves an outlier, and there
may be many. docs/gate.md tells what other shares and rules find."""
PAIRS_TRIMMED, MANY_PAIRS_TRIMMED, MANY_PAIRS = 0.1, 0.25, 18
"""Likewise of pairs, none of fewer than ten, and the larger share from so many on: each that is left out costs the test
two degrees of freedom, which few pairs miss more than they gain. Six pairs of a loaded machine then find
5% in 99.9% instead of 75% of cases; and of two to four dozen pairs on fast passes some are far off."""
GATE_ERROR = 0.005
"""Of a gate's false alarm, over all clocks and looks."""
PLANNED_PAIRS = 12
"""Of a gate, if they fit into its time."""
POWER = 0.95
"""What is detectable is found so often."""
ALONE = 4.0
"""Where the CPU's clock alone says `unchanged` or `improved`, wall time must lie below so many tolerances."""
LEAST_TOLD = 1e-9
"""Smaller probabilities hang on the tail of a distribution that noise need not have."""
FARTHEST = 50.0
"""Of a logarithm that is told as a ratio: farther off there is no latency."""
WIDEST = 10.0
"""An interval that reaches this factor to either side says nothing: it is unknown. Likewise a slowdown that would only
be found from this factor on."""
NEGLIGIBLE = 0.1
"""A stage that can have added no more than this share of the tolerance to the whole has not changed."""


@dataclass(frozen=True)
class Evidence:
    """What one clock says of candidate / baseline, as the logarithm of the ratio."""

    channel: str
    """`wall_time`, `cpu_time` or `device_time`."""
    estimate: float
    error: float
    """Standard error of the estimate."""
    freedom: int
    """Degrees of freedom of the error."""
    units: int
    drift: float = 0.0
    """How far the machine alone may have moved the estimate, either way."""
    baseline_s: float | None = None
    """Typical time by this clock; `None` where it is the clock of the subject's latencies."""
    candidate_s: float | None = None

    @property
    def known(self) -> bool:
        """Whether the interval says anything."""
        return self.half_width < math.log(WIDEST)

    @property
    def half_width(self) -> float:
        """Half the 95% interval."""
        return student_t(self.freedom) * self.error + self.drift

    @property
    def low(self) -> float:
        """Lower end of the 95% interval."""
        return self.estimate - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the 95% interval."""
        return self.estimate + self.half_width

    def p_beyond(self, *, slower: bool) -> float:
        """Returns the one-sided probability of such an estimate if nothing but chance and drift were at work."""
        excess = (self.estimate if slower else -self.estimate) - self.drift
        if excess <= 0:
            return 1.0
        return (1 - student_t_probability(excess / self.error, self.freedom)) / 2 if self.error else 0.0

    def of_pairs(self, pairs: int) -> Evidence:
        """Returns what so many pairs of this noise would say."""
        freedom = pairs - 2 * math.floor(pairs_trimmed(pairs) * pairs) - 1
        return replace(self, error=self.error * math.sqrt(self.units / pairs), freedom=freedom, units=pairs)

    def detectable(self, *, tolerance: float, error: float) -> float | None:
        """Returns the slowdown, as a share, that would be found in 95 of 100 cases with this noise.

        `None` where it takes the tenfold.
        """
        return smallest_found(self.error, self.freedom, tolerance=tolerance, error=error, drift=self.drift)


@dataclass(frozen=True)
class Subject:
    """What a verdict is asked of: the whole, or a stage."""

    name: str
    baseline_s: float | None
    candidate_s: float | None
    evidence: tuple[Evidence, ...]
    """By clock; first the one that users feel."""
    obstacle: str = ""
    """Why there is no evidence."""


def smallest_found(
    spread: float, freedom: int, *, tolerance: float, error: float, drift: float = 0.0, power: float = POWER
) -> float | None:
    """Returns the smallest slowdown that is found with that power, as a share; `None` where it takes the tenfold.

    A slowdown is found where the estimate exceeds the tolerance, and Student's t of it (one-sided) exceeds chance.
    Either may be what is hard.

    Args:
        spread: standard error of the estimate, a logarithm.
        freedom: degrees of freedom of the spread.
        tolerance: accepted slowdown, as a share.
        error: of a false alarm, of this clock.
        drift: how far the machine alone may have moved the estimate.
        power: share of true slowdowns of that size to be found.
    """
    reach = NormalDist().inv_cdf(power)
    critical = student_t(freedom, 1 - 2 * error)
    # The estimated spread varies too: to first order by 1 / (2 degrees of freedom) of its square.
    by_chance = drift + spread * (critical + reach * math.sqrt(1 + critical**2 / (2 * freedom)))
    by_tolerance = math.log1p(tolerance) + reach * spread
    found = max(by_chance, by_tolerance)
    return math.expm1(found) if found < math.log(WIDEST) else None


def best_detectable(evidence: Sequence[Evidence], *, tolerance: float, error: float) -> tuple[float | None, str]:
    """Returns the smallest slowdown that any clock would find, and that clock where there are several.

    Args:
        evidence: by clock; they share the error.
        tolerance: accepted slowdown, as a share.
        error: of a false alarm.
    """
    known = [
        (size, each.channel)
        for each in evidence
        if (size := each.detectable(tolerance=tolerance, error=error / len(evidence))) is not None
    ]
    size, channel = min(known, default=(None, ""))
    return size, channel if len(evidence) > 1 else ""


def neighbour_logs(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Returns the logarithm of after / before of neighbours in turns A B B A: of whole turns, as their places mirror.

    Empty where a clock is too coarse for what it times, or was set back.
    """
    count = min(len(before), len(after)) // 2 * 2
    if any(value <= 0 for value in (*before[:count], *after[:count])):
        return []
    return [math.log(later / earlier) for earlier, later in zip(before[:count], after[:count], strict=True)]


def pair_log(logs: Sequence[float]) -> float:
    """Returns what a pair of processes comes to, of the logarithms of its neighbours; there is one at least."""
    return trimmed_mean(logs, PASSES_TRIMMED)


def trimmed_mean(values: Sequence[float], trimmed: float = TRIMMED) -> float:
    """Returns the mean without that share of the lowest and of the highest values."""
    cut = math.floor(trimmed * len(values))
    return fmean(sorted(values)[cut : len(values) - cut])


def paired(channel: str, logs: Sequence[float]) -> Evidence | None:
    """Returns the evidence of pairs, one logarithm of candidate / baseline each; `None` with fewer than three.

    Source: Yuen 1974, for one sample.
    """
    if len(logs) < LEAST_UNITS:
        return None
    trimmed = pairs_trimmed(len(logs))
    squared, freedom = _squared_error(logs, trimmed)
    return Evidence(channel, trimmed_mean(logs, trimmed), math.sqrt(squared), freedom, len(logs))


def pairs_trimmed(count: int) -> float:
    """Returns which share of so many pairs is left out at each end, whatever they say."""
    return PAIRS_TRIMMED if count < MANY_PAIRS else MANY_PAIRS_TRIMMED


def unpaired(
    channel: str, baseline: Sequence[float], candidate: Sequence[float], *, drift: float = 0.0
) -> Evidence | None:
    """Returns the evidence of two groups of processes, given the logarithms of their times.

    Source: Yuen 1974, for two samples of unequal variance.
    """
    if min(len(baseline), len(candidate)) < LEAST_UNITS:
        return None
    (before, before_freedom), (after, after_freedom) = _squared_error(baseline), _squared_error(candidate)
    total = before + after
    freedom = total**2 / (before**2 / before_freedom + after**2 / after_freedom) if total else 1.0
    estimate = trimmed_mean(candidate) - trimmed_mean(baseline)
    units = min(len(baseline), len(candidate))
    return Evidence(channel, estimate, math.sqrt(total), max(1, math.floor(freedom)), units, drift)


def _squared_error(values: Sequence[float], trimmed: float = TRIMMED) -> tuple[float, int]:
    """Returns the squared standard error of the trimmed mean, and its degrees of freedom."""
    ordered = sorted(values)
    cut = math.floor(trimmed * len(ordered))
    kept = len(ordered) - 2 * cut
    winsorised = [ordered[cut]] * cut + ordered[cut : cut + kept] + [ordered[-1 - cut]] * cut
    centre = fmean(winsorised)
    return math.fsum((value - centre) ** 2 for value in winsorised) / (kept * (kept - 1)), kept - 1


def holm(probabilities: Sequence[float]) -> list[float]:
    """Returns the probabilities adjusted so that all of them together keep the error of one (Holm 1979)."""
    adjusted = [1.0] * len(probabilities)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(probabilities)), key=probabilities.__getitem__)):
        highest = max(highest, min(1.0, (len(probabilities) - rank) * probabilities[index]))
        adjusted[index] = highest
    return adjusted


def judge(
    subjects: Sequence[Subject], *, tolerance: float, error: float, whole_s: float | None = None
) -> list[StageVerdict]:
    """Returns a verdict for each subject; the error is that of a false alarm among them all.

    Regressed: a clock's one-sided test says slower, and its estimate exceeds the tolerance. Improved likewise.
    Unchanged: the 95% interval lies below the tolerance. Inconclusive: it does not.

    Args:
        subjects: the stages, or the whole alone.
        tolerance: accepted slowdown, as a share.
        error: probability of a false alarm.
        whole_s: latency of the whole; stages that can't have changed it notably count as unchanged.
    """
    slower = holm([_probability(subject, tolerance, slower=True) for subject in subjects])
    faster = holm([_probability(subject, tolerance, slower=False) for subject in subjects])
    return [
        _verdict(subject, up, down, tolerance=tolerance, error=error, whole_s=whole_s)
        for subject, up, down in zip(subjects, slower, faster, strict=True)
    ]


def _probability(subject: Subject, tolerance: float, *, slower: bool) -> float:
    """Returns the probability over all clocks; 1 where no estimate is beyond the tolerance."""
    found = _beyond(subject, tolerance, slower=slower)
    return min(1.0, len(subject.evidence) * found.p_beyond(slower=slower)) if found is not None else 1.0


def _beyond(subject: Subject, tolerance: float, *, slower: bool) -> Evidence | None:
    """Returns the clock that speaks most clearly of a change beyond the tolerance."""
    sign = 1 if slower else -1
    beyond = [each for each in subject.evidence if sign * each.estimate > math.log1p(tolerance)]
    return min(beyond, key=lambda each: each.p_beyond(slower=slower), default=None)


def _verdict(
    subject: Subject, slower: float, faster: float, *, tolerance: float, error: float, whole_s: float | None
) -> StageVerdict:
    if (subject.baseline_s is None) != (subject.candidate_s is None):
        lacking: SideName = "baseline" if subject.baseline_s is None else "candidate"
        reason = f"the {lacking} has no such stage"
        return StageVerdict(subject.name, "missing", subject.baseline_s, subject.candidate_s, None, "", reason, lacking)
    nothing = StageVerdict(subject.name, "inconclusive", subject.baseline_s, subject.candidate_s, None, "", "")
    if not subject.evidence:
        return replace(nothing, reason=subject.obstacle or "too few processes to tell their spread")
    first, limit = subject.evidence[0], math.log1p(tolerance)
    allowed = f"the tolerance of {100 * tolerance:.6g}%"

    def say(verdict: Verdict, evidence: Evidence, reason: str) -> StageVerdict:
        return replace(nothing, verdict=verdict, ratio=_ratio(evidence), channel=evidence.channel, reason=reason)

    def by(evidence: Evidence) -> str:
        return "" if evidence is first else f" by {clock_name(evidence.channel)}"

    up, down = _beyond(subject, tolerance, slower=True), _beyond(subject, tolerance, slower=False)
    if up is not None and slower <= error and (up is first or first.high >= limit):
        size = _size(up.estimate, limit)
        return say("regressed", up, f"slower by {size}{by(up)} ({_probably(slower)}), beyond {allowed}")
    bearable = first.high <= math.log1p(ALONE * tolerance)
    if down is not None and faster <= error and first.estimate < 0 and bearable:
        return say(
            "improved", down, f"faster by {-100 * math.expm1(down.estimate):.1f}%{by(down)} ({_probably(faster)})"
        )
    if first.high < limit:
        aside = (
            f"; {clock_name(up.channel)} is up by {_size(up.estimate, limit)}"
            if up is not None and slower <= error
            else ""
        )
        return say("unchanged", first, f"at most {_signed(first.high, limit)}, within {allowed}{aside}")
    steady = next((each for each in subject.evidence[1:] if each.high < limit), None)
    noisier = f"{clock_name(first.channel)} is noisier, at most {_signed(first.high, limit)}"
    if steady is not None and first.estimate <= limit and bearable:
        at_most = f"at most {_signed(steady.high, limit)}{by(steady)}"
        return say("unchanged", steady, f"{at_most}, within {allowed}; {noisier}")
    if (
        whole_s
        and subject.baseline_s
        and subject.baseline_s * (_exp(first.high) - 1) < NEGLIGIBLE * tolerance * whole_s
    ):
        return say("unchanged", first, "too small to matter to the whole")
    # From here on it is the first clock, the one that users feel, that leaves it open.
    name = clock_name(first.channel)
    unsure = f"not sure enough ({_probably(slower)}, {error:.2g} is asked for)"
    ends = f"{_signed(first.low, limit)} to {_signed(first.high, limit)}"
    interval = ends if first.known else "by an unknown factor"
    if first.low > limit:
        return say("inconclusive", first, f"probably slower, {name} {interval}, beyond {allowed}, but {unsure}")
    because = "drift of the machine" if first.drift > first.half_width / 2 else "noise"
    aside = ""
    if up is not None and up is not first and up.low > limit:
        aside = f"; {clock_name(up.channel)} is probably up by {_size(up.estimate, limit)}, but {unsure}"
    elif steady is not None:
        aside = f"; {clock_name(steady.channel)}, at most {_signed(steady.high, limit)}, can't speak for it"
    left_open = f"{name} {ends} straddles {allowed}" if first.known else f"by how much {name} changed is unknown"
    return say("inconclusive", first, f"{because}: {left_open}{aside}")


def _ratio(evidence: Evidence) -> Ratio:
    low, high = (_exp(evidence.low), _exp(evidence.high)) if evidence.known else (None, None)
    return Ratio(_exp(evidence.estimate), low, high, evidence.units, evidence.baseline_s, evidence.candidate_s)


def _probably(probability: float) -> str:
    return f"p {probability:.2g}" if probability >= LEAST_TOLD else f"p < {LEAST_TOLD:g}"


def _exp(log: float) -> float:
    return math.exp(max(-FARTHEST, min(FARTHEST, log)))


def _size(log: float, limit: float, sign: str = "") -> str:
    """Returns a change such as `6.1%` or `a factor of 12`, with the decimals that set it apart from the limit."""
    ratio = _exp(log)
    if ratio >= WIDEST:
        return f"a factor of {ratio:,.0f}"
    for places in range(1, 7):
        shown = round(100 * (ratio - 1), places) + 0.0  # makes 0 of -0
        if shown != 100 * math.expm1(limit) and (shown > 100 * math.expm1(limit)) == (log > limit):
            break
    return f"{shown:{sign}.{places}f}%"


def _signed(log: float, limit: float) -> str:
    return _size(log, limit, "+")


def clock_name(channel: str) -> str:
    """Returns a clock as sentences have it."""
    return {"cpu_time": "CPU time", "wall_time": "wall time"}.get(channel, channel.replace("_", " "))
