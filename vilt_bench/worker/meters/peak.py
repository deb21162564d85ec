"""Peak arithmetic and memory bandwidth of this machine, measured: what no stage can be much faster than.

The bound of a stage is max(FLOPs / peak, bytes that it moves at least / bandwidth): an estimate, not a measurement of
the stage. The peak is that of the best kernel at hand, the bandwidth that of the cache which so many bytes may lie in.
Kernels that skip work can go below it: Winograd's convolutions, causal attention.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

CPU_EDGES, ACCELERATOR_EDGES = (384, 768, 1536), (4096, 8192)
"""Rows and columns of matrices: large enough for arithmetic to be the limit; the small fit a busy machine's gaps."""
CPU_SPANS, ACCELERATOR_SPANS = tuple(4**power for power in range(8, 15)), tuple(4**power for power in range(10, 16))
"""Bytes that are moved: from within the nearest cache, 64 KiB or 1 MiB, to more than caches hold, 256 MiB or 1 GiB."""
TIME_S = 0.08
"""For each measurement, at most, but for its first passes."""
LEAST_PASSES = 3
REPEATS = 20
"""Moves within a pass on an accelerator, so that launching and waiting weigh little."""
ALLOWANCE = 0.05
"""Share by which a bound is lower than what was reached: other shapes are a little faster, and clocks vary."""

Product = Callable[[Tensor], Tensor]
"""Multiplies its argument with a weight that is already laid out."""
Pack = Callable[[Tensor], Product | None]
"""Lays out a weight [out, in]; `None`: not offered for it."""


@dataclass(frozen=True)
class Peak:
    """What the machine reached."""

    flops_per_s: float
    """2 per multiply-add; of the best kernel."""
    bandwidths: Mapping[int, float]
    """Bytes per second by the bytes that were moved, read and written: the better of a copy and a sum."""
    kernel: str = "a matrix product"
    """What reached the peak."""
    cpu_share: float | None = None
    """CPU time / (threads × wall time) of the fastest product; low, others had the cores, and the peak is too low;
    `None` on an accelerator."""

    @property
    def bytes_per_s(self) -> float:
        """Of memory: more than caches hold."""
        return self.bandwidths[max(self.bandwidths)]

    def bound_s(self, flops: int, moved_bytes: int) -> float:
        """Returns the seconds that so much work takes at least."""
        reached_s = max(flops / self.flops_per_s, moved_bytes / self._bandwidth(moved_bytes))
        return (1 - ALLOWANCE) * reached_s

    def _bandwidth(self, moved_bytes: int) -> float:
        """Returns the highest bandwidth of what is as large or larger: of the cache that the bytes may lie in."""
        below = max((span for span in self.bandwidths if span <= moved_bytes), default=0)
        return max(rate for span, rate in self.bandwidths.items() if span >= below)


def measure_peak(
    device: torch.device, dtype: torch.dtype, *, packed: Mapping[str, Pack] | None = None, time_s: float = TIME_S
) -> Peak:
    """Returns the best of several passes of each kernel and size; takes a few seconds.

    Args:
        device: where to measure, with the threads that torch is set to.
        dtype: of the operands.
        packed: products with weights that are laid out beforehand, by name.
        time_s: for each measurement.
    """
    on_cpu = device.type == "cpu"
    with torch.inference_mode():
        fastest = max(
            (2 * edge**3 / wall_s, name, cpu_s / wall_s)
            for edge in (CPU_EDGES if on_cpu else ACCELERATOR_EDGES)
            for name, work in _products(edge, device, dtype, packed or {}).items()
            for wall_s, cpu_s in [_fastest(work, device, time_s)]
        )
        bandwidths = {
            span: max(_bandwidths(span, device, time_s)) for span in (CPU_SPANS if on_cpu else ACCELERATOR_SPANS)
        }
    flops_per_s, kernel, cores = fastest
    return Peak(flops_per_s, bandwidths, kernel, cores / torch.get_num_threads() if on_cpu else None)


def _products(
    edge: int, device: torch.device, dtype: torch.dtype, packed: Mapping[str, Pack]
) -> dict[str, Callable[[], Tensor]]:
    """Returns products of two matrices of that edge: each 2 · edge³ FLOPs."""
    rows, weight = (torch.rand(edge, edge, device=device).to(dtype) for _ in range(2))
    pixels = rows.view(1, edge, -1, 32)
    found: dict[str, Callable[[], Tensor]] = {
        "a matrix product": lambda: linear(rows, weight),
        # On a CPU by oneDNN, where matrix products are MKL's.
        "a 1×1 convolution": lambda: conv2d(pixels, weight[:, :, None, None]),
    }
    for name, pack in packed.items():
        if (product := pack(weight)) is not None:
            found[name] = lambda product=product: product(rows)  # type: ignore[misc]
    return found


def _bandwidths(span: int, device: torch.device, time_s: float) -> list[float]:
    """Returns bytes per second of a copy that reads half of the bytes and writes the other, and of a sum of them."""
    repeats = 1 if device.type == "cpu" else REPEATS
    whole = torch.ones(span // 4, device=device)  # pages touched
    source, target = whole.chunk(2)

    def repeated(move: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def work() -> Tensor:
            for _ in range(repeats - 1):
                move()
            return move()

        return work

    moves = (lambda: target.copy_(source), whole.sum)
    return [span * repeats / _fastest(repeated(move), device, time_s / 2)[0] for move in moves]


def _fastest(work: Callable[[], Tensor], device: torch.device, time_s: float) -> tuple[float, float]:
    """Returns wall and CPU seconds of the fastest pass; the first, which allocates, is left out unless it took all."""

    def timed() -> tuple[float, float]:
        start, cpu_start = time.perf_counter(), time.process_time()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - start, time.process_time() - cpu_start

    if (first := timed())[0] > time_s:
        return first
    taken = [timed() for _ in range(LEAST_PASSES)]
    while sum(wall_s for wall_s, _ in taken) < time_s:
        taken.append(timed())
    return min(taken)
