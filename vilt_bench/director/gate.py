"""Conducts a gate: turns in, outcome out."""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from vilt_bench import errors
from vilt_bench.ask.case import Case, Option
from vilt_bench.ask.clips import check_inputs, input_paths
from vilt_bench.ask.rule import GATE_TIME_S, TOLERANCE, Decides
from vilt_bench.director.commit import read_source
from vilt_bench.director.draft import Draft, new_id, now
from vilt_bench.director.installation import HERE, Installation
from vilt_bench.director.lockstep import GateProgress, Lockstep, NoBaselineError, TimeOverError
from vilt_bench.director.measure import Clock
from vilt_bench.director.process import Overhear, TurnTakingProcess, WorkerFailedError, WorkerNotStartedError
from vilt_bench.director.side import SideState
from vilt_bench.errors import ConfigError, MeasurementError
from vilt_bench.judge.compare import check_tolerance, count_changes, share_of_error, software_differences
from vilt_bench.judge.comparison import Comparison, Side, SideName, StageVerdict, missing
from vilt_bench.judge.pairs import BASELINE, CANDIDATE, LOOKS, Verdicts, decide, evidence, share_left
from vilt_bench.judge.significance import GATE_ERROR, PLANNED_PAIRS, best_detectable
from vilt_bench.record.journal import Note
from vilt_bench.record.run import SLOWDOWNS, WHOLE, Failure, Run, Trial
from vilt_bench.wire import Patience
from vilt_bench.words import counted

LONGEST_S = 86_400.0
"""That may be asked for: a day for a case."""
KILLED = "(signal 9)"
"""In what is said of a process that was killed, as the system does when memory runs out."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case's gate."""

    comparison: Comparison
    runs: tuple[Run, ...]
    """Baseline and candidate, every raw sample in them; a side of which nothing was measured is left out."""
    interrupted: bool
    problem: errors.ViltBenchError | None = None
    """Why the case could not be measured; the comparison then says that it is missing."""


def gate(
    case: Case,
    baseline: Installation,
    candidate: Installation | None = None,
    *,
    max_time_s: float = GATE_TIME_S,
    tolerance: float = TOLERANCE,
    decides: Decides = "total",
    error: float = GATE_ERROR,
    report: Callable[[GateProgress], None] = lambda _: None,
    patience_s: float | None = None,
    overhear: Overhear = lambda _: None,
    note: Note = lambda _, __: None,
    start: Mapping[SideName, Callable[[], TurnTakingProcess]] | None = None,
    clock: Clock = time.monotonic,
) -> Outcome:
    """Returns how the candidate compares with the baseline, both measured now, in turns.

    Ends when the verdict is clear, at the latest when the time is over, starting of processes included. Ctrl-C ends
    it as well: the verdict is then that of the pairs so far.

    Args:
        case: what both measure.
        baseline: the reference installation.
        candidate: the one in question; this process's own if `None`.
        max_time_s: of everything.
        tolerance: accepted slowdown, as a share.
        decides: what the verdict is of, `total` or the `stages` as well.
        error: probability of a false alarm; `gate_all` shares it among several cases.
        report: told where the measuring stands, between passes.
        patience_s: how long a process may be silent before it is ended, as a failure; `None`: by `wire.Patience`.
        overhear: told what a process has printed, when it has ended.
        note: told of each side's part of a pair as soon as it is measured, to keep it whatever happens.
        start: starts a process of a side.
        clock: seconds.

    Raises:
        ViltBenchError: a side can't measure the case, or is of a version that can't be talked to. A candidate that
            fails later, or a baseline that has no such embedder or fails later, is missing.
    """
    check_limits(tolerance, max_time_s, patience_s)
    check_inputs([case])
    installations = {BASELINE: baseline, CANDIDATE: candidate or HERE}
    patience = Patience(patience_s, max_time_s)
    started_at, group = now(), new_id()
    lockstep = Lockstep(
        case=case if baseline == HERE else _anchored(case),
        sides={
            side: SideState(installation, Draft(case, started_at=started_at, group=group))
            for side, installation in installations.items()
        },
        start=start
        or {side: partial(installation.start, patience, overhear) for side, installation in installations.items()},
        budget_s=max_time_s,
        clock=clock,
        report=report,
        roles=random.Random(case.seed),
        begin_s=clock(),
        note=note,
    )
    try:
        total, stages = decide(lockstep.play(), tolerance=tolerance, decides=decides, error=error)[0]
    except NoBaselineError as lacking:
        total, stages = _missing(str(lacking), BASELINE), ()
    except WorkerFailedError as problem:
        failed = next(side for side, state in lockstep.sides.items() if state.draft.failure is not None)
        not_started = isinstance(problem, WorkerNotStartedError)
        if (failed == BASELINE or not_started) and not lockstep.sides[failed].draft.trials:
            name = lockstep.sides[failed].installation.name
            raise MeasurementError(f"{failed} ({name}) failed: {problem.failure.message}") from None
        where = f" in {problem.failure.stage}" if problem.failure.stage else ""
        reason = f"the {failed} failed{where}: {problem.failure.message}"
        # A candidate that fails has lost something; without a baseline there is nothing that it could have lost.
        if failed == CANDIDATE and not not_started:
            total = _candidate_lost(lockstep, problem.failure, reason)
        else:
            total = _undecided(reason)
        stages = decide(lockstep.pairs, tolerance=tolerance, decides=decides, error=error)[0][1]
    except KeyboardInterrupt:  # while judging
        lockstep.interrupted = True
        total, stages = decide(lockstep.pairs, tolerance=tolerance, decides=decides, error=error)[0]
    return _outcome(lockstep, case, (total, stages), tolerance, decides, error)


def gate_all(
    cases: Sequence[Case],
    baseline: Installation,
    candidate: Installation | None = None,
    *,
    max_time_s: float = GATE_TIME_S,
    tolerance: float = TOLERANCE,
    decides: Decides = "total",
    error: float = GATE_ERROR,
    report: Callable[[GateProgress], None] = lambda _: None,
    patience_s: float | None = None,
    overhear: Overhear = lambda _: None,
    note: Note = lambda _, __: None,
    start: Mapping[SideName, Callable[[], TurnTakingProcess]] | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[Outcome]:
    """Yields how each case compares, as `gate` finds it, one after the other, when it is known.

    The cases share the probability of a false alarm: that of all of them together is what is asked for. One that can't
    be measured takes no other with it: its outcome has the problem. After Ctrl-C there are no more.

    Args:
        cases: what is compared.
        baseline: as `gate`.
        candidate: as `gate`.
        max_time_s: of each case.
        tolerance: as `gate`.
        decides: as `gate`.
        error: probability of a false alarm in any of the cases.
        report: as `gate`.
        patience_s: as `gate`.
        overhear: as `gate`.
        note: as `gate`.
        start: as `gate`.
        clock: as `gate`.

    Raises:
        ConfigError: tolerance, time or patience are out of their range; nothing is measured then.
    """
    check_limits(tolerance, max_time_s, patience_s)
    share = error / max(1, len(cases))

    def outcomes() -> Iterator[Outcome]:
        for case in cases:
            try:
                found = gate(
                    case,
                    baseline,
                    candidate,
                    max_time_s=max_time_s,
                    tolerance=tolerance,
                    decides=decides,
                    error=share,
                    report=report,
                    patience_s=patience_s,
                    overhear=overhear,
                    note=note,
                    start=start,
                    clock=clock,
                )
            except errors.ViltBenchError as problem:
                found = _unmeasured(case, baseline, candidate or HERE, problem, tolerance, decides, share)
            yield found
            if found.interrupted:
                return

    return outcomes()


def check_limits(tolerance: float, max_time_s: float, patience_s: float | None) -> None:
    """Refuse what no gate can be asked for; `gate` and `gate_all` do, but a baseline may take minutes to build before.

    Raises:
        ConfigError: tolerance, time or patience are out of their range.
    """
    check_tolerance(tolerance)
    if not (math.isfinite(max_time_s) and 0 < max_time_s <= LONGEST_S):
        raise ConfigError(f"must be between 0 and {LONGEST_S:g} seconds, got {max_time_s:g}", field="max_time_s")
    Patience(patience_s, max_time_s)


def _unmeasured(
    case: Case,
    baseline: Installation,
    candidate: Installation,
    problem: errors.ViltBenchError,
    tolerance: float,
    decides: Decides,
    error: float,
) -> Outcome:
    """Returns what is told of a case that could not be measured, beside others that could."""
    comparison = missing(
        case,
        "lockstep",
        (Side(baseline.name, versions=baseline.versions), Side(candidate.name, versions=candidate.versions)),
        _missing(f"it could not be measured: {problem}", "both"),
        tolerance=tolerance,
        error=error,
        gate=decides,
    )
    return Outcome(comparison, (), interrupted=False, problem=problem)


def _candidate_lost(lockstep: Lockstep, failure: Failure, reason: str) -> StageVerdict:
    """Returns the verdict of a candidate that failed.

    Where memory ran out, the other side or others on the machine may have taken it: that says nothing of the candidate,
    unless it happens again to it alone where the baseline, alone as well, runs through.
    """
    if not _ran_out(failure):
        return _missing(reason, CANDIDATE)
    try:
        if (baseline := lockstep.alone(BASELINE)) is not None:
            return _undecided(f"{reason}; the baseline alone does not run through either: {baseline.message}")
        candidate = lockstep.alone(CANDIDATE)
    except KeyboardInterrupt:
        lockstep.interrupted = True
    except TimeOverError:
        pass
    except errors.ViltBenchError as error:
        return _undecided(f"{reason}; then: {error}")
    else:
        if candidate is None:
            return _undecided(f"{reason}; alone it runs through: give both sides, which live together, more memory")
        return _missing(
            f"{reason}; alone again ({candidate.message}), where the baseline ran through under the same limit: "
            "a regression",
            CANDIDATE,
        )
    return _undecided(f"{reason}; whether the baseline runs through under the same limit was not seen in the time")


def _ran_out(failure: Failure) -> bool:
    """Returns whether memory ran out, be it that the system killed the process."""
    return failure.kind == "out-of-memory" or (failure.kind == "crashed" and KILLED in failure.message)


def _missing(reason: str, lacking: Literal["baseline", "candidate", "both"]) -> StageVerdict:
    return StageVerdict(WHOLE, "missing", None, None, None, "", reason, lacking)


def _undecided(reason: str) -> StageVerdict:
    return StageVerdict(WHOLE, "inconclusive", None, None, None, "", reason)


def _outcome(
    lockstep: Lockstep,
    case: Case,
    verdicts: Verdicts,
    tolerance: float,
    decides: Decides,
    error: float,
) -> Outcome:
    pairs = lockstep.pairs
    total, stages = verdicts
    sampling = lockstep.sampling()
    problems: list[str] = []
    is_own = lockstep.sides[CANDIDATE].installation.python == sys.executable
    lockstep.sides[CANDIDATE].draft.source = read_source(report=problems.append) if is_own else None
    runs = {
        side: _marked(
            state.draft.finished(sampling, interrupted=lockstep.interrupted),
            side,
            state.installation,
            problems if side == CANDIDATE else (),
        )
        for side, state in lockstep.sides.items()
        if state.draft.trials or state.draft.failure is not None
    }
    # A gate that ended early would have gone on with a slowdown: what it finds is what fits into its time.
    fit = math.floor(lockstep.budget_s * len(pairs) / lockstep.spent_s) if lockstep.spent_s else 0
    most = max(len(pairs), min(fit, max(LOOKS)))
    found = [each.of_pairs(most) for each in evidence(pairs)]
    chance = share_of_error(error, decides) * share_left(most)
    detectable, detectable_channel = best_detectable(found, tolerance=tolerance, error=chance)
    comparison = Comparison(
        case=case,
        method="lockstep",
        baseline=_side(lockstep.sides[BASELINE], runs.get(BASELINE), len(pairs)),
        candidate=_side(lockstep.sides[CANDIDATE], runs.get(CANDIDATE), len(pairs)),
        environment=lockstep.sides[CANDIDATE].draft.environment,
        total=total,
        stages=stages,
        counts=count_changes(lockstep.sides[BASELINE].draft.stages, lockstep.sides[CANDIDATE].draft.stages),
        tolerance=tolerance,
        error=error,
        gate=decides,
        detectable=detectable,
        detectable_channel=detectable_channel,
        spent_s=lockstep.spent_s,
        different=_different(lockstep),
        notes=(*_notes(lockstep, total), *problems),
    )
    return Outcome(comparison, tuple(runs.values()), lockstep.interrupted)


def _marked(run: Run, side: SideName, installation: Installation, problems: Sequence[str]) -> Run:
    """Returns the run, saying which side of a gate it was, and what is not known of it."""
    which = " ".join([installation.name, *installation.versions])
    said = f"Measured in turns with another run of its group, as {side}: {which}."
    return replace(run, side=side, warnings=(said, *run.warnings, *problems))


def _side(state: SideState, run: Run | None, processes: int) -> Side:
    return Side(
        name=state.installation.name,
        runs=() if run is None else (run.run_id,),
        processes=processes,
        versions=(
            *state.installation.versions,
            *([f"vilt-bench {state.package}"] if state.package else []),
        ),
        pixels=None if state.draft.model is None else state.draft.model.resolution,
        visual_tokens=None if state.draft.model is None else state.draft.model.visual_tokens,
    )


def _different(lockstep: Lockstep) -> tuple[str, ...]:
    before, after = (lockstep.sides[side].draft.environment for side in (BASELINE, CANDIDATE))
    return () if before is None or after is None else software_differences(before, after)


def _notes(lockstep: Lockstep, total: StageVerdict) -> Iterator[str]:
    before, after = lockstep.sides[BASELINE], lockstep.sides[CANDIDATE]
    if lockstep.cut:
        yield f"The time was over before a pair of processes was measured: {lockstep.cut}."
    if lockstep.interrupted:
        pairs = counted(len(lockstep.pairs), "pair")
        yield f"Interrupted: the verdict is that of the {pairs} of processes until then."
    if before.location and before.location == after.location and _are_one(lockstep):
        yield "Both sides are the same installation: what differs is noise."
    elif before.origin and before.origin == after.origin:
        yield f"Both sides take the embedder from {before.origin}: what differs between them lies elsewhere."
    if after.origin and after.origin in before.installation.apart_from:
        yield (
            f"The candidate's embedder is the copy that is installed, {after.origin}: what the working tree has "
            "of later is not in it."
        )
    reasons = {reason for trial in (*before.draft.trials, *after.draft.trials) for reason in _slowed_down(trial)}
    if reasons:
        yield f"The GPU slowed down meanwhile ({', '.join(sorted(reasons))}): cool it, or look at its power supply."
    failed = any(state.draft.failure is not None for state in (before, after))
    if total.verdict == "inconclusive" and not lockstep.interrupted and not failed:
        needed_s = lockstep.pair_s(lockstep.most_turns)
        enough = max(PLANNED_PAIRS, 1.5 * len(lockstep.pairs))
        more = next((count for count in LOOKS if count >= enough), None)
        advice = f"{more} pairs take about {more * needed_s:.0f} s here, or use" if more else "use"
        yield (
            f"{counted(len(lockstep.pairs), 'pair')} of processes in {lockstep.spent_s:.0f} s: not enough for this "
            f"noise; {advice} a quieter machine."
        )


def _are_one(lockstep: Lockstep) -> bool:
    """Returns whether sides that share their vilt-bench share all else: interpreters may be two of one folder."""
    before, after = lockstep.sides[BASELINE], lockstep.sides[CANDIDATE]
    return before.installation.python == after.installation.python or (
        before.origin is not None and before.origin == after.origin and not _different(lockstep)
    )


def _slowed_down(trial: Trial) -> Iterable[str]:
    return SLOWDOWNS.intersection(trial.conditions.throttle_reasons or ())


def _anchored(case: Case) -> Case:
    """Returns the case with paths that hold in any folder."""

    def anchor(value: Option) -> Option:
        return os.path.abspath(value) if isinstance(value, str) and os.path.exists(value) else value

    def is_path(key: str, value: Option) -> bool:  # `backbone=large` is none, though there be a file of that name
        return key == "weights" or (isinstance(value, str) and "/" in value.replace(os.sep, "/"))

    return replace(
        case,
        # By their paths: what comes along with another version may be other photographs.
        images=tuple(str(anchor(image)) for image in input_paths(case)),
        options={key: anchor(value) if is_path(key, value) else value for key, value in case.options.items()},
        checkpoint=None if case.checkpoint is None else str(anchor(case.checkpoint)),
    )
