"""Stages by torch's compiler: what it made of each, graph by graph, and whether it had to compile again."""

from __future__ import annotations

import atexit
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._dynamo.utils import counters

from vilt_bench import files
from vilt_bench.errors import ConfigError
from vilt_bench.words import counted
from vilt_bench.worker.backends import NotPreparedError, StageToPrepare
from vilt_bench.worker.deviation import as_in_passes
from vilt_bench.worker.failures import first_line

INDUCTOR = "inductor"
NOTHING = "the compiler finds nothing in it to compile"
_SIZES = 64
"""How many versions of a function there may be, each for other sizes; torch's own limit of 8 is of training loops."""


class Graphs(NamedTuple):
    """What the compiler made of a stage."""

    number: int
    breaks: tuple[str, ...]
    """Why it left a graph for eager torch and began another one, once a place."""


_made = 0
"""Graphs of all stages, when the last one was prepared."""


def compile_stage(
    stage: StageToPrepare,
    compiler: str,
    *,
    options: Mapping[str, Any] | None = None,
    fullgraph: bool = False,
) -> tuple[Callable[[Any], Any], Graphs]:
    """Returns the stage compiled for its example's sizes, and of how many graphs it is.

    It is called once, so that what is compiled at the first call is compiled now.

    Args:
        stage: any.
        compiler: what torch calls a backend of `torch.compile`.
        options: of that.
        fullgraph: whether a stage that is more than one graph is refused.

    Raises:
        NotPreparedError: it is more than one graph and may not be, or nothing of it is one.
    """
    global _made
    _never_eager_in_silence()
    _quiet_in_passes()
    compiled = torch.compile(
        _function_of_its_own(stage.module),
        backend=compiler,
        options=dict(options) if options else None,
        dynamic=False,
        fullgraph=fullgraph,
    )
    before, known = _graphs(), dict(counters["graph_break"])
    try:
        # Of another kind than those of passes, tensors would be compiled for again there.
        with _quiet(), torch.inference_mode():
            compiled(as_in_passes(stage.inputs, stage.dtype))
    except (torch._dynamo.exc.Unsupported, torch._dynamo.exc.UserError) as error:
        raise NotPreparedError(f"it is not one graph ({_short(first_line(error))})") from error
    except RuntimeError as error:
        if "no compiled frames" not in str(error):
            raise
        raise NotPreparedError(NOTHING) from error
    finally:
        _made = _graphs()
    breaks = tuple(_short(why) for why, count in counters["graph_break"].items() if count > known.get(why, 0))
    if _made == before:
        raise NotPreparedError(NOTHING)
    return compiled, Graphs(_made - before, breaks)


def told(graphs: Graphs) -> str:
    """Returns how many graphs a stage is, with where it leaves them, as the rest of a sentence."""
    if graphs.number == 1 and not graphs.breaks:
        return "one graph"
    breaks = f", {counted(len(graphs.breaks), 'graph break')} ({'; '.join(graphs.breaks)})" if graphs.breaks else ""
    return f"{counted(graphs.number, 'graph')}{breaks}, eager torch between them"


def remarks() -> tuple[str, ...]:
    """Returns that the compiler had to compile in passes, after it had prepared the stages."""
    if not (more := _graphs() - _made):
        return ()
    return (
        f"The compiler made {counted(more, 'more graph')} in passes, for sizes or kinds of tensors that it had not "
        "seen: what that took is in no time to prepare.",
    )


def check_compiler(device: torch.device) -> None:
    """Refuse what inductor has no compiler for.

    Raises:
        ConfigError: there is none.
    """
    if device.type == "cpu":
        from torch._inductor import cpp_builder

        try:
            cpp_builder.get_cpp_compiler()
        except Exception as error:  # of several kinds
            raise ConfigError(
                "compile needs a C++ compiler on the CPU, and finds none; install g++ or clang, or name one in the "
                "environment variable CXX",
                field="backend",
            ) from error
    elif device.type in ("cuda", "xpu"):
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ConfigError(
                f"compile needs triton on {device.type}, of a version that this device has; "
                "python -m pip install triton",
                field="backend",
            )


@cache
def use_fresh_cache() -> None:
    """Lets inductor, and triton, begin with an empty cache in this process; it is removed at the end."""
    stack = ExitStack()
    folder = stack.enter_context(files.scratch())
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(folder, "inductor")
    os.environ["TRITON_CACHE_DIR"] = os.path.join(folder, "triton")
    atexit.register(stack.close)


def cache_hits() -> int:
    """Returns how many graphs have come from inductor's cache so far."""
    return int(counters[INDUCTOR]["fxgraph_cache_hit"])


def _function_of_its_own(module: nn.Module) -> Callable[[Any], Any]:
    """Returns a function that calls the module. torch keeps what it compiled by code, which all of a class share."""

    def call(inputs: Any) -> Any:
        return module(inputs)

    call.__code__ = call.__code__.replace()
    return call


@contextmanager
def _quiet() -> Iterator[None]:
    """Returns a context in which the compiler keeps to itself what it logs and warns of."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def _never_eager_in_silence() -> None:
    """Lets a function that has been compiled for too many sizes fail, rather than be eager from then on."""
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _SIZES)
    settings.fail_on_recompile_limit_hit = True


def _quiet_in_passes() -> None:
    """Keeps to itself what compiling again, for what a stage then finds, says of torchvision's own code."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torchvision\._meta_registrations")


def _short(why: str) -> str:
    return why.strip().splitlines()[0].removesuffix(".")
