"""What goes on around the samples of a process."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import psutil

from vilt_bench.machine.disturbances import FitnessProbe
from vilt_bench.machine.system_files import ROOT, field_of, read_text
from vilt_bench.record.run import SLOWDOWNS, Conditions, GpuState


class GpuProbe(Protocol):
    """A GPU that tells its state."""

    def state(self) -> GpuState:
        """Returns what the GPU is doing right now."""


class ConditionsProbe:
    """Watches what goes on around the samples of this process.

    The process rests between its blocks while others take their turn; only blocks count for shares and switches.
    """

    def __init__(
        self,
        threads: int | None,
        gpu: GpuProbe | None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        """Prepare, without looking yet.

        Args:
            threads: that torch computes with; `None`: the work is a device's, and the host's share tells nothing.
            gpu: that is measured on, if NVML knows it.
            clock: seconds.
            cpu_clock: seconds of CPU time of this process.
        """
        self._threads = threads
        self._gpu = gpu
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._wall_s = 0.0
        self._cpu_s = 0.0
        self._switches: int | None = 0
        self._load_before: float | None = None
        self._gpu_before: GpuState | None = None
        self._throttled: dict[str, None] = {}
        self.slowed_down = False
        """Whether heat or the power supply slowed the GPU down in the last block."""
        self._fitness = FitnessProbe()

    def start(self) -> None:
        """Look at the machine before the first block."""
        self._load_before = _load_average()
        self._gpu_before = None if self._gpu is None else self._gpu.state()

    @contextmanager
    def block(self) -> Iterator[None]:
        """Returns a context whose time and context switches are added up."""
        self._fitness.begin()
        switches, wall_s, cpu_s = _involuntary_switches(), self._clock(), self._cpu_clock()
        try:
            yield
        finally:
            self._cpu_s += self._cpu_clock() - cpu_s
            self._wall_s += self._clock() - wall_s
            self._look()
            after = _involuntary_switches()
            if switches is None or after is None:
                self._switches = None
            elif self._switches is not None:
                self._switches += after - switches
            self._fitness.end()

    def _look(self) -> None:
        """Look at the GPU while it is still warm from the block."""
        state = None if self._gpu is None else self._gpu.state()
        reasons = () if state is None else state.throttle_reasons or ()
        self._throttled |= dict.fromkeys(reasons)
        self.slowed_down = any(reason in SLOWDOWNS for reason in reasons)

    def stop(self) -> Conditions:
        """Returns what went on, after a last look at the machine."""
        watched = self._wall_s > 0
        return Conditions(
            cpu_share=self._cpu_s / (self._threads * self._wall_s) if watched and self._threads else None,
            watched_s=self._wall_s if watched else None,
            involuntary_context_switches=self._switches if watched else None,
            load_average_before=self._load_before,
            load_average_after=_load_average(),
            resident_peak_bytes=resident_peak_bytes(),
            gpu_before=self._gpu_before,
            gpu_after=None if self._gpu is None else self._gpu.state(),
            throttle_reasons=None if self._gpu is None else tuple(self._throttled),
            fitness=self._fitness.fitness(),
        )


def resident_peak_bytes(root: Path = ROOT) -> int | None:
    """Returns the highest resident memory of this process so far, in bytes.

    Args:
        root: of the file system that holds `proc`.
    """
    # Not getrusage on Linux: its maximum outlives exec, so a worker would inherit its parent's.
    if match := re.fullmatch(r"(\d+) kB", field_of(read_text(root / "proc/self/status"), "VmHWM") or ""):
        return int(match[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def own_peak_bytes(root: Path = ROOT) -> int | None:
    """Returns the highest memory of this process so far but for mapped files, which processes share, in bytes.

    Args:
        root: of the file system that holds `proc`.
    """
    peak = resident_peak_bytes(root)
    files = re.fullmatch(r"(\d+) kB", field_of(read_text(root / "proc/self/status"), "RssFile") or "")
    return peak if peak is None or files is None else max(0, peak - int(files[1]) * 1024)


def _load_average() -> float | None:
    """Returns how many processes ran or waited to, averaged over a minute."""
    if sys.platform == "win32":  # psutil's emulation there starts a thread
        return None
    with suppress(OSError):
        return os.getloadavg()[0]
    return None


def _involuntary_switches() -> int | None:
    """Returns how often a thread of this process was taken off its core."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
