"""ONNX Runtime: each stage exported to ONNX by torch's exporter, and run by an execution provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from vilt_bench.worker.backends import Prepared, StageToPrepare

if TYPE_CHECKING:
    from torch import Tensor

    from vilt_bench.ask.case import Option

OPTIONS = {"provider": str}
"""`provider`: an execution provider, such as `CUDAExecutionProvider`; without it, the CPU's or CUDA's by the device."""
DEVICES = ("cpu", "cuda")
QUANTIZES: Mapping[str, Mapping[str, str]] = {"int8": {}}
NEEDS = {
    "onnxruntime": "onnxruntime>=1.20",
    "onnx": "onnx>=1.17",
    "onnxscript": "onnxscript>=0.3",
}


def prepare(stage: StageToPrepare, options: Mapping[str, Option]) -> Prepared:
    """Exports the stage and makes a session of it, which reads and writes torch's own memory.

    It has as many threads as torch, and they sleep while they wait, where torch's do.

    Raises:
        ConfigError: the provider is not there, is of another device, or does not compute in the case's dtype.
        NotPreparedError: the stage can't be exported, or is right for its example only.
    """
    from vilt_bench.worker.backends import _onnx_session

    return _onnx_session.prepare(stage, options.get("provider"))


def pack_linear(weight: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Returns the product with a weight [out, in]; `None` but for float32 on the CPU."""
    from vilt_bench.worker.backends import _onnx_session

    return _onnx_session.pack(weight)


PRODUCTS = {"a matrix product by ONNX Runtime": pack_linear}
"""What a machine's peak is tried with beside torch's own, by what it is."""


def version() -> str:
    """Returns the versions of the runtime, and of what exports."""
    from importlib.metadata import version

    import onnxruntime
    import torch

    return f"onnxruntime {onnxruntime.__version__}, exported by torch {torch.__version__}, onnx {version('onnx')}"
