"""The fixed kernel that `vilt-bench doctor` times, in a process of its own: a float32 matrix product of torch.

A line of JSON each way: `"time"` asks for one pass, `"environment"` for the machine; the first line out says ready.
"""

from __future__ import annotations

import time

import msgspec
import torch

from vilt_bench import wire
from vilt_bench.machine.device import prepare_threads
from vilt_bench.machine.environment import collect

SIZE = 768
"""Rows and columns: a few milliseconds on a core, and larger than its first-level caches."""


def main() -> None:
    """Time a pass for each line of input."""
    owner = wire.attach()
    threads = prepare_threads(None)
    torch.manual_seed(0)
    left, right = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    out = torch.empty(SIZE, SIZE)

    def reply(message: object) -> None:
        owner.replies.write(msgspec.json.encode(message) + b"\n")
        owner.replies.flush()

    with torch.inference_mode():
        torch.mm(left, right, out=out)
        reply("ready")
        for line in owner.requests:
            if line.strip() == b'"environment"':
                reply(collect(torch.device("cpu"), threads=threads))
                continue
            cpu_ns, wall_ns = time.process_time_ns(), time.perf_counter_ns()
            torch.mm(left, right, out=out)
            end_ns, cpu_end_ns = time.perf_counter_ns(), time.process_time_ns()
            reply(((end_ns - wall_ns) * 1e-9, (cpu_end_ns - cpu_ns) * 1e-9))


if __name__ == "__main__":
    main()
