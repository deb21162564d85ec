"""Holds any visual embedder, ours or an outside package's, to the contract of `vilt_bench.embedding`."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from vilt_bench.embedding import EmbedderFactory, ImageBatch, VisualEmbedder, VisualTokens
from vilt_bench.embedding.breaches import breaches, misdescribed

HIDDEN_SIZES = (64, 32)


def check_embedder(
    factory: EmbedderFactory,
    *,
    resolution: tuple[int, int] | None = None,
    batch_size: int = 2,
    device: str = "cpu",
    **options: Any,
) -> None:
    """Build the embedder, run it on noise, and hold it to the contract.

    Checked: types, shapes and masks; equal tokens for equal images, other tokens for other images; every
    parameter in exactly one stage; stages run by hand equal the whole; a mark sees each stage once, in order, and
    changes nothing; the same shapes on the meta device; `hidden_size` obeyed; an image's tokens independent of
    the rest of the batch. An embedder of clips is held to it with clips of as many frames as it says that it is for.

    Args:
        factory: of the embedder.
        resolution: (height, width) of the images, in pixels, given to a factory that takes it as well;
            `None`: the embedder's own, which may take long.
        batch_size: images, or clips, at once.
        device: where to run.
        **options: keyword arguments of the factory, but for `hidden_size`.

    Raises:
        AssertionError: a part of the contract is broken; the message says which.
    """
    name = getattr(factory, "__name__", str(factory))
    if "resolution" in inspect.signature(factory).parameters:
        options["resolution"] = resolution
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        embedder = _build(name, factory, HIDDEN_SIZES[0], options).to(device).eval()
        height, width = resolution or _whole(embedder.resolution, embedder.size_divisor)
        frames = embedder.clips.frames
        images = ImageBatch(torch.randn(batch_size * (frames or 1), 3, height, width).to(device), frames=frames)

        tokens = embedder(images)
        _check_tokens(name, tokens, batch_size * embedder.clips.grids(frames), HIDDEN_SIZES[0])
        _require(_equal(tokens, embedder(images)), f"{name} gives other tokens for the same images in eval mode")
        _check_parameters(name, embedder)
        _check_chain(name, embedder, images, tokens)
        _check_images(name, embedder, images, tokens)
        _check_smaller(name, _build(name, factory, HIDDEN_SIZES[1], options).to(device).eval(), images, tokens)
        _check_meta(name, factory, options, images, tokens)


def _build(name: str, factory: EmbedderFactory, hidden_size: int, options: dict[str, Any]) -> VisualEmbedder:
    embedder: object = factory(hidden_size=hidden_size, **options)
    _require(isinstance(embedder, VisualEmbedder), f"{name} builds a {type(embedder).__name__}, not a VisualEmbedder")
    assert isinstance(embedder, VisualEmbedder)
    found = embedder.hidden_size
    _require(found == hidden_size, f"{name} was asked for hidden_size={hidden_size} and says {found}")
    for wrong in misdescribed(embedder):
        _require(False, f"{name}'s {wrong}")
    return embedder


def _check_tokens(name: str, tokens: object, batch_size: int, hidden_size: int) -> None:
    _require(isinstance(tokens, VisualTokens), f"{name} returns a {type(tokens).__name__}, not VisualTokens")
    assert isinstance(tokens, VisualTokens)
    for breach in breaches(tokens, batch_size=batch_size, hidden_size=hidden_size):
        _require(False, f"{name}'s {breach}")
    _require(bool(tokens.embeddings.isfinite().all()), f"{name}'s embeddings are not all finite")
    if tokens.mask is not None:
        _require(bool(tokens.mask.any(dim=1).all()), f"{name}'s mask leaves an image without a token")


def _check_parameters(name: str, embedder: VisualEmbedder) -> None:
    owners: dict[int, list[str]] = {}
    for stage, module in embedder.stages.items():
        for parameter in module.parameters():
            owners.setdefault(id(parameter), []).append(stage)
    for path, parameter in embedder.named_parameters():
        stages = owners.get(id(parameter), [])
        _require(bool(stages), f"{name}'s parameter {path} is in no stage")
        _require(len(stages) == 1, f"{name}'s parameter {path} is in more than one stage: {', '.join(stages)}")


def _check_chain(name: str, embedder: VisualEmbedder, images: ImageBatch, tokens: VisualTokens) -> None:
    value: Any = images
    for stage in embedder.stages.values():
        value = stage(value)
    _require(_equal(value, tokens), f"{name}'s stages, run one after the other, give other tokens than the whole")
    seen: list[str] = []
    marked = embedder(images, lambda stage, _output: seen.append(stage))
    expected = list(embedder.stages)
    _require(seen == expected, f"{name} marks {', '.join(seen) or 'nothing'}; expected {', '.join(expected)}")
    _require(_equal(marked, tokens), f"{name} gives other tokens when marked")


def _check_images(name: str, embedder: VisualEmbedder, images: ImageBatch, tokens: VisualTokens) -> None:
    first = images._replace(pixels=images.pixels[: images.frames or 1])
    alone = embedder(first)
    _require(
        _close(alone.embeddings, tokens.embeddings[: len(alone.embeddings)]),
        f"{name} gives an image other tokens alone than in a batch",
    )
    other = embedder(first._replace(pixels=first.pixels.flip(-1) + 1))
    _require(
        other.embeddings.shape != alone.embeddings.shape or not _close(other.embeddings, alone.embeddings),
        f"{name} gives different images the same tokens",
    )


def _check_smaller(name: str, embedder: VisualEmbedder, images: ImageBatch, tokens: VisualTokens) -> None:
    _check_tokens(name, embedder(images), len(tokens.embeddings), HIDDEN_SIZES[1])


def _check_meta(
    name: str, factory: EmbedderFactory, options: dict[str, Any], images: ImageBatch, tokens: VisualTokens
) -> None:
    try:
        with torch.device("meta"):
            embedder = _build(name, factory, HIDDEN_SIZES[0], options).eval()
        found = embedder(images._replace(pixels=images.pixels.to("meta")))
    except (RuntimeError, NotImplementedError) as error:
        first = str(error).partition("\n")[0]
        raise AssertionError(f"{name} does not run on the meta device, where FLOPs are counted: {first}") from error
    _require(found.embeddings.is_meta, f"{name}, built on the meta device, has weights elsewhere")
    for field, ours, theirs in (
        ("embeddings", found.embeddings, tokens.embeddings),
        ("boxes", found.boxes, tokens.boxes),
    ):
        shapes = [None if tensor is None else list(tensor.shape) for tensor in (ours, theirs)]
        _require(shapes[0] == shapes[1], f"{name}'s {field} are {shapes[0]} on the meta device, {shapes[1]} elsewhere")


def _whole(resolution: tuple[int, int], divisor: int) -> tuple[int, int]:
    height, width = (max(divisor, edge // divisor * divisor) for edge in resolution)
    return height, width


def _equal(first: VisualTokens, second: VisualTokens) -> bool:
    return first[3:] == second[3:] and all(
        ours is theirs is None or (ours is not None and theirs is not None and torch.equal(ours, theirs))
        for ours, theirs in zip(first[:3], second[:3], strict=True)
    )


def _close(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-4)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
