"""Any model of timm as a visual embedder: a backbone whose cells or tokens are projected to visual tokens.

Shapes: B images, H×W pixels, h×w cells, C channels, N tokens, of which P are prefix tokens (class, registers), D hidden
size.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import timm
import torch
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from vilt_bench.embedding import (
    ImageBatch,
    Kind,
    ProcessorFactory,
    Projection,
    VisualEmbedder,
    VisualFeatures,
    tensors,
)
from vilt_bench.embedding.cells import cells_with_image, refuse_remainder
from vilt_bench.embedding.configurations import explained
from vilt_bench.embedding.merging import merge_similar
from vilt_bench.embedding.processors import find_processor
from vilt_bench.embedding.weights import load_strictly, read_state_dict
from vilt_bench.errors import CheckpointError, EmbedderError
from vilt_bench.words import did_you_mean, nearest

Layout = Literal["NCHW", "NHWC", "NLC"]
Size = tuple[int, int]

Rgb = tuple[float, float, float]

Normalisation = Literal["own", "none", "half", "imagenet", "clip"]
RGB: dict[Normalisation, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "half": (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}
"""Mean and standard deviation of the pixels, by the names that timm has for them."""
FAMILIES = {
    "^gemma4_vit": "gemma4",
    "siglip": "siglip",
    "_clip_": "clip",
    "dinov2": "dinov2",
    "dinov3": "dinov3_vit",
    "^convnext": "convnext",
    "^beit": "beit",
    "^deit": "deit",
    "^levit": "levit",
    "^swin": "swin",
    "^vit_": "vit",
}
"""What transformers calls a model's family, by a pattern of timm's names; the first that fits."""
LARGEST_MERGE = 4
"""Edge of the squares of tokens that models merge to one at their end; what is left of larger ones is a summary."""

_PROBE_ERRORS = (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError, AttributeError, IndexError)
"""What timm's models raise where they can't do what they are asked for."""


def timm_encoder(
    *,
    model: str,
    hidden_size: int = 768,
    resolution: tuple[int, int] | None = None,
    keep_prefix: bool = False,
    dynamic: bool = False,
    fuse: bool = True,
    tome: int = 0,
    normalisation: Normalisation = "own",
    pretrained: bool = False,
    weights: str = "",
) -> VisualEmbedder:
    """Returns a model of timm, without its classifier and what only that needs, and a projection to D.

    Args:
        model: timm's name, such as `convnext_base` or `vit_base_patch16_clip_224.openai`.
        hidden_size: D of the tokens.
        resolution: (height, width) that was asked for; `None`: the model's own.
        keep_prefix: keep class and register tokens as visual tokens.
        dynamic: build a model of fixed size so that it takes images of any multiple of its patch.
        fuse: merge what some models have for training only (the branches of FastViT, RepVGG, MobileOne and RepViT,
            the normalisations of LeViT) into the layers before or after, as they are deployed.
        tome: tokens that each block of a plain ViT merges away; see `MergingBlocks`.
        normalisation: of the pixels, where a vision-language model has another than timm's weights: none (0 and 1),
            half (0.5 and 0.5), imagenet or clip.
        pretrained: fetch timm's weights of the backbone from the Hugging Face hub; the projection stays random.
        weights: a file with timm's weights of the backbone; empty: random.

    Raises:
        EmbedderError: timm has no such model, or the model refuses the resolution or an option.
        CheckpointError: weights can't be fetched, read, or are of another model.
    """
    _check_name(model)
    if tome < 0:
        raise EmbedderError(f"timm/{model}: tome={tome} is no number of tokens; expected 0 or more")
    on_meta = torch.empty(0).is_meta  # only shapes are wanted there
    origin = f"timm {model}" if pretrained else ""
    with explained(f"timm/{model}", library="timm"):
        plan = _plan(model, resolution, dynamic)
        tower = _create(model, plan.options, pretrained=pretrained and not weights and not on_meta)
        if weights:
            origin = _load(tower, weights)
        plan.prune(tower)
        note = _merge(tower) if fuse else _tell_unmerged(tower)
        if tome:
            if keep_prefix:
                raise EmbedderError(f"timm/{model}: tome={tome} returns merged tokens without prefix; drop keep_prefix")
            note = f"merges {tome} tokens in each block (ToMe)"
            tower.blocks = nn.Sequential(MergingBlocks(_plain_blocks(model, tower), count=tome, prefix=plan.prefix))
    mean, std = RGB.get(normalisation, (plan.mean, plan.std))
    backbone = TimmBackbone(tower, plan, keep_prefix=keep_prefix, merging=tome > 0)
    return VisualEmbedder(
        {"backbone": backbone, "projection": Projection(channels=plan.channels, hidden_size=hidden_size)},
        kind=plan.kind,
        hidden_size=hidden_size,
        resolution=plan.size,
        size_divisor=plan.divisor,
        fixed_size=plan.fixed,
        mean=mean,
        std=std,
        weights=f"{origin}, projection random" if origin else "random",
        notes={"backbone": note} if note else None,
        processor=_processor(model, plan, mean, std),
    )


def _processor(model: str, plan: Plan, mean: Rgb, std: Rgb) -> ProcessorFactory | None:
    """Returns what loads the processor that transformers has for a model's family; `None`: which it is is not known."""
    family = next((family for pattern, family in FAMILIES.items() if re.search(pattern, model)), None)
    return None if family is None else find_processor((family,), resolution=plan.size, mean=mean, std=std)


def _merge(tower: nn.Module) -> str:
    """Merges, in place, what a model has for training only; returns a note, empty where there is nothing."""
    before = _size(tower)
    reparameterize_model(tower.eval(), inplace=True)  # some refuse to merge while they train
    merged = _size(tower) != before
    return "runs as deployed: what is for training only is merged (fuse=false keeps it)" if merged else ""


def _tell_unmerged(tower: nn.Module) -> str:
    """Returns a note where a model has what is for training only; else an empty text."""
    runs_more = _size(tower) != _size(reparameterize_model(tower.eval()))
    return "runs with what is for training only; deployed, it is merged (fuse=true)" if runs_more else ""


def _size(tower: nn.Module) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())


class TimmBackbone(nn.Module):
    """Runs a model of timm up to its last features: [B, 3, H, W] to [B, N, C]."""

    def __init__(self, tower: nn.Module, plan: Plan, *, keep_prefix: bool, merging: bool) -> None:
        """Take the model as the plan says."""
        super().__init__()
        self.tower = tower
        self.plan = plan
        self.keep_prefix = keep_prefix
        self.merging = merging

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Returns a feature a cell, in row-major order."""
        height, width = images.pixels.shape[-2:]
        if "dynamic_img_size" in self.plan.options:
            refuse_remainder(images.pixels, self.plan.divisor)
        features = _features(self.tower, images.pixels, whole=self.plan.whole)
        if self.plan.layout == "NCHW":
            cells = (features.shape[2], features.shape[3])
            features = features.flatten(2).transpose(1, 2)  # (B, C, h, w) → (B, N, C)
        elif self.plan.layout == "NHWC":
            cells = (features.shape[1], features.shape[2])
            features = features.flatten(1, 2)  # (B, h, w, C) → (B, N, C)
        else:
            cells = (height // self.plan.stride[0], width // self.plan.stride[1])
        prefix = self.plan.prefix
        if not self.keep_prefix:
            features = features[:, prefix:]
        if self.merging:
            if images.mask is not None:
                raise EmbedderError("tome=N would merge padding with the image; give `fit` crop, or images of one size")
            return VisualFeatures(features)
        mask = cells_with_image(images.mask, cells)
        if self.keep_prefix and prefix:
            if mask is not None:
                mask = torch.cat([mask.new_ones(len(mask), prefix), mask], dim=1)
            return VisualFeatures(features, mask=mask)
        # Convolutions know nothing of where they are: the shared model adds the positions.
        return VisualFeatures(features, mask=mask, grid=cells if self.plan.kind == "grid" else None, cells=cells)


class MergingBlocks(nn.Module):
    """A plain ViT's blocks with token merging: each block merges its most similar tokens between attention and MLP.

    Tokens are compared by their keys, averaged over the heads; attention is proportional to the tokens' sizes.

    Source: Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3.
    """

    def __init__(self, blocks: nn.Sequential, *, count: int, prefix: int) -> None:
        """Take the blocks over.

        Args:
            blocks: timm's.
            count: tokens that each block merges away, but never more than half of them.
            prefix: tokens at the start that are never merged.
        """
        super().__init__()
        self.blocks = blocks
        self.count = count
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns fewer tokens, the prefix first."""
        sizes = tokens.new_ones(tokens.shape[:2])
        for block in cast("Iterator[Any]", self.blocks):
            attended, keys = _attend(block.attn, block.norm1(tokens), sizes)
            tokens = tokens + block.ls1(attended)
            tokens, sizes = merge_similar(tokens, keys, sizes, count=self.count, keep=self.prefix)
            tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
        return tokens


@dataclass(frozen=True)
class Plan:
    """How a model of timm is built and read, as a pass on the meta device showed it."""

    options: dict[str, Any]
    """For `timm.create_model`."""
    kind: Kind
    size: Size
    """Default (height, width) in pixels."""
    divisor: int
    fixed: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    whole: bool
    """Whether `forward_features` gives the tokens; else the last of `forward_intermediates` does."""
    layout: Layout
    channels: int
    stride: Size
    """Pixels that a cell spans."""
    prefix: int
    unused: tuple[str, ...] = ()
    """Top-level modules whose parameters no token comes from, such as a pooling head."""

    def prune(self, tower: nn.Module) -> None:
        """Drop what no token comes from, so that parameters count what is used."""
        if not self.whole:
            tower.prune_intermediate_layers(1, prune_head=True)  # type: ignore[operator]
        for name in self.unused:
            setattr(tower, name, nn.Identity())


class _Watch(TorchFunctionMode):
    """Sees which parameters a pass uses, and whether it computes attention: products of activations."""

    PRODUCTS = frozenset({"scaled_dot_product_attention", "matmul", "__matmul__", "bmm", "einsum", "baddbmm"})

    def __init__(self) -> None:
        super().__init__()
        self.used: set[int] = set()
        self.attention = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list(tensors([args, kwargs]))
        self.used.update(id(tensor) for tensor in given if isinstance(tensor, nn.Parameter))
        found = func(*args, **kwargs)
        if getattr(func, "__name__", "") in self.PRODUCTS and not any(isinstance(t, nn.Parameter) for t in given):
            self.attention = self.attention or found.shape[-1] > 1  # else it is a weighted mean, as in squeezing
        return found


def _check_name(model: str) -> None:
    architecture, _, tag = model.partition(".")
    names = timm.list_models()
    if architecture not in names:
        close = nearest(architecture, names)
        guess = did_you_mean(close and f"timm/{close}")
        raise EmbedderError(
            f"timm {timm.__version__} has no model {architecture!r}{guess} 'vilt-bench list timm/' shows all"
        )
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")] if tag else []
    if tag and tag not in tags:
        raise EmbedderError(f"timm has no weights {tag!r} of {architecture}; its tags: {', '.join(tags) or 'none'}")


@functools.lru_cache(maxsize=64)
def _plan(model: str, resolution: Size | None, dynamic: bool) -> Plan:
    """Returns how to build and read the model, from a copy on the meta device."""
    config: Any = timm.get_pretrained_cfg(model)
    if config is None:
        raise EmbedderError(f"timm/{model} has no configuration in timm that tells its input; choose another model")
    own: Size = (config.input_size[1], config.input_size[2])
    options: dict[str, Any] = {}
    if dynamic:
        options["dynamic_img_size"] = True
    fixed = config.fixed_input_size and not dynamic
    size = own if resolution is None else resolution
    if fixed and size != own:
        options["img_size"] = size
    probed = size if fixed else own
    with torch.device("meta"):
        tower = _build(model, options, own, size).eval().requires_grad_(False)
        pixels = torch.empty(1, config.input_size[0], *probed)
    with torch.no_grad():
        watch = _Watch()
        with watch:
            features = _try_features(tower, pixels)
        cells = _try_cells(tower, pixels)
        whole = (read := _read(tower, features, cells)) is not None
        if read is None:
            if cells is None and "img_size" in options:
                raise _refusal(model, own, size)
            if cells is None:
                raise EmbedderError(f"timm/{model} returns no grid or sequence of features; choose another model")
            tower.prune_intermediate_layers(1, prune_head=True)  # type: ignore[operator]
            read = _Read("NCHW", *cells, 0)
            watch = _Watch()
            with watch:
                _features(tower, pixels, whole=False)
    stride = (max(1, probed[0] // read.grid[0]), max(1, probed[1] // read.grid[1]))
    return Plan(
        options=options,
        kind="encoder" if watch.attention or read.layout == "NLC" else "grid",
        size=size,
        divisor=1 if fixed else _divisor(tower, read.layout, stride, own),
        fixed=fixed,
        mean=config.mean,
        std=config.std,
        whole=whole,
        layout=read.layout,
        channels=read.channels,
        stride=stride,
        prefix=read.prefix,
        unused=tuple(
            name
            for name, child in tower.named_children()
            if (parameters := list(child.parameters()))
            and not isinstance(child, nn.ModuleList)  # which the model goes through
            and not any(id(parameter) in watch.used for parameter in parameters)
        ),
    )


def _build(model: str, options: dict[str, Any], own: Size, size: Size) -> nn.Module:
    """Returns the model with random weights, or says why it can't have the size."""
    try:
        return _create(model, options)
    except _PROBE_ERRORS as error:
        if "img_size" in options:
            raise _refusal(model, own, size) from error
        if "dynamic_img_size" in options:
            raise EmbedderError(f"timm/{model} can't be built with dynamic=true; leave it out") from error
        raise


def _refusal(model: str, own: Size, size: Size) -> EmbedderError:
    return EmbedderError(
        f"timm/{model} refuses `resolution` {size[0]}x{size[1]}; its own is {own[0]}x{own[1]}, and what else it takes "
        "are mostly multiples of its stride and windows"
    )


def _create(model: str, options: dict[str, Any], *, pretrained: bool = False) -> nn.Module:
    try:
        return timm.create_model(model, num_classes=0, pretrained=pretrained, **options)
    except Exception as error:
        if not pretrained:
            raise
        # Whatever the hub's client raises: no network, a gated or a missing file.
        raise CheckpointError(
            f"timm/{model}: its weights can't be fetched ({' '.join(str(error).split()).partition('. ')[0]}); "
            "allow the network, or give weights=FILE"
        ) from error


def _load(tower: nn.Module, path: str) -> str:
    """Loads timm's weights but for the classifier's, which the tower does not have; returns where they come from."""
    named = cast("dict[str, Any]", tower.pretrained_cfg).get("classifier") or ()
    classifiers = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    own = tower.state_dict()
    state = read_state_dict(path).fitted(own)
    kept = {
        key: tensor for key, tensor in state.items() if key in own or not (classifiers and key.startswith(classifiers))
    }
    load_strictly(tower, kept, name=path)
    return state.origin


def _features(tower: Any, pixels: Tensor, *, whole: bool) -> Tensor:
    if whole:
        return cast("Tensor", tower.forward_features(pixels))
    return cast(
        "Tensor", tower.forward_intermediates(pixels, indices=1, output_fmt="NCHW", intermediates_only=True)[-1]
    )


def _try_features(tower: Any, pixels: Tensor) -> Tensor | None:
    try:
        features = tower.forward_features(pixels)
    except _PROBE_ERRORS:
        return None
    return features if isinstance(features, Tensor) else None


def _try_cells(tower: Any, pixels: Tensor) -> tuple[int, Size] | None:
    """Returns channels and grid of the last intermediate features, where the model tells them."""
    try:
        last = tower.forward_intermediates(pixels, indices=1, output_fmt="NCHW", intermediates_only=True)[-1]
    except _PROBE_ERRORS:
        return None
    return last.shape[1], (last.shape[2], last.shape[3])


class _Read(NamedTuple):
    layout: Layout
    channels: int
    grid: Size
    prefix: int


def _read(tower: Any, features: Tensor | None, cells: tuple[int, Size] | None) -> _Read | None:
    """Returns how features are read; `None`: they are no grid of tokens."""
    if features is None or features.ndim not in (3, 4):
        return None
    if features.ndim == 4:
        if getattr(tower, "output_fmt", "NCHW") == "NHWC":
            return _Read("NHWC", features.shape[3], (features.shape[1], features.shape[2]), 0)
        return _Read("NCHW", features.shape[1], (features.shape[2], features.shape[3]), 0)
    _, count, channels = features.shape
    prefix = int(getattr(tower, "num_prefix_tokens", 0))
    if cells is None:
        edge = round((count - prefix) ** 0.5)
        return _Read("NLC", channels, (edge, edge), prefix) if edge * edge == count - prefix else None
    height, width = cells[1]
    if count >= height * width:
        return _Read("NLC", channels, (height, width), count - height * width)  # some don't declare their class token
    for edge in range(2, LARGEST_MERGE + 1):
        rows, columns = height // edge, width // edge
        if (rows * edge, columns * edge) == (height, width) and rows * columns == count - prefix:
            return _Read("NLC", channels, (rows, columns), prefix)
    return None


def _divisor(tower: Any, layout: Layout, stride: Size, own: Size) -> int:
    """Returns what edges are multiples of, for a model that takes several sizes."""
    reductions = [int(info["reduction"]) for info in getattr(tower, "feature_info", None) or () if "reduction" in info]
    divisor = max([*reductions, *stride]) if layout == "NLC" or not reductions else max(reductions)
    return divisor if own[0] % divisor == own[1] % divisor == 0 else 1


def _plain_blocks(model: str, tower: nn.Module) -> nn.Sequential:
    blocks = getattr(tower, "blocks", None)
    if not isinstance(tower, VisionTransformer) or not isinstance(blocks, nn.Sequential):
        raise EmbedderError(
            f"timm/{model} is no plain ViT, which tome=… is for; reduce its tokens with `reduce` tome:N"
        )
    for block in blocks:
        if type(block) is not Block or type(block.attn) is not Attention or block.attn.gate is not None:
            raise EmbedderError(
                f"timm/{model} has blocks of its own, tome=… is for plain ones; reduce its tokens with `reduce` tome:N"
            )
    return blocks


def _attend(attention: Any, tokens: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns timm's `Attention` in proportion to the sizes, and the keys averaged over the heads."""
    qkv = attention.qkv(tokens).unflatten(2, (3, attention.num_heads, attention.head_dim))  # (B, N, 3, heads, C/heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, heads, N, C/heads) each
    query, key = attention.q_norm(query), attention.k_norm(key)
    proportion = sizes.log()[:, None, None, :]  # a token of n patches weighs as n tokens do
    attended = scaled_dot_product_attention(query, key, value, attn_mask=proportion)
    attended = attention.norm(attended.transpose(1, 2).flatten(2))
    return attention.proj(attended), key.mean(dim=1)
