"""Arithmetic on boxes (x1, y1, x2, y2) in pixels; always in float32, as half precision is too coarse for pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import nms

from embedders.resnet import FeatureMaps

LARGEST_LOG_RATIO = math.log(1000 / 16)
"""Limit of what a regression may scale a side by."""
MOST = 100_000
"""Regions, proposals or classes: above what any detector has, below what keeps a machine busy before it is refused."""


def extents(features: FeatureMaps) -> Tensor:
    """Returns (width, height, width, height) of each image without its padding, [B, 4]."""
    height, width = features.size
    first = features.maps[0]
    if features.mask is None:
        sides = [torch.full((len(first),), float(side), device=first.device) for side in (width, height)]
    else:
        sides = [features.mask.any(dim=across).sum(dim=1).float() for across in (1, 2)]
    return torch.stack(sides * 2, dim=1)


def image_sizes(features: FeatureMaps) -> list[tuple[int, int]]:
    """Returns (height, width) of each image without its padding; waits for the device only where there is padding."""
    if features.mask is None:
        return [features.size] * len(features.maps[0])
    return [(int(height), int(width)) for width, height in extents(features)[:, :2].tolist()]


def decode(deltas: Tensor, boxes: Tensor, *, weights: tuple[float, float, float, float]) -> Tensor:
    """Returns the boxes moved and scaled by regression deltas; both [..., 4], broadcast.

    Source: Girshick et al., "Rich feature hierarchies", appendix C; the weights are Fast R-CNN's.
    """
    deltas = deltas.float()
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(-1), weights, strict=True))
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    x, y = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
    half_width = width * dw.clamp(max=LARGEST_LOG_RATIO).exp() / 2
    half_height = height * dh.clamp(max=LARGEST_LOG_RATIO).exp() / 2
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)


def clip(boxes: Tensor, extent: Tensor) -> Tensor:
    """Returns the boxes cut at the image's edges; extent as of `extents`, broadcast."""
    return boxes.clamp(min=0).minimum(extent)


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Returns the indices that NMS within each group keeps, best first.

    One NMS over all boxes, each group moved out of the others' reach. torchvision's `batched_nms` changes to a
    loop over groups at a number of boxes that differs by device; a benchmark needs one algorithm throughout.

    Args:
        boxes: [K, 4]
        scores: [K]
        groups: [K] int64, small numbers: their product with the largest coordinate must stay exact in float32.
        iou_threshold: boxes that overlap a better one by more are dropped.
    """
    if not len(boxes):
        return groups
    offsets = groups.float() * (boxes.max() + 1)
    return nms(boxes + offsets.unsqueeze(1), scores, iou_threshold)  # type: ignore[no-any-return]
