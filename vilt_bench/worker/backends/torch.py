"""torch's own modules, one operator after the other: as they are built, or with options that torch has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vilt_bench.errors import ConfigError
from vilt_bench.words import counted
from vilt_bench.worker.backends import Prepared, StageToPrepare

if TYPE_CHECKING:
    from vilt_bench.ask.case import Option

OPTIONS = {
    "channels_last": bool,
    "fold_batch_norm": bool,
    "attention": ("math", "flash", "efficient", "cudnn"),
    "tf32": bool,
    "matmul_precision": ("highest", "high", "medium"),
}
"""`channels_last`: weights of convolutions, and with them what they compute, with channels innermost.
`fold_batch_norm`: batch normalisation within the convolution before it, exact but for rounding.
`attention`: torch's kernel of scaled dot-product attention. `tf32`: products of float32, of matrices and convolutions,
by tensor cores that see 10 bits of the fraction. `matmul_precision`: torch's `set_float32_matmul_precision`."""

QUANTIZES = {name: {"torchao": "torchao>=0.10"} for name in ("int8", "fp8")}
KEEPS_MODULES = True
_OF_CUDA = ("efficient", "cudnn")
_OF_LAYERS = ("channels_last", "fold_batch_norm", "attention")
"""Options for layers that a stage may not have; the others are of the whole process."""


def prepare(stage: StageToPrepare, options: Mapping[str, Option]) -> Prepared:
    """Changes the stage as the options say; torch's settings are of the whole process.

    Raises:
        ConfigError: an option means nothing on the device or in the dtype.
        NotPreparedError: the stage has attention that the kernel can't compute.
    """
    from vilt_bench.worker.backends import _torch_options

    precision = _precision(stage, options)
    done: list[str] = []
    run: Callable[[Any], Any] = stage.module
    if (attention := options.get("attention")) is not None:
        on_cpu = stage.device.type == "cpu"
        if on_cpu and attention in _OF_CUDA:
            raise ConfigError(
                f"torch: attention={attention} is of CUDA devices; on the CPU there are math and flash", field="backend"
            )
        run, kernel = _torch_options.with_attention(stage, str(attention))  # first, as it may refuse
        done += [] if kernel is None else [f"attention by {kernel}"]
    if options.get("fold_batch_norm") and (folded := _torch_options.fold_batch_norm(stage.module, stage.inputs)):
        done.append(f"{counted(folded, 'batch normalisation')} folded")
    if options.get("channels_last") and _torch_options.to_channels_last(stage.module):
        done.append("channels last")
    if stage.quantize is not None:
        from vilt_bench.worker.backends import _torchao

        return _torchao.quantized(stage, Prepared(run, ", ".join(["torch", *done]), precision))
    asked = [key for key in options if options[key]]
    is_idle = bool(asked) and not done and all(key in _OF_LAYERS for key in asked)
    idle = f"there is nothing in it for {' and '.join(asked)}" if is_idle else None
    return Prepared(run, ", ".join(["torch", *done]), precision, idle=idle)


def version() -> str:
    """Returns torch's version."""
    import sys
    from importlib.metadata import version

    import torch

    return f"torch {torch.__version__}" + (f", torchao {version('torchao')}" if "torchao" in sys.modules else "")


def _precision(stage: StageToPrepare, options: Mapping[str, Option]) -> str:
    """Sets what torch has for the whole process, and returns the precision that products are then computed in."""
    import torch

    dtype = str(stage.dtype).removeprefix("torch.")
    asked = [key for key in ("tf32", "matmul_precision") if key in options]
    if asked and dtype != "float32":
        raise ConfigError(
            f"torch: {asked[0]} is of products in float32, and `dtype` is {dtype}; leave it out", field="backend"
        )
    precision = dtype
    if (tf32 := options.get("tf32")) is not None:
        if stage.device.type != "cuda":
            raise ConfigError(
                f"torch: tf32 is of CUDA devices, and `device` is {stage.device.type}; leave it out", field="backend"
            )
        if torch.cuda.get_device_capability(stage.device) < (8, 0):
            raise ConfigError(
                "torch: tf32 needs a GPU of compute capability 8.0 or later; leave it out", field="backend"
            )
        torch.backends.cuda.matmul.allow_tf32 = bool(tf32)
        torch.backends.cudnn.allow_tf32 = bool(tf32)
        precision = "tf32" if tf32 else dtype
    if (asked_for := options.get("matmul_precision")) is not None:
        torch.set_float32_matmul_precision(str(asked_for))
        if asked_for != "highest":
            precision = f"float32, products in {'tf32' if asked_for == 'high' else 'bfloat16'} or better"
    on_cuda = stage.device.type == "cuda" and torch.backends.cudnn.allow_tf32
    if precision == "float32" and on_cuda and any(isinstance(each, torch.nn.Conv2d) for each in stage.module.modules()):
        precision = "float32, convolutions in tf32"  # as torch has them by default
    return precision
