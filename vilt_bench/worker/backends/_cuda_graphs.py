"""Captures a stage as a CUDA graph, for each size that its input has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vilt_bench.words import counted
from vilt_bench.worker.backends import NotPreparedError, StageToPrepare
from vilt_bench.worker.failures import first_line

WARM_UPS = 3
"""Calls before the capture, on a stream of their own, in which libraries choose kernels and allocate; as torch's
`make_graphed_callables` does."""

Replay = Callable[[list[Tensor]], Any]
Record = Callable[[nn.Module, Any], Replay]
"""Captures a call of a module with an input; what it returns copies tensors to the input's, and computes again."""

_in_passes = 0
"""Captures since the stages were prepared."""


def capture(stage: StageToPrepare, record: Record | None = None) -> Callable[[Any], Any]:
    """Returns what replays the stage's graph; an input of other sizes has a graph of its own, captured when it comes.

    Args:
        stage: on a CUDA device.
        record: captures; `None`: torch's CUDA graph.

    Raises:
        NotPreparedError: the stage can't be captured.
    """
    global _in_passes
    record = record or _record
    graphs: dict[object, Replay] = {}

    def replay(inputs: Any) -> Any:
        global _in_passes
        leaves, spec = pytree.tree_flatten(inputs)
        key = (spec, *(_kind(leaf) for leaf in leaves))
        if (graph := graphs.get(key)) is None:
            graph = graphs[key] = record(stage.module, inputs)
            _in_passes += 1
        return graph([leaf for leaf in leaves if isinstance(leaf, Tensor)])

    try:
        with torch.inference_mode():
            replay(stage.inputs)
    except Exception as error:
        why = first_line(error).removesuffix(".")
        if "synchroniz" in str(error) or "captur" in str(error):
            raise NotPreparedError(f"it waits for the device, which can't be captured ({why})") from error
        raise NotPreparedError(f"it can't be captured ({why})") from error
    _in_passes = 0
    return replay


def remarks() -> tuple[str, ...]:
    """Returns that there were captures in passes."""
    if not _in_passes:
        return ()
    return (
        f"{counted(_in_passes, 'more CUDA graph')} captured in passes, for sizes that the first batch's did not have: "
        "what that took is in no time to prepare.",
    )


def _kind(leaf: Any) -> object:
    return (leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _record(module: nn.Module, inputs: Any) -> Replay:
    leaves, spec = pytree.tree_flatten(inputs)
    leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    places = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    own = pytree.tree_unflatten(leaves, spec)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), _refusing_to_wait():
        for _ in range(WARM_UPS):
            module(own)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = module(own)

    def replay(given: list[Tensor]) -> Any:
        for place, tensor in zip(places, given, strict=True):
            place.copy_(tensor)
        graph.replay()
        return output

    return replay


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Returns a context in which what waits for the device fails, before a capture does so and is lost."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
