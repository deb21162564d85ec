"""Patches of two sizes: fine ones, and coarse ones that see four times as far."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from vilt_bench.embedding import ImageBatch, VisualEmbedder, VisualTokens
from vilt_bench.errors import EmbedderError


class Scales(NamedTuple):
    """What `Patches` hands to `Projection`."""

    fine: Tensor
    """[B, width, h, w]"""
    coarse: Tensor
    """[B, width, h/4, w/4]"""


class Patches(nn.Module):
    """Cuts the image into patches at both scales."""

    def __init__(self, *, patch_size: int, width: int) -> None:
        """Make a convolution a scale, whose kernel and stride are the patch."""
        super().__init__()
        self.fine = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.coarse = nn.Conv2d(3, width, kernel_size=4 * patch_size, stride=4 * patch_size)

    def forward(self, images: ImageBatch) -> Scales:
        """Returns a vector a patch."""
        return Scales(self.fine(images.pixels), self.coarse(images.pixels))


class Projection(nn.Module):
    """Projects the patches of both scales to tokens of width D, the coarse ones last."""

    def __init__(self, *, width: int, hidden_size: int) -> None:
        """Make the linear layer."""
        super().__init__()
        self.linear = nn.Linear(width, hidden_size)

    def forward(self, scales: Scales) -> VisualTokens:
        """Returns the tokens."""
        patches = torch.cat([scale.flatten(2) for scale in scales], dim=2)  # (B, width, N)
        return VisualTokens(self.linear(patches.transpose(1, 2)))


def acme(*, hidden_size: int = 768, patch_size: int = 16, width: int = 256) -> VisualEmbedder:
    """Returns the embedder.

    Args:
        hidden_size: D of the tokens.
        patch_size: of the fine patches, in pixels.
        width: channels of a patch before the projection.

    Raises:
        EmbedderError: an option is impossible.
    """
    if patch_size < 1 or width < 1:
        raise EmbedderError(f"patch_size={patch_size} and width={width} must be at least 1")
    return VisualEmbedder(
        {
            "patches": Patches(patch_size=patch_size, width=width),
            "projection": Projection(width=width, hidden_size=hidden_size),
        },
        kind="linear",
        hidden_size=hidden_size,
        resolution=(384, 640),
        size_divisor=4 * patch_size,
    )
