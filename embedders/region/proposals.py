"""From feature maps to proposals: the region proposal network and its NMS, or a fixed grid of boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import remove_small_boxes

from embedders.region.boxes import clip, decode, extents, nms_by_group
from embedders.region.planting import PlantedBoxes, put_in_place
from embedders.resnet import FeatureMaps
from vilt_bench.errors import EmbedderError

RATIOS = (0.5, 1.0, 2.0)
IOU_THRESHOLD = 0.7
SMALLEST_SIDE = 1e-3
"""In pixels; what is smaller is no box."""

Suppress = Callable[[Tensor, Tensor, Tensor, float], Tensor]


class Candidates(NamedTuple):
    """The region proposal network's output."""

    features: FeatureMaps
    boxes: Tensor
    """[B, M, 4]"""
    objectness: Tensor
    """[B, M] logits"""
    counts: tuple[int, ...]
    """Boxes from each feature map, M in all."""
    extent: Tensor
    """[B, 4]: (width, height, width, height) of each image without its padding."""


class Proposals(NamedTuple):
    """Boxes to pool features in."""

    features: FeatureMaps
    boxes: tuple[Tensor, ...]
    """[K, 4] for each image."""
    extent: Tensor
    """[B, 4], as in `Candidates`."""
    candidates: int = 0
    """Boxes before NMS, over all images."""


class RegionProposalNetwork(nn.Module):
    """Scores and decodes anchors on each feature map, and takes the best of each map.

    Source: Ren et al., "Faster R-CNN", section 3.1.
    """

    def __init__(
        self,
        *,
        channels: int,
        sizes: Sequence[Sequence[int]],
        strides: Sequence[int],
        most: int,
        seed: int | None,
        hidden: int = 0,
    ) -> None:
        """Make the head and the anchors.

        Args:
            channels: of the feature maps.
            sizes: for each feature map, the anchors' sizes, in pixels.
            strides: for each feature map, in pixels.
            most: boxes taken from a feature map, the best first.
            seed: of the planted boxes that replace the decoded ones; `None`: nothing is planted.
            hidden: channels of the head; 0: as many as of the feature maps.
        """
        super().__init__()
        anchors = len(sizes[0]) * len(RATIOS)
        self.head = RPNHead(hidden or channels, anchors)
        if hidden not in (0, channels):
            self.head.conv[0][0] = nn.Conv2d(channels, hidden, kernel_size=3, padding=1)
            nn.init.normal_(self.head.conv[0][0].weight, std=0.01)
            nn.init.zeros_(self.head.conv[0][0].bias)
        self.anchors = AnchorGenerator(tuple(map(tuple, sizes)), (RATIOS,) * len(sizes))
        self.strides = tuple(strides)
        self.most = most
        self.planted = None if seed is None else PlantedBoxes([most] * len(strides), seed=seed)

    def forward(self, features: FeatureMaps) -> Candidates:
        """Returns the best boxes of each feature map."""
        extent = extents(features)
        logits, deltas = self.head(list(features.maps))
        # Not through the generator's forward: it infers strides, wrongly where an edge is no multiple of them.
        self.anchors.set_cell_anchors(torch.float32, extent.device)
        anchors = self.anchors.grid_anchors(
            [cells.shape[-2:] for cells in features.maps], [[stride, stride] for stride in self.strides]
        )
        boxes, scores = [], []
        for map_logits, map_deltas, map_anchors in zip(logits, deltas, anchors, strict=True):
            map_scores = map_logits.permute(0, 2, 3, 1).flatten(1).float()  # (B, A, h, w) → (B, h·w·A)
            moves = map_deltas.permute(0, 2, 3, 1).unflatten(3, (-1, 4)).flatten(1, 3)  # (B, 4A, h, w) → (B, h·w·A, 4)
            map_boxes = clip(decode(moves, map_anchors, weights=(1.0, 1.0, 1.0, 1.0)), extent.unsqueeze(1))
            top, chosen = map_scores.topk(min(self.most, map_scores.shape[1]), dim=1)
            scores.append(top)
            boxes.append(map_boxes.take_along_dim(chosen.unsqueeze(2), dim=1))
        counts = tuple(level.shape[1] for level in scores)
        best_boxes, best_scores = torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
        if self.planted is not None:
            planted_boxes, planted_scores = self.planted(counts, extent)
            best_boxes = put_in_place(planted_boxes, best_boxes)
            best_scores = put_in_place(planted_scores, best_scores)
        return Candidates(features, best_boxes, best_scores, counts, extent)


class ProposalNMS(nn.Module):
    """Drops boxes that overlap a better one of the same feature map, and keeps the best."""

    def __init__(
        self,
        *,
        proposals: int,
        name: str,
        iou_threshold: float = IOU_THRESHOLD,
        smallest_side: float = SMALLEST_SIDE,
        score_threshold: float | None = None,
        suppress: Suppress = nms_by_group,
    ) -> None:
        """Take the thresholds.

        Args:
            proposals: the most kept of an image.
            name: the embedder's, for messages.
            iou_threshold: boxes that overlap a better one by more are dropped.
            smallest_side: in pixels; what is smaller is no box.
            score_threshold: of the objectness as a probability; lower ones never enter. `None`: all enter, and are
                ordered by their logits.
            suppress: boxes, scores, feature maps' numbers, IoU threshold in; indices out, best first.
        """
        super().__init__()
        self.proposals = proposals
        self.name = name
        self.iou_threshold = iou_threshold
        self.smallest_side = smallest_side
        self.score_threshold = score_threshold
        self.suppress = suppress

    def forward(self, candidates: Candidates) -> Proposals:
        """Returns at most the number of proposals asked for, best first.

        Raises:
            EmbedderError: an image has none.
        """
        levels = torch.cat(
            [torch.full((n,), level, device=candidates.boxes.device) for level, n in enumerate(candidates.counts)]
        )
        kept = tuple(
            self._keep(boxes, scores, levels)
            for boxes, scores in zip(candidates.boxes, candidates.objectness, strict=True)
        )
        if not all(map(len, kept)):
            raise EmbedderError(f"{self.name} found no proposal in an image; give trained weights, or plant=true")
        return Proposals(candidates.features, kept, candidates.extent, candidates.objectness.numel())

    def counts(self, output: Proposals) -> dict[str, int]:
        """Returns the boxes before and after NMS, over all images."""
        return {"candidates": output.candidates, "kept": sum(map(len, output.boxes))}

    def _keep(self, boxes: Tensor, scores: Tensor, levels: Tensor) -> Tensor:
        if boxes.is_meta:  # NMS keeps a number that only values tell; assume all that may be kept
            return boxes[: self.proposals]
        real = remove_small_boxes(boxes, self.smallest_side)
        if self.score_threshold is not None:
            scores = scores.sigmoid()
            real = real[scores[real] >= self.score_threshold]
        boxes, scores, levels = boxes[real], scores[real], levels[real]
        return boxes[self.suppress(boxes, scores, levels, self.iou_threshold)[: self.proposals]]


class GridProposals(nn.Module):
    """Cuts each image into equal cells that take the place of proposals.

    Source: Cho et al., "X-LXMERT", section 3.
    """

    def __init__(self, *, cells: int) -> None:
        """Remember the cells along an edge."""
        super().__init__()
        self.cells = cells

    def forward(self, features: FeatureMaps) -> Proposals:
        """Returns the cells' boxes in row-major order."""
        extent = extents(features)
        edges = torch.arange(self.cells, device=extent.device, dtype=torch.float32)
        corners = torch.stack(torch.meshgrid(edges, edges, indexing="xy"), dim=-1).flatten(0, 1)  # (cells², 2)
        shares = torch.cat([corners, corners + 1], dim=1) / self.cells
        return Proposals(features, tuple((shares * extent.unsqueeze(1)).unbind(0)), extent)
