"""What an exception of a pass means for the record, and how it is told in one line."""

from __future__ import annotations

import os
import traceback

import torch

from vilt_bench.ask.case import Case, label
from vilt_bench.record.run import Failure
from vilt_bench.worker.preprocessing import PREPROCESSING


class StageError(Exception):
    """A pass failed within a stage; the cause is chained."""

    def __init__(self, stage: str | None) -> None:
        """Name the stage."""
        super().__init__(stage)
        self.stage = stage


def stage_and_owner(case: Case, stage: str | None) -> str:
    """Returns a stage with whose it is: the embedder's, or that of what joins the modalities."""
    if stage is None:
        return label(case)
    own = stage.startswith(("visual_embedder", PREPROCESSING))
    return f"{stage} of {label(case) if own else case.interaction}"


def error_line(error: BaseException) -> str:
    """Returns an error in one line, with the place that is its author's: not torch's, and not this toolkit's."""
    what = f"{type(error).__name__}: {first_line(error).removesuffix('.')}"
    ours = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(__file__)))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.isfile(frame.filename)
        and not frame.filename.startswith(tuple(f"{folder}{os.sep}" for folder in ours))
    ]
    if not frames:
        return what
    path = os.path.relpath(frames[-1].filename)
    return f"{what}, in {frames[-1].filename if path.startswith(os.pardir) else path}, line {frames[-1].lineno}"


def failure_of(error: BaseException, stage: str | None = None) -> Failure:
    """Returns what an exception of a pass means for the record."""
    if isinstance(error, StageError) and error.__cause__ is not None:
        return failure_of(error.__cause__, error.stage)
    text = first_line(error)
    if is_out_of_memory(error):
        return Failure("out-of-memory", text, stage)
    return Failure("error", f"{type(error).__name__}: {text}{_told_late(error, stage)}", stage)


def _told_late(error: BaseException, stage: str | None) -> str:
    """Returns what to know of an error of the device itself, which the host hears of when it next asks for something.

    Whoever names a stage has waited for the device after each.
    """
    kind = getattr(torch, "AcceleratorError", None)  # of torch 2.8 or newer; before, CUDA's are plain
    if not ((kind is not None and isinstance(error, kind)) or "CUDA error" in str(error)):
        return ""
    of = "this stage" if stage is not None else "any stage until then"
    return f" (an asynchronous failure of the device, by work of {of})"


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception says that memory ran out, of the host or the device."""
    # The allocators of the CPU and of MPS, and CUDA's libraries, raise a plain RuntimeError.
    words = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in words)
    )


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
