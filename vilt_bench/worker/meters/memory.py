"""Memory by stage, in a pass of its own: live before, peak, and live after, in bytes.

Accelerators whose allocator keeps statistics: its own peak, reset at each boundary. CPU: live tensor bytes from the
allocations and frees that torch's profiler sees, on top of the weights and inputs; not resident memory. Elsewhere: not
measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vilt_bench.machine.device import allocator_statistics
from vilt_bench.record.run import StageMemory
from vilt_bench.worker.meters.latency import Forward

_BOUNDARY = "vilt_bench.boundary"


@dataclass(frozen=True)
class MemoryReading:
    """Memory by stage, and how it was obtained; no stages where it can't be."""

    stages: Mapping[str, StageMemory]
    method: str | None


def measure_memory(
    forward: Forward, resident: Iterable[Tensor], device: torch.device, *, packed_bytes: int = 0
) -> MemoryReading:
    """Returns the memory of each stage, from one pass.

    Args:
        forward: the pass.
        resident: weights and inputs, alive before the pass (counted on the CPU, whose allocator keeps no total).
        device: where it runs.
        packed_bytes: of copies of weights that no tensor shows.
    """
    if device.type == "cpu":
        return MemoryReading(
            _cpu(forward, live_bytes(resident) + packed_bytes), "live tensors, by torch.profiler's allocations"
        )
    if (statistics := allocator_statistics(device)) is not None:
        return MemoryReading(
            _allocator(
                forward,
                synchronize=lambda: torch.accelerator.synchronize(device),
                reset=lambda: statistics.reset_peak_memory_stats(device),
                live=lambda: int(statistics.memory_allocated(device)),
                peak=lambda: int(statistics.max_memory_allocated(device)),
            ),
            f"torch.{device.type}'s allocator, peak reset at each stage",
        )
    return MemoryReading({}, None)


def live_bytes(tensors: Iterable[Tensor]) -> int:
    """Returns the bytes of the tensors' storages, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _allocator(
    forward: Forward,
    *,
    synchronize: Callable[[], None],
    reset: Callable[[], None],
    live: Callable[[], int],
    peak: Callable[[], int],
) -> dict[str, StageMemory]:
    stages: dict[str, StageMemory] = {}
    synchronize()
    reset()
    before = live()

    def mark(name: str, _output: Any) -> None:
        nonlocal before
        synchronize()
        after = live()
        stages[name] = StageMemory(before, peak(), after)
        before = after
        reset()

    with torch.inference_mode():
        forward(mark)
    return stages


def _cpu(forward: Forward, resident_bytes: int) -> dict[str, StageMemory]:
    names: list[str] = []

    def mark(name: str, _output: Any) -> None:
        names.append(name)
        with torch.profiler.record_function(_BOUNDARY):
            pass

    with (
        torch.inference_mode(),
        # Not torch.profiler.profile: it imports the compiler, which takes a second.
        torch.autograd.profiler.profile(profile_memory=True) as profiler,
    ):
        forward(mark)
    # Raw events, not profiler.events(): that builds a tree which for a detector takes minutes.
    events = profiler.kineto_results.events() if profiler.kineto_results is not None else []
    timeline = sorted(
        (
            (event.start_ns(), event.name(), event.nbytes())
            for event in events
            if event.name() in ("[memory]", _BOUNDARY)
        ),
        key=lambda entry: entry[0],
    )
    stages: dict[str, StageMemory] = {}
    before = live = peak = resident_bytes
    remaining = iter(names)
    for _, kind, size_bytes in timeline:
        if kind == _BOUNDARY:
            stages[next(remaining)] = StageMemory(before, peak, live)
            before = peak = live
        else:
            live += size_bytes
            peak = max(peak, live)
    return stages
