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

from vilt_bench.machine.system_files import ROOT, control_groups, field_of, read_count, read_text
from vilt_bench.record.run import Fitness


@dataclass(frozen=True)
class _Usage:
    """Seconds of all processors since the machine started."""

    total_s: float
    busy_s: float
    steal_s: float


class FitnessProbe:
    """Watches the machine around the work of this process; costs a few file reads a block."""

    def __init__(self, *, root: Path = ROOT, cpu_clock: Callable[[], float] = time.process_time) -> None:
        """Look at the counters that only ever grow.

        Args:
            root: of the file system that holds `proc` and `sys`.
            cpu_clock: seconds of CPU time of what is not to count as others'.
        """
        self._root = root
        self._cpu_clock = cpu_clock
        self._thermal = thermal_throttles(root)
        self._total_s = self._others_s = self._steal_s = self._held_s = 0.0
        self._begun: tuple[_Usage | None, float, dict[Path, float]] = None, 0.0, {}
        self._known = self._quota = False

    def begin(self) -> None:
        """A block of work begins."""
        self._begun = _usage(self._root), self._cpu_clock(), _quota_held_s(self._root)

    def end(self) -> None:
        """The block is over."""
        before, cpu_s, held_s = self._begun
        own_s, after, held_after_s = self._cpu_clock() - cpu_s, _usage(self._root), _quota_held_s(self._root)
        if groups := held_s.keys() & held_after_s.keys():
            self._quota = True
            # Of the tightest: where several hold the process up, they may do so at the same time.
            self._held_s += max(held_after_s[group] - held_s[group] for group in groups)
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


def thermal_throttles(root: Path = ROOT) -> int | None:
    """Returns how often the processor has slowed down against heat since the machine started (Intel only)."""
    files = root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    known = [count for count in map(read_count, files) if count is not None]
    return sum(known) if known else None


def _usage(root: Path) -> _Usage | None:
    match = re.match(r"cpu +((?:\d+ ?)+)", read_text(root / "proc/stat") or "")
    if match is None:
        return None
    # user nice system idle iowait irq softirq steal; guests are within user and nice
    ticks = [int(value) for value in match[1].split()[:8]]
    ticks += [0] * (8 - len(ticks))
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    steal = ticks[7]
    return _Usage(sum(ticks) * tick_s, (sum(ticks) - ticks[3] - ticks[4] - steal) * tick_s, steal * tick_s)


def _quota_held_s(root: Path) -> dict[Path, float]:
    """Returns how long each control group's quota has held up the processes in it, in seconds; a parent's holds too."""
    held_s = {}
    for group in control_groups(root, "cpu"):
        text = read_text(group / "cpu.stat")
        for field, unit_s in (("throttled_usec", 1e-6), ("throttled_time", 1e-9)):  # of version 2, and of 1
            if (time := field_of(text, field, " ")) is not None and time.isdigit():
                held_s[group] = int(time) * unit_s
    return held_s


def _swap_used_bytes(root: Path) -> int | None:
    text = read_text(root / "proc/meminfo")
    sizes = [field_of(text, f"Swap{name}") for name in ("Total", "Free")]
    known = [int(match[1]) * 1024 for size in sizes if (match := re.fullmatch(r"(\d+) kB", size or ""))]
    return known[0] - known[1] if len(known) == 2 else None
