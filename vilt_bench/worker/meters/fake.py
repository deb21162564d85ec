"""Scripted clocks, events and a workload of known cost, so that timing code can be tested to the nanosecond."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vilt_bench.embedding import Mark


@dataclass
class FakeTime:
    """A clock that moves only when told to; seconds in, nanoseconds out."""

    now_ns: int = 0

    def clock_ns(self) -> int:
        """Returns the time."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += round(seconds * 1e9)


@dataclass
class FakeDevice:
    """A device that runs behind the host: work is enqueued at once and finishes at `synchronize`.

    `log` keeps the order of calls: record, synchronize, elapsed_time.
    """

    host: FakeTime = field(default_factory=FakeTime)
    busy_until_ns: int = 0
    log: list[str] = field(default_factory=list)
    initialised: bool = True
    """Whether something has run on it: before, recording an event fails, as torch's generic ones do."""
    has_timed_events: bool = True

    def initialise(self) -> None:
        """Use the device."""
        self.initialised = True

    def enqueue(self, device_s: float, *, host_s: float = 0.0) -> None:
        """Enqueue work that takes the device so long, and the host so long to launch."""
        start = max(self.busy_until_ns, self.host.now_ns)
        self.host.advance(host_s)
        self.busy_until_ns = start + round(device_s * 1e9)

    def synchronize(self) -> None:
        """Wait for the device."""
        self.log.append("synchronize")
        self.host.now_ns = max(self.host.now_ns, self.busy_until_ns)

    def new_event(self) -> FakeEvent:
        """Returns an event on this device."""
        return FakeEvent(self)


@dataclass
class FakeEvent:
    """A point in the fake device's queue."""

    device: FakeDevice
    at_ns: int | None = None

    def record(self) -> None:
        """Put it behind the work enqueued so far.

        Raises:
            RuntimeError: nothing has run on the device yet, or it has no timed events.
        """
        if not (self.device.initialised and self.device.has_timed_events):
            raise RuntimeError("the device has no such event")
        self.device.log.append("record")
        self.at_ns = max(self.device.busy_until_ns, self.device.host.now_ns)

    def elapsed_time(self, end: Any) -> float:
        """Returns milliseconds, as torch's events do.

        Raises:
            RuntimeError: an event has not happened yet, as with torch's.
        """
        self.device.log.append("elapsed_time")
        if self.at_ns is None or end.at_ns is None or end.at_ns > self.device.host.now_ns:
            raise RuntimeError("both events must have happened")
        return float(end.at_ns - self.at_ns) * 1e-6


def scripted_forward(costs_s: dict[str, float], spend: Callable[[float], None]) -> Callable[[Mark | None], None]:
    """Returns a forward pass whose stages cost as scripted, spent by `spend`."""

    def forward(mark: Mark | None) -> None:
        for name, cost_s in costs_s.items():
            spend(cost_s)
            if mark is not None:
                mark(name, None)

    return forward
