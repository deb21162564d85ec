"""Linear layers by oneDNN, with weights packed once in the layout that its kernels want."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vilt_bench.worker.backends import NotPreparedError


def linears(module: nn.Module) -> list[nn.Linear]:
    """Returns the linear layers of a module, or the module itself where it is one; subclasses may do more, and stay."""
    return [layer for layer in module.modules() if type(layer) is nn.Linear]


def pack(module: nn.Module) -> nn.Module:
    """Returns the module with its linear layers replaced, in place.

    Raises:
        NotPreparedError: that can't be done; the module is unchanged.
    """
    if (reason := _obstacle(linears(module))) is not None:
        raise NotPreparedError(reason)
    holder = nn.ModuleList([module])  # which may be a linear layer itself
    for parent in list(holder.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                gelu = _fuse_gelu(parent, name)
                setattr(parent, name, PackedLinear(child, gelu=gelu))
    return holder[0]


def pack_weight(weight: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Returns the product with a weight [out, in] that is packed now; `None` where `pack` would do nothing."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return None if _obstacle([linear]) else PackedLinear(linear)


def packed_bytes(module: nn.Module) -> int:
    """Returns the bytes of the module's packed weights, which come on top of its parameters; padding left out."""
    return sum(layer.packed_bytes for layer in module.modules() if isinstance(layer, PackedLinear))


class PackedLinear(nn.Module):
    """A linear layer, and a GELU after it where asked, by oneDNN: [..., in] to [..., out]."""

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        """Pack the layer's weight; the parameters are the layer's own."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.packed_bytes = linear.weight.numel() * linear.weight.element_size()
        self._activation = "gelu" if gelu else "none"

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns inputs · weightᵀ + bias, activated."""
        # "none" as the last argument asks for the exact GELU, not the one by tanh.
        output: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._packed, self.bias, self._activation, [], "none"
        )
        return output


def _fuse_gelu(parent: nn.Module, name: str) -> bool:
    """Returns whether an exact GELU follows the layer, and takes it out."""
    if not isinstance(parent, nn.Sequential):
        return False
    names = list(parent._modules)
    following = next(iter(names[names.index(name) + 1 :]), "")
    activation: Any = parent._modules.get(following)
    if type(activation) is not nn.GELU or activation.approximate != "none":
        return False
    setattr(parent, following, nn.Identity())
    return True


def _obstacle(linears: list[nn.Linear]) -> str | None:
    """Returns why the layers can't be computed by oneDNN; `None` where they can."""
    if not linears:
        return "the model has no linear layers"
    for layer in linears:
        if layer.weight.device.type != "cpu":
            return f"the model is on {layer.weight.device.type}, not on the CPU"
        if layer.weight.dtype not in (torch.float32, torch.bfloat16):
            return f"{str(layer.weight.dtype).removeprefix('torch.')} is not supported"
    # The operators are torch's own, for its compiler, and may change: try them on a small layer, and compare.
    try:
        return None if _gives_the_same(linears[0].weight.dtype) else "it gives other results on this machine"
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return "this torch or this processor does not offer it"


@torch.no_grad()
def _gives_the_same(dtype: torch.dtype) -> bool:
    with torch.random.fork_rng(devices=[]):
        linear = nn.Linear(64, 32, dtype=dtype)
        inputs = torch.rand(2, 3, 64, dtype=dtype)
    expected = nn.functional.gelu(linear(inputs))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    return torch.allclose(PackedLinear(linear, gelu=True)(inputs), expected, rtol=tolerance, atol=tolerance)
