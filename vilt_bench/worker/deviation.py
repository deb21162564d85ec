"""How far outputs lie from those of eager float32."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vilt_bench.embedding import ImageBatch, TextBatch, VisualTokens, tensors
from vilt_bench.model import FirstToken, ViltOutput
from vilt_bench.record.run import Deviation


class NotFiniteError(ArithmeticError):
    """An output holds NaN or infinite values where eager float32's has numbers."""


class NotComparableError(Exception):
    """Two outputs can't be compared; the message says why, as the end of a sentence."""


def deviation(output: Any, reference: Any) -> Deviation:
    """Returns how far an output lies from its reference.

    Raises:
        NotComparableError: they are not of the same tensors in the same shapes, or hold none.
        NotFiniteError: it holds NaN or infinite values where the reference has numbers.
    """
    ours, theirs = list(tensors(output)), list(tensors(reference))
    if [each.shape for each in ours] != [each.shape for each in theirs]:
        raise NotComparableError(f"its output has shapes {_shapes(ours)}, and eager float32's {_shapes(theirs)}")
    found = [_of(one, other) for one, other in zip(ours, theirs, strict=True) if one.numel()]
    if not found:
        raise NotComparableError("its output holds no numbers")
    return Deviation(*map(max, zip(*found, strict=True)))


def answer(output: Any) -> Any:
    """Returns what of a whole's output is its answer: pooled output, logits, or visual tokens."""
    match output:
        case ViltOutput():
            return output.pooled
        case FirstToken():
            return output.logits
        case VisualTokens():
            return output.embeddings
    return output


def copied(value: Any, dtype: torch.dtype) -> Any:
    """Returns nested values with copies of their tensors, those of floating point in a dtype.

    What is in no container that is known here is kept as it is, as the cache of a language model.
    """
    if isinstance(value, Tensor):
        return value.to(dtype, copy=True) if value.is_floating_point() else value.clone()
    if type(value) is dict:
        return {key: copied(each, dtype) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(copied(each, dtype) for each in value))
    if type(value) in (list, tuple):
        return type(value)(copied(each, dtype) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        new = {each.name: copied(getattr(value, each.name), dtype) for each in fields(value) if each.init}
        return replace(value, **new)
    return value


def as_in_passes(value: Any, dtype: torch.dtype) -> Any:
    """Returns a copy of a stage's input of the kind that passes have, for compilers that tell the kinds apart.

    What another stage has made in inference mode is of a kind of its own; images and texts are there before.
    """
    with torch.inference_mode(not isinstance(value, ImageBatch | TextBatch)):
        return copied(value, dtype)


def _of(one: Tensor, other: Tensor) -> tuple[float, float, float]:
    ours, theirs = one.cpu().double(), other.cpu().double()
    numbers = theirs.isfinite()
    if not bool(ours[numbers].isfinite().all()):
        raise NotFiniteError("its output holds NaN or infinite values where eager float32's holds numbers")
    ours, theirs = ours[numbers], theirs[numbers]
    if not theirs.numel():
        return 0.0, 0.0, 0.0
    difference = ours - theirs
    largest, size = float(difference.abs().max()), float(theirs.abs().max())
    norm, size_l2 = float(difference.norm()), float(theirs.norm())
    # Beside zeros there is nothing to relate a difference to: it is told as it is.
    return largest, largest / (size or 1.0), norm / (size_l2 or 1.0)


def _shapes(found: list[Tensor]) -> str:
    return ", ".join(str(list(each.shape)) for each in found) or "none"
