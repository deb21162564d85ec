"""torchvision's detectors as region embedders: their own layers and thresholds, taken apart at the stages.

Given the same weights, boxes, scores and labels are those of torchvision's model. Resizing and normalisation, which
torchvision counts to the model, are done before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import batched_nms, remove_small_boxes

from embedders.region.boxes import clip, extents
from embedders.region.heads import PooledRegions, Predictions, RegionFeatures
from embedders.region.planting import OBJECTS, PlantedBoxes, PlantedLogits
from embedders.region.proposals import Candidates, ProposalNMS, Proposals
from embedders.region.selection import RegionProjection, Selection, padded, padding_mask
from embedders.resnet import FeatureMaps
from embedders.torchvision_family.parts import (
    Backbone,
    DetectorOptions,
    Pyramid,
    anchors_of,
    count_kept,
    logits_note,
    pool_regions,
    pool_size,
)


def build_two_stages(
    name: str, model: Any, options: DetectorOptions, *, hidden_size: int, seed: int | None
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Returns the stages of a two-stage detector, and their notes."""
    heads = model.roi_heads
    width = heads.box_predictor.cls_score.in_features
    levels = len(model.rpn.anchor_generator.sizes)
    most = model.rpn._pre_nms_top_n["testing"]
    proposals = model.rpn._post_nms_top_n["testing"]
    classes = heads.box_predictor.cls_score.out_features - 1
    stages: dict[str, nn.Module] = {
        "backbone": Backbone(model.backbone.body),
        "fpn": Pyramid(model.backbone.fpn),
        "rpn": ProposalNetwork(model.rpn, planted=None if seed is None else PlantedBoxes([most] * levels, seed=seed)),
        "proposal_nms": ProposalNMS(
            proposals=proposals,
            name=f"torchvision/{name}",
            iou_threshold=float(model.rpn.nms_thresh),
            smallest_side=float(model.rpn.min_size),
            score_threshold=float(model.rpn.score_thresh),
            suppress=batched_nms,
        ),
        "roi_align": Align(heads.box_roi_pool),
        "roi_head": Head(heads.box_head),
        "predictor": Predictor(
            heads,
            planted=None
            if seed is None
            else PlantedLogits(boxes=proposals, classes=classes, seed=seed, pool=pool_size(classes)),
        ),
        "class_nms": ClassNMS(heads, regions=options.regions, name=name),
        "projection": RegionProjection(features=width, hidden_size=hidden_size),
    }
    notes = {}
    if seed is not None:
        notes["proposal_nms"] = (
            f"planted boxes (seed {seed}): up to {most} boxes on each of {levels} levels, around {OBJECTS} objects"
        )
        notes["class_nms"] = logits_note(seed, classes)
    return stages, notes


class ProposalNetwork(nn.Module):
    """Scores and decodes anchors on each level, and takes the best of each."""

    def __init__(self, rpn: Any, *, planted: PlantedBoxes | None) -> None:
        """Take the layers of torchvision's region proposal network, and what replaces its boxes."""
        super().__init__()
        self.head = rpn.head
        self.anchors = rpn.anchor_generator
        self.coder = rpn.box_coder
        self.most = rpn._pre_nms_top_n["testing"]
        self.planted = planted

    def forward(self, features: FeatureMaps) -> Candidates:
        """Returns the best boxes of each level."""
        extent = extents(features)
        logits, deltas = self.head(list(features.maps))
        sizes = [level.shape[1] * level.shape[2] * level.shape[3] for level in logits]
        logits, deltas = concat_box_prediction_layers(logits, deltas)
        anchors = anchors_of(self.anchors, features)
        boxes = self.coder.decode(deltas.float(), anchors).view(len(anchors), -1, 4)
        scores = logits.float().view(len(anchors), -1)
        best_boxes, best_scores = [], []
        for level_boxes, level_scores in zip(boxes.split(sizes, 1), scores.split(sizes, 1), strict=True):
            top, chosen = level_scores.topk(min(self.most, level_scores.shape[1]), dim=1)
            best_scores.append(top)
            best_boxes.append(clip(level_boxes.take_along_dim(chosen.unsqueeze(2), dim=1), extent.unsqueeze(1)))
        counts = tuple(level.shape[1] for level in best_scores)
        best = torch.cat(best_boxes, dim=1), torch.cat(best_scores, dim=1)
        if self.planted is not None:
            best = self.planted(counts, extent)
        return Candidates(features, *best, counts, extent)


class Align(nn.Module):
    """Pools cells for each proposal on the level that fits its size, in float32 as `embedders.region.heads.C4Align`."""

    def __init__(self, align: Any) -> None:
        """Take the pooling."""
        super().__init__()
        self.align = align

    def forward(self, proposals: Proposals) -> PooledRegions:
        """Returns the cells of all proposals, image after image."""
        # The last level is for the proposals only.
        cells = pool_regions(self.align, proposals.features, proposals.features.maps[:-1], proposals.boxes)
        return PooledRegions(cells, proposals.boxes, proposals.extent)


class Head(nn.Module):
    """Runs the box head over all pooled regions at once, as torchvision does: [R, C, s, s] to [R, F]."""

    def __init__(self, head: nn.Module) -> None:
        """Take the layers."""
        super().__init__()
        self.head = head

    def forward(self, regions: PooledRegions) -> RegionFeatures:
        """Returns a vector a region."""
        return RegionFeatures(self.head(regions.cells), regions.boxes, regions.extent)


class Predictor(nn.Module):
    """Predicts class scores and refined boxes; softmax and the decoding of boxes included."""

    def __init__(self, heads: Any, *, planted: PlantedLogits | None) -> None:
        """Take the layers, and what replaces their logits."""
        super().__init__()
        self.predictor = heads.box_predictor
        self.coder = heads.box_coder
        self.planted = planted

    def forward(self, regions: RegionFeatures) -> Predictions:
        """Returns scores and boxes of all regions, image after image, without the background."""
        features, proposals, extent = regions
        logits, deltas = (output.float() for output in self.predictor(features))
        boxes = self.coder.decode(deltas, list(proposals))  # (R, 1 + classes, 4)
        if self.planted is not None:
            logits = torch.cat([self.planted(*image) for image in zip(proposals, extent, strict=True)])
        counts = tuple(map(len, proposals))
        edges = torch.cat([edge.expand(n, 1, 4) for edge, n in zip(extent, counts, strict=True)])
        return Predictions(features, logits.softmax(dim=1)[:, 1:], clip(boxes, edges)[:, 1:], counts, extent)


class ClassNMS(nn.Module):
    """Runs NMS within each class and keeps the best detections: pairs of region and class, as torchvision counts."""

    SMALLEST_SIDE = 1e-2
    """In pixels; torchvision's."""

    def __init__(self, heads: Any, *, regions: int, name: str) -> None:
        """Take the thresholds."""
        super().__init__()
        self.score_threshold = float(heads.score_thresh)
        self.iou_threshold = float(heads.nms_thresh)
        self.regions = regions
        self.name = name

    def forward(self, predictions: Predictions) -> Selection:
        """Returns N detections of each image, best first, padded where there are fewer.

        Raises:
            EmbedderError: an image has none.
        """
        counts = list(predictions.counts)
        images = zip(*(torch.split(part, counts) for part in predictions[:3]), strict=True)
        detections = [self._keep(*image) for image in images]
        features, scores, boxes, labels, candidates = map(tuple, zip(*detections, strict=True))
        kept = count_kept(boxes, self.name, self.score_threshold)
        return Selection(
            features=padded(features, self.regions),
            boxes=padded(boxes, self.regions),
            mask=padding_mask(kept, self.regions, predictions.extent.device),
            extent=predictions.extent,
            kept=sum(kept),
            candidates=candidates,
            scores=padded(scores, self.regions),
            labels=padded(labels, self.regions),
        )

    def counts(self, output: Selection) -> dict[str, int]:
        """Returns what entered NMS, in how many classes, and the detections kept; over all images."""
        classes = torch.cat(output.candidates)
        return {"candidates": len(classes), "classes": len(torch.unique(classes)), "kept": output.kept}

    def _keep(self, features: Tensor, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Returns features, scores, boxes and labels of the best, and the classes of all candidates."""
        if scores.is_meta:  # as in the proposals' NMS
            rows = classes = torch.zeros(self.regions, dtype=torch.int64, device=scores.device)
            return features[rows], scores[rows, classes], boxes[rows, classes], classes, classes
        rows, classes = (scores > self.score_threshold).nonzero().unbind(1)
        chosen, chosen_scores = boxes[rows, classes], scores[rows, classes]
        real = remove_small_boxes(chosen, self.SMALLEST_SIDE)
        rows, labels, chosen, chosen_scores = rows[real], 1 + classes[real], chosen[real], chosen_scores[real]
        keep = batched_nms(chosen, chosen_scores, labels, self.iou_threshold)[: self.regions]
        return features[rows[keep]], chosen_scores[keep], chosen[keep], labels[keep], labels
