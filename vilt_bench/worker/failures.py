"""What an exception means for the record."""

from __future__ import annotations

import os
import traceback

import torch

from vilt_bench.record.run import Failure


class StageError(Exception):
    """A pass failed within a stage; the cause is chained."""

    def __init__(self, stage: str | None) -> None:
        """Name the stage."""
        super().__init__(stage)
        self.stage = stage


def cause_of(error: BaseException) -> str:
    """Returns an error in one line, with the place that is its author's: not torch's, and not this toolkit's."""
    said = f"{type(error).__name__}: {first_line(error)}"
    ours = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(__file__)))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.isfile(frame.filename)
        and not frame.filename.startswith(tuple(f"{folder}{os.sep}" for folder in ours))
    ]
    if not frames:
        return said
    path = os.path.relpath(frames[-1].filename)
    return f"{said}, in {frames[-1].filename if path.startswith(os.pardir) else path}, line {frames[-1].lineno}"


def failure_of(error: BaseException, stage: str | None = None) -> Failure:
    """Returns what an exception of a pass means for the record."""
    if isinstance(error, StageError) and error.__cause__ is not None:
        return failure_of(error.__cause__, error.stage)
    text = first_line(error)
    if is_out_of_memory(error):
        return Failure("out-of-memory", text, stage)
    return Failure("error", f"{type(error).__name__}: {text}", stage)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception says that memory ran out, of the host or the device."""
    # The allocators of the CPU and of MPS, and CUDA's libraries, raise a plain RuntimeError.
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in said)
    )


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
