"""What is computed for each proposal: pooled features, the RoI head's vector, and the predictor's classes and boxes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, RoIAlign

from embedders.region.boxes import clip, decode
from embedders.region.planting import OBJECTS, POOL, PlantedLogits, put_in_place
from embedders.region.proposals import Proposals
from embedders.resnet import res5

SAMPLING_RATIO = 2
"""Samples a side of a bin, as in torchvision's detectors; a fixed number keeps the cost independent of the boxes."""
REGRESSION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Fast R-CNN's, for (x, y, w, h)."""


class PooledRegions(NamedTuple):
    """RoIAlign's output; R counts the proposals of all images."""

    cells: Tensor
    """[R, C, s, s]"""
    boxes: tuple[Tensor, ...]
    """[K, 4] for each image."""
    extent: Tensor
    """[B, 4]: (width, height, width, height) of each image."""


class RegionFeatures(NamedTuple):
    """The RoI head's output."""

    features: Tensor
    """[R, F]"""
    boxes: tuple[Tensor, ...]
    """[K, 4] for each image."""
    extent: Tensor
    """[B, 4], as before."""


class Predictions(NamedTuple):
    """The predictor's output."""

    features: Tensor
    """[R, F]"""
    scores: Tensor
    """[R, classes], in 0 to 1, without the background."""
    boxes: Tensor
    """[R, classes, 4], or [R, 1, 4] where all classes share a box."""
    counts: tuple[int, ...]
    """Regions of each image, R in all."""
    extent: Tensor
    """[B, 4], as before."""


class C4Align(nn.Module):
    """Pools 14×14 cells of the last feature map for each proposal.

    In float32 whatever the model's precision: half precision places boxes to the pixel only, and torchvision has
    no bfloat16 kernel.
    """

    def __init__(self) -> None:
        """Make the pooling."""
        super().__init__()
        self.align = RoIAlign(14, spatial_scale=1 / 16, sampling_ratio=SAMPLING_RATIO)

    def forward(self, proposals: Proposals) -> PooledRegions:
        """Returns the cells of all proposals, image after image."""
        cells = proposals.features.maps[-1]
        pooled = self.align(cells.float(), list(proposals.boxes)).to(cells.dtype)
        return PooledRegions(pooled, proposals.boxes, proposals.extent)


class PyramidAlign(nn.Module):
    """Pools 7×7 cells for each proposal, on the level of the pyramid that fits its size; in float32 as `C4Align`."""

    SIZE = 7

    def __init__(self) -> None:
        """Make the pooling."""
        super().__init__()
        self.align = MultiScaleRoIAlign(["0", "1", "2", "3"], self.SIZE, SAMPLING_RATIO)

    def forward(self, proposals: Proposals) -> PooledRegions:
        """Returns the cells of all proposals, image after image."""
        boxes, features = proposals.boxes, proposals.features
        first = features.maps[0]
        if first.is_meta:  # which proposal belongs to which level is known from values only
            pooled = first.new_empty(sum(map(len, boxes)), first.shape[1], self.SIZE, self.SIZE)
        else:
            levels = {str(level): cells.float() for level, cells in enumerate(features.maps[:4])}
            pooled = self.align(levels, list(boxes), [features.size]).to(first.dtype)
        return PooledRegions(pooled, boxes, proposals.extent)


class RoIHead(nn.Module):
    """Runs a head over the pooled regions, in chunks that bound its memory: [R, C, s, s] to [R, F]."""

    def __init__(self, head: nn.Module, *, chunk: int) -> None:
        """Wrap the head.

        Args:
            head: [R, C, s, s] to [R, F].
            chunk: regions at once; 0: all.
        """
        super().__init__()
        self.head = head
        self.chunk = chunk

    def forward(self, regions: PooledRegions) -> RegionFeatures:
        """Returns a vector a region."""
        chunks = torch.split(regions.cells, self.chunk or len(regions.cells))
        return RegionFeatures(torch.cat([self.head(chunk) for chunk in chunks]), regions.boxes, regions.extent)


def res5_head() -> nn.Module:
    """Returns res5 of a plain ResNet and a mean over its cells: [R, 1024, 14, 14] to [R, 2048]."""
    return nn.Sequential(res5(caffe=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def two_layer_head(channels: int) -> nn.Module:
    """Returns fc6 and fc7 over flattened cells: [R, channels, 7, 7] to [R, 1024]."""
    return TwoMLPHead(channels * PyramidAlign.SIZE**2, 1024)  # type: ignore[no-any-return]


class Predictor(nn.Module):
    """Predicts class scores and refined boxes; softmax and the decoding of boxes included."""

    def __init__(
        self,
        *,
        features: int,
        classes: int,
        box_for_each_class: bool,
        proposals: int,
        seed: int | None,
        pool: int = POOL,
        objects: int = OBJECTS,
    ) -> None:
        """Make the two linear layers.

        Args:
            features: F, width of the RoI head's vectors.
            classes: without the background, which is the first output.
            box_for_each_class: regress a box for each class, not one for all.
            proposals: the most regions of an image.
            seed: of the planted logits that replace the predicted ones; `None`: nothing is planted.
            pool: classes that the planted objects belong to.
            objects: that the planted boxes crowd around.
        """
        super().__init__()
        self.classes = nn.Linear(features, classes + 1)
        self.boxes = nn.Linear(features, 4 * (classes if box_for_each_class else 1))
        # As detectors initialise them: refined boxes start as the proposals.
        for layer, std in ((self.classes, 0.01), (self.boxes, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        planted = (
            None
            if seed is None
            else PlantedLogits(boxes=proposals, classes=classes, seed=seed, pool=pool, objects=objects)
        )
        self.planted = planted

    def forward(self, regions: RegionFeatures) -> Predictions:
        """Returns scores and boxes of all regions, image after image."""
        features, proposals, extent = regions
        logits = self.classes(features).float()
        deltas = self.boxes(features).unflatten(1, (-1, 4))
        if self.planted is not None:
            planted = torch.cat([self.planted(*image) for image in zip(proposals, extent, strict=True)])
            logits = put_in_place(planted, logits)
        counts = tuple(map(len, proposals))
        edges = torch.cat([edge.expand(n, 1, 4) for edge, n in zip(extent, counts, strict=True)])
        boxes = clip(decode(deltas, torch.cat(proposals).unsqueeze(1), weights=REGRESSION_WEIGHTS), edges)
        return Predictions(features, logits.softmax(dim=1)[:, 1:], boxes, counts, extent)
