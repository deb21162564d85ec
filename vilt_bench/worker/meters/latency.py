"""Time: one forward pass by stage, or as a whole; by device events where the device has them, else by the host's clock.

A timer knows no model: it is given `forward(mark)`, runs it once, and returns what its clocks said. Whoever times
several passes does so in `quiet`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Protocol

import torch

from vilt_bench.embedding import Mark
from vilt_bench.record.run import Times

Forward = Callable[[Mark | None], object]
"""Runs one forward pass; with a mark, calls it after each stage."""


@dataclass(frozen=True)
class Interval:
    """How long one stage, or one whole pass, took; seconds; `None` where that clock does not apply."""

    wall_time_s: float | None = None
    cpu_time_s: float | None = None
    device_time_s: float | None = None
    host_time_s: float | None = None


@dataclass(frozen=True)
class StagedPass:
    """One instrumented pass."""

    stages: dict[str, Interval]
    whole: Interval
    """From its start to its end."""


class Timer(Protocol):
    """Times one pass."""

    def whole(self, forward: Forward) -> Interval:
        """Returns the time of one uninstrumented pass."""

    def by_stage(self, forward: Forward) -> StagedPass | None:
        """Returns the times of one instrumented pass; `None` where the device has no clock between stages."""


@dataclass(frozen=True)
class HostTimer:
    """For devices that compute while the host waits: the host's clock, and the process's CPU time."""

    clock_ns: Callable[[], int] = time.perf_counter_ns
    cpu_clock_ns: Callable[[], int] = time.process_time_ns

    def whole(self, forward: Forward) -> Interval:
        """Returns wall and CPU time of one uninstrumented pass."""
        cpu_start, start = self.cpu_clock_ns(), self.clock_ns()
        forward(None)
        end, cpu_end = self.clock_ns(), self.cpu_clock_ns()
        return Interval(wall_time_s=(end - start) * 1e-9, cpu_time_s=(cpu_end - cpu_start) * 1e-9)

    def by_stage(self, forward: Forward) -> StagedPass:
        """Returns wall and CPU time between the marks of one instrumented pass."""
        names: list[str] = []
        walls: list[int] = []
        cpus: list[int] = []
        # Bound once: a mark costs two clock reads and three appends, below a microsecond.
        clock_ns, cpu_clock_ns = self.clock_ns, self.cpu_clock_ns
        add_name, add_wall, add_cpu = names.append, walls.append, cpus.append

        def mark(name: str, _output: Any) -> None:
            add_wall(clock_ns())
            add_cpu(cpu_clock_ns())
            add_name(name)

        add_cpu(cpu_clock_ns())
        add_wall(clock_ns())
        forward(mark)
        stages = {
            name: Interval(
                wall_time_s=(walls[index + 1] - walls[index]) * 1e-9,
                cpu_time_s=(cpus[index + 1] - cpus[index]) * 1e-9,
            )
            for index, name in enumerate(names)
        }
        whole = Interval(wall_time_s=(walls[-1] - walls[0]) * 1e-9, cpu_time_s=(cpus[-1] - cpus[0]) * 1e-9)
        return StagedPass(stages, whole)


class Event(Protocol):
    """A point in a device's queue, as `torch.cuda.Event(enable_timing=True)`."""

    def record(self) -> Any:
        """Put it into the current stream's queue."""

    def elapsed_time(self, end: Any) -> float:
        """Returns the milliseconds from this event to a later one; both have happened."""


@dataclass
class DeviceTimer:
    """For devices that run behind the host: an event at each boundary, one synchronisation at the end of the pass.

    Beside each device time stands the host's time for the same boundaries, read without synchronisation:
    where it exceeds the device's, the stage is bound by launches, or waits for the host.
    """

    new_event: Callable[[], Event]
    synchronize: Callable[[], None]
    clock_ns: Callable[[], int] = time.perf_counter_ns
    cpu_clock_ns: Callable[[], int] = time.process_time_ns
    _events: list[Event] = field(default_factory=list)

    def whole(self, forward: Forward) -> Interval:
        """Returns device, wall, host and CPU time of one uninstrumented pass."""
        first, last = self._pool(2)[:2]
        self.synchronize()
        cpu_start, start = self.cpu_clock_ns(), self.clock_ns()
        first.record()
        forward(None)
        last.record()
        enqueued = self.clock_ns()
        self.synchronize()
        end, cpu_end = self.clock_ns(), self.cpu_clock_ns()
        return Interval(
            wall_time_s=(end - start) * 1e-9,
            cpu_time_s=(cpu_end - cpu_start) * 1e-9,
            device_time_s=first.elapsed_time(last) * 1e-3,
            host_time_s=(enqueued - start) * 1e-9,
        )

    def by_stage(self, forward: Forward) -> StagedPass:
        """Returns device and host time between the marks of one instrumented pass."""
        events = self._pool(2)
        names: list[str] = []
        hosts: list[int] = []

        def mark(name: str, _output: Any) -> None:
            if len(events) == len(names) + 1:  # only in the first pass, which is warm-up
                events.append(self.new_event())
            events[len(names) + 1].record()
            hosts.append(self.clock_ns())
            names.append(name)

        self.synchronize()
        cpu_start = self.cpu_clock_ns()
        hosts.append(self.clock_ns())
        events[0].record()
        forward(mark)
        self.synchronize()
        end, cpu_end = self.clock_ns(), self.cpu_clock_ns()
        stages = {
            name: Interval(
                device_time_s=events[index].elapsed_time(events[index + 1]) * 1e-3,
                host_time_s=(hosts[index + 1] - hosts[index]) * 1e-9,
            )
            for index, name in enumerate(names)
        }
        whole = Interval(
            wall_time_s=(end - hosts[0]) * 1e-9,
            cpu_time_s=(cpu_end - cpu_start) * 1e-9,
            device_time_s=events[0].elapsed_time(events[len(names)]) * 1e-3,
            host_time_s=(hosts[-1] - hosts[0]) * 1e-9,
        )
        return StagedPass(stages, whole)

    def _pool(self, count: int) -> list[Event]:
        while len(self._events) < count:
            self._events.append(self.new_event())
        return self._events


@dataclass(frozen=True)
class SynchronizingTimer:
    """For devices without timed events: the whole, synchronised at both ends; no stages."""

    synchronize: Callable[[], None]
    clock: HostTimer = HostTimer()

    def whole(self, forward: Forward) -> Interval:
        """Returns wall and CPU time of one uninstrumented pass, the device synchronised at both ends."""
        self.synchronize()

        def complete(_mark: Mark | None) -> None:
            forward(None)
            self.synchronize()

        return self.clock.whole(complete)

    def by_stage(self, forward: Forward) -> None:
        """Returns `None`: a synchronisation between stages would add gaps that use does not have."""


class DeviceEvents(Protocol):
    """What a timer asks of a device that is not the CPU."""

    def initialise(self) -> None:
        """Make sure that the device has been used: before, events fail and synchronising does nothing."""

    def new_event(self) -> Event:
        """Returns a timed event."""

    def synchronize(self) -> None:
        """Wait for the device."""


@dataclass(frozen=True)
class TorchEvents:
    """The device by torch: CUDA's own events, else torch's generic ones."""

    device: torch.device

    def initialise(self) -> None:
        """Allocate and fill a tensor: torch initialises devices when they are first used."""
        torch.zeros(1, device=self.device)

    def new_event(self) -> Event:
        """Returns a timed event on the device."""
        # torch leaves its events' constructors untyped.
        make: Any = torch.cuda.Event if self.device.type == "cuda" else partial(torch.Event, self.device)
        event: Event = make(enable_timing=True)
        return event

    def synchronize(self) -> None:
        """Wait for the device."""
        torch.accelerator.synchronize(self.device)


def timer_for(device: torch.device, events: DeviceEvents | None = None) -> Timer:
    """Returns the timer that fits the device, which is initialised for it.

    Args:
        device: where passes run.
        events: how the device is asked; `None`: by torch.
    """
    if device.type == "cpu":
        return HostTimer()
    events = TorchEvents(device) if events is None else events
    events.initialise()
    try:
        first, last = events.new_event(), events.new_event()
        first.record()
        last.record()
        events.synchronize()
        first.elapsed_time(last)
    except (RuntimeError, NotImplementedError):  # the device has no timed events
        events.synchronize()  # which fails again where it is the device that has failed
        return SynchronizingTimer(events.synchronize)
    return DeviceTimer(events.new_event, events.synchronize)


@contextmanager
def quiet() -> Iterator[None]:
    """Returns a context for timing: no gradients, no garbage collector; what was set before comes back."""
    collecting = gc.isenabled()
    gc.collect(0)
    gc.disable()
    try:
        with torch.inference_mode():
            yield
    finally:
        if collecting:
            gc.enable()


def times(intervals: Sequence[Interval]) -> Times:
    """Returns the intervals, clock by clock; a clock that did not apply is absent."""
    columns: dict[str, tuple[float, ...]] = {}
    for clock in fields(Interval):
        values = [getattr(interval, clock.name) for interval in intervals]
        if values and None not in values:
            columns[clock.name] = tuple(values)
    return Times(**columns)
