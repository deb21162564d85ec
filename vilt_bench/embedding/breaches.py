"""What an embedder can break of its contract in what it says of itself, and in the tokens that it returns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import get_args

import torch

from vilt_bench.embedding import Clips, Kind, VisualEmbedder, VisualTokens


def misdescribed(embedder: VisualEmbedder) -> Iterator[str]:
    """Yields what an embedder says of itself that nobody can use, such as `kind is None; expected one of …`."""

    def whole(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    def numbers(values: object) -> bool:
        return (
            isinstance(values, Sequence)
            and len(values) == 3
            and all(isinstance(each, int | float) and math.isfinite(each) for each in values)
        )

    def told(value: object) -> bool:
        return isinstance(value, str) and value != ""

    resolution: object = embedder.resolution
    checks: dict[str, tuple[bool, str]] = {
        "stages": (len(embedder.stages) > 0, "at least one"),
        "kind": (embedder.kind in get_args(Kind), f"one of {', '.join(get_args(Kind))}"),
        "weights": (told(embedder.weights), "a text, such as 'random'"),
        "resolution": (
            isinstance(resolution, Sequence) and len(resolution) == 2 and all(map(whole, resolution)),
            "(height, width) in pixels",
        ),
        "size_divisor": (whole(embedder.size_divisor), "a whole number of pixels, 1 or more"),
        "fixed_size": (isinstance(embedder.fixed_size, bool), "true or false"),
        "clips": (isinstance(embedder.clips, Clips), "Clips"),
        "mean": (numbers(embedder.mean), "three numbers"),
        "std": (numbers(embedder.std) and 0 not in embedder.std, "three numbers that are not 0"),
        "notes": (
            all(isinstance(each, str) for note in embedder.notes.items() for each in note),
            "texts by stage",
        ),
    }
    for name, (holds, expected) in checks.items():
        if not holds:
            yield f"{name} is {getattr(embedder, name)!r}; expected {expected}"


def breaches(tokens: VisualTokens, *, batch_size: int, hidden_size: int) -> Iterator[str]:
    """Yields what visual tokens break of the contract, whatever their values, such as `mask is …, not bool`."""
    embeddings, mask, boxes, grid, cells, images = tokens
    shape = tuple(embeddings.shape)
    if not embeddings.is_floating_point():
        yield f"embeddings are {embeddings.dtype}, not floating point"
    if len(shape) != 3 or shape[0] != batch_size or shape[1] < 1 or shape[2] != hidden_size:
        yield f"embeddings are {list(shape)}, not [{batch_size}, N, {hidden_size}] with N > 0"
        return
    if mask is not None and mask.dtype != torch.bool:
        yield f"mask is {mask.dtype}, not bool"
    if mask is not None and mask.shape != shape[:2]:
        yield f"mask is {list(mask.shape)}, not {list(shape[:2])}"
    if boxes is not None and boxes.shape != (*shape[:2], 4):
        yield f"boxes are {list(boxes.shape)}, not {[*shape[:2], 4]}"
    for name, places in (("grid", grid), ("cells", cells)):
        if places is not None and images * places[0] * places[1] != shape[1]:
            yield f"{name} is {places} for {shape[1]} tokens"
