"""Prints what this machine tells of itself, as JSON: by this an engine knows where it measures.

Keys: `vilt-bench`, `python`, `torch`, `host`, `cpu`, `cores`, `memory` and, where there are some, `gpu`, `gpus`; and
`fingerprints`, those that records made here have.
"""

from __future__ import annotations

import json
import platform
import socket

import torch

from vilt_bench.machine.code import installed_code
from vilt_bench.machine.device import HOST_MEMORY, device_counts
from vilt_bench.machine.environment import collect


def tell() -> dict[str, object]:
    """Returns the facts by name."""
    devices = [torch.device("cpu")]
    devices += [
        torch.device(kind, index)
        for kind, count in device_counts().items()
        if kind not in HOST_MEMORY
        for index in range(count)
    ]
    found = [collect(device, threads=1) for device in devices]
    gpus = [each.device_name for each in found[1:]]
    hardware = found[0].hardware
    return {
        "vilt-bench": installed_code(),
        "python": platform.python_version(),
        "torch": found[0].versions["torch"],
        "host": socket.gethostname(),
        "cpu": found[0].device_name,
        "cores": int(hardware["usable_cores"]),
        "memory": f"{round(int(hardware['memory_bytes']) / 2**30)} GiB",
        **({"gpu": ", ".join(dict.fromkeys(gpus)), "gpus": len(gpus)} if gpus else {}),
        "fingerprints": sorted({each.fingerprint for each in found}),
    }


if __name__ == "__main__":
    print(json.dumps(tell()))
