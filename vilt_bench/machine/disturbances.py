"""Watches what takes a machine from who measures on it: other machines, other processes, quotas, heat."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from vilt_bench.record.run import Fitness

_ROOT = Path("/")


@dataclass(frozen=True)
class _Usage:
    """Seconds of all processors since the machine started."""

    total_s: float
    busy_s: float
    steal_s: float


class FitnessProbe:
    """Watches the machine around the work of this process; costs a few file reads a block."""

    def __init__(self, *, root: Path = _ROOT, cpu_clock: Callable[[], float] = time.process_time) -> None:
        """Look at the counters that only ever grow.

        Args:
            root: of the file system that holds `proc` and `sys`.
            cpu_clock: seconds of CPU time of what is not to count as others'.
        """
        self._root = root
        self._cpu_clock = cpu_clock
        self._thermal = thermal_throttles(root)
        self._total_s = self._others_s = self._steal_s = self._held_s = 0.0
        self._begun: tuple[_Usage | None, float, float | None] = None, 0.0, None
        self._known = self._quota = False

    def begin(self) -> None:
        """A block of work begins."""
        self._begun = _usage(self._root), self._cpu_clock(), _quota_held_s(self._root)

    def end(self) -> None:
        """The block is over."""
        before, cpu_s, held_s = self._begun
        own_s, after, held_after_s = self._cpu_clock() - cpu_s, _usage(self._root), _quota_held_s(self._root)
        if held_s is not None and held_after_s is not None:
            self._quota = True
            self._held_s += held_after_s - held_s
        # Ticks are 10 ms: what a short block shows by itself is rough, and adds up right.
        if before is not None and after is not None and after.total_s > before.total_s:
            self._known = True
            self._total_s += after.total_s - before.total_s
            self._steal_s += after.steal_s - before.steal_s
            self._others_s += after.busy_s - before.busy_s - own_s

    def fitness(self) -> Fitness:
        """Returns what was seen in all blocks, after a last look at the machine."""
        thermal = thermal_throttles(self._root)
        return Fitness(
            timer_resolution_s=timer_resolution_s(),
            steal_share=self._steal_s / self._total_s if self._known else None,
            others_share=max(0.0, self._others_s / self._total_s) if self._known else None,
            quota_held_s=self._held_s if self._quota else None,
            thermal_throttles=None if thermal is None or self._thermal is None else thermal - self._thermal,
            memory_available_bytes=int(psutil.virtual_memory().available),
            swap_used_bytes=_swap_used_bytes(self._root),
        )


def timer_resolution_s(clock_ns: Callable[[], int] = time.perf_counter_ns, reads: int = 1000) -> float | None:
    """Returns the smallest step that a clock was seen to make, in seconds; `None` if it stood still."""
    seen = [clock_ns() for _ in range(reads)]
    steps = [after - before for before, after in pairwise(seen) if after > before]
    return min(steps) * 1e-9 if steps else None


def thermal_throttles(root: Path = _ROOT) -> int | None:
    """Returns how often the processor has slowed down against heat since the machine started (Intel only)."""
    counts = [
        _read(file) for file in root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    ]
    known = [int(count) for count in counts if count is not None and count.isdigit()]
    return sum(known) if known else None


def _usage(root: Path) -> _Usage | None:
    match = re.match(r"cpu +((?:\d+ ?)+)", _read(root / "proc/stat") or "")
    if match is None:
        return None
    # user nice system idle iowait irq softirq steal; guests are within user and nice
    ticks = [int(value) for value in match[1].split()[:8]]
    ticks += [0] * (8 - len(ticks))
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    steal = ticks[7]
    return _Usage(sum(ticks) * tick_s, (sum(ticks) - ticks[3] - ticks[4] - steal) * tick_s, steal * tick_s)


def _quota_held_s(root: Path) -> float | None:
    """Returns how long the quota of this process's control group (version 1 or 2) has held it up."""
    groups = re.findall(r"^\d+:([^:]*):(.*)$", _read(root / "proc/self/cgroup") or "", re.MULTILINE)
    for controllers, group in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" if not controllers else root / "sys/fs/cgroup/cpu"
        for place in (base / group.strip("/"), base):  # inside a container the path may be the host's
            told = _read(place / "cpu.stat") or ""
            if match := re.search(r"^throttled_usec (\d+)$", told, re.MULTILINE):
                return int(match[1]) * 1e-6
            if match := re.search(r"^throttled_time (\d+)$", told, re.MULTILINE):
                return int(match[1]) * 1e-9
    return None


def _swap_used_bytes(root: Path) -> int | None:
    told = _read(root / "proc/meminfo") or ""
    found = [re.search(rf"^Swap{name}:\s*(\d+) kB", told, re.MULTILINE) for name in ("Total", "Free")]
    total, free = (None if match is None else int(match[1]) * 1024 for match in found)
    return None if total is None or free is None else total - free


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
