"""torchvision's one-stage detectors (RetinaNet, FCOS, SSD) as region embedders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

from embedders.region.boxes import extents, image_sizes
from embedders.region.planting import OBJECTS, PlantedBoxes, PlantedLogits
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

SSD_CHANNELS = {"ssd300_vgg16": 512, "ssdlite320_mobilenet_v3_large": 672}
"""Of their finest feature map."""
CELLS = 7
"""Along an edge of what is pooled for a detection of a one-stage detector, and then averaged."""


def build_one_stage(
    name: str, model: Any, options: DetectorOptions, *, hidden_size: int, seed: int | None
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Returns the stages of a one-stage detector, and their notes."""
    pyramid = not isinstance(model, SSD)
    model.detections_per_img = max(model.detections_per_img, options.regions)
    stages: dict[str, nn.Module] = {"backbone": Backbone(model.backbone.body if pyramid else model.backbone)}
    if pyramid:
        stages["fpn"] = Pyramid(model.backbone.fpn)
    planted = (
        None
        if seed is None
        else PlantedDetections(
            model, levels=len(model.anchor_generator.num_anchors_per_location()), classes=options.classes, seed=seed
        )
    )
    levels = len(model.anchor_generator.num_anchors_per_location()) if pyramid else 1
    stages["head"] = DenseHead(model.head, model.anchor_generator, planted=planted)
    stages["class_nms"] = DenseNMS(model.postprocess_detections, split=pyramid, regions=options.regions, name=name)
    stages["roi_align"] = DetectionAlign(levels=levels, regions=options.regions)
    channels = model.backbone.out_channels if pyramid else SSD_CHANNELS[name]
    stages["projection"] = RegionProjection(features=channels, hidden_size=hidden_size)
    notes = {"roi_align": "features: the mean of 7×7 cells pooled for each detection, added here to the detector"}
    if seed is not None:
        notes["class_nms"] = f"planted boxes around {OBJECTS} objects; {logits_note(seed, options.classes)}"
    return stages, notes


class Dense(NamedTuple):
    """A one-stage detector's predictions for all anchors."""

    features: FeatureMaps
    outputs: dict[str, Tensor]
    """By torchvision's names, each [B, anchors, …]."""
    anchors: tuple[Tensor, ...]
    """[anchors, 4] for each image."""
    levels: tuple[int, ...]
    """Anchors of each level."""


class Detections(NamedTuple):
    """What NMS leaves, best first."""

    features: FeatureMaps
    boxes: tuple[Tensor, ...]
    """[K, 4] for each image."""
    scores: tuple[Tensor, ...]
    """[K] for each image."""
    labels: tuple[Tensor, ...]
    """[K] for each image; as torchvision numbers them."""


class PlantedDetections(nn.Module):
    """Writes planted boxes and logits over the predictions of some anchors of each level."""

    LOGITS, BOXES = "cls_logits", "bbox_regression"

    def __init__(self, model: Any, *, levels: int, classes: int, seed: int) -> None:
        """Draw them: as many a level as enter its NMS."""
        super().__init__()
        self.softmax = isinstance(model, SSD)
        self.boxes = PlantedBoxes([int(model.topk_candidates)] * levels, seed=seed)
        # RetinaNet and FCOS count the background, which they have not, as a class.
        columns = classes if self.softmax else classes + 1
        self.logits = PlantedLogits(
            boxes=int(model.topk_candidates) * levels, classes=columns, seed=seed, pool=pool_size(classes)
        )
        coder = model.box_coder
        # FCOS's coder names its arguments the other way round.
        self.encode: Callable[[Tensor, Tensor], Tensor] = getattr(
            coder, "encode_single", lambda boxes, anchors: coder.encode(anchors, boxes)
        )

    def forward(self, dense: Dense) -> Dense:
        """Returns the predictions, changed in place: planted ones among them."""
        extent = extents(dense.features)
        counts = [min(most, n) for most, n in zip(self.boxes.most, dense.levels, strict=True)]
        boxes, _ = self.boxes(counts, extent)
        chosen, first = [], 0
        for count, n in zip(counts, dense.levels, strict=True):
            chosen.append(first + torch.arange(count, device=boxes.device) * (n // count))
            first += n
        places = torch.cat(chosen)
        logits, regressions = dense.outputs[self.LOGITS], dense.outputs[self.BOXES]
        if self.softmax:
            logits[..., 0] += 10  # a random softmax is flat, and above SSD's threshold everywhere
        for image, (image_boxes, image_extent) in enumerate(zip(boxes, extent, strict=True)):
            planted = self.logits(image_boxes, image_extent)
            logits[image, places] = planted if self.softmax else planted[:, 1:] - planted[:, :1]
            regressions[image, places] = self.encode(image_boxes, dense.anchors[image][places])
        return dense


class DenseHead(nn.Module):
    """Predicts classes and boxes for the anchors of all levels, and makes the anchors."""

    def __init__(self, head: nn.Module, anchors: Any, *, planted: PlantedDetections | None) -> None:
        """Take the layers, and what replaces some of their predictions."""
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.planted = planted

    def forward(self, features: FeatureMaps) -> Dense:
        """Returns the predictions in float32."""
        outputs = {name: output.float() for name, output in self.head(list(features.maps)).items()}
        per_cell = self.anchors.num_anchors_per_location()
        levels = tuple(n * cells.shape[2] * cells.shape[3] for n, cells in zip(per_cell, features.maps, strict=True))
        dense = Dense(features, outputs, tuple(anchors_of(self.anchors, features)), levels)
        return dense if self.planted is None else self.planted(dense)


class DenseNMS(nn.Module):
    """Runs torchvision's own postprocessing: thresholds, decoding, and NMS within each class."""

    def __init__(
        self, postprocess: Callable[..., list[dict[str, Tensor]]], *, split: bool, regions: int, name: str
    ) -> None:
        """Take the method.

        Args:
            postprocess: of torchvision's model.
            split: whether it takes predictions level by level.
            regions: the most detections kept of an image.
            name: torchvision's, for messages.
        """
        super().__init__()
        self.postprocess = postprocess
        self.split = split
        self.regions = regions
        self.name = name

    def forward(self, dense: Dense) -> Detections:
        """Returns the best detections of each image.

        Raises:
            EmbedderError: an image has none.
        """
        if dense.features.maps[0].is_meta:  # NMS keeps a number that only values tell; assume all that may be kept
            boxes = tuple(image[:1].expand(self.regions, 4) for image in dense.anchors)
            scores = tuple(image[:, 0] for image in boxes)
            return Detections(dense.features, boxes, scores, scores)
        outputs: dict[str, Any] = dense.outputs
        anchors: Any = list(dense.anchors)
        if self.split:
            levels = list(dense.levels)
            outputs = {name: list(output.split(levels, dim=1)) for name, output in outputs.items()}
            anchors = [list(torch.split(image, levels)) for image in dense.anchors]
        detections = self.postprocess(outputs, anchors, image_sizes(dense.features))
        boxes, scores, labels = (  # sorted by score
            tuple(image[part][: self.regions] for image in detections) for part in ("boxes", "scores", "labels")
        )
        count_kept(boxes, self.name, None)
        return Detections(dense.features, boxes, scores, labels)

    def counts(self, output: Detections) -> dict[str, int]:
        """Returns the detections kept and their classes, over all images."""
        return {"classes": len(torch.unique(torch.cat(output.labels))), "kept": sum(map(len, output.boxes))}


class DetectionAlign(nn.Module):
    """Pools cells for each detection on the level that fits its size, and averages them."""

    def __init__(self, *, levels: int, regions: int) -> None:
        """Make the pooling."""
        super().__init__()
        self.levels = levels
        self.regions = regions
        self.align = MultiScaleRoIAlign([str(level) for level in range(levels)], CELLS, 2)

    def forward(self, detections: Detections) -> Selection:
        """Returns N regions of each image, best first, padded where there are fewer."""
        features, boxes = detections.features, detections.boxes
        cells = pool_regions(self.align, features, features.maps[: self.levels], boxes)
        kept = [len(image) for image in boxes]
        return Selection(
            features=padded(torch.split(cells.mean(dim=(2, 3)), kept), self.regions),
            boxes=padded(boxes, self.regions),
            mask=padding_mask(kept, self.regions, boxes[0].device),
            extent=extents(features),
            kept=sum(kept),
            scores=padded(detections.scores, self.regions),
            labels=padded(detections.labels, self.regions),
        )
