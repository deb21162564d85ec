"""Builds the model that a visual embedder is put in front of."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from vilt_bench.ask.case import ALONE, LANGUAGE_MODEL, ViltConfig
from vilt_bench.errors import ConfigError
from vilt_bench.model.alone import Alone, alone_sizes
from vilt_bench.model.bert import Bert
from vilt_bench.model.language import LanguageModel, language_sizes
from vilt_bench.model.lxmert import Lxmert, LxmertConfig
from vilt_bench.model.vilbert import Vilbert, VilbertConfig
from vilt_bench.model.vilt import SharedModel, Sizes, Vilt, sizes_of


class _Undrawn(TorchFunctionMode):
    """Leaves out the values that torch draws for new linear layers and embeddings: `SharedModel` draws its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, unless it is what `nn.Linear` and `nn.Embedding` call for their weights."""
        if func in (nn.init.kaiming_uniform_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build_shared(interaction: str, config: ViltConfig, *, images_per_text: int = 1) -> SharedModel:
    """Returns all of a model but its visual embedder.

    Args:
        interaction: what joins the modalities; see `Case.interaction`.
        config: sizes of the shared ViLT or BERT; of LXMERT all but its numbers of layers, which are the paper's; of
            ViLBERT's text stream, whose visual stream is the paper's.
        images_per_text: of which ViLT has a modality type each; a language model takes any number, others take one.

    Raises:
        ConfigError: the sizes do not fit each other, or there is no such language model.
    """
    if interaction.startswith(LANGUAGE_MODEL):
        return LanguageModel(interaction.removeprefix(LANGUAGE_MODEL))
    if interaction != ALONE:
        config.check_heads()
    with _Undrawn():
        return _build(interaction, config, images_per_text)


def _build(interaction: str, config: ViltConfig, images_per_text: int) -> SharedModel:
    match interaction:
        case "none":
            return Alone(config)
        case "vilt":
            return Vilt(config, images_per_text=images_per_text)
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
        case _:
            raise ConfigError(f"no interaction {interaction!r}")


def shared_sizes(interaction: str, config: ViltConfig) -> Sizes:
    """Returns the sizes of a model that is not built; arguments as for `build_shared`.

    Raises:
        ConfigError: there is no such language model.
    """
    if interaction.startswith(LANGUAGE_MODEL):
        return language_sizes(interaction.removeprefix(LANGUAGE_MODEL))
    return alone_sizes(config) if interaction == ALONE else sizes_of(config)
