"""The peak of the machine in this process, by the best kernels at hand: what least times follow from."""

from __future__ import annotations

import math

import torch

from vilt_bench.ask.case import Case
from vilt_bench.machine.device import prepare_threads, resolve_device
from vilt_bench.protocol import PeakMeasured
from vilt_bench.record.peak import Peak
from vilt_bench.worker import backends
from vilt_bench.worker.meters.peak import measure_peak


def peak_here(case: Case) -> PeakMeasured:
    """Returns what this machine reaches, measured now, with the case's device, threads and dtype; takes seconds.

    Raises:
        DeviceError: the case's device is not there.
        ConfigError: its backend can't be used.
    """
    device = resolve_device(case.device)
    threads = prepare_threads(case.threads)
    peak = measure_peak(device, getattr(torch, case.dtype), packed=backends.products(case.backend))
    return PeakMeasured(peak, str(device), threads)


def peak_after_passes(case: Case, device: torch.device, time_s: float) -> Peak | None:
    """Returns what this machine reaches, in brief, once a case was timed; `None` where that can't be measured.

    What was timed is not to be lost for it, whatever happens.

    Args:
        case: that was timed; the process has its threads.
        device: that it was timed on.
        time_s: for each measurement; see `meters.peak.measure_peak`.
    """
    try:
        found = measure_peak(
            device,
            getattr(torch, case.dtype),
            packed=backends.products(case.backend, importing=False),
            time_s=time_s,
            brief=True,
        )
    except Exception:  # such as no room beside the model, or whatever a product of another package objects to
        return None
    return found if math.isfinite(found.flops_per_s) else None
