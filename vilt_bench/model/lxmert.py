"""LXMERT's cross-modality encoder: a stream for language, one for vision, and layers in which each reads the other.

Shapes: B pairs, L text tokens, N visual tokens, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vilt_bench.ask.case import ViltConfig
from vilt_bench.model.bert import BertLayer, for_keys, refuse_grid
from vilt_bench.model.interaction import Modalities, ViltOutput
from vilt_bench.model.text import TextualEmbedder
from vilt_bench.model.vilt import SharedModel, sizes_of


@dataclass(frozen=True)
class LxmertConfig(ViltConfig):
    """Sizes of LXMERT; `layers` counts those of language alone.

    Source: LXMERT paper, section 2.2 and 3.3.
    """

    layers: int = 9
    text_positions: int = 512
    vision_layers: int = 5
    cross_layers: int = 5


class Streams(NamedTuple):
    """The tokens of both modalities, side by side, with masks for the attention that reads them."""

    language: Tensor
    """[B, L, D]"""
    language_mask: Tensor | None
    """[B, 1, 1, L] bool"""
    vision: Tensor
    """[B, N, D], or of vision's own width."""
    vision_mask: Tensor | None
    """[B, 1, 1, N] bool"""


class Lxmert(SharedModel):
    """LXMERT around any visual embedder.

    Source: LXMERT paper, section 2.2, and its released model.
    """

    def __init__(self, config: LxmertConfig) -> None:
        """Make the modules."""
        super().__init__(
            sizes_of(config),
            TextualEmbedder(config),
            {
                "language_encoder": LanguageEncoder(config, layers=config.layers),
                "vision_encoder": VisionEncoder(config, layers=config.vision_layers),
                "cross_encoder": CrossEncoder(config),
                "pooler": LanguagePooler(config),
            },
        )


class LanguageEncoder(nn.Module):
    """The layers that see the text alone."""

    def __init__(self, config: ViltConfig, *, layers: int) -> None:
        """Stack the layers."""
        super().__init__()
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(layers))

    def forward(self, modalities: Modalities) -> Streams:
        """Returns both streams, language's encoded.

        Raises:
            EmbedderError: the visual tokens have no positions yet.
        """
        text, visual = modalities
        refuse_grid(visual)
        language, mask = text.embeddings, for_keys(text.mask)
        for layer in self.layers:
            language = layer(language, mask)
        return Streams(language, mask, visual.embeddings, for_keys(visual.mask))


class VisionEncoder(nn.Module):
    """The layers that see the image alone."""

    def __init__(self, config: ViltConfig, *, layers: int) -> None:
        """Stack the layers."""
        super().__init__()
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(layers))

    def forward(self, streams: Streams) -> Streams:
        """Returns both streams, vision's encoded."""
        vision = streams.vision
        for layer in self.layers:
            vision = layer(vision, streams.vision_mask)
        return streams._replace(vision=vision)


class CrossEncoder(nn.Module):
    """The layers in which each stream reads the other."""

    def __init__(self, config: LxmertConfig) -> None:
        """Stack the layers."""
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(config) for _ in range(config.cross_layers))

    def forward(self, streams: Streams) -> Streams:
        """Returns both streams, each with what it read in the other."""
        for layer in self.layers:
            streams = layer(streams)
        return streams


class CrossLayer(nn.Module):
    """Cross-attention with the same weights in both directions, then self-attention and MLP of each stream's own."""

    def __init__(self, config: ViltConfig) -> None:
        """Make the sub-layers."""
        super().__init__()
        self.cross = CrossAttention(config)
        self.language = BertLayer(config)
        self.vision = BertLayer(config)

    def forward(self, streams: Streams) -> Streams:
        """Returns both streams."""
        language, vision = self.cross(streams)
        return streams._replace(
            language=self.language(language, streams.language_mask),
            vision=self.vision(vision, streams.vision_mask),
        )


class CrossAttention(nn.Module):
    """Each stream's queries over the other's keys and values, added and normalised."""

    def __init__(self, config: ViltConfig) -> None:
        """Make the projections, one set for both directions."""
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, streams: Streams) -> tuple[Tensor, Tensor]:
        """Returns the language's tokens [B, L, D] and the vision's [B, N, D]."""
        # As the weights are shared, one projection serves a stream both as it reads and as it is read.
        query, key, value = split_heads(self.qkv(streams.language), self.heads)
        visual_query, visual_key, visual_value = split_heads(self.qkv(streams.vision), self.heads)
        read_vision = attend(query, visual_key, visual_value, streams.vision_mask)
        read_language = attend(visual_query, key, value, streams.language_mask)
        return (
            self.norm(self.projection(read_vision) + streams.language),
            self.norm(self.projection(read_language) + streams.vision),
        )


class LanguagePooler(nn.Module):
    """Projects the text's first token and squashes it."""

    def __init__(self, config: ViltConfig) -> None:
        """Make the projection."""
        super().__init__()
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, streams: Streams) -> ViltOutput:
        """Returns the tokens of both streams, language first, and the pooled output."""
        tokens = torch.cat([streams.language, streams.vision], dim=1)
        return ViltOutput(tokens, self.projection(streams.language[:, 0]).tanh())


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, keys and values [B, heads, S, D/heads] of their joint projection [B, S, 3·D], as views."""
    query, key, value = qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
    return query, key, value


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Returns what each query reads, its heads joined: [B, S, D]."""
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
