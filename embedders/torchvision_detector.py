"""torchvision's detectors as region embedders: their own layers and thresholds, taken apart at the stages.

Given the same weights, boxes, scores and labels are those of torchvision's model. Resizing and normalisation, which
torchvision counts to the model, are done before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, batched_nms, remove_small_boxes

from embedders.region.boxes import MOST, clip, extents, image_sizes
from embedders.region.heads import PooledRegions, Predictions, RegionFeatures
from embedders.region.planting import OBJECTS, POOL, SYNONYMS, PlantedBoxes, PlantedLogits
from embedders.region.proposals import Candidates, ProposalNMS, Proposals
from embedders.region.selection import RegionProjection, Selection, padded, padding_mask
from embedders.resnet import FeatureMaps
from embedders.torchvision_weights import fill, settle, three
from vilt_bench.embedding import ImageBatch, VisualEmbedder
from vilt_bench.errors import EmbedderError

FROZEN = {
    "fasterrcnn_resnet50_fpn": 0.0,
    "fasterrcnn_mobilenet_v3_large_fpn": 1e-5,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 1e-5,
    "maskrcnn_resnet50_fpn": 0.0,
    "keypointrcnn_resnet50_fpn": 0.0,
    "retinanet_resnet50_fpn": 0.0,
    "fcos_resnet50_fpn": 1e-5,
}
"""The epsilon of the frozen batch normalisation that these models have with torchvision's weights only.

Built here with it in either case, so that random weights cost what trained ones do.
"""
SSD_CHANNELS = {"ssd300_vgg16": 512, "ssdlite320_mobilenet_v3_large": 672}
"""Of their finest feature map."""
KEYPOINT_CLASSES = 1
"""What a keypoint detector detects: persons."""
CELLS = 7
"""Along an edge of what is pooled for a detection of a one-stage detector, and then averaged."""


@dataclass(frozen=True)
class DetectorOptions:
    """As of `embedders.torchvision_models.torchvision_model`."""

    regions: int = 36
    proposals: int = 0
    classes: int = 90
    score_threshold: float = -1.0
    plant: bool = True
    seed: int = 0


def detector(
    name: str, options: DetectorOptions, *, hidden_size: int, pretrained: bool, weights: str
) -> VisualEmbedder:
    """Returns the detector of that name by stage, and a projection of its regions to D.

    Raises:
        EmbedderError: an option is impossible.
        CheckpointError: weights can't be fetched, read, or are of another model.
    """
    _check(name, options)
    model = _create(name, options)
    origin = fill(model, name, pretrained=pretrained, weights=weights)
    if options.score_threshold >= 0:
        (model.roi_heads if isinstance(model, GeneralizedRCNN) else model).score_thresh = options.score_threshold
    planted = options.seed if options.plant and origin == "random" else None
    if isinstance(model, GeneralizedRCNN):
        stages, notes = _two_stages(name, model, options, hidden_size=hidden_size, seed=planted)
    else:
        stages, notes = _one_stage(name, model, options, hidden_size=hidden_size, seed=planted)
    transform = model.transform
    fixed = transform.fixed_size
    longest = int(transform.max_size)
    shortest = int(transform.min_size[-1])
    return VisualEmbedder(
        stages,
        kind="region",
        hidden_size=hidden_size,
        resolution=(shortest, longest) if fixed is None else (int(fixed[1]), int(fixed[0])),
        size_divisor=int(transform.size_divisible) if fixed is None else 1,
        fixed_size=fixed is not None,
        mean=three(transform.image_mean),
        std=three(transform.image_std),
        weights=origin,
        notes=notes,
    )


def _check(name: str, options: DetectorOptions) -> None:
    for option, value, least in (
        ("regions", options.regions, 1),
        ("proposals", options.proposals, 0),
        ("classes", options.classes, 1),
    ):
        if not least <= value <= MOST:
            raise EmbedderError(f"torchvision/{name}: {option}={value} is out of range; expected {least} to {MOST}")
    if options.score_threshold >= 1:
        raise EmbedderError(
            f"torchvision/{name}: score_threshold={options.score_threshold:g} lets nothing through; expected below 1"
        )


def _create(name: str, options: DetectorOptions) -> Any:
    classes = KEYPOINT_CLASSES if name.startswith("keypoint") and options.classes == 90 else options.classes
    model = get_model(name, weights=None, weights_backbone=None, num_classes=classes + 1)
    if isinstance(model, GeneralizedRCNN):
        if options.proposals:
            model.rpn._post_nms_top_n["testing"] = options.proposals
    elif options.proposals:
        raise EmbedderError(
            f"torchvision/{name} has one stage and no proposals; leave proposals={options.proposals} out"
        )
    if name in FROZEN:
        _freeze(model.backbone, FROZEN[name])
    settle(model.backbone)
    return model.eval()


def _freeze(module: nn.Module, epsilon: float) -> None:
    """Replace batch normalisation by torchvision's frozen one, which is no parameter and is not fused."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps=epsilon))
        else:
            _freeze(child, epsilon)


def _two_stages(
    name: str, model: Any, options: DetectorOptions, *, hidden_size: int, seed: int | None
) -> tuple[dict[str, nn.Module], dict[str, str]]:
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
            else PlantedLogits(boxes=proposals, classes=classes, seed=seed, pool=_pool(classes)),
        ),
        "class_nms": ClassNMS(heads, regions=options.regions, name=name),
        "projection": RegionProjection(features=width, hidden_size=hidden_size),
    }
    notes = {}
    if seed is not None:
        notes["proposal_nms"] = (
            f"planted boxes (seed {seed}): up to {most} boxes on each of {levels} levels, around {OBJECTS} objects"
        )
        notes["class_nms"] = _logits_note(seed, classes)
    return stages, notes


def _one_stage(
    name: str, model: Any, options: DetectorOptions, *, hidden_size: int, seed: int | None
) -> tuple[dict[str, nn.Module], dict[str, str]]:
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
        notes["class_nms"] = f"planted boxes around {OBJECTS} objects; {_logits_note(seed, options.classes)}"
    return stages, notes


def _logits_note(seed: int, classes: int) -> str:
    return (
        f"planted logits (seed {seed}): {OBJECTS} objects of {_pool(classes)} classes, "
        f"{min(SYNONYMS, classes)} near-synonyms each"
    )


def _pool(classes: int) -> int:
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
        anchors = _anchors(self.anchors, features)
        boxes = self.coder.decode(deltas.float(), anchors).view(len(anchors), -1, 4)
        scores = logits.float().view(len(anchors), -1)
        best_boxes, best_scores = [], []
        for level_boxes, level_scores in zip(boxes.split(sizes, 1), scores.split(sizes, 1), strict=True):
            top, chosen = level_scores.topk(min(self.most, level_scores.shape[1]), dim=1)
            best_scores.append(top)
            best_boxes.append(clip(level_boxes.take_along_dim(chosen.unsqueeze(2), dim=1), extent.unsqueeze(1)))
        counts = tuple(level.shape[1] for level in best_scores)
        found = torch.cat(best_boxes, dim=1), torch.cat(best_scores, dim=1)
        if self.planted is not None:
            found = self.planted(counts, extent)
        return Candidates(features, *found, counts, extent)


class Align(nn.Module):
    """Pools cells for each proposal on the level that fits its size, in float32 as `embedders.region.heads.C4Align`."""

    def __init__(self, align: Any) -> None:
        """Take the pooling."""
        super().__init__()
        self.align = align

    def forward(self, proposals: Proposals) -> PooledRegions:
        """Returns the cells of all proposals, image after image."""
        # The last level is for the proposals only.
        cells = _pool_regions(self.align, proposals.features, proposals.features.maps[:-1], proposals.boxes)
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
        found = [self._keep(*image) for image in images]
        features, scores, boxes, labels, candidates = map(tuple, zip(*found, strict=True))
        kept = _kept(boxes, self.name, self.score_threshold)
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
            boxes=int(model.topk_candidates) * levels, classes=columns, seed=seed, pool=_pool(classes)
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
        dense = Dense(features, outputs, tuple(_anchors(self.anchors, features)), levels)
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
        found = self.postprocess(outputs, anchors, image_sizes(dense.features))
        boxes, scores, labels = (  # sorted by score
            tuple(image[part][: self.regions] for image in found) for part in ("boxes", "scores", "labels")
        )
        _kept(boxes, self.name, None)
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
        cells = _pool_regions(self.align, features, features.maps[: self.levels], boxes)
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


def _named(maps: tuple[Tensor, ...]) -> OrderedDict[str, Tensor]:
    return OrderedDict((str(level), cells) for level, cells in enumerate(maps))


def _anchors(generator: nn.Module, features: FeatureMaps) -> list[Tensor]:
    """Returns torchvision's anchors for each image in float32."""
    first = features.maps[0]
    like = first.new_empty(1, dtype=torch.float32)  # the generators look at shapes, dtype and device only
    images = ImageList(like.expand(len(first), 3, *features.size), [features.size] * len(first))
    with torch.device("cpu"):  # where SSD's makes them, before it moves them
        return cast("list[Tensor]", generator(images, [like.expand(cells.shape) for cells in features.maps]))


def _pool_regions(align: Any, features: FeatureMaps, maps: tuple[Tensor, ...], boxes: tuple[Tensor, ...]) -> Tensor:
    first = maps[0]
    if first.is_meta:  # which box belongs to which level is known from values only
        height, width = align.output_size
        return first.new_empty(sum(map(len, boxes)), first.shape[1], height, width)
    levels = OrderedDict((name, cells.float()) for name, cells in _named(maps).items())
    return cast("Tensor", align(levels, list(boxes), [features.size])).to(first.dtype)


def _kept(boxes: tuple[Tensor, ...], name: str, threshold: float | None) -> list[int]:
    kept = [len(image) for image in boxes]
    if 0 in kept:
        lower = "lower score_threshold" + ("" if threshold is None else f"={threshold:g}")
        raise EmbedderError(
            f"torchvision/{name} ended with no detection in image {kept.index(0) + 1} of {len(kept)}; {lower}, "
            "or give trained weights"
        )
    return kept
