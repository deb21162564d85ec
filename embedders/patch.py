"""Linear visual embedders: one convolution projects the patches, as in ViLT."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from vilt_bench.embedding import ImageBatch, VisualEmbedder, VisualTokens
from vilt_bench.errors import EmbedderError
from vilt_bench.weights import load_weights


def patch32(*, hidden_size: int = 768, weights: str = "") -> VisualEmbedder:
    """Returns ViLT-B/32's patch projection: 2,360,064 parameters at D = 768.

    Source: ViLT paper, section 3.1, equation (2).
    """
    return patch(patch_size=32, hidden_size=hidden_size, weights=weights)


def patch16(*, hidden_size: int = 768, weights: str = "") -> VisualEmbedder:
    """Returns a projection of patches of 16×16 pixels, as in ViT-B/16."""
    return patch(patch_size=16, hidden_size=hidden_size, weights=weights)


def patch(*, patch_size: int = 32, hidden_size: int = 768, weights: str = "") -> VisualEmbedder:
    """Returns a linear projection of patches of any size; the shared model adds the positions.

    Args:
        patch_size: edge of a patch, in pixels.
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
        {"projection": PatchProjection(patch_size=patch_size, hidden_size=hidden_size)},
        kind="linear",
        hidden_size=hidden_size,
        resolution=(384, 640),
        # ViLT pads to multiples of 32; a patch that does not divide 32 asks for its own.
        size_divisor=patch_size if 32 % patch_size else 32,
        weights=weights or "random",
    )
    if weights:
        load_weights(embedder, weights)
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
        height, width = images.pixels.shape[-2:]
        size = self.patch_size
        if height < size or width < size:
            raise EmbedderError(
                f"a patch of {size}x{size} pixels is larger than the image of {height}x{width}; "
                "raise --resolution or lower patch_size"
            )
        if height % size or width % size:
            raise EmbedderError(
                f"an image of {height}x{width} pixels is no whole number of {size}x{size} patches; "
                f"expected edges that are multiples of {size}"
            )
        features = self.convolution(images.pixels)  # (B, D, h, w)
        grid = (height // size, width // size)
        return VisualTokens(
            embeddings=features.flatten(2).transpose(1, 2),  # (B, D, h, w) → (B, N, D)
            mask=cells_with_image(images.mask, grid),
            grid=grid,
        )


def cells_with_image(mask: Tensor | None, grid: tuple[int, int]) -> Tensor | None:
    """Returns which cells of the grid show the image, [B, h·w] bool, by the nearest pixel of [B, H, W]."""
    if mask is None:
        return None
    return interpolate(mask.unsqueeze(1).float(), size=grid, mode="nearest").flatten(1).bool()
