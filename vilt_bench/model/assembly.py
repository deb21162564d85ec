"""Joins the tokens of all images of a text, as the last stage of a visual embedder.

Shapes: B texts, n images a text, t parts of an image that the tower takes each by itself, N visual tokens of a part,
M of an image, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vilt_bench.embedding import VisualEmbedder, VisualTokens
from vilt_bench.errors import EmbedderError

STAGE = "assembly"


class Assembly(nn.Module):
    """Puts the tokens of a text's images one behind the other: [B·n·t, N, D] to [B, n·M, D].

    Source: LLaVA-OneVision, section 3.2, and transformers' models of its kind: each image is embedded by itself, and
    its tokens stand where the text has the image.
    """

    def __init__(self, *, images: int, parts: int = 1, arrange: nn.Module | None = None) -> None:
        """Remember how many there are.

        Args:
            images: of a text.
            parts: of an image.
            arrange: makes an image's tokens of its parts', [B·n, t, N, D] to [B·n, M, D]; `None`: one part behind the
                other.
        """
        super().__init__()
        self.images = images
        self.parts = parts
        self.arrange = arrange

    @property
    def rows(self) -> int:
        """What the tower takes for each text: n·t."""
        return self.images * self.parts

    def forward(self, tokens: VisualTokens) -> VisualTokens:
        """Returns the tokens of all images of each text, in order.

        Raises:
            EmbedderError: parts are to be arranged, and tokens of them are masked.
        """
        if self.arrange is not None and tokens.mask is not None:
            raise EmbedderError("tokens of parts of an image are arranged as they are, and these have a mask")
        embeddings, whole = tokens.embeddings, self.parts == 1 and self.arrange is None
        if self.arrange is not None:
            parts = embeddings.view(-1, self.parts, *embeddings.shape[1:])  # (B·n·t, N, D) → (B·n, t, N, D)
            embeddings = self.arrange(parts)
        count = self.images if self.arrange is not None else self.rows
        return VisualTokens(
            _joined(embeddings, count),
            mask=None if tokens.mask is None else _joined(tokens.mask, count),
            boxes=None if tokens.boxes is None else _joined(tokens.boxes, count),
            grid=tokens.grid if whole else None,
            cells=tokens.cells if whole else None,
            images=self.images,
        )


class Newline(nn.Module):
    """Puts the parts of an image one behind the other, and a learned token at their end: [B·n, t, N, D] to [B·n, M, D].

    Source: LLaVA-OneVision's `image_newline`, of which a clip has one, behind its last frame.
    """

    def __init__(self, hidden_size: int) -> None:
        """Make the token, as transformers does."""
        super().__init__()
        self.token = nn.Parameter(drawn(hidden_size))

    def forward(self, parts: Tensor) -> Tensor:
        """Returns the tokens of all parts, and the newline."""
        end = self.token.to(parts.dtype).expand(len(parts), 1, -1)
        return torch.cat([parts.flatten(1, 2), end], dim=1)


def assembled(embedder: VisualEmbedder, assembly: Assembly | None) -> VisualEmbedder:
    """Returns the embedder with the assembly as its last stage; as it is where there is none.

    Args:
        embedder: is changed.
        assembly: of all that the tower takes for a text.

    Raises:
        EmbedderError: the embedder has such a stage already.
    """
    if assembly is None:
        return embedder
    if STAGE in embedder.stages:
        raise EmbedderError(f"the embedder has a stage {STAGE!r} of its own, and takes one image a text; name it anew")
    embedder.stages[STAGE] = assembly
    if embedder.weights != "random" and any(True for _ in assembly.parameters()):
        embedder.weights += f", {STAGE} random"
    return embedder


def rows_of(embedder: VisualEmbedder) -> int:
    """Returns how many rows the stages before the assembly have for each text."""
    found = [module.rows for module in embedder.modules() if isinstance(module, Assembly)]
    return found[0] if found else 1


def drawn(*shape: int) -> Tensor:
    """Returns values of tokens that stand between or behind an image's, as LLaVA draws its newline's."""
    return torch.randn(*shape).div(shape[-1] ** 0.5)


def _joined(values: Tensor, count: int) -> Tensor:
    """Returns [B, count·N, …] of [B·count, N, …]."""
    return values.reshape(len(values) // count, -1, *values.shape[2:])
