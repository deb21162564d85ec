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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from vilt_bench import errors, protocol
from vilt_bench.ask.case import Case
from vilt_bench.director.draft import Draft
from vilt_bench.director.measure import Clock
from vilt_bench.director.process import (
    Overhear,
    Player,
    Worker,
    WorkerFailedError,
    WorkerHungError,
    WorkerNotStartedError,
)
from vilt_bench.errors import ConfigError, MeasurementError
from vilt_bench.judge.comparison import SideName
from vilt_bench.judge.pairs import BASELINE, CANDIDATE, LEAST_TURNS, Pair, evidence
from vilt_bench.judge.significance import PLANNED_PAIRS
from vilt_bench.record.join import join_passes
from vilt_bench.record.run import Failure, Series, Trial
from vilt_bench.wire import BYE_S, Patience

WARMUP_TURNS = 2
"""Four passes a process, after the first call."""


SAMPLE_TURNS = 15
"""Thirty passes a process: fewer find less, more find hardly more."""


SHORT_TURNS = 6
"""Where time is short: nine pairs of six turns find more than six of ten, as their spread is known better."""


LEAST_SAMPLING_S = 1.0
"""Where thirty passes take less, there are more of them: starting the processes takes longer anyway."""


INSTALLED = ("site-packages", "dist-packages")
"""Names of the folders that installed packages lie in."""


NO_INTERPRETER = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP, errno.EISDIR)
"""What the system says of a path that is none."""


LEAST_BYE_S = 0.5


ENDING_S, ENDING_SHARE = 3.0, 0.05
"""Kept for ending the processes, at most; and at most this share of the time."""


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


class OverError(Exception):
    """The time is over."""


class NoBaselineError(Exception):
    """The candidate has this embedder, the baseline does not."""


@dataclass
class Match:
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
            except OverError:
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
                        raise OverError
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
                    replace(trial, warmup=join_passes(warmup[side]), samples=join_passes(samples[side]))
                )
            pair = Pair(join_passes(samples[BASELINE]), join_passes(samples[CANDIDATE]))
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
            raise NoBaselineError(str(lacking))
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
                raise OverError from None
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


def _lies_in(path: Path, folder: str | None) -> bool:
    """Returns whether a file lies in a folder, be it by a link."""
    return folder is not None and (
        path.absolute().is_relative_to(folder) or path.resolve().is_relative_to(Path(folder).resolve())
    )


def _but(built: str | None) -> str:
    return "" if built is None else f" (that is in {built})"


def _other_version(contender: Contender, package: str = "") -> ConfigError:
    which = f"vilt-bench {package}" if package else "a vilt-bench"
    return ConfigError(
        f"{contender.name} has {which} that this one can't direct (another protocol than version "
        f"{protocol.VERSION}); install versions that are closer to each other"
    )
