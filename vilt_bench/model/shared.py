"""Builds the model that a visual embedder is put in front of."""

from __future__ import annotations

from vilt_bench.config import Interaction, ViltConfig
from vilt_bench.model.bert import Bert
from vilt_bench.model.lxmert import Lxmert, LxmertConfig
from vilt_bench.model.vilbert import Vilbert, VilbertConfig
from vilt_bench.model.vilt import SharedModel, Vilt


def build_shared(interaction: Interaction, config: ViltConfig) -> SharedModel:
    """Returns all of a model but its visual embedder.

    Args:
        interaction: what joins the modalities.
        config: sizes of the shared ViLT or BERT; of LXMERT all but its numbers of layers, which are the paper's; of
            ViLBERT's text stream, whose visual stream is the paper's.

    Raises:
        ConfigError: the sizes do not fit each other.
    """
    match interaction:
        case "vilt":
            return Vilt(config)
        case "bert":
            return Bert(config)
        case "lxmert":
            return Lxmert(
                LxmertConfig(
                    hidden_size=config.hidden_size,
                    heads=config.heads,
                    mlp_size=config.mlp_size,
                    vocabulary=config.vocabulary,
                    text_positions=config.text_positions,
                )
            )
        case "vilbert":
            return Vilbert(VilbertConfig(text=config))
