"""How the images of a case are cut into tiles: one way for all of them, as their headers tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vilt_bench.ask.case import SYNTHETIC, Case
from vilt_bench.ask.images import find_images, fitted_size, image_size
from vilt_bench.ask.tiles import Scheme, Size, Tiling, parse_tiles
from vilt_bench.errors import InputError

MOST_BATCHES = 16
"""They stay on the device, so that no pass waits for its input."""


@dataclass(frozen=True)
class Cutting:
    """A scheme, and what it makes of the images of a case."""

    scheme: Scheme
    tiling: Tiling
    """Of each image."""
    sizes: Mapping[str, Size]
    """(height, width) of the images before they are cut, in pixels, by name; one for images of one size."""


def cutting_of(case: Case) -> Cutting | None:
    """Returns how the images of a case are cut; `None`: they are not.

    Raises:
        InputError: an image can't be read or is too long to be cut, or images give different tiles.
    """
    if case.tiles is None:
        return None
    scheme = parse_tiles(case.tiles)
    sizes = _sizes(case)
    tilings = {name: _tiling(scheme, size, name) for name, size in sizes.items()}
    (first, tiling), *others = tilings.items()
    for name, other in others:
        if (other.grid, other.count) != (tiling.grid, tiling.count):
            raise InputError(
                f"`tiles` {case.tiles} makes {tiling} of {first}, and {other} of {name}: all images of a case are to "
                "have equal tiles; measure them one by one, or give `resolution` HxW with `fit` crop"
            )
    return Cutting(scheme, tiling, sizes)


def _tiling(scheme: Scheme, size: Size, name: str) -> Tiling:
    try:
        return scheme.tiling(size)
    except InputError as error:
        raise InputError(f"image {name!r}: {error}") from None


def _sizes(case: Case) -> dict[str, Size]:
    """Returns the sizes of the images before they are cut, each once."""
    paths = find_images(case.images)[: MOST_BATCHES * case.images_per_pass]
    if paths == (SYNTHETIC,):
        assert case.resolution is not None
        return {SYNTHETIC: case.resolution}
    found: dict[Size, str] = {}
    for path in paths:
        size = image_size(path)
        if case.resolution is not None:
            size = fitted_size(*size, resolution=case.resolution, size_divisor=1, fit=case.fit, name=f"image {path!r}")
        found.setdefault(size, Path(path).name)
    return {name: size for size, name in found.items()}
