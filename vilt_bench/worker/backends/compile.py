"""torch.compile: each stage compiled by inductor for its sizes, to C++ on the CPU and to triton on GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vilt_bench.worker.backends import Prepared, StageToPrepare

if TYPE_CHECKING:
    from vilt_bench.ask.case import Option

OPTIONS = {
    "mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "fullgraph": bool,
    "freezing": bool,
    "cache": bool,
}
"""`mode`: torch.compile's. `fullgraph`: a stage that is more than one graph is not compiled. `freezing`: weights are
constants, on the CPU packed once, of linear layers in float32 for MKL, else for oneDNN. `cache`: inductor's cache of
this user is read and written, where each process begins with an empty one otherwise."""


def prepare(stage: StageToPrepare, options: Mapping[str, Option]) -> Prepared:
    """Compiles the stage, by a call with its example.

    Raises:
        ConfigError: there is no compiler for what inductor writes.
        NotPreparedError: it is more than one graph and may not be, or nothing of it can be compiled.
    """
    from vilt_bench.worker.backends import _compiled

    warm = bool(options.get("cache"))
    if not warm:
        _compiled.use_fresh_cache()
    _compiled.check_compiler(stage.device)
    mode = str(options.get("mode", "default"))
    frozen = bool(options.get("freezing"))
    hits = _compiled.cache_hits()
    compiled, graphs = _compiled.compile_stage(
        stage, _compiled.INDUCTOR, options=_settings(mode, frozen), fullgraph=bool(options.get("fullgraph"))
    )
    done = ["inductor", *([] if mode == "default" else [mode]), *(["weights frozen"] if frozen else [])]
    found = _compiled.cache_hits() - hits
    cache = f"{found} of {graphs.number} from a warm cache" if warm else "cold cache"
    by = f"{', '.join(done)}: {_compiled.told(graphs)}, {cache}"
    # Frozen weights are copies, in a layout that torch's allocator does not always show.
    return Prepared(compiled, by, str(stage.dtype).removeprefix("torch."), allocates_elsewhere=frozen)


def _settings(mode: str, frozen: bool) -> dict[str, Any]:
    """Returns a mode as inductor's settings, as torch.compile takes one or the other."""
    import torch._inductor

    of_mode = {} if mode == "default" else torch._inductor.list_mode_options(mode, dynamic=False)
    return {**of_mode, **({"freezing": True} if frozen else {})}


def remarks() -> tuple[str, ...]:
    """Returns that stages were compiled in passes as well."""
    from vilt_bench.worker.backends import _compiled

    return _compiled.remarks()


def version() -> str:
    """Returns torch's version, with triton's where it is there."""
    import importlib.util
    from importlib.metadata import version

    import torch

    triton = f", triton {version('triton')}" if importlib.util.find_spec("triton") else ""
    return f"torch {torch.__version__}{triton}"
