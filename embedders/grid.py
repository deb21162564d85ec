"""Grid visual embedders: a convolutional backbone whose cells become the tokens, as in Pixel-BERT."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate

from embedders.resnet import CHANNELS, FeatureMaps, ResNetBackbone
from vilt_bench.embedding import VisualEmbedder, VisualTokens
from vilt_bench.embedding.cells import cells_with_image
from vilt_bench.embedding.weights import load_weights
from vilt_bench.errors import EmbedderError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def grid_r50(*, hidden_size: int = 768, pool: bool = True, weights: str = "") -> VisualEmbedder:
    """Returns Pixel-BERT's grid with a ResNet-50.

    Args:
        hidden_size: D of the tokens.
        pool: 2×2 max pooling before the projection; without, every cell of C5 at stride 32 is a token, as in
            the grid features of Jiang et al. 2020.
        weights: a file with the embedder's weights; empty: random.

    Source: ViLT paper, table 6, "Pixel-BERT-R50".
    """
    return _grid(ResNetBackbone(depth=50), hidden_size=hidden_size, pool=pool, weights=weights)


def grid_r101(*, hidden_size: int = 768, pool: bool = True, weights: str = "") -> VisualEmbedder:
    """Returns Pixel-BERT's grid with a ResNet-101; arguments as in `grid_r50`."""
    return _grid(ResNetBackbone(depth=101), hidden_size=hidden_size, pool=pool, weights=weights)


def grid_x152(*, hidden_size: int = 768, pool: bool = True, weights: str = "") -> VisualEmbedder:
    """Returns Pixel-BERT's grid with a ResNeXt-152 32×4d; arguments as in `grid_r50`.

    Source: ViLT paper, table 6, "Pixel-BERT-X152".
    """
    backbone = ResNetBackbone(depth=152, groups=32)
    return _grid(backbone, hidden_size=hidden_size, pool=pool, weights=weights, resolution=(600, 1000))


def grid_r50_c4(*, hidden_size: int = 768, pool: bool = True, weights: str = "") -> VisualEmbedder:
    """Returns a grid with a ResNet-50 cut after res4, at stride 16; arguments as in `grid_r50`.

    It is what the ViLT paper's parameters and FLOPs of Pixel-BERT-R50 fit.
    """
    backbone = ResNetBackbone(depth=50, last=4, caffe=True)
    return _grid(backbone, hidden_size=hidden_size, pool=pool, weights=weights, channels=CHANNELS[2])


def _grid(
    backbone: ResNetBackbone,
    *,
    hidden_size: int,
    pool: bool,
    weights: str,
    channels: int = CHANNELS[3],
    resolution: tuple[int, int] = (800, 1333),
) -> VisualEmbedder:
    stages: dict[str, nn.Module] = {"backbone": backbone}
    if pool:
        stages["pooling"] = GridPooling()
    stages["projection"] = GridProjection(channels=channels, hidden_size=hidden_size)
    embedder = VisualEmbedder(
        stages,
        kind="grid",
        hidden_size=hidden_size,
        resolution=resolution,
        size_divisor=32,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    if weights:
        embedder.weights = load_weights(embedder, weights)
    return embedder


class GridPooling(nn.Module):
    """Max-pools 2×2 cells to one; a last odd row or column is dropped.

    Our reading: Pixel-BERT's paper tells of a pooling, and not of what kind.
    """

    def __init__(self) -> None:
        """Make the pooling."""
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, features: FeatureMaps) -> FeatureMaps:
        """Returns the map of half the edges.

        Raises:
            EmbedderError: the map is of less than 2×2 cells.
        """
        (cells,) = features.maps
        if min(cells.shape[-2:]) < 2:
            raise EmbedderError(
                f"an image of {features.size[0]}x{features.size[1]} pixels leaves {cells.shape[-2]}x{cells.shape[-1]} "
                "cells, too few for 2x2 pooling; raise `resolution` or give pool=false"
            )
        return features._replace(maps=(self.pool(cells),))


class GridProjection(nn.Module):
    """Projects each cell to a token and adds where it is: [B, C, h, w] to [B, h·w, D].

    The position is the sum of a learned row and a learned column embedding, both interpolated to the grid. That, and
    how many there are, is ours: Pixel-BERT's paper tells of a position embedding, and not of its form.
    """

    POSITIONS = 32

    def __init__(self, *, channels: int, hidden_size: int) -> None:
        """Make the 1×1 convolution and the two tables."""
        super().__init__()
        self.convolution = nn.Conv2d(channels, hidden_size, kernel_size=1)
        self.rows = nn.Parameter(torch.empty(1, hidden_size, self.POSITIONS))
        self.columns = nn.Parameter(torch.empty(1, hidden_size, self.POSITIONS))
        nn.init.normal_(self.rows, std=0.02)
        nn.init.normal_(self.columns, std=0.02)

    def forward(self, features: FeatureMaps) -> VisualTokens:
        """Returns a token a cell, in row-major order."""
        (cells,) = features.maps
        height, width = cells.shape[-2:]
        rows = interpolate(self.rows, size=height, mode="linear")  # (1, D, h)
        columns = interpolate(self.columns, size=width, mode="linear")  # (1, D, w)
        tokens = self.convolution(cells) + rows.unsqueeze(3) + columns.unsqueeze(2)  # (B, D, h, w)
        return VisualTokens(
            embeddings=tokens.flatten(2).transpose(1, 2),  # (B, D, h, w) → (B, N, D)
            mask=cells_with_image(features.mask, (height, width)),
            cells=(height, width),
        )
