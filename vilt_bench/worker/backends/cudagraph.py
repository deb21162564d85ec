"""CUDA graphs: each stage captured once, and replayed in each pass by one launch; the clock's events stay between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vilt_bench.worker.backends import Prepared, StageToPrepare

if TYPE_CHECKING:
    from vilt_bench.ask.case import Option

DEVICES = ("cuda",)


def prepare(stage: StageToPrepare, options: Mapping[str, Option]) -> Prepared:
    """Captures the stage, after it has run a few times. Its input is copied to where the graph reads it.

    Raises:
        NotPreparedError: it waits for the device, or does something else that can't be captured.
    """
    from vilt_bench.worker.backends import _cuda_graphs

    run = _cuda_graphs.capture(stage)
    # A graph's memory is set aside when it is captured, and in passes nothing is allocated.
    return Prepared(run, "a CUDA graph", str(stage.dtype).removeprefix("torch."), allocates_elsewhere=True)


def remarks() -> tuple[str, ...]:
    """Returns that stages were captured in passes as well."""
    from vilt_bench.worker.backends import _cuda_graphs

    return _cuda_graphs.remarks()


def version() -> str:
    """Returns torch's version with CUDA's."""
    import torch

    return f"torch {torch.__version__}, CUDA {torch.version.cuda}"
