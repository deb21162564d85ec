"""Equation (1): text to tokens, as BERT embeds them.

Shapes: B texts, L text tokens, D hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import TextBatch
from vilt_bench.errors import InputError


class TextTokens(NamedTuple):
    """What the textual embedder returns."""

    embeddings: Tensor
    """[B, L, D]"""
    mask: Tensor | None = None
    """[B, L] bool, true where a token is to be attended to; `None`: all are."""


class TextualEmbedder(nn.Module):
    """Sums word, position and segment embeddings of each token, and normalises.

    Source: ViLT paper, equation (1); the segment table and the LayerNorm are BERT's.
    """

    def __init__(self, config: ViltConfig) -> None:
        """Make the tables."""
        super().__init__()
        self.words = nn.Embedding(config.vocabulary, config.hidden_size)
        self.positions = nn.Embedding(config.text_positions, config.hidden_size)
        # BERT tells two sentences apart; ViLT has one text, always segment 0.
        self.segments = nn.Embedding(2, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, text: TextBatch) -> TextTokens:
        """Returns a token for each token id.

        Raises:
            InputError: the text is longer than the position table.
        """
        length = text.token_ids.shape[1]
        if length > self.positions.num_embeddings:
            raise InputError(
                f"a text of {length} tokens is longer than the position table of {self.positions.num_embeddings}; "
                f"shorten it or give `text_positions` {length}"
            )
        places = self.positions.weight[:length] + self.segments.weight[0]
        return TextTokens(self.norm(self.words(text.token_ids) + places), text.mask)

    if TYPE_CHECKING:

        def __call__(self, text: TextBatch) -> TextTokens:
            """Returns a token for each token id."""
