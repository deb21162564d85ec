"""What a machine has reached, measured: its arithmetic and its bandwidths, and the least times that follow.

The bound of a stage is max(FLOPs / peak, bytes that it moves at least / bandwidth): an estimate, not a measurement of
the stage. Kernels that skip work can go below it: Winograd's convolutions, causal attention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

ALLOWANCE = 0.05
"""Share by which a bound is lower than what was reached: other shapes are a little faster, and clocks vary."""


@dataclass(frozen=True)
class Peak:
    """What the machine reached in one dtype, on one device, with so many threads."""

    flops_per_s: float
    """2 per multiply-add; of the best kernel."""
    bandwidths: tuple[tuple[int, float], ...]
    """Bytes that were moved, read and written, and the bytes per second of it: the better of a copy and a sum."""
    kernel: str = "a matrix product"
    """What reached the peak."""
    cpu_share: float | None = None
    """CPU time / (threads × wall time) of the fastest product; low, others had the cores, and the peak is too low;
    `None` on an accelerator."""
    dtype: str = "float32"
    """Of the product's operands."""
    took_s: float | None = None
    """How long it took to measure all of it; `None`: not told."""

    @property
    def bytes_per_s(self) -> float:
        """Of the largest span that was moved: of memory, where that is more than caches hold."""
        return max(self.bandwidths)[1]

    @property
    def fastest_bytes_per_s(self) -> float:
        """Of the span that was moved fastest, as from a cache."""
        return max(rate for _, rate in self.bandwidths)

    def bound_s(self, flops: int, moved_bytes: int) -> float:
        """Returns the seconds that so much work takes at least."""
        reached_s = max(flops / self.flops_per_s, moved_bytes / self._bandwidth(moved_bytes))
        return (1 - ALLOWANCE) * reached_s

    def _bandwidth(self, moved_bytes: int) -> float:
        """Returns the highest bandwidth of what is as large or larger: of the cache that the bytes may lie in."""
        below = max((span for span, _ in self.bandwidths if span <= moved_bytes), default=0)
        return max(rate for span, rate in self.bandwidths if span >= below)


def best(one: Peak, other: Peak) -> Peak:
    """Returns the better of two peaks of a machine in the same dtype, device and threads, each part by itself."""
    faster = max(one, other, key=lambda peak: peak.flops_per_s)
    rates = dict(one.bandwidths)
    for span, rate in other.bandwidths:
        rates[span] = max(rate, rates.get(span, 0.0))
    return replace(faster, bandwidths=tuple(sorted(rates.items())))
