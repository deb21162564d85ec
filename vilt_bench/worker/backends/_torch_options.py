"""What torch's options change of a stage's module: layout, batch normalisation, the kernel of attention."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from vilt_bench.embedding import tensors
from vilt_bench.worker.backends import NotPreparedError, StageToPrepare
from vilt_bench.worker.failures import first_line

KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def to_channels_last(module: nn.Module) -> bool:
    """Lays the weights of two-dimensional convolutions out with channels innermost; returns whether there are any.

    A convolution with such a weight computes, and returns, activations in that layout; what it gets in another one it
    brings there first.
    """
    found = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    for layer in found:
        layer.to(memory_format=torch.channels_last)
    return bool(found)


def fold_batch_norm(module: nn.Module, inputs: Any) -> int:
    """Multiplies batch normalisations into the convolutions before them, in place; returns how many.

    Which they are is seen in a pass: a convolution is called once, and its output goes into a normalisation that is
    called once, and nowhere else. The new weights are computed in float64, and rounded to the old ones' dtype.

    Args:
        module: in eval mode.
        inputs: of a pass.
    """
    pairs = _followed_by_norm(module, inputs)
    for convolution, (parent, name, norm) in pairs:
        weight, bias = fuse_conv_bn_weights(
            convolution.weight.double(),
            None if convolution.bias is None else convolution.bias.double(),
            norm.running_mean.double(),
            norm.running_var.double(),
            norm.eps,
            None if norm.weight is None else norm.weight.double(),
            None if norm.bias is None else norm.bias.double(),
        )
        dtype = convolution.weight.dtype
        convolution.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        convolution.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
        setattr(parent, name, _rest(norm))
    return len(pairs)


def _followed_by_norm(module: nn.Module, inputs: Any) -> list[tuple[nn.Conv2d, tuple[nn.Module, str, Any]]]:
    """Returns convolutions, each with the normalisation that can be folded into it, its parent, and its name there."""
    places = {
        id(child): (parent, name, child) for parent in module.modules() for name, child in parent.named_children()
    }
    made: dict[int, nn.Conv2d] = {}
    """By their outputs' identities."""
    kept: list[Tensor] = []  # so that no tensor takes the identity of one that is gone
    calls: Counter[nn.Module] = Counter()
    pairs: dict[nn.Conv2d, nn.Module] = {}

    def after_convolution(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        calls[layer] += 1
        made[id(output)] = layer
        kept.append(output)

    def before_norm(layer: nn.Module, given: tuple[Any, ...]) -> None:
        calls[layer] += 1
        if given and (convolution := made.get(id(given[0]))) is not None:
            pairs[convolution] = layer

    hooks = [
        *(layer.register_forward_hook(after_convolution) for layer in module.modules() if type(layer) is nn.Conv2d),
        *(layer.register_forward_pre_hook(before_norm) for layer in module.modules() if _is_norm(layer)),
    ]
    try:
        with _Users(made) as users:
            module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (convolution, places[id(norm)])
        for convolution, norm in pairs.items()
        if calls[convolution] == calls[norm] == users.counts[id(convolution)] == 1 and id(norm) in places
    ]


def _is_norm(layer: nn.Module) -> bool:
    known = type(layer) in (nn.BatchNorm2d, nn.SyncBatchNorm) or type(layer).__name__ in (_FROZEN, *_WITH_ACTIVATION)
    return known and isinstance(getattr(layer, "running_mean", None), Tensor)


_FROZEN = "FrozenBatchNorm2d"
"""torchvision's, and detectron2's."""
_WITH_ACTIVATION = ("BatchNormAct2d", "FrozenBatchNormAct2d")
"""timm's, which go on with `drop` and `act`."""


def _rest(norm: nn.Module) -> nn.Module:
    """Returns what is left of a normalisation that is folded."""
    if type(norm).__name__ not in _WITH_ACTIVATION:
        return nn.Identity()
    return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))


class _Users(TorchFunctionMode):
    """Counts what takes a convolution's output and makes tensors of it."""

    def __init__(self, made: Mapping[int, nn.Conv2d]) -> None:
        """Watch the outputs, by their identities, as they come."""
        super().__init__()
        self._made = made
        self.counts: Counter[int] = Counter()
        """By the convolutions' identities."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function; one that asks for a shape makes no tensor."""
        result = func(*args, **(kwargs or {}))
        if any(True for _ in tensors(result)):
            taken = {id(each) for each in tensors([args, kwargs or {}])}
            self.counts.update(id(self._made[each]) for each in taken if each in self._made)
        return result


def with_attention(stage: StageToPrepare, name: str) -> tuple[Callable[[Any], Any], str | None]:
    """Returns the stage with its attention by a kernel of that name, and which one that is; `None`: it has none.

    Raises:
        NotPreparedError: the kernel can't compute it.
    """
    with _Attention() as attention:
        stage.module(stage.inputs)
    if not attention.is_there:
        return stage.module, None
    kernel = KERNELS[name]

    def run(inputs: Any) -> Any:
        with sdpa_kernel(kernel):
            return stage.module(inputs)

    try:
        with warnings.catch_warnings(), torch.no_grad(), _Kernels() as kernels:
            warnings.simplefilter("ignore")  # torch says at length why each of the others is not taken
            run(stage.inputs)
    except RuntimeError as error:
        raise NotPreparedError(f"its attention can't be computed by {name} here ({first_line(error)})") from error
    return run, ", ".join(kernels.found) or name


class _Attention(TorchFunctionMode):
    """Sees whether there is scaled dot-product attention."""

    is_there = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function."""
        self.is_there = self.is_there or func is nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


class _Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees which kernels compute it; math is several operators, none of which is of attention alone."""

    def __init__(self) -> None:
        """See none yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator."""
        name = func.overloadpacket.__name__
        if "scaled_dot_product" in name:
            self.found[name.strip("_")] = None
        return func(*args, **(kwargs or {}))
