"""Any vision tower of transformers as a visual embedder, built from a configuration.

Shapes: B images, T frames, F of them a temporal patch, H×W pixels, h×w patches, P patch edge, C channels, N tokens, M
edge of the squares of patches that a tower merges to one token, D hidden size.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import inspect
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vilt_bench.embedding import EACH_FRAME, Clips, ImageBatch, Kind, Projection, VisualEmbedder, VisualFeatures
from vilt_bench.embedding.cells import cells_with_image, refuse_remainder
from vilt_bench.embedding.configurations import INSTALL, explained, find_configuration, find_weights, one_line, unknown
from vilt_bench.embedding.processors import find_processor
from vilt_bench.embedding.weights import read_state_dict, refuse_differences
from vilt_bench.errors import CheckpointError, EmbedderError

Size = tuple[int, int]

TABLE = Path(__file__).with_name("towers.json")
"""Public configurations of the towers that vision-language models use, each with its source."""
NATIVE = frozenset({"pixtral", "idefics2_vision", "dinov3_vit", "dinov3_convnext"})
"""Types that take images of any aspect, beside those that are given patches and the grids' sizes."""
STRIDES = (1, 2, 4, 8, 16)
"""In patches: what a cell of the last features may span in a hierarchical tower."""
PIXEL_STRIDES = (4, 8, 16, 32, 64)
"""Likewise in pixels, where patches overlap."""
MOST_PREFIX = 16
"""Class, distillation and register tokens, at most."""
MASK_TOKEN = "mask_token"
"""What stands for a patch that is hidden in training: DINOv2, DINOv3, BEiT and others."""
BUFFERS = frozenset({"position_ids", "relative_position_index", "inv_freq", MASK_TOKEN})
"""Constants that releases of transformers kept with the weights, by the ends of their names, and the token of masks."""
LEAST_SPREAD = 0.02
"""Of random weights, a standard deviation: with SAM's 1e-10 all images would have the same features."""
OWN_RESOLUTION = (448, 448)
"""For a tower whose configuration names none."""

GRID_SIZES = ("spatial_merge_size", "temporal_patch_size")
"""What the configuration of a tower that takes the grids' sizes must tell, unless it stands in `PACKINGS`."""


@dataclass(frozen=True)
class Packing:
    """How a type takes the patches of all images in one sequence, and what becomes of a square of them."""

    by_rows: bool = False
    """The patches come row by row; else square by square, as they are merged."""
    shape: tuple[int, ...] | None = None
    """What stands before (3, P, P) in the shape of the patches; `None`: they are flat."""
    merger: str = "merger"
    """The tower's own connector, by its attribute; empty: the model around the tower has it."""
    width: str = "out_hidden_size"
    """The configuration's key for the width of what comes out."""


PACKINGS = {
    "hunyuan_vl_vision": Packing(by_rows=True, merger="patch_merger", width="text_hidden_size"),
    "ernie4_5_vl_moe_vision": Packing(merger="", width="hidden_size"),
    "paddleocr_vl_vision": Packing(by_rows=True, shape=(1, -1), merger="", width="hidden_size"),
    "kimi_k25_vision": Packing(by_rows=True, shape=(-1,), merger="", width="hidden_size"),
}
"""Types that differ from the Qwen-VL towers; GLM-V's do not."""

CLIPS = {"vjepa2": ("frames_per_clip", False), "videomae": ("num_frames", True)}
"""Types that take clips: what the configuration calls their number of frames, and whether it is the only one."""

_REFUSALS = (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError, IndexError)
"""What transformers' models raise where they can't do what they are asked for."""


def transformers_encoder(
    *,
    model: str,
    hidden_size: int = 768,
    resolution: tuple[int, int] | None = None,
    pretrained: bool = False,
    weights: str = "",
) -> VisualEmbedder:
    """Returns a vision tower of transformers, without what only its pooled output needs, and a projection to D.

    Args:
        model: a name in `towers.json`; a folder with a config.json, of a tower or of a vision-language model; or
            `hub:ORGANISATION/NAME`, which is fetched.
        hidden_size: D of the tokens.
        resolution: (height, width) that was asked for; `None`: the tower's own.
        pretrained: load the tower's weights from its folder, or fetch them from the Hugging Face Hub; the projection
            stays random.
        weights: a file or folder with the tower's weights; empty: random.

    Raises:
        ConfigError: there is no such bundled configuration.
        EmbedderError: it is no vision tower, it refuses the resolution, or transformers is missing.
        CheckpointError: configuration or weights can't be fetched, read, or are of another model.
    """
    name = f"transformers/{model}"
    if importlib.util.find_spec("transformers") is None:
        raise EmbedderError(f"{name} needs transformers; {INSTALL}")
    found = find_configuration(
        model, TABLE, family="transformers/", listing="'vilt-bench list transformers/' shows all"
    )
    with explained(name, found.config["model_type"], library="transformers"):
        plan = _plan(name, json.dumps(found.config), resolution or found.resolution, resolution is not None)
        tower = plan.build()
        if plan.backbone is PackedBackbone and not plan.packing.by_rows and hasattr(tower, "embeddings"):
            tower.embeddings.register_forward_pre_hook(_to_device)
        stages: dict[str, nn.Module] = {"backbone": plan.backbone(tower, plan)}
        if plan.merger:
            stages["merger"] = (RowMerger if plan.packing.by_rows else Merger)(getattr(tower, plan.merger))
        notes = _notes(tower) if plan.kind == "encoder" else None
    origin = weights
    if pretrained and not weights:
        origin, weights = found.hub or found.folder, "" if _on_meta() else find_weights(found, name=name)
    if weights and not _on_meta():
        origin += _load(tower, plan, weights, family=found.config["model_type"])
    if plan.merger:
        setattr(tower, plan.merger, Absent())  # its stage is its own
    stages["projection"] = Projection(channels=plan.channels, hidden_size=hidden_size)
    return VisualEmbedder(
        stages,
        kind=plan.kind,
        hidden_size=hidden_size,
        resolution=plan.resolution,
        size_divisor=1 if plan.fixed else plan.patch * plan.merge,
        fixed_size=plan.fixed,
        clips=plan.clips,
        mean=found.mean,
        std=found.std,
        weights=f"{origin}, projection random" if origin else "random",
        notes=notes,
        processor=find_processor(
            _families(plan.config, found.config),
            resolution=plan.resolution,
            mean=found.mean,
            std=found.std,
            config=plan.config,
            given=found.processor,
        ),
    )


def _families(config: Any, whole: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what transformers calls the family of a tower, and of the model around it if there is one."""
    own = type(config).__module__.split(".")[-2]
    around: str = whole["model_type"]
    return (own,) if around == config.model_type else (own, around)


class TowerBackbone(nn.Module):
    """Runs a tower that takes images as they are: [B, 3, H, W] to [B, N, C]."""

    def __init__(self, tower: nn.Module, plan: Plan) -> None:
        """Take the tower as the plan says."""
        super().__init__()
        self.tower: Any = tower
        self.plan = plan

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Returns a feature a cell, in row-major order."""
        height, width = images.pixels.shape[-2:]
        patches = (height // self.plan.patch, width // self.plan.patch)
        mask = cells_with_image(images.mask, patches)
        features, cells = self.features(images.pixels, mask, patches)
        if cells != patches:
            mask = cells_with_image(images.mask, cells)
        # Convolutions know nothing of where they are: the shared model adds the positions.
        return VisualFeatures(features, mask=mask, grid=cells if self.plan.kind == "grid" else None, cells=cells)

    def features(self, pixels: Tensor, mask: Tensor | None, patches: Size) -> tuple[Tensor, Size]:
        """Returns the features [B, N, C] and their cells (h, w).

        Args:
            pixels: [B, 3, H, W]
            mask: [B, h·w] bool, for towers that take one; others see the padding.
            patches: (h, w)
        """
        given = self.given(pixels, self.plan.config)
        with _uncached() if pixels.is_meta else nullcontext():
            output: Tensor = self.tower(pixel_values=given, **self.plan.arguments).last_hidden_state
        if output.ndim == 4:
            return output.flatten(2).transpose(1, 2), (output.shape[2], output.shape[3])  # (B, C, h, w) → (B, N, C)
        return output[:, self.plan.prefix :], patches

    @staticmethod
    def given(pixels: Tensor, _config: Any) -> Tensor:
        """Returns images [B, 3, H, W] as the tower takes them."""
        return pixels


class PatchesBackbone(TowerBackbone):
    """Runs a tower that takes an image's patches, all of one size: Molmo 2."""

    @staticmethod
    def given(pixels: Tensor, config: Any) -> Tensor:
        """Returns the patches, [B, N, P²·3]."""
        return flat_patches(pixels, patch=config.patch_size)


class PackedBackbone(TowerBackbone):
    """Runs a tower that takes the patches of all images in one sequence, and the grids' sizes: Qwen-VL, GLM-V, ERNIE.

    HunyuanOCR, PaddleOCR-VL and Kimi take them row by row, the others square by square. It takes the frames of a clip F
    by F; within these towers none attends to those of another temporal patch.
    """

    def __init__(self, tower: nn.Module, plan: Plan) -> None:
        """Take the tower as the plan says."""
        super().__init__(tower, plan)
        # How a table of positions is interpolated stands in the tower, or deeper.
        table: Any = next((part for part in tower.modules() if hasattr(part, "num_grid_per_side")), None)
        self.interpolation: dict[str, Any] | None = table and {
            "num_grid_per_side": table.num_grid_per_side,
            "mode": table.interpolation_mode,
            "align_corners": table.interpolation_align_corners,
        }
        if hasattr(tower, "temporal_merge"):
            self.tower.temporal_merge = _unmerged

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Returns a feature a cell of each temporal patch, of an image one: [B·T/F, N, C]."""
        return super().forward(temporal_patches(images, frames=self.plan.clips.temporal_patch))

    def features(self, pixels: Tensor, mask: Tensor | None, patches: Size) -> tuple[Tensor, Size]:
        """Returns the features square by square, M×M of them each, where the tower's own merger takes them."""
        from transformers import vision_utils

        config, packing, count = self.plan.config, self.plan.packing, pixels.shape[0]
        merge = 1 if packing.by_rows else self.plan.merge
        refuse_remainder(pixels, self.plan.patch * self.plan.merge)
        packed = pack_patches(pixels, patch=self.plan.patch, merge=merge)
        if packing.shape is not None:
            packed = packed.view(*packing.shape, 3, self.plan.patch, self.plan.patch)
        grids = torch.tensor([[1, *patches]] * count, device="cpu")
        arguments: dict[str, Any] = {
            "position_ids": vision_utils.get_vision_position_ids(grids, merge).to(pixels.device),
        }
        # Read on the host in each layer, which would wait for the device.
        arguments["cu_seqlens"] = vision_utils.get_vision_cu_seqlens(grids)
        if (window := getattr(config, "window_size", None)) is not None:
            order, arguments["cu_window_seqlens"] = vision_utils.get_vision_window_index(
                grids, merge, window, config.patch_size
            )
            order = arguments["window_index"] = order.to(pixels.device)
        if self.interpolation is not None:
            indices, shares = vision_utils.get_vision_interpolation_indices_and_weights(
                grids, spatial_merge_size=merge, **self.interpolation
            )
            arguments |= {"interp_indices": indices.to(pixels.device), "interp_weights": shares.to(pixels.device)}
            arguments["frame_index"] = indices.new_zeros(len(indices), device=pixels.device)  # Kimi's: of one frame
        if not packing.by_rows:
            grids = grids.to(pixels.device)
        output: Tensor = self.tower(packed, grid_thw=grids, **arguments).last_hidden_state  # (B·N, C)
        if window is not None:
            squares = output.view(-1, merge**2, output.shape[1])  # (B·N, C) → (B·N/M², M², C)
            output = squares[order.argsort()].flatten(0, 1)
        features = output.view(count, -1, output.shape[-1])
        if features.shape[1] == patches[0] * patches[1]:
            if merge > 1 and not packing.merger:
                features = features.view(count, patches[0] // merge, patches[1] // merge, merge, merge, -1)
                features = features.transpose(2, 3).flatten(1, 4)  # (B, h/M, w/M, M, M, C) → (B, N, C), row by row
            return features, patches
        return features, (patches[0] // merge, patches[1] // merge)  # merged by a convolution of its own


class ClipBackbone(TowerBackbone):
    """Runs a tower that takes clips whole, in tubelets of F frames that attend to each other: V-JEPA 2, VideoMAE."""

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Returns a feature a cell of each tubelet: [B·T/F, N, C].

        Raises:
            EmbedderError: the images are not the frames of such clips.
        """
        clips = self.plan.clips
        grids = clips.grids(images.frames, name=f"a {self.plan.config.model_type!r}")
        assert images.frames is not None
        cells = (images.pixels.shape[2] // self.plan.patch, images.pixels.shape[3] // self.plan.patch)
        pixels = images.pixels.view(-1, images.frames, *images.pixels.shape[1:])  # (B·T, 3, H, W) → (B, T, 3, H, W)
        whole: Tensor = self.run(pixels)
        features = whole.reshape(len(pixels) * grids, -1, whole.shape[2])  # (B, T/F·N, C) → (B·T/F, N, C)
        mask = cells_with_image(images.mask, cells)
        if mask is not None:  # the same for all frames of a clip
            mask = mask[:: clips.temporal_patch]
        return VisualFeatures(features, mask=mask, cells=cells)

    def run(self, clips: Tensor) -> Tensor:
        """Returns the features of clips [B, T, 3, H, W], a tubelet behind the other: [B, T/F·N, C]."""
        # V-JEPA 2's encoder by itself: the model around it gathers features for its predictor, which is left out.
        run = self.tower.encoder if self.plan.unused else self.tower
        return cast("Tensor", run(clips).last_hidden_state)


class Merger(nn.Module):
    """A tower's own connector, as a stage: [B, N, C] square by square to [B, N/M², width of its language model]."""

    def __init__(self, merger: nn.Module) -> None:
        """Take it from the tower."""
        super().__init__()
        self.merger = merger

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Returns a feature a square, in row-major order."""
        packed: Tensor = self.merger(features.embeddings.flatten(0, 1))
        merged = packed.view(len(features.embeddings), -1, packed.shape[1])
        assert features.cells is not None
        edge = round((features.embeddings.shape[1] / merged.shape[1]) ** 0.5)
        cells = (features.cells[0] // edge, features.cells[1] // edge)
        mask = features.mask
        if mask is not None and edge > 1:
            mask = mask.view(-1, *features.cells)[:, ::edge, ::edge].flatten(1)
        return VisualFeatures(merged, mask=mask, cells=cells)


class RowMerger(nn.Module):
    """HunyuanOCR's connector, as a stage: squares become one token, rows end in one, images begin and end with one."""

    def __init__(self, merger: nn.Module) -> None:
        """Take it from the tower."""
        super().__init__()
        self.merger: Any = merger

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Returns h/M·(w/M + 1) + 2 features of [B, N, C], as wide as the language model."""
        assert features.cells is not None
        merged: Tensor = self.merger(features.embeddings, size=features.cells)
        mask, edge = features.mask, self.merger.spatial_merge_size
        if mask is not None:
            mask = nn.functional.pad(mask.view(-1, *features.cells)[:, ::edge, ::edge], (0, 1), value=True)
            mask = nn.functional.pad(mask.flatten(1), (1, 1), value=True)
        return VisualFeatures(merged, mask=mask)


class NaflexBackbone(TowerBackbone):
    """Runs a tower that takes each image's patches, their number of rows and columns, and a mask: SigLIP 2 NaFlex."""

    def features(self, pixels: Tensor, mask: Tensor | None, patches: Size) -> tuple[Tensor, Size]:
        """Returns the features; padding is not attended to."""
        shapes = torch.tensor([patches] * len(pixels), device="cpu" if pixels.is_meta else pixels.device)
        output = self.tower(
            pixel_values=flat_patches(pixels, patch=self.plan.patch), pixel_attention_mask=mask, spatial_shapes=shapes
        )
        return output.last_hidden_state, patches


class NavitBackbone(TowerBackbone):
    """Runs SigLIP with positions by relative place, as in NaViT: Idefics2, Idefics3, SmolVLM."""

    def features(self, pixels: Tensor, mask: Tensor | None, patches: Size) -> tuple[Tensor, Size]:
        """Returns the features; padding is not attended to.

        Raises:
            EmbedderError: there are more patches along an edge than positions.
        """
        side: int = self.tower.embeddings.num_patches_per_side
        if max(patches) > side:
            raise EmbedderError(
                f"{patches[0]}x{patches[1]} patches are too many for the position table of {side}x{side}; "
                f"lower `resolution` to at most {side * self.plan.patch}x{side * self.plan.patch}"
            )
        if mask is not None:
            return self.tower(pixels, patch_attention_mask=mask.view(-1, *patches)).last_hidden_state, patches
        # As the tower does, without a mask of ones for attention, which it would look at on the host.
        whole = pixels.new_ones((len(pixels), *patches), dtype=torch.bool)
        embeddings = self.tower.embeddings(pixel_values=pixels, patch_attention_mask=whole)
        encoded = self.tower.encoder(inputs_embeds=embeddings).last_hidden_state
        return self.tower.post_layernorm(encoded), patches


class PixtralBackbone(TowerBackbone):
    """Runs Pixtral's tower on a batch of equal sizes: transformers' own packs it under a mask of blocks."""

    def features(self, pixels: Tensor, mask: Tensor | None, patches: Size) -> tuple[Tensor, Size]:
        """Returns the features."""
        tower = self.tower
        embeddings = tower.ln_pre(tower.patch_conv(pixels).flatten(2).transpose(1, 2))  # (B, C, h, w) → (B, N, C)
        positions = tower.patch_positional_embedding(embeddings, _places(patches, pixels.device))
        attention = None if mask is None else mask[:, None, None, :]  # the same for all heads and queries
        return tower.transformer(embeddings, attention, position_embeddings=positions).last_hidden_state, patches


class StepBackbone(TowerBackbone):
    """Runs Step-3.7's tower, whose own pass reads the patches' places back from the device."""

    def features(self, pixels: Tensor, mask: Tensor | None, patches: Size) -> tuple[Tensor, Size]:
        """Returns the features of every fourth row and column, as two convolutions leave them."""
        tower = self.tower
        hidden = tower.pre_layernorm(tower.embeddings(pixels, interpolate_pos_encoding=True))
        positions = tower.rotary_emb(hidden, _places(patches, pixels.device))
        for layer in tower.layers:
            hidden = layer(hidden, position_embeddings=positions)
        grid: Tensor = tower.downsampler2(tower.downsampler1(hidden.transpose(1, 2).unflatten(2, patches)))
        return grid.flatten(2).transpose(1, 2), (grid.shape[2], grid.shape[3])  # (B, C, h/4, w/4) → (B, N/16, C)


class TilesBackbone(TowerBackbone):
    """Runs Llama 3.2 Vision's tower, which takes the tiles of an image and how they lie.

    It has places for four, and computes those without a tile too.
    """

    def features(self, pixels: Tensor, mask: Tensor | None, patches: Size) -> tuple[Tensor, Size]:
        """Returns the features of the last layer and of inner ones, side by side, without the tiles' class tokens."""
        config = self.plan.config
        edge, count = _edge(config.image_size), len(pixels)
        rows, columns = tile_grid(repr(config.model_type), config, (pixels.shape[2], pixels.shape[3]))
        tiles = pixels.reshape(count, 3, rows, edge, columns, edge)  # (B, 3, r, E, c, E)
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # → (B, r·c, 3, E, E)
        empty = config.max_num_tiles - rows * columns
        tiles = nn.functional.pad(tiles, (0, 0, 0, 0, 0, 0, 0, empty))
        lie = config.supported_aspect_ratios.index([rows, columns]) + 1  # 0 is for no image
        there = torch.arange(config.max_num_tiles, device=pixels.device) < rows * columns
        output: Tensor = self.tower(
            pixel_values=tiles.unsqueeze(1),
            aspect_ratio_ids=torch.full((count, 1), lie, device=pixels.device),
            aspect_ratio_mask=there.long().expand(count, 1, -1),
        ).last_hidden_state  # (B, 1, tiles, 1 + N, C)
        side = edge // self.plan.patch
        cells = output[:, 0, : rows * columns, 1:].reshape(count, rows, columns, side, side, -1)
        return cells.transpose(2, 3).flatten(1, 4), patches  # (B, r, c, s, s, C) → (B, N, C), row by row


def tile_grid(name: str, config: Any, size: Size) -> Size:
    """Returns the rows and columns of tiles that images of a size (H, W) are cut into; the name is for messages.

    Raises:
        EmbedderError: the tower has no place for them.
    """
    edge = _edge(config.image_size)
    grid = (size[0] // edge, size[1] // edge)
    if (grid[0] * edge, grid[1] * edge) != size or list(grid) not in config.supported_aspect_ratios:
        known = ", ".join(f"{rows * edge}x{columns * edge}" for rows, columns in config.supported_aspect_ratios)
        raise EmbedderError(f"{name} refuses `resolution` {size[0]}x{size[1]}; its tiles of {edge} pixels make {known}")
    return grid


@contextmanager
def _uncached() -> Iterator[None]:
    """Keeps transformers from caching what is computed on the meta device, for a pass with values would get it.

    BEiT's indices, for one, are kept by the window's size, whatever device they are on.
    """
    cached: Any = importlib.import_module("transformers.pytorch_utils")
    kept = cached.is_torchdynamo_compiling
    cached.is_torchdynamo_compiling = lambda: True  # under the compiler nothing is cached
    try:
        yield
    finally:
        cached.is_torchdynamo_compiling = kept


def _places(patches: Size, device: torch.device) -> Tensor:
    """Returns row and column of each patch, [N, 2]."""
    rows, columns = (torch.arange(edge, device=device) for edge in patches)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def _unmerged(hidden_states: Tensor, *_others: Any, **_named: Any) -> Tensor:
    """In the place of Kimi's mean over frames, of which an image has one: what it returns is not asked for."""
    return hidden_states


def _to_device(_embeddings: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns what GLM-V's embeddings get, the lengths of the sequences among it, where the patches are."""
    return tuple(each.to(given[0].device) if isinstance(each, Tensor) else each for each in given)


class Absent(nn.Module):
    """In the place of a module that no token comes from: returns its first input."""

    def forward(self, first: Any, *_others: Any, **_named: Any) -> Any:
        """Returns the first input."""
        return first


def temporal_patches(images: ImageBatch, *, frames: int) -> ImageBatch:
    """Returns the frames of clips F by F, [B·T, 3, H, W] to [B·T/F, F, 3, H, W]; an image is F equal frames.

    The last frame of a clip is repeated where T is no multiple of F.

    Source: transformers' `Qwen2VLVideoProcessor`.
    """
    length = images.frames or 1
    clips = images.pixels.view(-1, length, *images.pixels.shape[1:])
    missing = -length % frames
    if length == 1:
        clips = clips.expand(-1, frames, -1, -1, -1)
    elif missing:
        clips = torch.cat([clips, clips[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
    mask = images.mask
    if mask is not None:  # the same for all frames of a clip
        mask = mask.view(-1, length, *mask.shape[1:])[:, ::frames].flatten(0, 1)
    return ImageBatch(clips.reshape(-1, frames, *clips.shape[2:]), mask)


def pack_patches(pixels: Tensor, *, patch: int, merge: int) -> Tensor:
    """Returns the patches of temporal patches as the Qwen-VL towers take them: [B, F, 3, H, W] to [B·N, 3·F·P²].

    Square by square of M×M patches.

    Source: transformers' `Qwen2VLImageProcessor`.
    """
    unit = merge * patch
    refuse_remainder(pixels, unit)
    count, frames, colours, height, width = pixels.shape
    cut = pixels.reshape(count, frames, colours, height // unit, merge, patch, width // unit, merge, patch)
    return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, colours * frames * patch**2)


def flat_patches(pixels: Tensor, *, patch: int) -> Tensor:
    """Returns the patches of images row by row, colours last: [B, 3, H, W] to [B, N, P²·3].

    Source: transformers' `Siglip2ImageProcessor`.
    """
    refuse_remainder(pixels, patch)
    count, colours, height, width = pixels.shape
    cut = pixels.reshape(count, colours, height // patch, patch, width // patch, patch)  # (B, 3, h, P, w, P)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, h, w, P, P, 3) → (B, N, P²·3)


@dataclass(frozen=True)
class Plan:
    """How a tower is built and run."""

    config: Any
    """transformers' configuration object."""
    tower: type[nn.Module]
    backbone: type[TowerBackbone]
    kind: Kind
    resolution: Size
    fixed: bool
    patch: int
    """Pixels that a cell of the features spans along an edge."""
    merge: int
    """Edge of the squares of patches that become one token, here or in the model around the tower; 1: none."""
    channels: int
    """Of the features that are projected."""
    packing: Packing = Packing()
    """Of a tower that takes the grids' sizes."""
    merger: str = ""
    """The attribute of the tower's own connector, which is a stage of its own; empty: it has none."""
    prefix: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the tower's forward, beside the images."""
    clips: Clips = EACH_FRAME
    unused: tuple[str, ...] = ()
    """Modules that no feature comes from, such as a pooling head."""
    untouched: tuple[str, ...] = ()
    """Parameters that only training uses, in modules that are used."""

    def build(self) -> Any:
        """Returns the tower with random weights, in float32, without what is not used."""
        tower = _create(self.tower, self.config)
        for name in self.untouched:
            module, _, own = name.rpartition(".")
            setattr(tower.get_submodule(module), own, None)
        for name in self.unused:
            tower.set_submodule(name, Absent())
        return tower


@functools.lru_cache(maxsize=64)
def _plan(name: str, config_json: str, size: Size | None, asked: bool) -> Plan:
    """Returns how to build and run the tower of a configuration.

    Args:
        name: for messages.
        config_json: as in a config.json.
        size: (height, width); `None`: the configuration's own.
        asked: whether the user asked for the size.

    Raises:
        EmbedderError: it is no vision tower, or refuses the size.
    """
    config = _vision_config(name, json.loads(config_json))
    tower = _tower_class(name, config)
    takes = inspect.signature(tower.forward).parameters
    patch, own = _edge(getattr(config, "patch_size", 4)), _of_a_part(config, "image_size")
    own = getattr(config, "crop_size", None) if own is None else own
    attends = any(_of_a_part(config, key) is not None for key in ("num_attention_heads", "num_heads"))
    native = config.model_type in NATIVE or "grid_thw" in takes or "spatial_shapes" in takes
    plan = Plan(
        config=config,
        tower=tower,
        backbone=TowerBackbone,
        kind="encoder" if attends else "grid",
        resolution=size or (OWN_RESOLUTION if own is None else _pair(own)),
        fixed=not native,
        patch=patch,
        merge=1,
        channels=int(getattr(config, "hidden_size", 0)),
    )
    if config.model_type in CLIPS:
        return _of_clips(name, plan)
    if "grid_thw" in takes:
        absent = [key for key in GRID_SIZES if not hasattr(config, key)]
        if absent and config.model_type not in PACKINGS:
            raise EmbedderError(
                f"{name} is a {config.model_type!r}, whose grids are not known here (it has no {', '.join(absent)}); "
                "choose another"
            )
        packing = PACKINGS.get(config.model_type, Packing())
        plan = replace(
            plan,
            backbone=PackedBackbone,
            packing=packing,
            merge=_edge(getattr(config, "merge_kernel_size", None) or config.spatial_merge_size),
            merger=packing.merger,
            channels=getattr(config, packing.width, None) or config.hidden_size,
            clips=Clips(temporal_patch=getattr(config, "temporal_patch_size", 1)),
        )
    elif "spatial_shapes" in takes:
        plan = replace(plan, backbone=NaflexBackbone)
    elif "patch_attention_mask" in takes:
        plan = replace(plan, backbone=NavitBackbone)
    elif config.model_type == "pixtral":
        plan = replace(plan, backbone=PixtralBackbone)
    elif config.model_type == "step3p5_vision":
        plan = replace(plan, backbone=StepBackbone, channels=4 * config.hidden_size)
    elif "aspect_ratio_ids" in takes:
        tile_grid(name, config, plan.resolution)
        plan = replace(plan, backbone=TilesBackbone, channels=config.vision_output_dim)
    else:
        backbone = PatchesBackbone if config.model_type == "molmo2_vision" else TowerBackbone
        return _probed(name, replace(plan, backbone=backbone), takes, asked)
    unit = plan.patch * plan.merge
    if min(plan.resolution) < unit:
        raise EmbedderError(f"{name} has patches of {unit} pixels; `resolution` needs edges of {unit} at least")
    return plan


def _of_clips(name: str, plan: Plan) -> Plan:
    """Returns the plan of a tower that takes clips.

    Raises:
        EmbedderError: it refuses the size.
    """
    config = copy.deepcopy(plan.config)
    height, width = plan.resolution
    if height % plan.patch or width % plan.patch:
        raise EmbedderError(f"{name} has patches of {plan.patch} pixels; `resolution` needs multiples of {plan.patch}")
    frames, fixed = CLIPS[config.model_type]
    if hasattr(config, "crop_size"):
        if height != width:
            raise EmbedderError(f"{name} takes squares; give `resolution` {height}x{height} or {width}x{width}")
        config.crop_size = height  # by which it tells where a patch is
    else:
        config.image_size = plan.resolution  # its table of positions is computed
        _compute_once("transformers.models.videomae.modeling_videomae", "get_sinusoid_encoding_table")
    clips = Clips(int(config.tubelet_size), int(getattr(config, frames)), fixed=fixed)
    unused = ("predictor",) if config.model_type == "vjepa2" else ()
    return replace(plan, config=config, backbone=ClipBackbone, fixed=True, clips=clips, unused=unused)


def _compute_once(module: str, function: str) -> None:
    """Has a function of transformers keep its last result, as VideoMAE's table takes seconds each time."""
    found = importlib.import_module(module)
    if not hasattr(getattr(found, function), "cache_info"):
        setattr(found, function, functools.lru_cache(maxsize=1)(getattr(found, function)))


def _probed(name: str, plan: Plan, takes: Mapping[str, Any], asked: bool) -> Plan:
    """Returns the plan of a tower that takes images, as a pass of one layer on the meta device showed it."""
    config = copy.deepcopy(plan.config)
    if hasattr(config, "num_hidden_layers") and not any(hasattr(config, key) for key in ("depths", "hidden_sizes")):
        config.num_hidden_layers = 1  # all layers are alike
    height, width = plan.resolution
    arguments: dict[str, Any] = {}
    own = getattr(config, "image_size", None)
    if "interpolate_pos_encoding" in takes and own is not None and _pair(own) != plan.resolution:
        arguments["interpolate_pos_encoding"] = True
    try:
        with torch.device("meta"), _uncached(), torch.inference_mode(False), torch.enable_grad():
            tower = _create(plan.tower, config).eval()
            given = plan.backbone.given(torch.empty(1, 3, height, width), config)
            output = tower(pixel_values=given, **arguments).last_hidden_state
            named = {key: parameter for key, parameter in tower.named_parameters() if parameter.requires_grad}
            used: Sequence[Tensor | None] = torch.autograd.grad(
                output, list(named.values()), torch.empty_like(output), allow_unused=True
            )
    except (AttributeError, KeyError) as error:
        raise EmbedderError(
            f"{name} is a {plan.config.model_type!r}, whose features are not known here: {unknown(error)}; expected a "
            "vision tower"
        ) from error
    except _REFUSALS as error:
        what = f"refuses `resolution` {height}x{width}" if asked else f"can't take an image of {height}x{width} pixels"
        raise EmbedderError(f"{name} {what} ({one_line([error])})") from error
    unused = [key for key, gradient in zip(named, used, strict=True) if gradient is None]
    untouched = tuple(key for key in unused if key.endswith(MASK_TOKEN))
    plan = replace(plan, arguments=arguments, unused=_modules_of(tower, unused), untouched=untouched)
    if output.ndim == 4:
        return replace(plan, channels=output.shape[1], patch=max(1, round(height / output.shape[2])))
    for stride in (*(plan.patch * each for each in STRIDES), *PIXEL_STRIDES):
        cells = (height // stride) * (width // stride)
        # Deeper in a hierarchy there are few cells, and another stride must not pass for a prefix.
        if cells and 0 <= output.shape[1] - cells <= (MOST_PREFIX if stride == plan.patch else 1):
            return replace(plan, channels=output.shape[2], patch=stride, prefix=output.shape[1] - cells)
    raise EmbedderError(
        f"{name} returns {output.shape[1]} features of an image of {height}x{width} pixels, no grid of patches; "
        f"{'give another `resolution`' if asked else 'choose another model'}"
    )


def _vision_config(name: str, content: dict[str, Any]) -> Any:
    """Returns transformers' configuration of a tower, or of the tower in a vision-language model."""
    import transformers

    kind = content["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        raise EmbedderError(
            f"{name}: transformers {transformers.__version__} has no model type {kind!r}, and code that comes with a "
            "checkpoint is not run; upgrade transformers or choose another model"
        )
    try:
        config = transformers.CONFIG_MAPPING[kind].from_dict(content)
        config = getattr(config, "vision_config", None) or config
    except Exception as error:  # whatever a configuration class objects to
        raise EmbedderError(f"{name}: its configuration is no valid {kind!r} ({one_line([error])})") from error
    for part in _parts(config):
        if getattr(part, "initializer_range", LEAST_SPREAD) < LEAST_SPREAD:
            part.initializer_range = LEAST_SPREAD
    if hasattr(config, "vision_use_head"):
        config.vision_use_head = False  # a pooling head, whose output no token comes from
    return config


def _of_a_part(config: Any, key: str) -> Any:
    """Returns what a configuration, or the first of its parts that has the key, says; `None`: none has it."""
    return next((value for part in _parts(config) if (value := getattr(part, key, None)) is not None), None)


def _parts(config: Any) -> list[Any]:
    """Returns a tower's configuration, and those of the towers in it: a chain of towers is one, too."""
    from transformers import PreTrainedConfig

    return [config, *(part for part in vars(config).values() if isinstance(part, PreTrainedConfig))]


def _tower_class(name: str, config: Any) -> type[nn.Module]:
    """Returns the model class of a tower's configuration."""
    from transformers import MODEL_MAPPING, PreTrainedModel

    found: Any = MODEL_MAPPING.get(type(config), None)
    if found is None:  # towers that are only a part of a larger model
        module = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
        parts = [part for part in vars(module).values() if inspect.isclass(part) and issubclass(part, PreTrainedModel)]
        found = next((part for part in parts if part.config_class is type(config) and _takes_images(part)), None)
    if found is None or not _takes_images(found):
        raise EmbedderError(
            f"{name} is a {config.model_type!r}, which takes no images, or more than them; expected a vision tower"
        )
    if config.model_type == "vit_mae":
        raise EmbedderError(
            f"{name} is a {config.model_type!r}, which drops patches at random; expected a vision tower"
        )
    return cast("type[nn.Module]", found)


def _takes_images(tower: Any) -> bool:
    """Returns whether a model needs nothing but images."""
    parameters = inspect.signature(tower.forward).parameters
    needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    needed -= {"self", "kwargs"}
    return bool({"pixel_values", "pixel_values_videos", "grid_thw"} & parameters.keys()) and needed <= {
        "pixel_values", "pixel_values_videos", "hidden_states", "grid_thw", "pixel_attention_mask", "spatial_shapes",
        "aspect_ratio_ids", "aspect_ratio_mask",
    }  # fmt: skip


def _create(tower: Any, config: Any) -> Any:
    return tower._from_config(copy.deepcopy(config), dtype=torch.float32)


def _modules_of(tower: nn.Module, unused: Sequence[str]) -> tuple[str, ...]:
    """Returns the outermost modules all of whose parameters are unused."""
    found: list[str] = []
    for name, module in tower.named_modules():
        own = [key for key, _ in module.named_parameters(prefix=name)]
        if name and own and set(own) <= set(unused) and not name.startswith(tuple(f"{outer}." for outer in found)):
            found.append(name)
    return tuple(found)


def _load(tower: nn.Module, plan: Plan, path: str, *, family: str) -> str:
    """Loads a tower's weights, or those of a model around it; returns a remark on their names, or none.

    transformers itself loads them into a tower that has all its parts: its releases write other names than its classes
    have, split and joined tensors among them, and it knows which.

    Args:
        tower: to load into.
        plan: of it.
        path: of the weights.
        family: what transformers calls the configuration's, which may be the model around the tower.

    Raises:
        CheckpointError: the weights can't be read, or are of another model.
    """
    state = read_state_dict(path)
    with torch.device("meta"):
        empty = _create(plan.tower, plan.config)
    names = {*empty.state_dict(), *_written(empty)}
    first = next(iter(tower.state_dict()))
    tensors = max((state, _renamed(state, family)), key=lambda each: _fitting(each, names))
    prefix = _prefix(tensors, names)
    if prefix is None:
        raise CheckpointError(f"{path} has no {first}; expected the weights of this tower or of a model around it")
    inner = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    whole, told = _loaded(plan, inner)
    own, loaded = tower.state_dict(), whole.state_dict()
    # What was left out of the tower, such as its pooling head, and, where the prefix is empty, the model around it.
    parts = {key.partition(".")[0] for key in names}
    constants = {*BUFFERS, *(key.rpartition(".")[2] for key, _ in empty.named_buffers())}
    given = {key: tuple(tensor.shape) for key, tensor in loaded.items() if key in own}
    for key in told["missing_keys"]:
        given.pop(key, None)
    given |= {key: tuple(shape) for key, shape, _ in told["mismatched_keys"] if key in own}
    given |= {
        key: tuple(inner[key].shape) if key in inner else ()
        for key in told["unexpected_keys"]
        if key.partition(".")[0] in parts and key.rpartition(".")[2] not in constants
    }
    refuse_differences({key: tuple(tensor.shape) for key, tensor in own.items()}, given, name=path)
    tower.load_state_dict({key: loaded[key] for key in own})
    removed = (*state.removed, prefix) if prefix and any(key.startswith(prefix) for key in state) else state.removed
    return f", its names without {' and '.join(removed)}" if removed else ""


def _written(empty: Any) -> set[str]:
    """Returns the names that `save_pretrained` of the installed transformers writes; its classes may have others."""
    from transformers.core_model_loading import revert_weight_conversion

    return set(revert_weight_conversion(empty, empty.state_dict()))


def _renamed(state: Mapping[str, Tensor], family: str) -> Mapping[str, Tensor]:
    """Returns the tensors of a whole model by the names that its class has, where releases write others of it."""
    from transformers import conversion_mapping
    from transformers.core_model_loading import WeightConverter, dot_natural_key

    releases: Any = conversion_mapping
    rules = releases.get_checkpoint_conversion_mapping(family) or []
    renames = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    found = {}
    for key in sorted(state, key=dot_natural_key):  # some rules hold from a certain name on
        name = key
        for rule in renames:
            name, _ = rule.rename_source_key(name)
        found[name] = state[key]
    return found


def _fitting(state: Mapping[str, Tensor], names: Collection[str]) -> int:
    """Returns how many of a tower's names a checkpoint has."""
    prefix = _prefix(state, names) or ""
    return sum(key.removeprefix(prefix) in names for key in state if key.startswith(prefix))


def _prefix(state: Mapping[str, Tensor], names: Collection[str]) -> str | None:
    """Returns what stands before the tower's names in a checkpoint: what most of them have; `None`: none is there."""
    found: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for index in range(len(parts)):
            if ".".join(parts[index:]) in names:
                found[".".join(parts[:index])] += 1
    if not found:
        return None
    prefix = min(found, key=lambda each: (-found[each], len(each)))
    return f"{prefix}." if prefix else ""


def _loaded(plan: Plan, state: dict[str, Tensor]) -> tuple[Any, dict[str, Any]]:
    """Returns the tower with all its parts, on the CPU and in float32, and what transformers tells of the names."""
    from transformers.utils import logging as quiet

    tower: Any = plan.tower
    logging: Any = quiet
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # it would print a table of what is told in one line here
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        found: tuple[Any, dict[str, Any]] = tower.from_pretrained(
            None,
            config=copy.deepcopy(plan.config),
            state_dict=state,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
    return found


def _notes(tower: Any) -> dict[str, str]:
    """Returns what a reader must know of the stages."""
    notes = []
    if getattr(tower.config, "_attn_implementation", "sdpa") not in ("sdpa", None):
        notes.append(f"{tower.config._attn_implementation} attention: transformers has no other for this tower")
    if (places := getattr(tower.config, "max_num_tiles", None)) is not None:
        notes.append(f"all {places} places for tiles are computed, those without one too")
    if getattr(tower.config, "deepstack_visual_indexes", None):
        notes.append("DeepStack features of inner layers are computed, and not handed on")
    return {"backbone": "; ".join(notes)} if notes else {}


def _on_meta() -> bool:
    return torch.empty(0).is_meta  # only shapes are wanted there


def _pair(size: Any) -> Size:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _edge(size: Any) -> int:
    return _pair(size)[0]
