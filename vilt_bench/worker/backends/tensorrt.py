"""TensorRT, by torch-tensorrt's backend of torch.compile; this has not been run on a GPU by its authors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vilt_bench.worker.backends import Prepared, StageToPrepare

if TYPE_CHECKING:
    from vilt_bench.ask.case import Option

OPTIONS = {"full": bool, "tf32": bool, "optimization_level": int}
"""`full`: a stage of which TensorRT can't compute all is not prepared. `tf32`: products of float32 may see 10 bits of
the fraction. `optimization_level`: TensorRT's, 0 to 5."""
DEVICES = ("cuda",)
NEEDS = {"torch_tensorrt": "torch-tensorrt"}
UNTESTED = "The backend tensorrt has not been tested on a GPU: look at differences with care."


def prepare(stage: StageToPrepare, options: Mapping[str, Option]) -> Prepared:
    """Compiles the stage, by a call with its example; in the precision of its weights.

    Raises:
        NotPreparedError: it can't be compiled, or not as a whole where `full` asks for that.
    """
    import torch_tensorrt  # noqa: F401 – makes itself known to torch.compile

    from vilt_bench.worker.backends import _compiled

    compiled, graphs = _compiled.compile_stage(
        stage, "torch_tensorrt", options=_settings(options), fullgraph=bool(options.get("full"))
    )
    dtype = str(stage.dtype).removeprefix("torch.")
    return Prepared(
        compiled,
        f"TensorRT where it can, else torch: {_compiled.told(graphs)}",
        "tf32" if options.get("tf32") and dtype == "float32" else dtype,
        allocates_elsewhere=True,
    )


def _settings(options: Mapping[str, Option]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "use_explicit_typing": True,  # the model's dtypes, not what TensorRT thinks is faster
        "disable_tf32": not options.get("tf32"),
        "min_block_size": 1,
        "require_full_compilation": bool(options.get("full")),
        "pass_through_build_failures": True,  # instead of eager torch in silence
    }
    if (level := options.get("optimization_level")) is not None:
        settings["optimization_level"] = level
    return settings


def remarks() -> tuple[str, ...]:
    """Returns that this is untested, and that stages were compiled in passes as well."""
    from vilt_bench.worker.backends import _compiled

    return (UNTESTED, *_compiled.remarks())


def version() -> str:
    """Returns the versions of torch-tensorrt, TensorRT and torch."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    told = []
    for name in ("torch-tensorrt", "tensorrt"):
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*told, f"torch {torch.__version__}"])
