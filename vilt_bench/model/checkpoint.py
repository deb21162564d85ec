"""Loads real ViLT checkpoints, by the names of Hugging Face's layout or the official release's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vilt_bench import files
from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding.configurations import HUB, fetch_weights
from vilt_bench.embedding.weights import read_state_dict, refuse_differences
from vilt_bench.errors import CheckpointError, FileError
from vilt_bench.model.vilt import Vilt, VisionLanguageModel


class Part(NamedTuple):
    """Where a checkpoint's tensor belongs."""

    name: str
    """Of the tensor in our model."""
    third: int | None = None
    """0, 1, 2: the query's, key's or value's rows of a fused projection; `None`: the whole tensor."""


class Layout(NamedTuple):
    """The names that a checkpoint uses."""

    text: str
    """Prefix of the text's tables; likewise below."""
    image: str
    patches: str
    block: str
    norms: tuple[str, str]
    """Before attention, before the MLP."""
    attention: str
    fused: bool
    """Whether queries, keys and values share one projection, or have one each."""
    output: str
    mlp: tuple[str, str]
    final_norm: str
    positions: str
    types: str
    heads: tuple[str, ...]
    """Prefixes of what sits on top of ViLT, which is not measured."""


HUGGING_FACE = Layout(
    text="embeddings.text_embeddings.",
    image="embeddings.",
    patches="embeddings.patch_embeddings.projection.",
    block="encoder.layer.{}.",
    norms=("layernorm_before.", "layernorm_after."),
    attention="attention.attention.",
    fused=False,
    output="attention.output.dense.",
    mlp=("intermediate.dense.", "output.dense."),
    final_norm="layernorm.",
    positions="position_embeddings",
    types="embeddings.token_type_embeddings.weight",
    heads=("mlm_score.", "classifier.", "rank_output."),
)
OFFICIAL = Layout(
    text="text_embeddings.",
    image="transformer.",
    patches="transformer.patch_embed.proj.",
    block="transformer.blocks.{}.",
    norms=("norm1.", "norm2."),
    attention="attn.qkv.",
    fused=True,
    output="attn.proj.",
    mlp=("mlp.fc1.", "mlp.fc2."),
    final_norm="transformer.norm.",
    positions="pos_embed",
    types="token_type_embeddings.weight",
    heads=("mlm_score.", "itm_score.", "mpp_score.", "vqa_classifier.", "nlvr2_classifier.", "rank_output."),
)


def load_checkpoint(model: VisionLanguageModel, source: str) -> str:
    """Loads a checkpoint into the shared ViLT, and its patch projection into a linear visual embedder.

    Task heads are left out. Of the three modality types of an NLVR2 checkpoint, those of the text and the first image
    are used for one image a text, as NLVR2 models do. For two, a checkpoint that has a type for one lends it to both,
    as ViLT's released code does when it begins to train for NLVR2.

    Args:
        model: what gets the weights.
        source: a file, a folder, or `hub:ORGANISATION/NAME`.

    Returns:
        Where the weights come from and what of them was not used, for the record.

    Raises:
        CheckpointError: the checkpoint is unreadable, incomplete, or of another model; the model is unchanged.
    """
    shared = model.shared
    if not isinstance(shared, Vilt):
        raise CheckpointError(
            f"{source} would be a ViLT's, and the shared model is a {type(shared).__name__}; leave it out"
        )
    path = fetch_weights(source.removeprefix(HUB)) if source.startswith(HUB) else source
    loaded = read_state_dict(path)
    state = {name.removeprefix("vilt."): tensor for name, tensor in loaded.items()}
    layout = OFFICIAL if f"{OFFICIAL.image}cls_token" in state else HUGGING_FACE
    remarks = _check_config(path, shared.config, source)
    if loaded.remark:
        remarks.append(loaded.remark.removeprefix(", "))

    state = {
        name: tensor
        for name, tensor in state.items()
        # Older releases keep a constant buffer with the weights.
        if not name.startswith(layout.heads) and name != f"{layout.text}position_ids"
    }
    types = state.get(layout.types)
    if types is not None and types.shape[0] == 3 and shared.images_per_text == 1:
        state[layout.types] = types[:2]
        remarks.append("type of a second image left out")
    if types is not None and types.shape[0] == 2 and shared.images_per_text == 2:
        state[layout.types] = types[[0, 1, 1]]
        remarks.append("type of the second image as of the first")

    parts = dict(_shared_parts(layout, shared.config.layers))
    projection = _patch_projection(model)
    if projection is None:
        for name in ("weight", "bias"):
            state.pop(layout.patches + name, None)
        remarks.append("patch projection left out: the visual embedder has its own")
    else:
        parts |= {layout.patches + name: Part(tensor) for name, tensor in projection.items()}

    own = model.state_dict()
    expected = {name: _shape(own[part.name], part) for name, part in parts.items()}
    refuse_differences(expected, {name: tuple(tensor.shape) for name, tensor in state.items()}, name=source)
    model.load_state_dict(_ours(state, parts), strict=False)  # the visual embedder's other weights stay
    if projection is not None:
        model.visual_embedder.weights = source
    return "; ".join([source, *remarks])


def _shared_parts(layout: Layout, layers: int) -> Iterator[tuple[str, Part]]:
    """Yields the checkpoint's name of each tensor of the shared ViLT, and where it belongs."""
    for table, ours in (("word", "words"), ("position", "positions"), ("token_type", "segments")):
        yield f"{layout.text}{table}_embeddings.weight", Part(f"shared.textual_embedder.{ours}.weight")
    interaction = "shared.modality_interaction.stages"
    yield f"{layout.image}cls_token", Part(f"{interaction}.concatenation.class_token")
    yield f"{layout.image}{layout.positions}", Part(f"{interaction}.concatenation.positions")
    yield layout.types, Part(f"{interaction}.concatenation.types.weight")
    for kind in ("weight", "bias"):
        yield f"{layout.text}LayerNorm.{kind}", Part(f"shared.textual_embedder.norm.{kind}")
        yield f"{layout.final_norm}{kind}", Part(f"{interaction}.transformer.norm.{kind}")
        yield f"pooler.dense.{kind}", Part(f"{interaction}.pooler.projection.{kind}")
        for layer in range(layers):
            theirs, ours = layout.block.format(layer), f"{interaction}.transformer.blocks.{layer}"
            yield f"{theirs}{layout.norms[0]}{kind}", Part(f"{ours}.attention_norm.{kind}")
            yield f"{theirs}{layout.norms[1]}{kind}", Part(f"{ours}.mlp_norm.{kind}")
            yield f"{theirs}{layout.output}{kind}", Part(f"{ours}.attention.projection.{kind}")
            yield f"{theirs}{layout.mlp[0]}{kind}", Part(f"{ours}.mlp.0.{kind}")
            yield f"{theirs}{layout.mlp[1]}{kind}", Part(f"{ours}.mlp.2.{kind}")
            fused = f"{ours}.attention.qkv.{kind}"
            if layout.fused:
                yield f"{theirs}{layout.attention}{kind}", Part(fused)
            else:
                for third, name in enumerate(("query", "key", "value")):
                    yield f"{theirs}{layout.attention}{name}.{kind}", Part(fused, third)


def _ours(state: Mapping[str, Tensor], parts: Mapping[str, Part]) -> dict[str, Tensor]:
    thirds: dict[str, list[Tensor]] = {}
    for name, part in parts.items():  # in order: query, key, value
        thirds.setdefault(part.name, []).append(state[name])
    return {name: tensors[0] if len(tensors) == 1 else torch.cat(tensors) for name, tensors in thirds.items()}


def _shape(tensor: Tensor, part: Part) -> tuple[int, ...]:
    rows, *rest = tensor.shape
    return (rows if part.third is None else rows // 3, *rest)


def _patch_projection(model: VisionLanguageModel) -> dict[str, str] | None:
    """Returns our names of the patch projection's weight and bias; `None` where the checkpoint's has no place."""
    embedder = model.visual_embedder
    if embedder.kind != "linear" or embedder.weights != "random":
        return None
    convolutions = [name for name, module in embedder.named_modules() if isinstance(module, nn.Conv2d)]
    if len(convolutions) != 1:
        return None
    return {kind: f"visual_embedder.{convolutions[0]}.{kind}" for kind in ("weight", "bias")}


def _check_config(path: str, ours: ViltConfig, source: str) -> list[str]:
    """Refuses a checkpoint whose config.json contradicts what no tensor's shape shows; returns remarks."""
    place = Path(path) if files.is_folder(path) else Path(path).parent
    try:
        theirs: Any = files.read_json(place / "config.json")
    except FileError as error:
        if error.missing:
            return [f"{ours.heads} heads assumed: the checkpoint does not say"]
        raise CheckpointError(f"{error}; fetch it again, or remove it") from None
    if not isinstance(theirs, dict):
        raise CheckpointError(f"{place / 'config.json'} is no model's configuration; fetch it again, or remove it")
    required = {"num_attention_heads": ours.heads, "layer_norm_eps": ours.layer_norm_eps, "hidden_act": "gelu"}
    for key, value in required.items():
        if key in theirs and theirs[key] != value:
            raise CheckpointError(
                f"{source} was trained with {key} {theirs[key]}, the model has {value}; "
                "build the model as the checkpoint's config.json says"
            )
    return []
