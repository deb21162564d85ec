"""A decoder-only language model behind any visual embedder, up to its first token: what a user waits for.

Shapes: B pairs, L text tokens, N visual tokens, S = N + L, D hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vilt_bench.ask.case import LANGUAGE_MODEL
from vilt_bench.embedding import TextBatch
from vilt_bench.embedding.configurations import INSTALL, explained, find_configuration, one_line
from vilt_bench.errors import ConfigError, InputError
from vilt_bench.model.interaction import JointTokens, Modalities, join_masks
from vilt_bench.model.text import TextTokens
from vilt_bench.model.vilt import SharedModel, Sizes

TABLE = Path(__file__).with_name("languages.json")
"""Public configurations, each with its source."""

_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
"""What transformers' decoders call their last normalisation."""

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_PARTS = {"words": "table of words", "head": "head"}


class Prefilled(NamedTuple):
    """What the prefill leaves."""

    hidden: Tensor
    """[B, S, D]: of the last layer, before the last normalisation where that can be told apart."""
    mask: Tensor | None
    """[B, S] bool, true where a token counts; `None`: all do."""
    cache: Any
    """Keys and values of all layers, from which an answer would go on."""


class FirstToken(NamedTuple):
    """What a user waits for."""

    logits: Tensor
    """[B, V]"""
    token_ids: Tensor
    """[B]: the likeliest."""


class LanguageModel(SharedModel):
    """All of a LLaVA-style vision-language model but its visual embedder, up to the first token."""

    def __init__(self, name: str) -> None:
        """Build the language model from its configuration, with random weights.

        Raises:
            ConfigError: there is no such configuration, or it is no causal language model's.
            CheckpointError: the configuration can't be fetched or read.
        """
        config = _text_config(name)
        with explained(f"{LANGUAGE_MODEL}{name}", config.model_type, library="transformers", error=ConfigError):
            decoder = _create(config)
            base: Any = decoder.base_model
            words, head = decoder.get_input_embeddings(), decoder.get_output_embeddings()
            _check_parts(name, config, words=words, head=head)
        width: int = config.hidden_size
        super().__init__(
            decoder_sizes(config),
            LanguageEmbedding(words),
            {"connector": Connector(width, longest=_longest(config))},
        )
        # After the weights were drawn: transformers has drawn the decoder's as each model wants them.
        norm = next((part for part in _NORMS if isinstance(getattr(base, part, None), nn.Module)), None)
        last: nn.Module = nn.Identity()
        if norm is not None:
            last = getattr(base, norm)
            setattr(base, norm, nn.Identity())
        self.modality_interaction.stages["prefill"] = Prefill(base)
        self.modality_interaction.stages["first_token"] = TokenHead(last, head)


class LanguageEmbedding(nn.Module):
    """Looks up the prompt's tokens: [B, L] to [B, L, D]. A language model adds positions within its layers."""

    def __init__(self, words: nn.Module) -> None:
        """Take the language model's table."""
        super().__init__()
        self.words = words

    def forward(self, text: TextBatch) -> TextTokens:
        """Returns a token for each token id."""
        return TextTokens(self.words(text.token_ids), text.mask)


class Connector(nn.Module):
    """GELU and the second linear layer of LLaVA's connector, then the prompt behind the visual tokens.

    The visual embedder's projection, to the language model's width, is the connector's first layer: together they are
    LLaVA's MLP of two layers.

    Source: LLaVA-1.5, section 3.2; transformers' `LlavaMultiModalProjector`.
    """

    def __init__(self, hidden_size: int, *, longest: int | None) -> None:
        """Make the layer.

        Args:
            hidden_size: D
            longest: tokens that the language model has positions for; `None`: any number.
        """
        super().__init__()
        self.longest = longest
        self.activation = nn.GELU()
        self.linear = nn.Linear(hidden_size, hidden_size)

    def forward(self, modalities: Modalities) -> JointTokens:
        """Returns visual tokens and prompt, in this order, with their mask.

        Raises:
            InputError: they are more than the language model has positions for.
        """
        text, visual = modalities
        check_positions(
            self.longest,
            visual=visual.embeddings.shape[1],
            text=text.embeddings.shape[1],
            several=("images_per_text",) if visual.images > 1 else (),
        )
        projected = self.linear(self.activation(visual.embeddings))
        return JointTokens(torch.cat([projected, text.embeddings], dim=1), join_masks(visual, text))


def check_positions(longest: int | None, *, visual: int, text: int, several: Sequence[str] = ()) -> None:
    """Refuse more tokens than a language model has positions for.

    Args:
        longest: how many it has; `None`: any number.
        visual: tokens of all images of a text.
        text: tokens of it.
        several: fields of the case of which a text has more than one.

    Raises:
        InputError: they are more.
    """
    if longest is not None and visual + text > longest:
        lower = "".join(f"`{name}`, " for name in several if name != "tiles")
        fewer = ", or cut fewer `tiles`" if "tiles" in several else ""
        raise InputError(
            f"{visual} visual and {text} text tokens are more than the {longest} positions of the language model; "
            f"lower {lower}`resolution` or `text_length`, or use `reduce`{fewer}"
        )


class Prefill(nn.Module):
    """Runs all layers over visual tokens and prompt, and fills the cache of keys and values that it allocates."""

    def __init__(self, decoder: nn.Module) -> None:
        """Take the decoder, without its last normalisation."""
        super().__init__()
        self.decoder = decoder

    def forward(self, joint: JointTokens) -> Prefilled:
        """Returns the last layer's tokens and the cache."""
        embeddings, mask = joint
        # Padded tokens have no place: those after them move up.
        places = None if mask is None else (mask.cumsum(dim=1) - 1).clamp(min=0)
        output = self.decoder(inputs_embeds=embeddings, attention_mask=mask, position_ids=places, use_cache=True)
        cache = output.get("cache", None)
        return Prefilled(output.last_hidden_state, mask, output.get("past_key_values") if cache is None else cache)

    def counts(self, output: Prefilled) -> dict[str, int]:
        """Returns the size of the cache."""
        layers = getattr(output.cache, "layers", ())
        kept = [part for layer in layers for part in (layer.keys, layer.values) if isinstance(part, Tensor)]
        return {"bytes_of_keys_and_values": sum(part.nbytes for part in kept)} if kept else {}


class TokenHead(nn.Module):
    """Normalises the last token, and chooses the first one of the answer: [B, S, D] to [B, V] and [B]."""

    def __init__(self, norm: nn.Module, head: nn.Module) -> None:
        """Take the language model's last normalisation and its head."""
        super().__init__()
        self.norm = norm
        self.head = head

    def forward(self, prefilled: Prefilled) -> FirstToken:
        """Returns logits and the likeliest token."""
        hidden, mask, _ = prefilled
        if mask is None:
            last = hidden[:, -1]
        else:
            end = mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)  # the last token that counts
            last = hidden[torch.arange(len(hidden), device=hidden.device), end]
        logits: Tensor = self.head(self.norm(last))
        return FirstToken(logits, logits.argmax(dim=1))


def language_sizes(name: str) -> Sizes:
    """Returns the sizes of a language model, which is not built.

    Raises:
        ConfigError: there is no such configuration, or it is no language model's.
        CheckpointError: the configuration can't be fetched or read.
    """
    return decoder_sizes(_text_config(name))


def positions_of(name: str) -> int | None:
    """Returns how many tokens a language model has positions for; `None`: any number. Errors as `language_sizes`."""
    return _longest(_text_config(name))


def _longest(config: Any) -> int | None:
    return getattr(config, "max_position_embeddings", None)


def decoder_sizes(config: Any) -> Sizes:
    """Returns the sizes in transformers' configuration of a language model."""
    return Sizes(
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
    )


def _text_config(name: str) -> Any:
    """Returns transformers' configuration of a language model, or of the one in a vision-language model."""
    family = LANGUAGE_MODEL
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(f"`interaction` {family}{name} needs transformers; {INSTALL}")
    configuration = find_configuration(name, TABLE, family=family)
    return _parsed(name, json.dumps(configuration.config))


@functools.lru_cache(maxsize=8)
def _parsed(name: str, config_json: str) -> Any:
    import transformers

    content: dict[str, Any] = json.loads(config_json)
    kind = content["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        raise ConfigError(
            f"{LANGUAGE_MODEL}{name}: transformers {transformers.__version__} has no model type {kind!r}, and code "
            "that comes with a checkpoint is not run; upgrade transformers or choose another model"
        )
    try:
        config = transformers.CONFIG_MAPPING[kind].from_dict(content).get_text_config(decoder=True)
    except Exception as error:  # whatever a configuration class objects to
        raise ConfigError(
            f"{LANGUAGE_MODEL}{name}: no valid configuration of {kind!r} ({one_line([error])})"
        ) from error
    with explained(f"{LANGUAGE_MODEL}{name}", config.model_type, library="transformers", error=ConfigError):
        sized = all(hasattr(config, key) for key in _SIZES)  # some refuse to be asked
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or not sized:
        raise ConfigError(
            f"{LANGUAGE_MODEL}{name} is a {config.model_type!r}, no causal language model; expected a decoder, such as "
            f"{LANGUAGE_MODEL}SmolLM2-135M"
        )
    return config


def _create(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    return build(config, dtype=torch.float32)


def _check_parts(name: str, config: Any, **parts: Any) -> None:
    for what, part in parts.items():
        if not isinstance(part, nn.Module):
            raise ConfigError(
                f"{LANGUAGE_MODEL}{name} is a {config.model_type!r}, whose {_PARTS[what]} is not known here; choose "
                "another model"
            )
