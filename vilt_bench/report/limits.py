"""What least times are computed from, in words."""

from __future__ import annotations

from vilt_bench.record.peak import Peak
from vilt_bench.record.run import LEAST_CPU_SHARE
from vilt_bench.words import counted


def described(peak: Peak, *, device: str, threads: int) -> str:
    """Returns what the machine reached, and with what: the middle of a sentence."""
    on = counted(threads, "thread") if device == "cpu" else device
    return (
        f"{peak.flops_per_s / 1e9:,.0f} GFLOP/s by {peak.kernel} in {peak.dtype}, "
        f"{peak.bytes_per_s / 1e9:,.0f} GB/s from memory, up to {peak.fastest_bytes_per_s / 1e9:,.0f} from caches "
        f"by a copy or sum, on {on}"
    )


def busy(peak: Peak) -> str:
    """Returns that others kept the cores busy while the peak was measured, as the end of a sentence; empty: no."""
    if peak.cpu_share is None or peak.cpu_share >= LEAST_CPU_SHARE:
        return ""
    return f"; others kept the cores busy (ours {100 * peak.cpu_share:.0f}% of the time), so the true peak is higher"
