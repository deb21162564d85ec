"""Measures baseline and candidate together, and judges while pairs of processes come in.

A baseline and a candidate process live side by side, idle but for their turn, and pass the turn on after each pass,
A B B A: load that comes and goes hits both alike and cancels. A pair of processes gives one number; the pairs are
the units of the tests in `inference`.
"""

from __future__ import annotations

import errno
import math
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal, Protocol, TypeVar

from vilt_bench import errors, protocol
from vilt_bench.comparison import Comparison, Gate, Side, SideName, StageVerdict, missing
from vilt_bench.config import Case, Option, Sampling
from vilt_bench.errors import ConfigError, MeasurementError
from vilt_bench.inference import (
    GATE_ERROR,
    PLANNED_PAIRS,
    Evidence,
    Subject,
    best_detectable,
    judge,
    paired,
    trimmed_mean,
    turn_logs,
)
from vilt_bench.photographs import check_images
from vilt_bench.process import BYE_S, Patience
from vilt_bench.records import SLOWDOWNS, Failure, Run, Series, Times, Trial
from vilt_bench.source import read_source
from vilt_bench.statistics import WHOLE
from vilt_bench.stored import TOLERANCE, check_tolerance, count_changes, share_of_error, software_differences
from vilt_bench.sweep import (
    Clock,
    Draft,
    Overhear,
    Worker,
    WorkerFailedError,
    WorkerHungError,
    WorkerNotStartedError,
    join_times,
)

LOOKS = {6: 0.2, 12: 0.65, 18: 0.85, 24: 1.0}
"""By number of pairs: the share of the error that is spent by then."""
WARMUP_TURNS = 2
"""Four passes a process, after the first call."""
SAMPLE_TURNS = 15
"""Thirty passes a process: fewer find less, more find hardly more."""
SHORT_TURNS = 6
"""Where time is short: nine pairs of six turns find more than six of ten, as their spread is known better."""
LEAST_SAMPLING_S = 1.0
"""Where thirty passes take less, there are more of them: starting the processes takes longer anyway."""
LEAST_TURNS = 5
"""A pair that was cut off earlier is not judged."""
LONGEST_S = 86_400.0
INSTALLED = ("site-packages", "dist-packages")
"""Names of the folders that installed packages lie in."""
NO_INTERPRETER = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP, errno.EISDIR)
"""What the system says of a path that is none."""
LEAST_BYE_S = 0.5
ENDING_S, ENDING_SHARE = 3.0, 0.05
"""Kept for ending the processes, at most; and at most this share of the time."""

KILLED = "(signal 9)"
"""In what is said of a process that was killed, as the system does when memory runs out."""

ReplyT = TypeVar("ReplyT", bound=protocol.Reply)
Verdicts = tuple[StageVerdict, tuple[StageVerdict, ...]]
"""Of the whole, and of the stages."""
BASELINE: SideName = "baseline"
CANDIDATE: SideName = "candidate"


class Player(Protocol):
    """A worker that takes turns."""

    def ask(self, request: protocol.Request, expected: type[ReplyT]) -> ReplyT:
        """Returns the reply to a request."""

    def send(self, request: protocol.Request) -> None:
        """Hand a request over and go on."""

    def receive(self, expected: type[ReplyT]) -> ReplyT:
        """Returns the reply to what was sent."""

    def close(self, within_s: float = BYE_S) -> None:
        """Let it end by itself in that time."""

    def kill(self) -> None:
        """End it now."""


@dataclass(frozen=True)
class Contender:
    """One of the two installations that are measured."""

    name: str
    """As a reader knows it."""
    python: str = sys.executable
    flags: tuple[str, ...] = ()
    """Of the interpreter."""
    folder: str | None = None
    """Where its processes run and look for modules first; `None`: here."""
    versions: tuple[str, ...] = ()
    """What tells it from the other, such as a commit."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its processes' environment, where they differ from this process's."""
    built: str | None = None
    """The folder that it was built in, where its code must come from; `None`: it was not built for this."""
    apart_from: tuple[str, ...] = ()
    """Files, and folders but for what is installed in them, that its modules must not come from: the other side's."""

    def start(self, patience: Patience | None = None, overhear: Overhear = lambda _: None) -> Worker:
        """Returns a fresh process of this installation.

        Args:
            patience: how long it may be silent.
            overhear: told what it has printed, when it has ended.

        Raises:
            ConfigError: there is no such interpreter.
            WorkerNotStartedError: the system can't start it.
        """
        environment = {**os.environ, **self.variables}
        try:
            return Worker(
                self.python, self.flags, self.folder, environment, patience=patience, overhear=overhear, older=True
            )
        except WorkerNotStartedError as error:
            if error.cause.errno not in NO_INTERPRETER:
                raise
            raise ConfigError(
                f"{self.python} can't be started ({(error.cause.strerror or str(error.cause)).lower()}); "
                "expected an interpreter such as .venv/bin/python"
            ) from None


HERE = Contender("this installation")


@dataclass(frozen=True)
class GateProgress:
    """Where the measuring stands."""

    pair: int
    """From 0."""
    phase: str
    """`starting`, `counting`, `warming up`, `sampling`, `trying each side alone`"""
    interval: tuple[float, float] | None
    """Of candidate / baseline, from the pairs so far."""
    spent_s: float
    budget_s: float


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    comparison: Comparison
    runs: tuple[Run, ...]
    """Baseline and candidate, every raw sample in them; a side of which nothing was measured is left out."""
    interrupted: bool


@dataclass(frozen=True)
class Pair:
    """The samples of two processes that took turns: in both series, two passes a turn."""

    baseline: Series
    candidate: Series

    @property
    def turns(self) -> int:
        """How many turns A B B A both have taken."""
        sides = (self.baseline, self.candidate)
        whole = min(len(side.whole.latency_s) for side in sides)
        return whole // 2 + min(len(side.instrumented.latency_s) for side in sides) // 2

    def logarithm(self, stage: str, channel: str) -> float | None:
        """Returns the logarithm of candidate / baseline: the trimmed mean over the turns.

        `None` where that clock has no times, or times that no clock should give.
        """
        clock = f"{channel}_s"
        logs = [
            log
            for before, after in self._times(stage)
            for log in turn_logs(getattr(before, clock) or (), getattr(after, clock) or ())
        ]
        return trimmed_mean(logs) if logs else None

    def _times(self, stage: str) -> list[tuple[Times, Times]]:
        if stage == WHOLE:
            return [
                (self.baseline.whole, self.candidate.whole),
                (self.baseline.instrumented, self.candidate.instrumented),
            ]
        before, after = self.baseline.stages.get(stage), self.candidate.stages.get(stage)
        return [] if before is None or after is None else [(before, after)]


@dataclass
class Book:
    """One side's run in the making."""

    contender: Contender
    draft: Draft
    package: str = ""
    location: str = ""
    origin: str | None = None
    """Where the embedder came from."""
    modules: tuple[str, ...] = ()
    """Files of all that its process has imported."""

    def strays(self) -> Iterator[str]:
        """Returns files that it has imported though they are the other side's."""
        told = self.contender
        own = [Path(each).resolve() for each in told.apart_from]
        for name in filter(None, (self.location, self.origin, *self.modules)):
            if any(part in Path(name).parts for part in INSTALLED) and name not in told.apart_from:
                continue
            path = Path(name).resolve()
            if any(path.is_relative_to(each) for each in own) and not _lies_in(path, told.built):
                yield name

    def is_built(self) -> bool:
        """Returns whether what is measured came from what was built, if anything was."""
        built = self.contender.built
        return built is None or any(path and _lies_in(Path(path), built) for path in (self.location, self.origin))


class _OverError(Exception):
    """The time is over."""


class _NoBaselineError(Exception):
    """The candidate has this embedder, the baseline does not."""


@dataclass
class _Match:
    """The measuring of both sides, as far as it has come."""

    case: Case
    """As the processes get it: with paths that hold in any folder."""
    books: Mapping[SideName, Book]
    start: Mapping[SideName, Callable[[], Player]]
    budget_s: float
    clock: Clock
    report: Callable[[GateProgress], None]
    roles: random.Random
    pairs: list[Pair] = field(default_factory=list)
    interrupted: bool = False
    phase: str = ""
    """What is going on."""
    cut: str = ""
    """What went on when the time was over before there was a pair."""

    def __post_init__(self) -> None:
        """Start the clock."""
        self.begin_s = self.clock()
        self.start_s = 0.0
        self.turn_s = 0.0

    @property
    def spent_s(self) -> float:
        """Time since it all began."""
        return self.clock() - self.begin_s

    @property
    def left_s(self) -> float:
        """Time that is left for measuring: ending the processes takes some as well."""
        return self.budget_s - self.spent_s - min(ENDING_S, ENDING_SHARE * self.budget_s)

    def turns(self) -> int:
        """Returns how many turns the next pair takes, so that the planned pairs fit into what is left."""
        if not self.turn_s:
            return SAMPLE_TURNS
        most = max(SAMPLE_TURNS, math.floor(LEAST_SAMPLING_S / self.turn_s))
        planned = PLANNED_PAIRS - len(self.pairs)
        if planned <= 0:
            return most
        fits = math.floor((self.left_s / planned - self.start_s) / self.turn_s) - WARMUP_TURNS
        return min(most, max(SHORT_TURNS, fits))

    def play(self) -> Iterator[Pair]:
        """Returns pairs as they are measured, while there is time for another."""
        over = False
        while not over and (not self.pairs or self.left_s > self.start_s + (WARMUP_TURNS + LEAST_TURNS) * self.turn_s):
            known = len(self.pairs)
            try:
                self._round()
            except KeyboardInterrupt:
                self.interrupted = over = True
            except _OverError:
                over = True
            if len(self.pairs) == known:  # cut off
                return
            yield self.pairs[-1]

    def alone(self, side: SideName) -> Failure | None:
        """Returns how a process fails that does alone what it does in a pair; `None` if it runs through.

        Raises:
            ViltBenchError: it refuses, or can't be started.
        """
        self._tell("trying each side alone")
        try:
            with self._process(side) as player, self._watchdog([player]):
                self._greet(side, player)
                player.ask(protocol.Prepare(self.case), protocol.Prepared)
                player.ask(protocol.Count(), protocol.Counted)
                for index in range(2 * (WARMUP_TURNS + SAMPLE_TURNS)):
                    player.ask(protocol.Sample(instrumented=index // 2 % 2 == 1), protocol.Measured)
                    if self.left_s <= 0:
                        raise _OverError
                player.ask(protocol.Finish(), protocol.Finished)
        except WorkerNotStartedError as error:
            raise MeasurementError(error.failure.message) from None
        except WorkerFailedError as error:
            return error.failure
        return None

    def _round(self) -> None:
        """Measure one pair; what was measured of it is kept, whatever happens."""
        order = [BASELINE, CANDIDATE]
        self.roles.shuffle(order)
        trials: dict[SideName, Trial] = {}
        warmup: dict[SideName, list[Series]] = {side: [] for side in order}
        samples: dict[SideName, list[Series]] = {side: [] for side in order}
        try:
            with ExitStack() as stack:
                self._tell("starting")
                begin_s = self.clock()
                players = {side: stack.enter_context(self._process(side)) for side in order}
                stack.enter_context(self._watchdog(list(players.values())))
                trials = self._prepare(players)
                self.start_s = self.clock() - begin_s
                if not self.books[BASELINE].draft.stages:
                    self._count(players)
                self._turns(players, order, WARMUP_TURNS, "warming up", warmup)
                self._turns(players, order, self.turns(), "sampling", samples)
                for side, player in players.items():
                    with self._named(side):
                        finished = player.ask(protocol.Finish(), protocol.Finished)
                    trials[side] = replace(trials[side], conditions=finished.conditions)
                    draft = self.books[side].draft
                    draft.warnings = tuple(dict.fromkeys((*draft.warnings, *finished.remarks)))
        finally:
            for side, trial in trials.items():
                self.books[side].draft.trials.append(
                    replace(trial, warmup=_joined(warmup[side]), samples=_joined(samples[side]))
                )
            pair = Pair(_joined(samples[BASELINE]), _joined(samples[CANDIDATE]))
            if pair.turns >= LEAST_TURNS:
                self.pairs.append(pair)

    def _prepare(self, players: Mapping[SideName, Player]) -> dict[SideName, Trial]:
        """Build both sides at once: nothing is timed yet."""
        for side, player in players.items():
            with self._named(side):
                self._greet(side, player)
        for player in players.values():
            player.send(protocol.Prepare(self.case))
        ready: dict[SideName, protocol.Prepared] = {}
        problems: dict[SideName, errors.ViltBenchError] = {}
        for side, player in players.items():
            try:
                with self._named(side):
                    ready[side] = player.receive(protocol.Prepared)
            except errors.ViltBenchError as error:
                problems[side] = error
        if isinstance(lacking := problems.get(BASELINE), errors.UnknownEmbedderError) and CANDIDATE in ready:
            raise _NoBaselineError(str(lacking))
        for problem in problems.values():
            raise problem
        trials = {}
        for side, prepared in ready.items():
            draft = self.books[side].draft
            # Built beside the other side: how long it took says nothing.
            trials[side] = Trial(len(draft.trials), prepared.started_at)
            draft.environment = draft.environment or prepared.environment
            draft.model = draft.model or prepared.model
            self.books[side].origin, self.books[side].modules = prepared.origin, prepared.modules
        self._check_origins()
        return trials

    def _check_origins(self) -> None:
        """Refuse a side that has imported what the other side is: the candidate would be compared with itself."""
        for side, book in self.books.items():
            name = f"{side} ({book.contender.name})"
            if (stray := next(book.strays(), None)) is not None:
                raise ConfigError(
                    f"{name} imported {stray}, which is not what the reference has{_but(book.contender.built)}; an "
                    "editable install or a path of Python's leads there: install the package without --editable"
                )
            if not book.is_built():
                other = self.books[CANDIDATE if side == BASELINE else BASELINE]
                raise ConfigError(
                    f"no verdict: {name} took the embedder from {book.origin or 'an unknown file'}, the other side "
                    f"from {other.origin or 'an unknown file'}, and neither that nor vilt-bench comes from what was "
                    f"built, {book.contender.built}; run the gate in the folder of the package that has the embedder, "
                    "or install that package from this repository"
                )

    def _greet(self, side: SideName, player: Player) -> None:
        book = self.books[side]
        try:
            welcome = player.ask(protocol.Hello(), protocol.Welcome)
        except WorkerFailedError as error:
            if "No module named" in error.failure.message:
                raise ConfigError(
                    f"{book.contender.python} has no vilt-bench ({error.failure.message}); install it there"
                ) from None
            if error.failure.kind == "crashed" or isinstance(error, WorkerHungError):
                raise
            raise _other_version(book.contender) from None
        if welcome.protocol != protocol.VERSION:
            raise _other_version(book.contender, welcome.package)
        book.package, book.location = welcome.package, welcome.location

    def _count(self, players: Mapping[SideName, Player]) -> None:
        self._tell("counting")
        for player in players.values():
            player.send(protocol.Count())
        for side, player in players.items():
            with self._named(side):
                counted = player.receive(protocol.Counted)
            draft = self.books[side].draft
            draft.stages, draft.warnings = counted.stages, counted.warnings
            if draft.model is not None:
                draft.model = replace(draft.model, memory_method=counted.memory_method)

    def _turns(
        self,
        players: Mapping[SideName, Player],
        order: Sequence[SideName],
        count: int,
        phase: str,
        into: Mapping[SideName, list[Series]],
    ) -> None:
        """Take so many turns, or as many as there is time for; one with stages, one without, and so on."""
        first, second = order
        for turn in range(count):
            if self.left_s < self.turn_s:
                return
            if turn % LEAST_TURNS == 0:
                self._tell(phase)
            begin_s = self.clock()
            for side in (first, second, second, first):
                with self._named(side):
                    measured = players[side].ask(protocol.Sample(instrumented=turn % 2 == 1), protocol.Measured)
                into[side].append(measured.series)
            self.turn_s = self.clock() - begin_s

    @contextmanager
    def _process(self, side: SideName) -> Iterator[Player]:
        try:
            player = self.start[side]()
        except WorkerFailedError:
            with self._named(side):
                raise
        try:
            yield player
        except BaseException:
            player.kill()
            raise
        finally:
            player.close(min(BYE_S, max(LEAST_BYE_S, (self.budget_s - self.spent_s) / 2)))

    @contextmanager
    def _watchdog(self, players: Sequence[Player]) -> Iterator[None]:
        """Ends the processes when the time is over, whatever they are at."""

        def end() -> None:
            for player in players:
                player.kill()

        timer = threading.Timer(max(0.0, self.left_s), end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except WorkerFailedError:
            if self.left_s <= 0:
                raise _OverError from None
            raise
        finally:
            timer.cancel()

    @contextmanager
    def _named(self, side: SideName) -> Iterator[None]:
        """Says whose error it is."""
        try:
            yield
        except errors.ViltBenchError as error:
            raise type(error)(f"{side} ({self.books[side].contender.name}): {error}") from None
        except WorkerFailedError as error:
            if self.left_s > 0:
                self.books[side].draft.failure = error.failure
            elif not self.pairs and not self.cut:
                self.cut = f"the {side} ({self.books[side].contender.name}) was still {self.phase}"
                self.books[side].draft.failure = Failure("error", f"still {self.phase} when the time was over")
            raise

    def _tell(self, phase: str) -> None:
        self.phase = phase
        found = evidence(self.pairs)
        interval = (math.exp(found[0].low), math.exp(found[0].high)) if found and found[0].known else None
        self.report(GateProgress(len(self.pairs), phase, interval, self.spent_s, self.budget_s))


def gate(
    case: Case,
    baseline: Contender,
    candidate: Contender | None = None,
    *,
    max_time_s: float = 300.0,
    tolerance: float = TOLERANCE,
    gated: Gate = "total",
    error: float = GATE_ERROR,
    report: Callable[[GateProgress], None] = lambda _: None,
    patience_s: float | None = None,
    overhear: Overhear = lambda _: None,
    start: Mapping[SideName, Callable[[], Player]] | None = None,
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
        gated: what the verdict is of, `total` or the `stages` as well.
        error: probability of a false alarm; where several cases are gated, a share of it each.
        report: told where the measuring stands, between passes.
        patience_s: how long a process may be silent before it is ended, as a failure; `None`: by `process.Patience`.
        overhear: told what a process has printed, when it has ended.
        start: starts a process of a side.
        clock: seconds.

    Raises:
        ViltBenchError: a side can't measure the case, or is of a version that can't be talked to. A candidate that
            fails later, or a baseline that has no such embedder or fails later, is missing.
    """
    check_tolerance(tolerance)
    if not (math.isfinite(max_time_s) and 0 < max_time_s <= LONGEST_S):
        raise ConfigError(f"--max-time must be between 0 and {LONGEST_S:g} seconds, got {max_time_s:g}")
    check_images(case.images)
    contenders = {BASELINE: baseline, CANDIDATE: candidate or HERE}
    patience = Patience(patience_s, max_time_s)
    match = _Match(
        case=case if baseline.folder is None else _anchored(case),
        books={side: Book(contender, Draft(case)) for side, contender in contenders.items()},
        start=start or {side: partial(contender.start, patience, overhear) for side, contender in contenders.items()},
        budget_s=max_time_s,
        clock=clock,
        report=report,
        roles=random.Random(case.seed),
    )
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    try:
        total, stages = decide(match.play(), tolerance=tolerance, gated=gated, error=error)[0]
    except _NoBaselineError as lacking:
        total, stages = _missing(str(lacking), BASELINE), ()
    except WorkerFailedError as problem:
        failed = next(side for side, book in match.books.items() if book.draft.failure is not None)
        not_started = isinstance(problem, WorkerNotStartedError)
        if (failed == BASELINE or not_started) and not match.books[failed].draft.trials:
            name = match.books[failed].contender.name
            raise MeasurementError(f"{failed} ({name}) failed: {problem.failure.message}") from None
        where = f" in {problem.failure.stage}" if problem.failure.stage else ""
        reason = f"the {failed} failed{where}: {problem.failure.message}"
        # A candidate that fails has lost something; without a baseline there is nothing that it could have lost.
        if failed == CANDIDATE and not not_started:
            total = _candidate_lost(match, problem.failure, reason)
        else:
            total = _undecided(reason)
        stages = decide(match.pairs, tolerance=tolerance, gated=gated, error=error)[0][1]
    except KeyboardInterrupt:  # while judging
        match.interrupted = True
        total, stages = decide(match.pairs, tolerance=tolerance, gated=gated, error=error)[0]
    return _outcome(match, case, (total, stages), tolerance, gated, error, started_at=started_at)


def unmeasured(
    case: Case, baseline: Contender, candidate: Contender | None, reason: str, *, tolerance: float, gated: Gate
) -> Comparison:
    """Returns what is told of a case that could not be measured, beside others that could."""
    return missing(
        case,
        "lockstep",
        (Side(baseline.name, versions=baseline.versions), Side((candidate or HERE).name)),
        _missing(f"it could not be measured: {reason}", "both"),
        tolerance=tolerance,
        error=GATE_ERROR,
        gate=gated,
    )


def _candidate_lost(match: _Match, failure: Failure, reason: str) -> StageVerdict:
    """Returns the verdict of a candidate that failed.

    Where memory ran out, the other side or others on the machine may have taken it: that says nothing of the candidate,
    unless it happens again to it alone where the baseline, alone as well, runs through.
    """
    if not _ran_out(failure):
        return _missing(reason, CANDIDATE)
    try:
        if (baseline := match.alone(BASELINE)) is not None:
            return _undecided(f"{reason}; the baseline alone does not run through either: {baseline.message}")
        candidate = match.alone(CANDIDATE)
    except KeyboardInterrupt:
        match.interrupted = True
    except _OverError:
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


def decide(
    pairs: Iterable[Pair], *, tolerance: float = TOLERANCE, gated: Gate = "total", error: float = GATE_ERROR
) -> tuple[Verdicts, int]:
    """Returns the verdicts and the number of pairs behind them: of the first look that is clear, or of all pairs.

    The probability of a false alarm is spent over the looks; what earlier ones have not spent is left for the last.
    """
    seen: list[Pair] = []
    spent = 0.0
    for pair in pairs:
        seen.append(pair)
        if len(seen) in LOOKS:
            share = LOOKS[len(seen)] - spent
            verdicts = judge_pairs(seen, tolerance=tolerance, gated=gated, error=error * share)
            spent = LOOKS[len(seen)]
            if _is_clear(verdicts, gated) or len(seen) == max(LOOKS):
                return verdicts, len(seen)
    looked = len(seen) in LOOKS  # the same pairs, with what is left of the error
    share = 1.0 - max((at for count, at in LOOKS.items() if count < len(seen)), default=0.0) if looked else 1.0 - spent
    return judge_pairs(seen, tolerance=tolerance, gated=gated, error=error * share), len(seen)


def judge_pairs(pairs: Sequence[Pair], *, tolerance: float, gated: Gate, error: float) -> Verdicts:
    """Returns the verdicts of the whole and of the stages, what decides with that probability of a false alarm."""
    error = share_of_error(error, gated)
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
    for channel in _channels(pairs, stage):
        logs = [log for pair in pairs if (log := pair.logarithm(stage, channel)) is not None]
        if len(logs) == len(pairs) and (each := paired(channel, logs)) is not None:
            if channel == "cpu_time":
                before_s, after_s = (
                    _typical_s([getattr(pair, side) for pair in pairs], stage, "cpu_time_s")
                    for side in (BASELINE, CANDIDATE)
                )
                each = replace(each, baseline_s=before_s, candidate_s=after_s)
            found.append(each)
    return tuple(found)


def _channels(pairs: Sequence[Pair], stage: str) -> tuple[str, ...]:
    times = [each for pair in pairs for both in pair._times(stage) for each in both]
    if any(each.device_time_s for each in times):
        return ("device_time",)
    return ("wall_time", "cpu_time")


def _subject(pairs: Sequence[Pair], stage: str) -> Subject:
    return Subject(
        name=stage,
        baseline_s=_typical_s([pair.baseline for pair in pairs], stage),
        candidate_s=_typical_s([pair.candidate for pair in pairs], stage),
        evidence=evidence(pairs, stage),
        obstacle=f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'} of processes are too few; allow more --max-time",
    )


def _typical_s(series: Sequence[Series], stage: str, clock: str = "latency_s") -> float | None:
    """Returns the median over processes of their median time by that clock."""
    times = [each.whole if stage == WHOLE else each.stages.get(stage, Times()) for each in series]
    medians = [median(column) for each in times if (column := getattr(each, clock))]
    return median(medians) if medians else None


def _joined(parts: Sequence[Series]) -> Series:
    """Returns single passes of a process as one series."""
    wholes = [part.whole for part in parts if part.whole.latency_s]
    staged = [part for part in parts if part.instrumented.latency_s]
    names = list(staged[0].stages) if staged else []
    return Series(
        whole=join_times(wholes),
        stages={name: join_times([part.stages[name] for part in staged]) for name in names},
        instrumented=join_times([part.instrumented for part in staged]),
        blocks=(len(wholes),) if wholes else (),
    )


def _is_clear(verdicts: Verdicts, gated: Gate) -> bool:
    total, stages = verdicts
    seen = [total, *(stages if gated == "stages" else ())]
    return any(each.verdict in ("regressed", "missing") for each in seen) or all(
        each.verdict != "inconclusive" for each in seen
    )


def _outcome(
    match: _Match, case: Case, verdicts: Verdicts, tolerance: float, gated: Gate, error: float, *, started_at: str
) -> Outcome:
    pairs = match.pairs
    total, stages = verdicts
    group = uuid.uuid4().hex
    sampling = Sampling(max_time_s=match.budget_s, trials=max(1, len(match.books[BASELINE].draft.trials)))
    problems: list[str] = []
    is_own = match.books[CANDIDATE].contender.python == sys.executable
    own = read_source(report=problems.append) if is_own else None
    runs = {
        side: _marked(
            book.draft.finished(
                sampling,
                group=group,
                started_at=started_at,
                interrupted=match.interrupted,
                source=own if side == CANDIDATE else None,
            ),
            side,
            book.contender,
            problems if side == CANDIDATE else (),
        )
        for side, book in match.books.items()
        if book.draft.trials or book.draft.failure is not None
    }
    # A gate that ended early would have gone on with a slowdown: what it finds is what fits into its time.
    fit = math.floor(match.budget_s * len(pairs) / match.spent_s) if match.spent_s else 0
    found = [each.of_pairs(max(len(pairs), min(fit, max(LOOKS)))) for each in evidence(pairs)]
    chance = share_of_error(error, gated)
    detectable, detectable_channel = best_detectable(found, tolerance=tolerance, error=chance)
    comparison = Comparison(
        case=case,
        method="lockstep",
        baseline=_side(match.books[BASELINE], runs.get(BASELINE), len(pairs)),
        candidate=_side(match.books[CANDIDATE], runs.get(CANDIDATE), len(pairs)),
        environment=match.books[CANDIDATE].draft.environment,
        total=total,
        stages=stages,
        counts=count_changes(match.books[BASELINE].draft.stages, match.books[CANDIDATE].draft.stages),
        tolerance=tolerance,
        error=error,
        gate=gated,
        detectable=detectable,
        detectable_channel=detectable_channel,
        spent_s=match.spent_s,
        different=_different(match),
        notes=(*_notes(match, total), *problems),
    )
    return Outcome(comparison, tuple(runs.values()), match.interrupted)


def _marked(run: Run, side: SideName, contender: Contender, problems: Sequence[str]) -> Run:
    """Returns the run, saying which side of a gate it was, and what is not known of it."""
    which = " ".join([contender.name, *contender.versions])
    said = f"Measured in turns with another run of its group, as {side}: {which}."
    return replace(run, side=side, warnings=(said, *run.warnings, *problems))


def _side(book: Book, run: Run | None, processes: int) -> Side:
    return Side(
        name=book.contender.name,
        runs=() if run is None else (run.run_id,),
        processes=processes,
        versions=(*book.contender.versions, *([f"vilt-bench {book.package}"] if book.package else [])),
        pixels=None if book.draft.model is None else book.draft.model.resolution,
        visual_tokens=None if book.draft.model is None else book.draft.model.visual_tokens,
    )


def _different(match: _Match) -> tuple[str, ...]:
    before, after = (match.books[side].draft.environment for side in (BASELINE, CANDIDATE))
    return () if before is None or after is None else software_differences(before, after)


def _notes(match: _Match, total: StageVerdict) -> Iterator[str]:
    before, after = match.books[BASELINE], match.books[CANDIDATE]
    if match.cut:
        yield f"The time was over before a pair of processes was measured: {match.cut}."
    if match.interrupted:
        yield f"Interrupted: the verdict is that of the {len(match.pairs)} pairs of processes until then."
    if before.location and before.location == after.location and _are_one(match):
        yield "Both sides are the same installation: what differs is noise."
    elif before.origin and before.origin == after.origin:
        yield f"Both sides take the embedder from {before.origin}: what differs between them lies elsewhere."
    if after.origin and after.origin in before.contender.apart_from:
        yield (
            f"The candidate's embedder is the copy that is installed, {after.origin}: what the working tree has "
            "of later is not in it."
        )
    reasons = {reason for trial in (*before.draft.trials, *after.draft.trials) for reason in _slowed_down(trial)}
    if reasons:
        yield f"The GPU slowed down meanwhile ({', '.join(sorted(reasons))}): cool it, or look at its power supply."
    failed = any(book.draft.failure is not None for book in (before, after))
    if total.verdict == "inconclusive" and not match.interrupted and not failed:
        needed_s = match.start_s + (WARMUP_TURNS + SAMPLE_TURNS) * match.turn_s
        more = next((count for count in (PLANNED_PAIRS, max(LOOKS)) if count > len(match.pairs)), None)
        advice = f"{more} pairs take about {more * needed_s:.0f} s here, or use" if more else "use"
        yield (
            f"{len(match.pairs)} pairs of processes in {match.spent_s:.0f} s were not enough for this noise; "
            f"{advice} a quieter machine."
        )


def _are_one(match: _Match) -> bool:
    """Returns whether sides that share their vilt-bench share all else: interpreters may be two of one folder."""
    before, after = match.books[BASELINE], match.books[CANDIDATE]
    return before.contender.python == after.contender.python or (
        before.origin is not None and before.origin == after.origin and not _different(match)
    )


def _lies_in(path: Path, folder: str | None) -> bool:
    """Returns whether a file lies in a folder, be it by a link."""
    return folder is not None and (
        path.absolute().is_relative_to(folder) or path.resolve().is_relative_to(Path(folder).resolve())
    )


def _but(built: str | None) -> str:
    return "" if built is None else f" (that is in {built})"


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
        images=tuple(str(anchor(image)) for image in case.images),
        options={key: anchor(value) if is_path(key, value) else value for key, value in case.options.items()},
        checkpoint=None if case.checkpoint is None else str(anchor(case.checkpoint)),
    )


def _other_version(contender: Contender, package: str = "") -> ConfigError:
    which = f"vilt-bench {package}" if package else "a vilt-bench"
    return ConfigError(
        f"{contender.name} has {which} that this one can't direct (another protocol than version "
        f"{protocol.VERSION}); install versions that are closer to each other"
    )
