"""Examines the machine: is it fit to measure on? Times a fixed kernel in pairs of processes, looks at who else is here.

The director imports no torch and sleeps while a process measures. What is found is judged in `judge.fitness`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import msgspec
import psutil

from vilt_bench.director.process import Process, WorkerFailedError, start_child
from vilt_bench.errors import MeasurementError
from vilt_bench.machine.disturbances import FitnessProbe
from vilt_bench.machine.gpu import look_at_gpus
from vilt_bench.machine.system_files import ROOT, read_count, read_text
from vilt_bench.record.examination import (
    LEAST_PAIRS,
    TURNS,
    WARMUP_TURNS,
    ClockFacts,
    Examination,
    KernelPair,
    Neighbour,
)
from vilt_bench.record.run import Environment
from vilt_bench.wire import Child, Patience

LEAST_TURNS = 5
"""On a machine so busy that a pair would take more than its share of the time."""
_NOTABLE_SHARE = 0.05
"""Of one processor: what another process takes before it is named."""
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True)
class Effort:
    """How hard to look."""

    pairs: int
    """Pairs of fresh processes."""
    look_s: float
    """How long to watch other processes before anything is measured."""
    max_time_s: float
    """No pair but the first is started that would end later."""
    forked: bool = False
    """Whether processes are forked from one, where that is sound: to start each anew takes most of the time."""


SHORT = Effort(pairs=12, look_s=0.5, max_time_s=12.0, forked=True)
THOROUGH = Effort(pairs=12, look_s=2.0, max_time_s=55.0)
FORKS = sys.platform == "linux"
"""Windows can't; on macOS the libraries behind torch's matrix product are not made for it."""


def examine(
    effort: Effort = SHORT,
    *,
    root: Path = ROOT,
    report: Callable[[str], None] = lambda _: None,
    patience_s: float | None = None,
) -> Examination:
    """Returns what the machine is like right now; takes 15 seconds at most, with `THOROUGH` about a minute.

    A machine so busy that a process is not started by then gets the one pair that says so.

    Args:
        effort: how hard to look.
        root: of the file system that holds `proc` and `sys`.
        report: told what is going on.
        patience_s: how long the kernel's process may be silent; `None`: by `wire.Patience`.

    Raises:
        MeasurementError: the kernel can't be run, or hangs.
        ConfigError: the patience is no time.
    """
    limit_s = Patience(patience_s, effort.max_time_s).for_once()
    begin = time.perf_counter()
    report("watching other processes")
    neighbours = _neighbours(effort.look_s)
    load = None if sys.platform == "win32" else os.getloadavg()[0]
    probe = FitnessProbe(root=root, cpu_clock=lambda: sum(os.times()[:4]))
    forked = effort.forked and FORKS
    pairs: list[KernelPair] = []
    environment = None
    probe.begin()
    try:
        with ExitStack() as stack:
            report("starting the process that times a fixed kernel")
            start = stack.enter_context(_forks(limit_s)) if forked else partial(_fresh, limit_s)
            pairs_begin = time.perf_counter()
            while len(pairs) < effort.pairs:
                now = time.perf_counter()
                left_s = effort.max_time_s - (now - begin)
                if pairs and (now - pairs_begin) / len(pairs) > left_s:
                    break
                report(f"timing a fixed kernel in two processes, pair {len(pairs) + 1} of {effort.pairs}")
                pair, environment = _pair(start, environment, budget_s=left_s / max(1, LEAST_PAIRS - len(pairs)))
                pairs.append(pair)
    except WorkerFailedError as error:
        raise MeasurementError(f"the doctor's kernel could not be run: {error.failure.message}") from None
    probe.end()
    assert environment is not None
    processors = root / "sys/devices/system/cpu/cpu0/cpufreq"
    return Examination(
        environment=environment,
        fitness=probe.fitness(),
        clocks=(
            _clock("perf_counter", time.perf_counter_ns),
            _clock("process_time", time.process_time_ns),
        ),
        pairs=tuple(pairs),
        neighbours=neighbours,
        load_average=load,
        frequency_hz=_kilohertz(processors / "scaling_cur_freq"),
        highest_frequency_hz=_kilohertz(processors / "cpuinfo_max_freq"),
        clock_source=read_text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        memory_bytes=int(psutil.virtual_memory().total),
        gpus=look_at_gpus(),
        took_s=time.perf_counter() - begin,
        forked=forked,
    )


class Kernel(Process):
    """A process that times the kernel when it is asked to."""

    def __init__(self, child: Child, limit_s: float) -> None:
        """Direct a process that has been started, and may be silent for that time."""
        super().__init__(child)
        self._limit_s = limit_s

    @classmethod
    def start(cls, limit_s: float, *flags: str) -> Kernel:
        """Returns a fresh process, which says when it is ready.

        Raises:
            WorkerNotStartedError: it can't be started.
        """
        return cls(start_child([sys.executable, "-m", "vilt_bench.worker.kernel", *flags]), limit_s)

    def ask(self, request: object, expected: type[AnswerT]) -> AnswerT:
        """Returns the answer; raises as `answer`."""
        self._child.send(msgspec.json.encode(request))
        return self.answer(expected)

    def answer(self, expected: type[AnswerT]) -> AnswerT:
        """Returns what it says next.

        Raises:
            WorkerFailedError: it has died, is silent for too long, or says what is no answer.
        """
        line = self._line(self._limit_s, "a pass")
        try:
            return msgspec.json.decode(line, type=expected)
        except ValueError as error:  # of msgspec, or of text that is none
            raise self._astray(f"replied what can't be read ({error})") from None


class _Asked(Protocol):
    """One of a pair that times the kernel: a process of its own, or a fork that another one asks."""

    def ask(self, request: Literal["environment", "time"], expected: type[AnswerT]) -> AnswerT: ...


@dataclass(frozen=True)
class _Fork:
    kernel: Kernel
    place: int

    def ask(self, request: Literal["environment", "time"], expected: type[AnswerT]) -> AnswerT:
        return self.kernel.ask((self.place, request), expected)


_Start = Callable[[], AbstractContextManager[tuple[_Asked, _Asked, float]]]
"""Starts a pair of processes, and says how many seconds a start took."""


@contextmanager
def _kernel(limit_s: float, *flags: str) -> Iterator[Kernel]:
    kernel = Kernel.start(limit_s, *flags)
    try:
        yield kernel
    except BaseException:
        kernel.kill()
        raise
    finally:
        kernel.close()


@contextmanager
def _fresh(limit_s: float) -> Iterator[tuple[Kernel, Kernel, float]]:
    """Starts two processes at once."""
    begin = time.perf_counter()
    with _kernel(limit_s) as first, _kernel(limit_s) as second:
        first.answer(str), second.answer(str)
        yield first, second, time.perf_counter() - begin


@contextmanager
def _forks(limit_s: float) -> Iterator[_Start]:
    """Starts the one process of which each pair is forked."""
    begin = time.perf_counter()
    with _kernel(limit_s, "--fork") as kernel:
        kernel.answer(str)
        start_s = time.perf_counter() - begin

        @contextmanager
        def start() -> Iterator[tuple[_Fork, _Fork, float]]:
            kernel.ask("fork", str)
            yield _Fork(kernel, 0), _Fork(kernel, 1), start_s

        yield start


def _pair(start: _Start, environment: Environment | None, *, budget_s: float) -> tuple[KernelPair, Environment]:
    """Returns one pair's samples, and the environment, asked for where it is not known."""
    begin = time.perf_counter()
    with start() as (first, second, start_s):
        environment = environment or first.ask("environment", Environment)
        for _ in range(WARMUP_TURNS):
            for kernel in (first, second, second, first):
                kernel.ask("time", tuple[float, float])
        samples: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
        for turn in range(TURNS):
            if turn >= LEAST_TURNS and time.perf_counter() - begin > 0.8 * budget_s:
                break
            for place in (0, 1, 1, 0):
                samples[place].append((first, second)[place].ask("time", tuple[float, float]))
    walls = [[wall for wall, _ in each] for each in samples]
    cpu_s = sum(cpu for each in samples for _, cpu in each)
    return (
        KernelPair(tuple(walls[0]), tuple(walls[1]), cpu_s / (environment.threads * sum(map(sum, walls))), start_s),
        environment,
    )


def _clock(name: str, clock_ns: Callable[[], int], reads: int = 20_000) -> ClockFacts:
    seen = [0] * reads
    begin = time.perf_counter()
    for index in range(reads):
        seen[index] = clock_ns()
    read_s = (time.perf_counter() - begin) / reads
    steps = [after - before for before, after in pairwise(seen) if after > before]
    return ClockFacts(name, min(steps) * 1e-9 if steps else None, read_s)


def _neighbours(look_s: float) -> tuple[Neighbour, ...]:
    """Returns the other processes that take most time, the busiest first."""
    own = {os.getpid(), os.getppid()}
    watched: list[psutil.Process] = [each for each in psutil.process_iter() if each.pid not in own]
    for each in watched:
        with suppress(psutil.Error):
            each.cpu_percent()
    time.sleep(look_s)
    found = []
    for each in watched:
        with suppress(psutil.Error):
            found.append(Neighbour(each.name(), each.cpu_percent() / 100))
    return tuple(sorted((n for n in found if n.share >= _NOTABLE_SHARE), key=lambda n: -n.share))


def _kilohertz(path: Path) -> float | None:
    count = read_count(path)
    return None if count is None else count * 1e3
