"""Linear layers in int8 or fp8 by torchao."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from vilt_bench.errors import ConfigError
from vilt_bench.worker.backends import Prepared, StageToPrepare
from vilt_bench.worker.backends._exported import quiet


def quantized(stage: StageToPrepare, ready: Prepared) -> Prepared:
    """Quantises the stage's linear layers in place: weights once, activations in each pass, by their own range.

    Args:
        stage: whose module it is.
        ready: the same, prepared otherwise; without linear layers it is returned as it is.

    Raises:
        ConfigError: the device has no fp8.
    """
    if stage.quantize == "fp8" and not (
        stage.device.type == "cuda" and torch.cuda.get_device_capability(stage.device) >= (8, 9)
    ):
        raise ConfigError(
            f"fp8 by torch needs a GPU of compute capability 8.9 or later, and `device` is {stage.device.type}; "
            "give int8, or leave it out",
            field="quantize",
        )
    if not any(type(layer) is nn.Linear for layer in stage.module.modules()):
        told = f"{ready.computed_by}, as it has no linear layers"
        return replace(
            ready, computed_by=told, idle="it has no linear layers" if ready.computed_by == "torch" else None
        )
    with quiet():
        from torchao import quantization

        kind = (
            quantization.Float8DynamicActivationFloat8WeightConfig
            if stage.quantize == "fp8"
            else quantization.Int8DynamicActivationInt8WeightConfig
        )
        holder = nn.ModuleList([stage.module])  # which may be a linear layer itself
        quantization.quantize_(holder, kind())
    assert stage.quantize is not None
    told = f"{ready.computed_by}, torchao: {stage.quantize} weights and activations of linear layers"
    return replace(ready, computed_by=told, precision=stage.quantize, allocates_elsewhere=True)
