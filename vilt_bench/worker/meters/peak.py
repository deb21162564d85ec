"""Peak arithmetic and memory bandwidth of this machine, measured: what no stage can be much faster than.

The peak is that of the best kernel at hand, the bandwidth that of the cache which so many bytes may lie in. What
follows from them is `record.peak`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

from vilt_bench.record.peak import Peak

CPU_EDGES, ACCELERATOR_EDGES = (384, 768, 1536), (1024, 2048, 4096, 8192)
"""Rows and columns of matrices: large enough for arithmetic to be the limit; the small fit a busy machine's gaps."""
CPU_SPANS, ACCELERATOR_SPANS = tuple(4**power for power in range(8, 15)), tuple(4**power for power in range(10, 16))
"""Bytes that are moved: from within the nearest cache, 64 KiB or 1 MiB, to more than caches hold, 256 MiB or 1 GiB."""
BRIEF_EDGES, BRIEF_SPANS = CPU_EDGES[:2], CPU_SPANS[:-1]
"""On a CPU, where there is a second at most: without what takes long."""
TIME_S = 0.08
"""For each measurement, at most, but for its first passes."""
LONGEST_COLD_S = 0.1
"""A first pass that takes longer, of a machine without kernels for the dtype, has to do."""
LONGEST_PASS_S = 0.02
"""An accelerator that takes longer for a size is not asked for a larger one: only the fastest need the last."""
LEAST_PASSES = 3
REPEATS = 20
"""Moves within a pass on an accelerator, so that launching and waiting weigh little."""

Product = Callable[[Tensor], Tensor]
"""Multiplies its argument with a weight that is already laid out."""
Pack = Callable[[Tensor], Product | None]
"""Lays out a weight [out, in]; `None`: not offered for it."""


def measure_peak(
    device: torch.device,
    dtype: torch.dtype,
    *,
    packed: Mapping[str, Pack] | None = None,
    time_s: float = TIME_S,
    brief: bool = False,
) -> Peak:
    """Returns the best of several passes of each kernel and size; takes a few seconds.

    Args:
        device: where to measure, with the threads that torch is set to.
        dtype: of the operands.
        packed: products with weights that are laid out beforehand, by name.
        time_s: for each measurement.
        brief: on a CPU, leave out the largest of each, for a second at most with 0.02 s for each measurement.
    """
    begin = time.perf_counter()
    on_cpu = device.type == "cpu"
    edges: Sequence[int] = CPU_EDGES if on_cpu else ACCELERATOR_EDGES
    spans = CPU_SPANS if on_cpu else ACCELERATOR_SPANS
    if brief and on_cpu:
        edges, spans = BRIEF_EDGES, BRIEF_SPANS
    with torch.inference_mode():
        products = _by_size(edges, lambda edge: _products(edge, device, dtype, packed or {}), device, time_s)
        moves = _by_size(spans, lambda span: _moves(span, device), device, time_s / 2)
    flops_per_s, kernel, cores = max(
        (2 * edge**3 / wall_s, name, cpu_s / wall_s)
        for edge, taken in products.items()
        for name, (wall_s, cpu_s) in taken.items()
    )
    repeats = 1 if on_cpu else REPEATS
    bandwidths = tuple((span, span * repeats / min(taken.values())[0]) for span, taken in moves.items())
    return Peak(
        flops_per_s,
        bandwidths,
        kernel,
        cores / torch.get_num_threads() if on_cpu else None,
        str(dtype).removeprefix("torch."),
        time.perf_counter() - begin,
    )


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
        try:
            product = pack(weight)
        except Exception:  # of a package that is there, but does not work here: it is no kernel at hand
            continue
        if product is not None:
            found[name] = lambda product=product: product(rows)  # type: ignore[misc]
    return found


def _moves(span: int, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Returns a copy of one half of the bytes to the other, and a sum of all; repeated on an accelerator."""
    repeats = 1 if device.type == "cpu" else REPEATS
    whole = torch.ones(span // 4, device=device)  # pages touched
    source, target = whole.chunk(2)

    def repeated(move: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def work() -> Tensor:
            for _ in range(repeats - 1):
                move()
            return move()

        return work

    return {"copy": repeated(lambda: target.copy_(source)), "sum": repeated(whole.sum)}


def _by_size(
    sizes: Sequence[int],
    work_of: Callable[[int], Mapping[str, Callable[[], Tensor]]],
    device: torch.device,
    time_s: float,
) -> dict[int, dict[str, tuple[float, float]]]:
    """Returns by size and kernel what the fastest pass took; of an accelerator up to the first size that takes long."""
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for size in sizes:
        found[size] = {name: _fastest(work, device, time_s) for name, work in work_of(size).items()}
        if device.type != "cpu" and min(found[size].values())[0] > LONGEST_PASS_S:
            break
    return found


def _fastest(work: Callable[[], Tensor], device: torch.device, time_s: float) -> tuple[float, float]:
    """Returns wall and CPU seconds of the fastest pass; the first, which allocates, is left out unless it took all."""

    def timed() -> tuple[float, float]:
        start, cpu_start = time.perf_counter(), time.process_time()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - start, time.process_time() - cpu_start

    # What an accelerator does first it loads and chooses kernels for, whatever that takes.
    if (first := timed())[0] > max(time_s, LONGEST_COLD_S) and device.type == "cpu":
        return first
    taken = [timed() for _ in range(LEAST_PASSES)]
    while sum(wall_s for wall_s, _ in taken) < time_s:
        taken.append(timed())
    return min(taken)
