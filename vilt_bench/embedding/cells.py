"""Which cells of a grid show the image, and what can't be cut into patches."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

from vilt_bench.errors import EmbedderError


def cells_with_image(mask: Tensor | None, grid: tuple[int, int]) -> Tensor | None:
    """Returns which cells of the grid show the image, [B, h·w] bool, by the nearest pixel of [B, H, W]."""
    if mask is None:
        return None
    return interpolate(mask.unsqueeze(1).float(), size=grid, mode="nearest").flatten(1).bool()


def refuse_remainder(pixels: Tensor, unit: int) -> None:
    """Refuse images that are not cut into whole squares.

    Raises:
        EmbedderError: height or width is no multiple of the unit, as `--fit exact` may have it.
    """
    height, width = pixels.shape[-2:]
    if height % unit or width % unit:
        raise EmbedderError(
            f"an image of {height}x{width} pixels can't be cut into squares of {unit}x{unit}; "
            "leave `fit` exact out, or give `resolution` in multiples of them"
        )
