"""What torchvision's detectors share: backbone, anchors, pooling, options."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from embedders.region.planting import OBJECTS, POOL, SYNONYMS
from embedders.resnet import FeatureMaps
from vilt_bench.embedding import ImageBatch
from vilt_bench.errors import EmbedderError


@dataclass(frozen=True)
class DetectorOptions:
    """As of `embedders.torchvision_family.models.torchvision_model`."""

    regions: int = 36
    proposals: int = 0
    classes: int = 90
    score_threshold: float = -1.0
    plant: bool = True
    seed: int = 0


def logits_note(seed: int, classes: int) -> str:
    """Returns what a reader must know of planted logits."""
    return (
        f"planted logits (seed {seed}): {OBJECTS} objects of {pool_size(classes)} classes, "
        f"{min(SYNONYMS, classes)} near-synonyms each"
    )


def pool_size(classes: int) -> int:
    """Returns how many classes the planted objects are drawn from."""
    return min(POOL, classes)


class Backbone(nn.Module):
    """Runs torchvision's backbone without its pyramid: [B, 3, H, W] to the feature maps it taps."""

    def __init__(self, body: nn.Module) -> None:
        """Take the layers."""
        super().__init__()
        self.body = body

    def forward(self, images: ImageBatch) -> FeatureMaps:
        """Returns the feature maps, finest first."""
        height, width = images.pixels.shape[-2:]
        return FeatureMaps(tuple(self.body(images.pixels).values()), (height, width), images.mask)


class Pyramid(nn.Module):
    """Runs torchvision's feature pyramid."""

    def __init__(self, pyramid: nn.Module) -> None:
        """Take the layers."""
        super().__init__()
        self.pyramid = pyramid

    def forward(self, features: FeatureMaps) -> FeatureMaps:
        """Returns the pyramid's maps, finest first, those of its extra levels last."""
        return features._replace(maps=tuple(self.pyramid(_named(features.maps)).values()))


def _named(maps: tuple[Tensor, ...]) -> OrderedDict[str, Tensor]:
    return OrderedDict((str(level), cells) for level, cells in enumerate(maps))


def anchors_of(generator: nn.Module, features: FeatureMaps) -> list[Tensor]:
    """Returns torchvision's anchors for each image in float32."""
    first = features.maps[0]
    like = first.new_empty(1, dtype=torch.float32)  # the generators look at shapes, dtype and device only
    images = ImageList(like.expand(len(first), 3, *features.size), [features.size] * len(first))
    with torch.device("cpu"):  # where SSD's makes them, before it moves them
        return cast("list[Tensor]", generator(images, [like.expand(cells.shape) for cells in features.maps]))


def pool_regions(align: Any, features: FeatureMaps, maps: tuple[Tensor, ...], boxes: tuple[Tensor, ...]) -> Tensor:
    """Returns the regions' features, also on the meta device."""
    first = maps[0]
    if first.is_meta:  # which box belongs to which level is known from values only
        height, width = align.output_size
        return first.new_empty(sum(map(len, boxes)), first.shape[1], height, width)
    levels = OrderedDict((name, cells.float()) for name, cells in _named(maps).items())
    return cast("Tensor", align(levels, list(boxes), [features.size])).to(first.dtype)


def count_kept(boxes: tuple[Tensor, ...], name: str, threshold: float | None) -> list[int]:
    """Returns how many regions each image keeps.

    Raises:
        EmbedderError: an image keeps none.
    """
    kept = [len(image) for image in boxes]
    if 0 in kept:
        lower = "lower score_threshold" + ("" if threshold is None else f"={threshold:g}")
        raise EmbedderError(
            f"torchvision/{name} ended with no detection in image {kept.index(0) + 1} of {len(kept)}; {lower}, "
            "or give trained weights"
        )
    return kept
