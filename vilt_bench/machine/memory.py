"""How much of the host's memory is free, within the limits of control groups; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from vilt_bench.machine.system_files import ROOT, control_groups, field_of, read_count, read_text

_LIMITS = (("memory.max", "memory.current", "inactive_file"),
           ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))  # fmt: skip
"""Of control groups of version 2 and 1: the limit, what is used, and what of that is a cache that can go at once."""


def free_host_bytes(root: Path = ROOT) -> int:
    """Returns how much memory of the host is free or can be freed, in bytes, within the limits of control groups.

    Args:
        root: of the file system that holds `proc` and `sys`.
    """
    return max(0, min([int(psutil.virtual_memory().available), *_left_of_limits(root)]))


def _left_of_limits(root: Path) -> Iterator[int]:
    for folder in control_groups(root, "memory"):
        for limit_name, used_name, cache_name in _LIMITS:
            limit = read_count(folder / limit_name)
            if limit is None:
                continue
            used = read_count(folder / used_name) or 0
            cache = field_of(read_text(folder / "memory.stat"), cache_name, " ") or "0"
            yield limit - max(0, used - (int(cache) if cache.isdecimal() else 0))
