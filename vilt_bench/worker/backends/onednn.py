"""Lets oneDNN compute linear layers, with weights packed once in the layout that its kernels want."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from vilt_bench.worker.backends import Prepared, StageToPrepare

if TYPE_CHECKING:
    from torch import Tensor

    from vilt_bench.ask.case import Option

PACKED = "oneDNN, prepacked weights"
DEVICES = ("cpu",)
KEEPS_MODULES = True


def prepare(stage: StageToPrepare, options: Mapping[str, Option]) -> Prepared:
    """Replaces the stage's linear layers, in place, by oneDNN's with packed weights.

    A GELU that follows in an `nn.Sequential` is computed in the same kernel. The parameters stay where they are, so
    that counts and state dicts do not change, and the packed weights come on top. A stage without linear layers is
    eager torch's.

    Raises:
        NotPreparedError: this torch, this processor or this dtype has no such kernel.
    """
    from vilt_bench.worker.backends import _packed_linear

    dtype = str(stage.dtype).removeprefix("torch.")
    count = len(_packed_linear.linears(stage.module))
    if not count:
        return Prepared(stage.module, "torch, as it has no linear layers", dtype, idle="it has no linear layers")
    packed = _packed_linear.pack(stage.module)
    return Prepared(packed, PACKED, dtype, packed_bytes=_packed_linear.packed_bytes(packed))


def version() -> str:
    """Returns torch's version with oneDNN's within."""
    import re

    import torch

    found = re.search(r"oneDNN\)? v?([\d.]+)|MKL-DNN v([\d.]+)", torch.__config__.show())
    return f"torch {torch.__version__}" + (f", oneDNN {found[1] or found[2]}" if found else "")


def pack_linear(weight: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Returns the product with a weight [out, in] that is packed now; `None` where `prepare` would do nothing."""
    from vilt_bench.worker.backends import _packed_linear

    return _packed_linear.pack_weight(weight)


PRODUCTS = {"a matrix product by oneDNN with a prepacked weight": pack_linear}
"""What a machine's peak is tried with beside torch's own, by what it is."""
