"""From scored regions to visual tokens: NMS over classes, the choice of regions, and the projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.ops import nms, remove_small_boxes

from embedders.region.boxes import nms_by_group
from embedders.region.heads import Predictions, RegionFeatures
from vilt_bench.embedding import VisualTokens
from vilt_bench.errors import EmbedderError

Mode = Literal["per-class", "per-class-unthresholded", "class-agnostic"]
"""Which NMS runs over the predictions."""

PER_CLASS_IOU = 0.3
"""As in bottom-up attention."""
CLASS_AGNOSTIC_IOU = 0.5
"""As in VinVL."""
SMALLEST_SIDE = 1e-2
"""In pixels; what is smaller is no box."""


class Survivors(NamedTuple):
    """What NMS leaves of an image's predictions."""

    scores: Tensor
    """[K, classes]: as predicted where a region survives for a class, else 0."""
    candidates: Tensor
    """[candidates] int64: class of each pair of region and class that entered NMS."""


class Selection(NamedTuple):
    """The regions that become tokens."""

    features: Tensor
    """[B, N, F]"""
    boxes: Tensor
    """[B, N, 4]"""
    mask: Tensor | None
    """[B, N] bool, false where an image has less than N regions; `None`: all have N."""
    extent: Tensor
    """[B, 4]: (width, height, width, height) of each image."""
    kept: int = 0
    """Regions, over all images."""
    candidates: tuple[Tensor, ...] = ()
    """Classes of what entered NMS, for each image."""
    scores: Tensor | None = None
    """[B, N], where the detector's own are kept."""
    labels: Tensor | None = None
    """[B, N] int64, likewise; the first class after the background is 1."""


def per_class(boxes: Tensor, scores: Tensor, threshold: float) -> Survivors:
    """Returns what NMS within each class leaves of the scores above the threshold, all classes in one call.

    Args:
        boxes: [K, classes, 4], or [K, 1, 4] where all classes share a box.
        scores: [K, classes]
        threshold: lower scores never enter.
    """
    rows, classes = (scores > threshold).nonzero().unbind(1)
    chosen = _boxes_of(boxes, rows, classes)
    real = remove_small_boxes(chosen, SMALLEST_SIDE)
    rows, classes, chosen = rows[real], classes[real], chosen[real]
    # Numbered anew: 1600 classes times 1333 pixels would leave float32 a quarter of a pixel.
    groups = torch.unique(classes, return_inverse=True)[1]
    keep = nms_by_group(chosen, scores[rows, classes], groups, PER_CLASS_IOU)
    return Survivors(_only(scores, rows[keep], classes[keep]), classes)


def per_class_unthresholded(boxes: Tensor, scores: Tensor, threshold: float) -> Survivors:
    """Returns what NMS leaves of all regions in each class, one class after the other on the host.

    This is what the paper timed: the code of bottom-up attention that it used copies all boxes and scores to the
    CPU and calls NMS for each class. The threshold is not used; arguments as in `per_class`.
    """
    rows, classes = scores.shape
    host_scores = scores.cpu().T.contiguous()  # (classes, K)
    host_boxes = boxes.cpu().transpose(0, 1).expand(classes, rows, 4).contiguous()  # (classes, K, 4)
    survivors = torch.zeros_like(host_scores)
    for of_class, class_boxes, class_scores in zip(survivors, host_boxes, host_scores, strict=True):
        keep = nms(class_boxes, class_scores, PER_CLASS_IOU)
        of_class[keep] = class_scores[keep]
    return Survivors(survivors.T.to(scores.device), torch.arange(classes).repeat_interleave(rows))


def class_agnostic(boxes: Tensor, scores: Tensor, threshold: float) -> Survivors:
    """Returns what one NMS over all regions leaves, each in its best class; arguments as in `per_class`."""
    best, classes = scores.max(dim=1)
    rows = (best > threshold).nonzero().squeeze(1)
    rows = rows[remove_small_boxes(_boxes_of(boxes, rows, classes[rows]), SMALLEST_SIDE)]
    keep = rows[nms(_boxes_of(boxes, rows, classes[rows]), best[rows], CLASS_AGNOSTIC_IOU)]
    return Survivors(_only(scores, keep, classes[keep]), classes[rows])


MODES: dict[Mode, Callable[[Tensor, Tensor, float], Survivors]] = {
    "per-class": per_class,
    "per-class-unthresholded": per_class_unthresholded,
    "class-agnostic": class_agnostic,
}


class ClassNMS(nn.Module):
    """Runs NMS over classes and keeps the regions with the highest surviving score.

    Source: Anderson et al., "Bottom-up and top-down attention", section 3.1.
    """

    def __init__(self, *, mode: Mode, regions: int, score_threshold: float, name: str) -> None:
        """Choose the NMS.

        Args:
            mode: which NMS.
            regions: N, kept of each image.
            score_threshold: lower scores never enter, where the mode has a threshold.
            name: the embedder's, for messages.
        """
        super().__init__()
        self.suppress = MODES[mode]
        self.regions = regions
        self.score_threshold = score_threshold
        self.name = name

    def forward(self, predictions: Predictions) -> Selection:
        """Returns N regions of each image, best first, padded where there are fewer.

        Raises:
            EmbedderError: an image has none.
        """
        counts = list(predictions.counts)
        images = zip(
            torch.split(predictions.features, counts),
            torch.split(predictions.boxes, counts),
            torch.split(predictions.scores, counts),
            strict=True,
        )
        chosen, boxes, candidates = [], [], []
        for features, image_boxes, scores in images:
            if scores.is_meta:  # NMS keeps a number that only values tell; assume all that may be kept
                survivors = Survivors(scores[: self.regions], scores.new_empty(0))
                order, classes = (torch.arange(len(survivors.scores), device=scores.device) for _ in range(2))
            else:
                survivors = self.suppress(image_boxes, scores, self.score_threshold)
                order, classes = _best(survivors.scores, self.regions)
            chosen.append(features[order])
            boxes.append(_boxes_of(image_boxes, order, classes))
            candidates.append(survivors.candidates)
        kept = [len(image) for image in chosen]
        if 0 in kept:
            raise EmbedderError(
                f"{self.name} ended with no region in image {kept.index(0) + 1} of {len(kept)}; lower "
                f"score_threshold={self.score_threshold:g}, or give weights that were trained for it"
            )
        return Selection(
            features=padded(chosen, self.regions),
            boxes=padded(boxes, self.regions),
            mask=padding_mask(kept, self.regions, predictions.scores.device),
            extent=predictions.extent,
            kept=sum(kept),
            candidates=tuple(candidates),
        )

    def counts(self, output: Selection) -> dict[str, int]:
        """Returns what entered NMS, in how many classes, and the regions kept; over all images."""
        classes = torch.cat(output.candidates)
        return {"candidates": len(classes), "classes": len(torch.unique(classes)), "kept": output.kept}


class EveryRegion(nn.Module):
    """Takes all regions, where each image has the same number and no NMS chooses."""

    def forward(self, regions: RegionFeatures) -> Selection:
        """Returns the regions as they come."""
        boxes = torch.stack(regions.boxes)
        return Selection(regions.features.view(*boxes.shape[:2], -1), boxes, None, regions.extent, boxes.shape[1])


class RegionProjection(nn.Module):
    """Projects regions to tokens: a linear layer for the feature, another for the box, added.

    Source: Chen et al., "UNITER", section 3.1, without its normalisations.
    """

    def __init__(self, *, features: int, hidden_size: int) -> None:
        """Make the two linear layers: 1,573,632 parameters for features of 2048 at D = 768, and 6,144 for the box."""
        super().__init__()
        self.feature = nn.Linear(features, hidden_size)
        self.position = nn.Linear(7, hidden_size)

    def forward(self, selection: Selection) -> VisualTokens:
        """Returns a token a region: [B, N, F] to [B, N, D]."""
        corners = selection.boxes / selection.extent.unsqueeze(1)
        sides = corners[..., 2:] - corners[..., :2]
        geometry = torch.cat([corners, sides, sides.prod(dim=-1, keepdim=True)], dim=-1)  # (B, N, 7)
        tokens = self.feature(selection.features) + self.position(geometry.to(selection.features.dtype))
        return VisualTokens(tokens, selection.mask, selection.boxes)


def padded(images: Sequence[Tensor], count: int) -> Tensor:
    """Returns each image's tensor [K, …] padded with zeros to [B, count, …]."""
    return torch.stack([pad(image, (0, 0) * (image.dim() - 1) + (0, count - len(image))) for image in images])


def padding_mask(kept: Sequence[int], count: int, device: torch.device) -> Tensor | None:
    """Returns the mask [B, count] of images that have so many; `None`: all have all."""
    if min(kept) == count:
        return None
    return torch.arange(count, device=device) < torch.tensor(kept, device=device).unsqueeze(1)


def _best(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Returns indices and classes of the regions with the highest positive scores [K, classes], best first."""
    best, classes = scores.max(dim=1)
    alive = best.nonzero().squeeze(1)
    order = alive[best[alive].argsort(descending=True)][:most]
    return order, classes[order]


def _boxes_of(boxes: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
    return boxes[rows, 0] if boxes.shape[1] == 1 else boxes[rows, classes]


def _only(scores: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
    kept = torch.zeros_like(scores)
    kept[rows, classes] = scores[rows, classes]
    return kept
