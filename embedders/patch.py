"""Linear visual embedders: patches projected without a backbone, as in ViLT and the encoder-free models after it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vilt_bench.embedding import ImageBatch, VisualEmbedder, VisualTokens
from vilt_bench.embedding.cells import cells_with_image
from vilt_bench.embedding.weights import load_weights
from vilt_bench.errors import EmbedderError

Style = Literal["plain", "norm", "mlp"]
"""What projects a patch: a linear layer; one between norms with positions of its own; or an MLP."""


def patch32(*, hidden_size: int = 768, weights: str = "") -> VisualEmbedder:
    """Returns ViLT-B/32's patch projection: 2,360,064 parameters at D = 768.

    Source: ViLT paper, section 3.1, equation (2).
    """
    return patch(patch_size=32, hidden_size=hidden_size, weights=weights)


def patch16(*, hidden_size: int = 768, weights: str = "") -> VisualEmbedder:
    """Returns a projection of patches of 16×16 pixels, as in ViT-B/16."""
    return patch(patch_size=16, hidden_size=hidden_size, weights=weights)


def patch(*, patch_size: int = 32, style: Style = "plain", hidden_size: int = 768, weights: str = "") -> VisualEmbedder:
    """Returns a projection of patches of any size; the shared model adds the positions unless the style has its own.

    Args:
        patch_size: edge of a patch, in pixels.
        style: `plain` as in ViLT and Fuyu; `norm` as `NormedPatches`; `mlp` as `PatchMlp`.
        hidden_size: D of the tokens.
        weights: a file with the projection's weights; empty: random.

    Raises:
        EmbedderError: the patch size is below 1 pixel.
    """
    if patch_size < 1:
        raise EmbedderError(
            f"patch_size={patch_size} is no edge of a patch; expected 1 pixel or more, as in patch_size=32"
        )
    embedder = VisualEmbedder(
        {"projection": _STYLES[style](patch_size=patch_size, hidden_size=hidden_size)},
        kind="linear",
        hidden_size=hidden_size,
        resolution=(384, 640),
        # ViLT pads to multiples of 32; a patch that does not divide 32 asks for its own.
        size_divisor=patch_size if 32 % patch_size else 32,
    )
    if weights:
        embedder.weights = load_weights(embedder, weights)
    return embedder


class PatchProjection(nn.Module):
    """Projects each patch of P×P pixels to a token: [B, 3, H, W] to [B, (H/P)·(W/P), D]."""

    def __init__(self, *, patch_size: int, hidden_size: int) -> None:
        """Make the convolution whose kernel and stride are the patch."""
        super().__init__()
        self.patch_size = patch_size
        self.convolution = nn.Conv2d(3, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: ImageBatch) -> VisualTokens:
        """Returns a token a patch, in row-major order, and the grid they form.

        Raises:
            EmbedderError: the patch is larger than the image, or the image is no whole number of patches.
        """
        grid = _grid(images, self.patch_size)
        features = self.convolution(images.pixels)  # (B, D, h, w)
        return VisualTokens(
            embeddings=features.flatten(2).transpose(1, 2),  # (B, D, h, w) → (B, N, D)
            mask=cells_with_image(images.mask, grid),
            grid=grid,
        )


class NormedPatches(nn.Module):
    """Projects each patch between LayerNorms and adds a row's and a column's position: [B, 3, H, W] to [B, N, D].

    Source: Gemma 4 "unified", transformers' `Gemma4UnifiedVisionEmbedder` up to its multimodal embedder.
    """

    POSITIONS = 1120

    def __init__(self, *, patch_size: int, hidden_size: int) -> None:
        """Make norms, linear layer and the tables of positions."""
        super().__init__()
        self.patch_size = patch_size
        self.patch_norm = nn.LayerNorm(3 * patch_size**2)
        self.linear = nn.Linear(3 * patch_size**2, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.positions = nn.Parameter(torch.empty(self.POSITIONS, 2, hidden_size))
        nn.init.normal_(self.positions, std=0.02)
        self.position_norm = nn.LayerNorm(hidden_size)

    def forward(self, images: ImageBatch) -> VisualTokens:
        """Returns a token a patch, in row-major order.

        Raises:
            EmbedderError: as `PatchProjection`, or an edge has more patches than there are positions.
        """
        height, width = grid = _grid(images, self.patch_size)
        if max(grid) > self.POSITIONS:
            raise EmbedderError(
                f"{max(grid)} patches along an edge are more than the {self.POSITIONS} positions; "
                "lower `resolution` or raise patch_size"
            )
        tokens = self.norm(self.linear(self.patch_norm(_patches(images, self.patch_size))))
        rows, columns = self.positions[:height, 1], self.positions[:width, 0]
        positions = (rows.unsqueeze(1) + columns).flatten(0, 1)  # (h, 1, D) + (w, D) → (N, D)
        return VisualTokens(
            embeddings=self.position_norm(tokens + positions), mask=cells_with_image(images.mask, grid), cells=grid
        )


class PatchMlp(nn.Module):
    """Maps each patch by a LayerNorm and an MLP that is 2·D wide: [B, 3, H, W] to [B, N, D].

    Source: transformers' `NeoMMEPatchEmbeddings`.
    """

    def __init__(self, *, patch_size: int, hidden_size: int) -> None:
        """Make the norm and the two linear layers."""
        super().__init__()
        self.patch_size = patch_size
        self.mlp = nn.Sequential(
            nn.LayerNorm(3 * patch_size**2),
            nn.Linear(3 * patch_size**2, 2 * hidden_size, bias=False),
            nn.GELU(),
            nn.Linear(2 * hidden_size, hidden_size),
        )

    def forward(self, images: ImageBatch) -> VisualTokens:
        """Returns a token a patch, in row-major order, and the grid they form.

        Raises:
            EmbedderError: as `PatchProjection`.
        """
        grid = _grid(images, self.patch_size)
        tokens = self.mlp(_patches(images, self.patch_size))
        return VisualTokens(embeddings=tokens, mask=cells_with_image(images.mask, grid), grid=grid)


_STYLES = {"plain": PatchProjection, "norm": NormedPatches, "mlp": PatchMlp}


def _grid(images: ImageBatch, size: int) -> tuple[int, int]:
    """Returns the (h, w) of the patches.

    Raises:
        EmbedderError: the patch is larger than the image, or the image is no whole number of patches.
    """
    height, width = images.pixels.shape[-2:]
    if height < size or width < size:
        raise EmbedderError(
            f"a patch of {size}x{size} pixels is larger than the image of {height}x{width}; "
            "raise `resolution` or lower patch_size"
        )
    if height % size or width % size:
        raise EmbedderError(
            f"an image of {height}x{width} pixels is no whole number of {size}x{size} patches; "
            f"expected edges that are multiples of {size}"
        )
    return height // size, width // size


def _patches(images: ImageBatch, size: int) -> Tensor:
    """Returns the patches' pixels, row by row and RGB by RGB, [B, N, 3·P²]."""
    height, width = _grid(images, size)
    cut = images.pixels.reshape(-1, 3, height, size, width, size)  # (B, 3, H, W) → (B, 3, h, P, w, P)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, h, w, P, P, 3) → (B, N, 3·P²)
