"""OpenVINO: each stage exported by torch, converted, and compiled for one of OpenVINO's devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from vilt_bench.worker.backends import Prepared, StageToPrepare

if TYPE_CHECKING:
    from torch import Tensor

    from vilt_bench.ask.case import Option

OPTIONS = {"device": str, "precision": ("f32", "bf16", "f16")}
"""`device`: one of OpenVINO's, such as `CPU`, which is the usual one, or `GPU`. `precision`: the hint in which to
compute; without it, the case's dtype."""
DEVICES = ("cpu",)
QUANTIZES = {"int8": {"nncf": "nncf>=2.14"}}
NEEDS = {"openvino": "openvino>=2025.0"}


def prepare(stage: StageToPrepare, options: Mapping[str, Option]) -> Prepared:
    """Converts and compiles the stage for one request at a time, which reads and writes torch's own memory.

    It has as many threads as torch.

    Raises:
        ConfigError: the device is not there, or has no such precision.
        NotPreparedError: the stage can't be exported or converted, or is right for its example only.
    """
    from vilt_bench.worker.backends import _openvino_request

    return _openvino_request.prepare(stage, str(options.get("device", "CPU")), options.get("precision"))


def pack_linear(weight: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Returns the product with a weight [out, in]; `None` where OpenVINO has none in its dtype on its device."""
    from vilt_bench.worker.backends import _openvino_request

    return _openvino_request.pack(weight)


PRODUCTS = {"a matrix product by OpenVINO": pack_linear}
"""What a machine's peak is tried with beside torch's own, by what it is."""


def version() -> str:
    """Returns OpenVINO's version, and that of what exports."""
    import sys
    from importlib.metadata import version

    import torch

    quantised = f", nncf {version('nncf')}" if "nncf" in sys.modules else ""
    return f"openvino {version('openvino')}, exported by torch {torch.__version__}{quantised}"
