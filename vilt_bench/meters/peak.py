"""Peak arithmetic and memory bandwidth of this machine, measured: what no stage can be much faster than.

The bound of a stage is max(FLOPs / peak, bytes that it moves at least / bandwidth): an estimate, not a measurement of
the stage. Kernels better than the two tried here, and weights that stay in a cache, can go below it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

CPU_EDGE, ACCELERATOR_EDGE = 1536, 8192
"""Rows and columns of the matrices: large enough that arithmetic is the limit, not memory."""
CPU_COPY_BYTES, ACCELERATOR_COPY_BYTES = 128 * 2**20, 2**30
"""More than caches hold."""
TIME_S = 0.4
"""For each of the three measurements, at most, but for its first passes."""
LEAST_PASSES = 3


@dataclass(frozen=True)
class Peak:
    """What the machine reached."""

    flops_per_s: float
    """2 per multiply-add; the better of a matrix product and a 1×1 convolution."""
    bytes_per_s: float
    """Read and written by a large copy."""

    def bound_s(self, flops: int, moved_bytes: int) -> float:
        """Returns the seconds that so much work takes at least."""
        return max(flops / self.flops_per_s, moved_bytes / self.bytes_per_s)


def measure_peak(device: torch.device, dtype: torch.dtype, *, time_s: float = TIME_S) -> Peak:
    """Returns the best of several passes of each; takes about a second.

    Args:
        device: where to measure, with the threads that torch is set to.
        dtype: of the operands.
        time_s: for each measurement.
    """
    on_cpu = device.type == "cpu"
    edge = CPU_EDGE if on_cpu else ACCELERATOR_EDGE
    size = CPU_COPY_BYTES if on_cpu else ACCELERATOR_COPY_BYTES
    rows, weight = (torch.rand(edge, edge, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)  # pages touched

    def multiply() -> Tensor:
        return linear(rows, weight)

    def convolve() -> Tensor:  # on a CPU by oneDNN, where matrix products are MKL's
        return conv2d(rows.view(1, edge, -1, 32), weight[:, :, None, None])

    with torch.inference_mode():
        fastest_s = min(_fastest(work, device, time_s) for work in (multiply, convolve))
        copy_s = _fastest(lambda: target.copy_(source), device, time_s)
    return Peak(flops_per_s=2 * edge**3 / fastest_s, bytes_per_s=2 * size / copy_s)


def _fastest(work: Callable[[], Tensor], device: torch.device, time_s: float) -> float:
    """Returns the seconds of the fastest pass; the first, which allocates, is left out unless it took all the time."""

    def timed() -> float:
        start = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - start

    if (first_s := timed()) > time_s:
        return first_s
    taken = [timed() for _ in range(LEAST_PASSES)]
    while sum(taken) < time_s:
        taken.append(timed())
    return min(taken)
