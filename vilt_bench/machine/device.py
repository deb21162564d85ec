"""Which device, how many threads."""

from __future__ import annotations

import os
import re
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from vilt_bench.errors import DeviceError
from vilt_bench.machine.system_files import ROOT, control_groups, read_text

HOST_MEMORY = ("cpu", "mps")
"""Kinds of which there is one, and whose memory is the host's."""


def resolve_device(text: str) -> torch.device:
    """Returns the device that a text like `auto`, `cpu`, `cuda:1` or `mps` names; `auto`: the fastest kind there is.

    Raises:
        DeviceError: the device is unknown, or is not there.
    """
    counts = device_counts()
    if text == "auto":
        text = next(kind for kind, count in counts.items() if count)
    try:
        device = torch.device(text)
    except RuntimeError:
        expected = ", ".join(dict.fromkeys(("auto", "cpu", "cuda", "cuda:N", "mps", "xpu", *counts)))
        raise DeviceError(f"`device` {text!r} is no device that torch knows; expected one of {expected}") from None
    there = [kind if count == 1 else f"{kind}:0 to {kind}:{count - 1}" for kind, count in counts.items() if count]
    count = counts.get(device.type, 0)
    if not count:
        raise DeviceError(
            f"`device` {text}: torch {torch.__version__} sees no {device.type} device ({_why_not(device.type)}); "
            f"use `device` {there[0]}"
        )
    if (device.index or 0) >= count:
        raise DeviceError(f"`device` {text}: there is no such {device.type} device; there is {', '.join(there)}")
    return torch.device(device.type) if device.type in HOST_MEMORY else torch.device(device.type, device.index or 0)


def prepare_threads(threads: int | None) -> int:
    """Sets how many threads torch computes with, and returns the number in force.

    Args:
        threads: how many; `None`: what the environment variable OMP_NUM_THREADS says, as torch has read it, else one
            for each physical core that this process may use, see `usable_cores`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    return torch.get_num_threads()


def usable_cores(root: Path = ROOT) -> int:
    """Returns how many physical cores this process may use: by its affinity and its control group's quota.

    Args:
        root: of the file system that holds `proc` and `sys`.
    """
    logical = _usable_processors()
    cores = {
        read_text(root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        for processor in logical
    }
    # Where the topology is not told (macOS, Windows), all physical cores, as affinity is not told either.
    count = len(cores) if None not in cores else psutil.cpu_count(logical=False) or len(logical)
    quota = _processor_quota(root)
    return max(1, min(count, len(logical), count if quota is None else int(quota)))


def device_peak_bytes(device: torch.device) -> int | None:
    """Returns the highest that the allocator has held of a GPU's memory so far, in bytes; `None` for other devices."""
    found = allocator_statistics(device)
    return None if found is None else int(found.max_memory_reserved(device))


def allocator_statistics(device: torch.device) -> Any:
    """Returns the module of torch's that tells what a device's allocator holds; `None` where that keeps no statistics.

    It has `memory_allocated`, `max_memory_allocated`, `max_memory_reserved` and `reset_peak_memory_stats`.
    """
    if device.type in HOST_MEMORY:
        return None
    # Older versions of torch, and some devices, have no generic statistics: then the device's own module may have them.
    with suppress(AttributeError, RuntimeError, ValueError):
        if torch.accelerator.memory_stats(device):
            return torch.accelerator
    own = torch.get_device_module(device)
    return own if hasattr(own, "max_memory_reserved") and hasattr(own, "reset_peak_memory_stats") else None


def device_counts() -> dict[str, int]:
    """Returns how many devices there are of each kind, fastest kind first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a missing or old driver; `_why_not` says it in one line
        counts = {
            "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
            "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
            "mps": int(torch.backends.mps.is_available()),
        }
        other = torch.accelerator.current_accelerator()  # such as that of a package which brings a device of its own
        if other is not None and other.type not in counts:
            counts[other.type] = torch.accelerator.device_count()
        return counts | {"cpu": 1}


def _why_not(kind: str) -> str:
    if kind == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            return "this build of torch is without CUDA"
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            return f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
        return "no GPU, or no driver that fits"
    if kind == "mps":
        return "it takes a Mac with Apple silicon"
    return "no device, no driver, or a build of torch without it"


def _usable_processors() -> list[int]:
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _processor_quota(root: Path) -> float | None:
    """Returns how many processors' worth of time the control groups allow; `None`: no limit."""
    quotas = []
    for folder in control_groups(root, "cpu"):
        text = read_text(folder / "cpu.max")
        if text is None:
            parts = [read_text(folder / f"cpu.cfs_{part}_us") for part in ("quota", "period")]
            text = " ".join(part or "" for part in parts)
        if match := re.fullmatch(r"(\d+) (\d+)", text):
            quotas.append(int(match[1]) / int(match[2]))
    return min(quotas, default=None)
