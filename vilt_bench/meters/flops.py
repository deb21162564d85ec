"""FLOPs by stage: torch's `FlopCounterMode` on the meta device, 2 per multiply-add.

On a real CPU that counter misses fused attention; on the meta device it does not. NMS, RoIAlign, normalisation,
activations and elementwise operations count 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vilt_bench.meters.time import Forward


def count_flops(forward: Forward, *modules: nn.Module) -> dict[str, int]:
    """Returns the FLOPs between the marks of one pass, by stage.

    Args:
        forward: a pass over inputs on the meta device.
        modules: what it runs, on the meta device.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton where it is; only one trial counts

    for module in modules:
        module.requires_grad_(False)  # the counter's module tracker fails on query parameters otherwise
    counter = FlopCounterMode(display=False)
    flops: dict[str, int] = {}

    def mark(name: str, _output: Any) -> None:
        flops[name] = counter.get_total_flops() - sum(flops.values())

    with torch.inference_mode(), counter:
        forward(mark)
    return flops
