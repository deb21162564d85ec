"""Makes the catalogue of a package's embedders."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from vilt_bench import files
from vilt_bench.ask.case import parse_embedder, parse_resolution
from vilt_bench.ask.catalog import FILE, HIDDEN_SIZE, Entry, catalogue
from vilt_bench.ask.images import crop_size
from vilt_bench.ask.presets import used_by_models
from vilt_bench.ask.registry import build, installed, load_factory, package_folders
from vilt_bench.embedding import ImageBatch, Mark, VisualEmbedder, VisualTokens
from vilt_bench.errors import EmbedderError, ViltBenchError
from vilt_bench.model.reduction import reduced
from vilt_bench.worker.meters.flops import count_flops
from vilt_bench.worker.meters.meta import building, needs_values


def compute(text: str) -> Entry:
    """Returns the catalogue's entry of an embedder, built on the meta device: nothing is run.

    Args:
        text: as `--embedder` takes it, with `resolution=` and `reduce=` where they are not the embedder's own.

    Raises:
        EmbedderError: the embedder can't be built, or not be run on the meta device.
    """
    name, options = parse_embedder(text)
    reduce = options.pop("reduce", None)
    asked = options.pop("resolution", None)
    resolution = None if asked is None else parse_resolution(str(asked))
    with building():
        embedder = build(name, options, hidden_size=HIDDEN_SIZE, resolution=resolution)
        if reduce is not None:
            embedder = reduced(embedder, str(reduce))
    return replace(entry_of(embedder, resolution, name=text), about=_about(text))


def entry_of(embedder: VisualEmbedder, resolution: tuple[int, int] | None = None, *, name: str) -> Entry:
    """Returns the catalogue's entry of an embedder that is on the meta device.

    Args:
        embedder: of width `HIDDEN_SIZE`.
        resolution: (height, width) in pixels; `None`: the embedder's own.
        name: for messages.

    Raises:
        EmbedderError: the embedder fails, or looks at values, which the meta device does not have.
    """
    height, width = crop_size(resolution or embedder.resolution, size_divisor=embedder.size_divisor)
    frames = embedder.clips.frames
    images = ImageBatch(torch.empty(frames or 1, 3, height, width, device="meta"), frames=frames)
    outputs: list[VisualTokens] = []

    def forward(mark: Mark | None) -> None:
        outputs.append(embedder(images, mark))

    try:
        embedder.eval()
        flops = count_flops(forward).total
    except ViltBenchError:
        raise
    except Exception as error:  # of an outsider's forward pass
        fails = "looks at values, which the meta device does not have" if needs_values(error) else "fails"
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise EmbedderError(f"embedder {name!r} {fails}: {problem}") from error
    return Entry(
        kind=embedder.kind,
        resolution=(height, width),
        visual_tokens=outputs[0].embeddings.shape[:2].numel(),
        parameters=sum(parameter.numel() for parameter in embedder.parameters()),
        flops=flops,
        stages=tuple(embedder.stages),
        frames=frames,
    )


def names(package: str) -> list[str]:
    """Returns what a package's catalogue is to hold: the embedders that it offers, and those that models use."""
    own = [found.name for found in installed().values() if found.package == package and not found.family]
    return list(dict.fromkeys([*own, *(used.embedder for used in used_by_models(package))])) if own else []


def write(package: str) -> Path:
    """Computes the entries of a package's embedders, writes its catalogue, and returns the path.

    Raises:
        EmbedderError: the package offers none, or one fails.
    """
    wanted, folders = names(package), package_folders(package)
    if not wanted or not folders:
        raise EmbedderError(f"no installed package {package!r} offers embedders; 'vilt-bench list' shows all")
    path = folders[0] / FILE
    content = json.dumps({name: asdict(compute(name)) for name in wanted}, indent=1) + "\n"
    files.write_bytes(path, content.encode())
    catalogue.cache_clear()
    return path


def _about(name: str) -> str:
    if name not in installed():
        return ""
    first = (inspect.getdoc(load_factory(name)) or "").partition("\n")[0].partition(";")[0]
    return first.removeprefix("Returns ").rstrip(".")
