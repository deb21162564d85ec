"""Measures baseline and candidate in turns, a pair of processes at a time.

A baseline and a candidate process live side by side, idle but for their turn, and pass the turn on after each pass,
A B B A: load that comes and goes hits both alike and cancels. A pair of processes gives one number; the pairs are
the units of the tests in `judge.significance`.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from vilt_bench import errors, protocol
from vilt_bench.ask.case import Case, Sampling
from vilt_bench.director.installation import Installation
from vilt_bench.director.measure import Clock
from vilt_bench.director.process import (
    TurnTakingProcess,
    WorkerFailedError,
    WorkerHungError,
    WorkerNotStartedError,
)
from vilt_bench.director.side import SideState, check_origins
from vilt_bench.errors import ConfigError, MeasurementError
from vilt_bench.judge.comparison import SideName
from vilt_bench.judge.pairs import BASELINE, CANDIDATE, LEAST_TURNS, LOOKS, SAMPLE_TURNS, WARMUP_TURNS, Pair, evidence
from vilt_bench.record import journal
from vilt_bench.record.join import join_passes
from vilt_bench.record.journal import Note
from vilt_bench.record.run import Failure, Series, Trial
from vilt_bench.wire import BYE_S

SHORT_TURNS, AIMED_PAIRS = 4, 16
"""Where time is short, turns are left out, down to so few, until so many pairs fit: fifteen pairs of four turns find
more than eleven of six, as their spread is known better."""
NEEDED_PAIRS = min(LOOKS) + 1
"""Where not even that is possible, turns are left out further, down to `LEAST_TURNS`, until the first look's pairs fit
and one in reserve: three or four pairs, whatever they show, can't tell their own spread."""
LEAST_SAMPLING_S, SAMPLING_SHARE = 1.0, 0.5
"""Where thirty passes take less, and less than half as long as the processes took to start, there are more of them."""
MOST_WARMUP_TURNS = 5
TOLD_EVERY = 4
"""Turns: telling costs time between two of them."""
SETTLED = 0.9
"""Warm-up ends when the fastest pass of a turn takes this share of the fastest before it, or longer,"""
LEAST_WARMUP_S = 0.5
"""after one turn if that takes so long, else after two."""
LEAST_BYE_S = 0.5
"""In which a process may end by itself, however little time is left."""
ENDING_S, ENDING_SHARE = 3.0, 0.05
"""Kept for ending the processes, at most; and at most this share of the time."""


@dataclass(frozen=True)
class GateProgress:
    """Where the measuring of one case stands."""

    case: Case
    pair: int
    """From 0."""
    phase: str
    """`starting`, `counting`, `warming up`, `sampling`, `trying each side alone`"""
    interval: tuple[float, float] | None
    """Of candidate / baseline, from the pairs so far."""
    spent_s: float
    budget_s: float


class TimeOverError(Exception):
    """The time is over."""


class NoBaselineError(Exception):
    """The candidate has this embedder, the baseline does not."""


@dataclass
class Lockstep:
    """Both sides measured in turns, as far as it has come."""

    case: Case
    """As the processes get it: with paths that hold in any folder."""
    sides: Mapping[SideName, SideState]
    start: Mapping[SideName, Callable[[], TurnTakingProcess]]
    budget_s: float
    clock: Clock
    report: Callable[[GateProgress], None]
    roles: random.Random
    begin_s: float
    """When it all began, by the clock."""
    note: Note = lambda _, __: None
    pairs: list[Pair] = field(default_factory=list)
    interrupted: bool = False
    phase: str = ""
    """What is going on."""
    cut: str = ""
    """What went on when the time was over before there was a pair."""
    start_s: float = 0.0
    """How long the last pair took until it was ready."""
    turn_s: float = 0.0
    """How long the last turn took."""
    warmup_turns: int = WARMUP_TURNS
    """How many the last pair took to settle."""

    @property
    def spent_s(self) -> float:
        """Time since it all began."""
        return self.clock() - self.begin_s

    @property
    def left_s(self) -> float:
        """Time that is left for measuring: ending the processes takes some as well."""
        return self.budget_s - self.spent_s - min(ENDING_S, ENDING_SHARE * self.budget_s)

    def sampling(self) -> Sampling:
        """Returns how hard it was looked."""
        return Sampling(max_time_s=self.budget_s, trials=max(1, len(self.sides[BASELINE].draft.trials)))

    @property
    def most_turns(self) -> int:
        """How many turns a pair takes where time is not short."""
        if not self.turn_s:
            return SAMPLE_TURNS
        worth_s = max(LEAST_SAMPLING_S, SAMPLING_SHARE * self.start_s)
        return max(SAMPLE_TURNS, math.floor(worth_s / self.turn_s))

    def turns(self) -> int:
        """Returns how many turns the next pair takes, so that the planned pairs fit into what is left."""
        planned = AIMED_PAIRS - len(self.pairs)
        if not self.turn_s or planned <= 0:
            return self.most_turns
        if (fit := self._turns_that_fit(planned)) >= SHORT_TURNS:
            return min(self.most_turns, fit)
        needed = NEEDED_PAIRS - len(self.pairs)
        return SHORT_TURNS if needed <= 0 else max(LEAST_TURNS, min(SHORT_TURNS, self._turns_that_fit(needed)))

    def _turns_that_fit(self, pairs: int) -> int:
        """Returns how many turns each of so many pairs may take, the first of which has started already."""
        return math.floor((self.left_s - (pairs - 1) * self.pair_s(0)) / (pairs * self.turn_s))

    def pair_s(self, turns: int) -> float:
        """Returns how long a pair of so many turns takes, by the last one's start and warm-up."""
        return self.start_s + (self.warmup_turns + turns) * self.turn_s

    def play(self) -> Iterator[Pair]:
        """Returns pairs as they are measured, while there is time for another."""
        over = False
        while not over and (not self.pairs or self.left_s > self.pair_s(LEAST_TURNS)):
            known = len(self.pairs)
            try:
                self._round()
            except KeyboardInterrupt:
                self.interrupted = over = True
            except TimeOverError:
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
            with self._process(side) as process, self._watchdog([process]):
                self._greet(side, process)
                process.ask(protocol.Prepare(self.case), protocol.Prepared)
                process.ask(protocol.Count(), protocol.Counted)
                for index in range(2 * (self.warmup_turns + SAMPLE_TURNS)):
                    process.ask(protocol.Sample(instrumented=index // 2 % 2 == 1), protocol.Measured)
                    if self.left_s <= 0:
                        raise TimeOverError
                process.ask(protocol.Finish(), protocol.Finished)
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
                processes = {side: stack.enter_context(self._process(side)) for side in order}
                stack.enter_context(self._watchdog(list(processes.values())))
                trials = self._prepare(processes)
                self.start_s = self.clock() - begin_s
                if not self.sides[BASELINE].draft.stages:
                    self._count(processes)
                for turn in self._turns(processes, order, MOST_WARMUP_TURNS, "warming up", warmup):
                    self.warmup_turns = turn + 1
                    if (turn or self.turn_s >= LEAST_WARMUP_S) and all(map(_is_settled, warmup.values())):
                        break
                for _ in self._turns(processes, order, self.turns(), "sampling", samples):
                    pass
                for side, process in processes.items():
                    with self._named(side):
                        finished = process.ask(protocol.Finish(), protocol.Finished)
                    trials[side] = replace(trials[side], conditions=finished.conditions)
                    draft = self.sides[side].draft
                    draft.warnings = tuple(dict.fromkeys((*draft.warnings, *finished.remarks)))
        finally:
            joined = {side: join_passes(passes) for side, passes in samples.items()}
            for side, trial in trials.items():
                draft = self.sides[side].draft
                draft.trials.append(replace(trial, warmup=join_passes(warmup[side]), samples=joined[side]))
                self.note(
                    draft.run_id, journal.Opened(replace(draft.header(self.sampling()), side=side), draft.trials[-1])
                )
            pair = Pair(joined[BASELINE], joined[CANDIDATE])
            if pair.turns >= LEAST_TURNS:
                self.pairs.append(pair)

    def _prepare(self, processes: Mapping[SideName, TurnTakingProcess]) -> dict[SideName, Trial]:
        """Build both sides at once: nothing is timed yet."""
        for side, process in processes.items():
            with self._named(side):
                self._greet(side, process)
        for side, process in processes.items():
            # What all processes of a side have in common is told by its first.
            process.send(protocol.Prepare(self.case, compares=self.sides[side].draft.model is None))
        ready: dict[SideName, protocol.Prepared] = {}
        problems: dict[SideName, errors.ViltBenchError] = {}
        for side, process in processes.items():
            try:
                with self._named(side):
                    ready[side] = process.receive(protocol.Prepared)
            except errors.ViltBenchError as error:
                problems[side] = error
        if isinstance(lacking := problems.get(BASELINE), errors.UnknownEmbedderError) and CANDIDATE in ready:
            raise NoBaselineError(str(lacking))
        for problem in problems.values():
            raise problem
        trials = {}
        for side, prepared in ready.items():
            draft = self.sides[side].draft
            # Built beside the other side: how long it took says nothing.
            trials[side] = Trial(len(draft.trials), prepared.started_at)
            draft.environment = draft.environment or prepared.environment
            draft.model = draft.model or prepared.model
            self.sides[side].origin, self.sides[side].modules = prepared.origin, prepared.modules
        check_origins(self.sides)
        return trials

    def _greet(self, side: SideName, process: TurnTakingProcess) -> None:
        state = self.sides[side]
        try:
            welcome = process.ask(protocol.Hello(), protocol.Welcome)
        except WorkerFailedError as error:
            if "No module named" in error.failure.message:
                raise ConfigError(
                    f"{state.installation.python} has no vilt-bench ({error.failure.message}); install it there"
                ) from None
            if error.failure.kind == "crashed" or isinstance(error, WorkerHungError):
                raise
            raise _other_version(state.installation) from None
        if welcome.protocol != protocol.VERSION:
            raise _other_version(state.installation, welcome.package)
        if unknown := protocol.unknown_to(welcome, self.case):
            raise ConfigError(
                f"{state.installation.name} has vilt-bench {welcome.package}, which does not know "
                f"{' and '.join(f'`{name}`' for name in unknown)}; leave it out, or compare with a version that does"
            )
        state.package, state.location = welcome.package, welcome.location

    def _count(self, processes: Mapping[SideName, TurnTakingProcess]) -> None:
        self._tell("counting")
        for process in processes.values():
            process.send(protocol.Count())
        for side, process in processes.items():
            with self._named(side):
                counted = process.receive(protocol.Counted)
            draft = self.sides[side].draft
            draft.stages, draft.warnings = counted.stages, counted.warnings
            if draft.model is not None:
                draft.model = replace(draft.model, memory_method=counted.memory_method)

    def _turns(
        self,
        processes: Mapping[SideName, TurnTakingProcess],
        order: Sequence[SideName],
        count: int,
        phase: str,
        into: Mapping[SideName, list[Series]],
    ) -> Iterator[int]:
        """Yields so many turns when they are taken, or as many as there is time for; every other one with stages."""
        first, second = order
        for turn in range(count):
            if self.left_s < self.turn_s:
                return
            if turn % TOLD_EVERY == 0:
                self._tell(phase)
            begin_s = self.clock()
            for side in (first, second, second, first):
                with self._named(side):
                    measured = processes[side].ask(protocol.Sample(instrumented=turn % 2 == 1), protocol.Measured)
                into[side].append(measured.series)
            self.turn_s = self.clock() - begin_s
            yield turn

    @contextmanager
    def _process(self, side: SideName) -> Iterator[TurnTakingProcess]:
        try:
            process = self.start[side]()
        except WorkerFailedError:
            with self._named(side):
                raise
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        finally:
            process.close(min(BYE_S, max(LEAST_BYE_S, (self.budget_s - self.spent_s) / 2)))

    @contextmanager
    def _watchdog(self, processes: Sequence[TurnTakingProcess]) -> Iterator[None]:
        """Ends the processes when the time is over, whatever they are at."""

        def end() -> None:
            for process in processes:
                process.kill()

        timer = threading.Timer(max(0.0, self.left_s), end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except WorkerFailedError:
            if self.left_s <= 0:
                raise TimeOverError from None
            raise
        finally:
            timer.cancel()

    @contextmanager
    def _named(self, side: SideName) -> Iterator[None]:
        """Says whose error it is."""
        try:
            yield
        except errors.ViltBenchError as error:
            raise type(error)(f"{side} ({self.sides[side].installation.name}): {error}") from None
        except WorkerFailedError as error:
            if self.left_s > 0:
                self.sides[side].draft.failure = error.failure
            elif not self.pairs and not self.cut:
                self.cut = f"the {side} ({self.sides[side].installation.name}) was still {self.phase}"
                self.sides[side].draft.failure = Failure("error", f"still {self.phase} when the time was over")
            raise

    def _tell(self, phase: str) -> None:
        self.phase = phase
        found = evidence(self.pairs)
        interval = (math.exp(found[0].low), math.exp(found[0].high)) if found and found[0].known else None
        case = self.sides[BASELINE].draft.case  # as it was asked for
        self.report(GateProgress(case, len(self.pairs), phase, interval, self.spent_s, self.budget_s))


def _is_settled(passes: Sequence[Series]) -> bool:
    """Returns whether the last two passes are as slow as the two before; of the first two, whether the second is."""
    times_s = [
        next(column[0] for column in (times.device_time_s, times.cpu_time_s, times.latency_s) if column)
        for each in passes
        for times in (each.whole, each.instrumented)
        if times.latency_s
    ]
    return min(times_s[-2:]) >= SETTLED * min(times_s[-4:-2] or times_s[:1])


def _other_version(installation: Installation, package: str = "") -> ConfigError:
    which = f"vilt-bench {package}" if package else "a vilt-bench"
    return ConfigError(
        f"{installation.name} has {which} that this one can't direct (another protocol than version "
        f"{protocol.VERSION}); install versions that are closer to each other"
    )
