"""Measures the energy of whole passes by the GPU's own counter, over windows of seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from vilt_bench.record.run import Energy

METHOD = "NVML total energy counter of the whole GPU; every pass synchronised; idle power not subtracted"


class EnergyCounter(Protocol):
    """A device that counts its energy."""

    def energy_j(self) -> float | None:
        """Returns the energy used so far, in joules; `None` where it is not counted."""


def measure_energy(
    run_pass: Callable[[], None],
    synchronize: Callable[[], None],
    gpu: EnergyCounter | None,
    *,
    windows: int = 3,
    least_window_s: float = 5.0,
    idle_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Energy | None:
    """Returns the energy of a pass; `None` where nothing counts it.

    The counter is refreshed only every 10 to 100 ms, so one pass says nothing: it is repeated until a window is
    covered. Nothing is subtracted; the power at rest, right before the first window, stands beside.

    Args:
        run_pass: enqueues one whole pass.
        synchronize: waits until the device has done all that was enqueued.
        gpu: what counts.
        windows: how many values to take.
        least_window_s: a window takes whole passes until this time is covered.
        idle_s: how long to watch the device at rest; 0: not at all.
        clock: seconds.
        sleep: waits for seconds.
    """
    if gpu is None or gpu.energy_j() is None:
        return None
    synchronize()
    idle_power_w = _idle_power_w(gpu, idle_s, clock=clock, sleep=sleep) if idle_s else None
    joules_per_pass: list[float] = []
    window_s: list[float] = []
    passes: list[int] = []
    for _ in range(windows):
        before_j, begin_s, count = gpu.energy_j(), clock(), 0
        while not count or clock() - begin_s < least_window_s:
            run_pass()
            synchronize()
            count += 1
        after_j, elapsed_s = gpu.energy_j(), clock() - begin_s
        if before_j is None or after_j is None or after_j <= before_j:  # lost, reset, or standing still
            return None
        joules_per_pass.append((after_j - before_j) / count)
        window_s.append(elapsed_s)
        passes.append(count)
    return Energy(
        joules_per_pass=tuple(joules_per_pass),
        window_s=tuple(window_s),
        passes=tuple(passes),
        idle_power_w=idle_power_w,
        method=METHOD,
    )


def _idle_power_w(
    gpu: EnergyCounter, idle_s: float, *, clock: Callable[[], float], sleep: Callable[[float], None]
) -> float | None:
    before_j, begin_s = gpu.energy_j(), clock()
    sleep(idle_s)
    after_j, elapsed_s = gpu.energy_j(), clock() - begin_s
    return None if before_j is None or after_j is None or after_j <= before_j else (after_j - before_j) / elapsed_s
