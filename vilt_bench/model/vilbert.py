"""ViLBERT's two streams of different width, joined by co-attention.

Shapes: B pairs, L text tokens, N visual tokens, D the text's hidden size, V vision's, C the co-attention's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from vilt_bench.ask.case import ViltConfig
from vilt_bench.errors import ConfigError
from vilt_bench.model.bert import BertLayer, Mlp
from vilt_bench.model.interaction import ViltOutput
from vilt_bench.model.lxmert import LanguageEncoder, Streams, attend, split_heads
from vilt_bench.model.text import TextualEmbedder
from vilt_bench.model.vilt import SharedModel, sizes_of


@dataclass(frozen=True)
class VilbertConfig:
    """Sizes of ViLBERT.

    Source: ViLBERT paper, section 3.1, and the released configuration of six layers with six connections.
    """

    text: ViltConfig = field(default_factory=lambda: ViltConfig(text_positions=512))
    vision: ViltConfig = field(default_factory=lambda: ViltConfig(hidden_size=1024, layers=6, heads=8, mlp_size=1024))
    co_layers: int = 6
    """Each is followed by a layer of either stream; the text's other layers come first."""
    co_hidden_size: int = 1024
    co_heads: int = 8

    def __post_init__(self) -> None:
        """Check that the streams meet.

        Raises:
            ConfigError: a stream has too few layers, or the heads do not divide the co-attention.
        """
        if self.co_layers != self.vision.layers or self.co_layers > self.text.layers:
            raise ConfigError(
                f"ViLBERT with {self.co_layers} co-attention layers takes as many vision layers and no fewer text "
                f"layers, got {self.vision.layers} and {self.text.layers}; change co_layers"
            )
        if self.co_hidden_size % self.co_heads:
            raise ConfigError(f"co_hidden_size {self.co_hidden_size} must be a multiple of co_heads {self.co_heads}")


class Vilbert(SharedModel):
    """ViLBERT around any visual embedder; the embedder's tokens are as wide as the vision stream.

    Source: ViLBERT paper, section 3.1, and its released model.
    """

    def __init__(self, config: VilbertConfig) -> None:
        """Make the modules."""
        super().__init__(
            sizes_of(config.text),
            TextualEmbedder(config.text),
            {
                "language_encoder": LanguageEncoder(config.text, layers=config.text.layers - config.co_layers),
                "co_encoder": CoEncoder(config),
                "pooler": ProductPooler(config),
            },
            visual_size=config.vision.hidden_size,
        )


class CoEncoder(nn.Module):
    """Co-attention layers, each followed by a layer of either stream's own."""

    def __init__(self, config: VilbertConfig) -> None:
        """Stack the layers."""
        super().__init__()
        count = range(config.co_layers)
        self.co = nn.ModuleList(CoLayer(config) for _ in count)
        self.language = nn.ModuleList(BertLayer(config.text) for _ in count)
        self.vision = nn.ModuleList(BertLayer(config.vision) for _ in count)

    def forward(self, streams: Streams) -> Streams:
        """Returns both streams, each with what it read in the other."""
        for co, language, vision in zip(self.co, self.language, self.vision, strict=True):
            streams = co(streams)
            streams = streams._replace(
                language=language(streams.language, streams.language_mask),
                vision=vision(streams.vision, streams.vision_mask),
            )
        return streams


class CoLayer(nn.Module):
    """Each stream's queries over the other's keys and values in a space of their own, then an MLP each."""

    def __init__(self, config: VilbertConfig) -> None:
        """Make the projections into the common space and out of it, and the MLPs."""
        super().__init__()
        self.heads = config.co_heads
        text, vision, common = config.text, config.vision, config.co_hidden_size
        self.language_qkv = nn.Linear(text.hidden_size, 3 * common)
        self.vision_qkv = nn.Linear(vision.hidden_size, 3 * common)
        self.language_projection = nn.Linear(common, text.hidden_size)
        self.vision_projection = nn.Linear(common, vision.hidden_size)
        self.language_norm = nn.LayerNorm(text.hidden_size, eps=text.layer_norm_eps)
        self.vision_norm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.language_mlp = Mlp(hidden_size=text.hidden_size, mlp_size=text.mlp_size, eps=text.layer_norm_eps)
        self.vision_mlp = Mlp(hidden_size=vision.hidden_size, mlp_size=vision.mlp_size, eps=vision.layer_norm_eps)

    def forward(self, streams: Streams) -> Streams:
        """Returns both streams."""
        query, key, value = split_heads(self.language_qkv(streams.language), self.heads)
        visual_query, visual_key, visual_value = split_heads(self.vision_qkv(streams.vision), self.heads)
        read_vision = attend(query, visual_key, visual_value, streams.vision_mask)  # (B, L, C)
        read_language = attend(visual_query, key, value, streams.language_mask)  # (B, N, C)
        language = self.language_norm(self.language_projection(read_vision) + streams.language)
        vision = self.vision_norm(self.vision_projection(read_language) + streams.vision)
        return streams._replace(language=self.language_mlp(language), vision=self.vision_mlp(vision))


class ProductPooler(nn.Module):
    """Projects the first token of each stream into the common space, and multiplies the two."""

    def __init__(self, config: VilbertConfig) -> None:
        """Make the projections."""
        super().__init__()
        self.language = nn.Linear(config.text.hidden_size, config.co_hidden_size)
        self.vision = nn.Linear(config.vision.hidden_size, config.co_hidden_size)

    def forward(self, streams: Streams) -> ViltOutput:
        """Returns the language's tokens [B, L, D], as the streams differ in width, and the pooled output [B, C]."""
        language = self._pool(self.language, streams.language)
        return ViltOutput(streams.language, language * self._pool(self.vision, streams.vision))

    def _pool(self, projection: nn.Module, tokens: Tensor) -> Tensor:
        return projection(tokens[:, 0]).relu()  # type: ignore[no-any-return]
