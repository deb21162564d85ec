"""Equations (2) to (6): both modalities joined, the transformer, the pooler.

Shapes: B texts, L text tokens, n images a text, N visual tokens of an image, S = L + 1 + N, D hidden size. Each image
is paired with its text: B·n pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import VisualTokens
from vilt_bench.model.positions import interpolate_positions, interpolate_positions_padded
from vilt_bench.model.text import TextTokens


class Modalities(NamedTuple):
    """What the modality interaction takes."""

    text: TextTokens
    visual: VisualTokens


class JointTokens(NamedTuple):
    """z_0: the tokens of both modalities."""

    embeddings: Tensor
    """[B·n, S, D]: the text, the image's class token, the visual tokens."""
    mask: Tensor | None = None
    """[B·n, S] bool, true where a token is to be attended to; `None`: all are."""


class ViltOutput(NamedTuple):
    """What ViLT returns."""

    tokens: Tensor
    """[B·n, S, D]: z_D after the final LayerNorm."""
    pooled: Tensor
    """[B, n·D]: p of equation (6), of a text's pairs one behind the other."""


class Concatenation(nn.Module):
    """Adds class token, positions and types, and joins the modalities: equations (2) and (3).

    Of several images each is paired with its text and has a modality type of its own, and all pairs are one batch.

    Source: ViLT paper, section 4.3, "the pair method"; transformers' `ViltForImagesAndTextClassification`.
    """

    def __init__(self, config: ViltConfig, *, images: int = 1) -> None:
        """Make the class token and the tables."""
        super().__init__()
        self.images = images
        rows, columns = config.image_positions
        self.table_size = config.image_positions
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.positions = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.hidden_size))  # class token's first
        self.types = nn.Embedding(1 + images, config.hidden_size)  # text, image, further images

    def forward(self, modalities: Modalities) -> JointTokens:
        """Returns z_0 and its mask."""
        text, visual = self._pairs(*modalities)
        text_type, image_type = self.types.weight[0], self._image_types(len(text.embeddings))
        class_token = self.class_token + self.positions[:, :1] + image_type  # (1, 1, D) or (B·n, 1, D)
        class_tokens = VisualTokens(class_token.expand(len(visual.embeddings), -1, -1))
        embeddings = torch.cat(
            [
                text.embeddings + text_type,
                class_tokens.embeddings,
                visual.embeddings + self._positions(visual) + image_type,
            ],
            dim=1,
        )
        return JointTokens(embeddings, join_masks(text, class_tokens, visual))

    def _pairs(self, text: TextTokens, visual: VisualTokens) -> tuple[TextTokens, VisualTokens]:
        """Returns each image with its text: B·n of both."""
        if self.images == 1:
            return text, visual
        (embeddings, text_mask), mask, n = text, visual.mask, self.images
        pairs = n * len(embeddings)
        return (
            TextTokens(
                embeddings.repeat_interleave(n, dim=0),
                None if text_mask is None else text_mask.repeat_interleave(n, dim=0),
            ),
            VisualTokens(
                visual.embeddings.reshape(pairs, -1, embeddings.shape[2]),  # (B, n·N, D) → (B·n, N, D)
                None if mask is None else mask.reshape(pairs, -1),
                grid=visual.grid,
            ),
        )

    def _image_types(self, pairs: int) -> Tensor:
        """Returns the type of each pair's image, [D] or [B·n, 1, D]."""
        if self.images == 1:
            return self.types.weight[1]
        return self.types.weight[1:].repeat(pairs // self.images, 1).unsqueeze(1)

    def _positions(self, visual: VisualTokens) -> Tensor:
        if visual.grid is None:
            return visual.embeddings.new_zeros(())
        table = self.positions[0, 1:].view(*self.table_size, -1)  # (H, W, D)
        if visual.mask is None:
            return interpolate_positions(table, visual.grid)
        return interpolate_positions_padded(table, visual.mask, visual.grid)


class Attention(nn.Module):
    """Multi-head self-attention, MSA of equation (4)."""

    def __init__(self, config: ViltConfig) -> None:
        """Make one projection for queries, keys and values, and one for the output."""
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Returns [B, S, D]; the mask is [B, 1, 1, S] bool."""
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (B, S, 3D) → (B, S, 3, heads, D/heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # views: (B, heads, S, D/heads) each
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.projection(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer d, pre-norm: equations (4) and (5). It has no dropout: this model is measured, not trained."""

    def __init__(self, config: ViltConfig) -> None:
        """Make attention, MLP and their norms."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden_size, config.mlp_size),
            nn.GELU(),
            nn.Linear(config.mlp_size, config.hidden_size),
        )

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Returns z_d of z_{d-1}, [B, S, D]."""
        tokens = self.attention(self.attention_norm(tokens), mask) + tokens  # (4)
        return self.mlp(self.mlp_norm(tokens)) + tokens  # type: ignore[no-any-return]  # (5)


class Transformer(nn.Module):
    """All layers and the final LayerNorm: [B, S, D] to [B, S, D]."""

    def __init__(self, config: ViltConfig) -> None:
        """Stack the layers."""
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, joint: JointTokens) -> Tensor:
        """Returns z_D, normalised."""
        tokens, mask = joint
        if mask is not None:
            mask = mask[:, None, None, :]  # the same for all heads and queries
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.norm(tokens)  # type: ignore[no-any-return]


class Pooler(nn.Module):
    """Projects the first token and squashes it: equation (6)."""

    def __init__(self, config: ViltConfig, *, images: int = 1) -> None:
        """Make the projection."""
        super().__init__()
        self.images = images
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> ViltOutput:
        """Returns the tokens, and p."""
        pooled = self.projection(tokens[:, 0]).tanh()
        return ViltOutput(tokens, pooled if self.images == 1 else pooled.view(len(tokens) // self.images, -1))


def join_masks(*modalities: TextTokens | VisualTokens) -> Tensor | None:
    """Returns the mask of tokens one modality after the other, [B, S] bool; `None`: all are to be attended to."""
    if all(tokens.mask is None for tokens in modalities):
        return None  # known without a look at the data, so that attention runs without a mask
    return torch.cat([_mask_of(tokens) for tokens in modalities], dim=1)


def _mask_of(tokens: TextTokens | VisualTokens) -> Tensor:
    if tokens.mask is not None:
        return tokens.mask
    return tokens.embeddings.new_ones(tokens.embeddings.shape[:2], dtype=torch.bool)
