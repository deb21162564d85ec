"""The meta device without torch's compiler: importing it takes a second of CPU time, and nothing is compiled.

Many meta kernels are Python functions that import the compiler only to be left alone by it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from vilt_bench.worker.deferred import deferring, plain_shapes

T = TypeVar("T")

_PYTREE = "torch.utils._pytree"
"""It warns whoever shows a model that a torchao, which transformers imports where it is there, is of an older torch."""
_LACKS = re.compile(
    r"\bmeta (tensor|device|kernel)|'meta' backend|register_meta|\bdevice meta\b|Tensor\.__format__", re.IGNORECASE
)
"""What torch says where a tensor of the meta device has no value to look at, or no place among others."""
COMPILER = "torch._dynamo"
_INITIALISERS = frozenset({"normal_", "uniform_", "erfinv_", "trunc_normal_", "exponential_"})


def needs_values(error: BaseException) -> bool:
    """Returns whether an error is the meta device's only: values are looked at, or shapes depend on them."""
    return isinstance(error, RuntimeError | TypeError) and _LACKS.search(str(error)) is not None


class Uninitialised(TorchFunctionMode):
    """Leaves out random initialisation of tensors on the meta device, which have no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, unless it would draw values for a meta tensor."""
        if getattr(func, "__name__", "") in _INITIALISERS:
            tensor = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))


@contextmanager
def building() -> Iterator[None]:
    """Returns a context in which modules are built on the meta device."""
    logging.getLogger(_PYTREE).setLevel(logging.ERROR)
    with torch.device("meta"), Uninitialised():
        yield


def without_compiler(compute: Callable[[], T]) -> T:
    """Returns what the computation on the meta device returns, with stand-ins for torch's compiler and for sympy.

    A computation that wants more of the compiler than to be left alone is done again with the compiler itself.

    Args:
        compute: must be repeatable.
    """
    if COMPILER in sys.modules:
        with deferring(*plain_shapes()):
            return compute()
    stand_in = ModuleType(COMPILER)
    stand_in.disable = lambda function, *_arguments, **_options: function  # type: ignore[attr-defined]
    sys.modules[COMPILER] = stand_in
    try:
        with deferring(*plain_shapes()):
            return compute()
    except (AttributeError, ImportError):  # an error of the computation's own comes again below
        pass
    finally:
        del sys.modules[COMPILER]
    return compute()
