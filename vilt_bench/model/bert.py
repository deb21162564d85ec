"""BERT's single stream around any visual embedder, post-norm: UNITER, OSCAR, VisualBERT, Pixel-BERT and others.

Shapes: B pairs, L text tokens, N visual tokens, S = L + N, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import VisualTokens
from vilt_bench.errors import EmbedderError
from vilt_bench.model.interaction import Attention, JointTokens, Modalities, Pooler, join_masks
from vilt_bench.model.text import TextualEmbedder
from vilt_bench.model.vilt import SharedModel, sizes_of


class Bert(SharedModel):
    """Both modalities in one BERT; the visual tokens are its second segment.

    Source: BERT's released model; how the visual tokens come in is that of UNITER, section 3.1.
    """

    def __init__(self, config: ViltConfig) -> None:
        """Make the modules; the config's image positions are not used."""
        super().__init__(
            sizes_of(config),
            TextualEmbedder(config),
            {
                "concatenation": BertConcatenation(config),
                "transformer": BertTransformer(config),
                "pooler": Pooler(config),
            },
        )


class BertConcatenation(nn.Module):
    """Adds the segment to the visual tokens, normalises them, and puts them after the text."""

    def __init__(self, config: ViltConfig) -> None:
        """Make the visual tokens' segment and norm; the text has had its own."""
        super().__init__()
        self.segment = nn.Parameter(torch.empty(config.hidden_size))
        nn.init.trunc_normal_(self.segment, std=0.02)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, modalities: Modalities) -> JointTokens:
        """Returns the tokens of both modalities and their mask.

        Raises:
            EmbedderError: the visual tokens have no positions yet.
        """
        text, visual = modalities
        refuse_grid(visual)
        joint = torch.cat([text.embeddings, self.norm(visual.embeddings + self.segment)], dim=1)
        return JointTokens(joint, join_masks(text, visual))


class BertLayer(nn.Module):
    """One layer, post-norm: [B, S, D] to [B, S, D]. It has no dropout: this model is measured, not trained."""

    def __init__(self, config: ViltConfig) -> None:
        """Make attention, MLP and their norms."""
        super().__init__()
        self.attention = SelfAttention(config)
        self.mlp = Mlp(hidden_size=config.hidden_size, mlp_size=config.mlp_size, eps=config.layer_norm_eps)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the layer's tokens; the mask is [B, 1, 1, S] bool."""
        return self.mlp(self.attention(tokens, mask))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Self-attention, added and normalised: [B, S, D] to [B, S, D]."""

    def __init__(self, config: ViltConfig) -> None:
        """Make the attention and its norm."""
        super().__init__()
        self.attention = Attention(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the tokens; the mask is [B, 1, 1, S] bool."""
        return self.norm(self.attention(tokens, mask) + tokens)  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with a GELU between, added and normalised: [B, S, D] to [B, S, D]."""

    def __init__(self, *, hidden_size: int, mlp_size: int, eps: float) -> None:
        """Make the layers and the norm."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden_size, mlp_size), nn.GELU(), nn.Linear(mlp_size, hidden_size))
        self.norm = nn.LayerNorm(hidden_size, eps=eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the tokens."""
        return self.norm(self.layers(tokens) + tokens)  # type: ignore[no-any-return]


class BertTransformer(nn.Module):
    """All layers: [B, S, D] to [B, S, D]."""

    def __init__(self, config: ViltConfig) -> None:
        """Stack the layers."""
        super().__init__()
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.layers))

    def forward(self, joint: JointTokens) -> Tensor:
        """Returns the last layer's tokens."""
        tokens, mask = joint.embeddings, for_keys(joint.mask)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return tokens


def for_keys(mask: Tensor | None) -> Tensor | None:
    """Returns a mask [B, S] for scaled dot-product attention, [B, 1, 1, S]: the same for all heads and queries."""
    return None if mask is None else mask[:, None, None, :]


def refuse_grid(visual: VisualTokens) -> None:
    """Refuse visual tokens that wait for ViLT's V_pos.

    Raises:
        EmbedderError: the visual tokens have no positions yet.
    """
    if visual.grid is not None:
        raise EmbedderError(
            "the embedder leaves image positions to the shared model, and only ViLT adds them; "
            "expected one that adds its own, such as grid-r50"
        )
