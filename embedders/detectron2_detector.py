"""Detectors of detectron2 as region embedders, by stage: from a configuration of its model zoo, or a file.

detectron2 is imported when one is built; it is not on PyPI under its name. Resizing and normalisation, which detectron2
counts to the model, are done before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from embedders.region.boxes import MOST, extents, image_sizes
from embedders.region.heads import PooledRegions, RegionFeatures
from embedders.region.planting import OBJECTS, POOL, SYNONYMS, PlantedBoxes, PlantedLogits, put_in_place
from embedders.region.selection import RegionProjection, Selection, padded, padding_mask
from embedders.resnet import FeatureMaps
from vilt_bench import files
from vilt_bench.embedding import ImageBatch, VisualEmbedder
from vilt_bench.embedding.configurations import explained, one_line
from vilt_bench.embedding.weights import load_weights
from vilt_bench.errors import EmbedderError

INSTALL = (
    "pip install 'setuptools<82' && "
    "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)
"""detectron2 builds against the torch that is there, and imports `pkg_resources`, which setuptools 82 has not."""


def detectron2_detector(
    *,
    model: str,
    hidden_size: int = 768,
    regions: int = 36,
    proposals: int = 0,
    score_threshold: float = -1.0,
    plant: bool = True,
    seed: int = 0,
    weights: str = "",
) -> VisualEmbedder:
    """Returns a two-stage detector of detectron2 by stage, and a projection of its regions to D.

    Args:
        model: a configuration of detectron2's model zoo, such as `COCO-Detection/faster_rcnn_R_50_C4_3x.yaml`, or the
            path of a configuration file.
        hidden_size: D of the tokens.
        regions: detections kept of each image, one token each.
        proposals: kept by the proposals' NMS; 0: as many as the configuration says.
        score_threshold: lower scores never enter the last NMS; negative: the configuration's.
        plant: with random weights, replace the boxes and logits that enter the two NMS by planted ones.
        seed: of what is planted.
        weights: a file of detectron2's tensors by name (.pth); the projection stays random; empty: random.

    Raises:
        EmbedderError: detectron2 is not installed, has no such configuration, or it is of no two-stage detector.
        CheckpointError: weights can't be read, or are of another model.
    """
    if not 1 <= regions <= MOST or not 0 <= proposals <= MOST or score_threshold >= 1:
        raise EmbedderError(
            f"regions={regions},proposals={proposals},score_threshold={score_threshold:g} is impossible; expected 1 "
            f"to {MOST}, 0 to {MOST}, and below 1"
        )
    built, config = _build(model, proposals, score_threshold)
    if weights:
        weights = load_weights(built, weights)
    else:
        _dampen_residuals(built)
    rpn, heads = built.proposal_generator, built.roi_heads
    names = list(built.backbone.output_shape())
    planted = seed if plant and not weights else None
    most, proposals = int(rpn.pre_nms_topk[False]), int(rpn.post_nms_topk[False])
    levels, classes = len(rpn.in_features), int(heads.num_classes)
    shared = hasattr(heads, "res5")  # C4: the RoI head is the backbone's last layers
    taken = heads.in_features if shared else heads.box_in_features
    width = int(heads.box_predictor.cls_score.in_features)
    bgr = config.INPUT.FORMAT == "BGR"
    stages: dict[str, nn.Module] = {
        "backbone": Backbone(built.backbone, names, flip=bgr),
        "rpn": ProposalNetwork(
            rpn,
            [names.index(name) for name in rpn.in_features],
            planted=None if planted is None else PlantedBoxes([most] * levels, seed=planted),
        ),
        "proposal_nms": ProposalNMS(rpn, name=model),
        "roi_align": Align(heads.pooler if shared else heads.box_pooler, [names.index(name) for name in taken]),
        "roi_head": Head(heads.res5 if shared else heads.box_head),
        "predictor": Predictor(
            heads.box_predictor,
            planted=None
            if planted is None
            else PlantedLogits(boxes=proposals, classes=classes, seed=planted, pool=min(POOL, classes)),
        ),
        "class_nms": ClassNMS(heads.box_predictor, regions=regions, name=model),
        "projection": RegionProjection(features=width, hidden_size=hidden_size),
    }
    notes = {}
    if planted is not None:
        notes["proposal_nms"] = (
            f"planted boxes (seed {seed}): up to {most} boxes on each of {levels} levels, around {OBJECTS} objects"
        )
        notes["class_nms"] = (
            f"planted logits (seed {seed}): {OBJECTS} objects of {min(POOL, classes)} classes, "
            f"{SYNONYMS} near-synonyms each"
        )
    return VisualEmbedder(
        stages,
        kind="region",
        hidden_size=hidden_size,
        resolution=(int(config.INPUT.MIN_SIZE_TEST), int(config.INPUT.MAX_SIZE_TEST)),
        size_divisor=32,
        mean=_rgb(config.MODEL.PIXEL_MEAN, flip=bgr),
        std=_rgb(config.MODEL.PIXEL_STD, flip=bgr),
        weights=f"{weights}, projection random" if weights else "random",
        notes=notes,
    )


def _build(name: str, proposals: int, score_threshold: float) -> tuple[Any, Any]:
    """Returns detectron2's model on the default device, in eval mode, and its configuration."""
    try:
        from detectron2 import model_zoo
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model
        from detectron2.modeling.proposal_generator import RPN
    except ImportError as error:
        reason = "is not installed" if (error.name or "").startswith("detectron2") else f"can't be imported ({error})"
        raise EmbedderError(f"detectron2/{name}: detectron2 {reason}; {INSTALL}") from None
    config = get_cfg()
    try:
        config.merge_from_file(name if files.is_file(name) else model_zoo.get_config_file(name))
    except Exception as error:  # of the zoo, of YAML, of what the file holds
        raise EmbedderError(
            f"detectron2/{name} is no configuration of the model zoo and no configuration file "
            f"({one_line([error])}); give one such as COCO-Detection/faster_rcnn_R_50_C4_3x.yaml"
        ) from None
    config.MODEL.DEVICE = str(torch.get_default_device())
    if proposals:
        config.MODEL.RPN.POST_NMS_TOPK_TEST = proposals
    if score_threshold >= 0:
        config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score_threshold
    with explained(f"detectron2/{name}", str(config.MODEL.META_ARCHITECTURE), library="detectron2"):
        model = build_model(config).eval()
    heads: Any = getattr(model, "roi_heads", None)
    if not isinstance(getattr(model, "proposal_generator", None), RPN) or not hasattr(heads, "box_predictor"):
        raise EmbedderError(
            f"detectron2/{name} is no two-stage detector; give a Faster or Mask R-CNN, such as "
            "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
        )
    if isinstance(heads.box_predictor, nn.ModuleList):
        raise EmbedderError(f"detectron2/{name} is a cascade, whose boxes are refined in turns; that is not supported")
    return model, config


def _dampen_residuals(model: nn.Module) -> None:
    """Lower the gain of each residual block's last normalisation, as `embedders.resnet.dampen_residuals` does."""
    for name, gain in model.state_dict().items():  # a parameter or, frozen, a buffer
        if name.endswith("conv3.norm.weight"):
            nn.init.constant_(gain, 0.2)


def _rgb(values: Sequence[float], *, flip: bool) -> tuple[float, float, float]:
    """Returns mean or deviation of pixels of 0 to 255 for RGB of 0 to 1."""
    red, green, blue = (float(value) / 255 for value in (reversed(values) if flip else values))
    return red, green, blue


class Scored(NamedTuple):
    """The proposal network's output."""

    features: FeatureMaps
    boxes: tuple[Tensor, ...]
    """[B, M, 4] for each level."""
    objectness: tuple[Tensor, ...]
    """[B, M] logits for each level."""


class Chosen(NamedTuple):
    """The proposals; what detectron2 passes on."""

    features: FeatureMaps
    boxes: tuple[Tensor, ...]
    """[K, 4] for each image."""
    extent: Tensor
    """[B, 4]: (width, height, width, height) of each image."""
    candidates: int


class Predicted(NamedTuple):
    """The predictor's output; R counts the regions of all images."""

    features: Tensor
    """[R, F]"""
    logits: Tensor
    """[R, classes + 1], the background last."""
    deltas: Tensor
    """[R, 4 · classes], or [R, 4] where all classes share a box."""
    proposals: tuple[Tensor, ...]
    """[K, 4] for each image."""
    extent: Tensor
    """[B, 4], as before."""


class Backbone(nn.Module):
    """Runs detectron2's backbone, with its feature pyramid if it has one."""

    def __init__(self, backbone: nn.Module, names: Sequence[str], *, flip: bool) -> None:
        """Take the layers.

        Args:
            backbone: detectron2's.
            names: of its feature maps, in order.
            flip: whether it takes BGR.
        """
        super().__init__()
        self.layers = backbone
        self.names = list(names)
        self.flip = flip

    def forward(self, images: ImageBatch) -> FeatureMaps:
        """Returns the feature maps in the names' order."""
        height, width = images.pixels.shape[-2:]
        maps = self.layers(images.pixels.flip(1) if self.flip else images.pixels)
        return FeatureMaps(tuple(maps[name] for name in self.names), (height, width), images.mask)


class ProposalNetwork(nn.Module):
    """Scores and decodes the anchors of all levels."""

    def __init__(self, rpn: Any, levels: Sequence[int], *, planted: PlantedBoxes | None) -> None:
        """Take the layers.

        Args:
            rpn: detectron2's region proposal network.
            levels: which of the feature maps it takes.
            planted: what replaces its boxes.
        """
        super().__init__()
        self.head = rpn.rpn_head
        self.anchors = rpn.anchor_generator
        self.decode = rpn._decode_proposals
        self.levels = list(levels)
        self.planted = planted

    def forward(self, features: FeatureMaps) -> Scored:
        """Returns boxes and scores level by level."""
        maps = [features.maps[level] for level in self.levels]
        logits, deltas = self.head(maps)
        scores = [level.permute(0, 2, 3, 1).flatten(1).float() for level in logits]  # (B, A, h, w) → (B, h·w·A)
        moves = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, -2).float() for level in deltas]
        boxes = self.decode(self.anchors(maps), moves)
        if self.planted is not None:
            counts = [min(most, level.shape[1]) for most, level in zip(self.planted.most, scores, strict=True)]
            planted, objectness = self.planted(counts, extents(features))
            # Each level's first, as many as are planted there, stand for all.
            boxes, scores = (
                [put_in_place(new, level[:, : new.shape[1]]) for new, level in zip(kept, levels, strict=True)]
                for kept, levels in ((planted.split(counts, dim=1), boxes), (objectness.split(counts, dim=1), scores))
            )
        return Scored(features, tuple(boxes), tuple(scores))


class ProposalNMS(nn.Module):
    """Runs detectron2's choice of proposals: the best of each level, NMS, the best of all."""

    def __init__(self, rpn: Any, *, name: str) -> None:
        """Take the thresholds."""
        super().__init__()
        self.iou_threshold = float(rpn.nms_thresh)
        self.most = int(rpn.pre_nms_topk[False])
        self.proposals = int(rpn.post_nms_topk[False])
        self.smallest_side = float(rpn.min_box_size)
        self.name = name

    def forward(self, scored: Scored) -> Chosen:
        """Returns the proposals of each image, best first.

        Raises:
            EmbedderError: an image has none.
        """
        from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals

        extent = extents(scored.features)
        candidates = sum(min(self.most, level.shape[1]) for level in scored.objectness) * len(extent)
        if extent.is_meta:  # NMS keeps a number that only values tell; assume all that may be kept
            boxes = tuple(torch.cat(scored.boxes, dim=1)[:, : self.proposals].unbind())
            return Chosen(scored.features, boxes, extent, candidates)
        proposals = find_top_rpn_proposals(
            list(scored.boxes),
            list(scored.objectness),
            image_sizes(scored.features),
            self.iou_threshold,
            self.most,
            self.proposals,
            self.smallest_side,
            False,
        )
        boxes = tuple(image.proposal_boxes.tensor for image in proposals)
        if not all(map(len, boxes)):
            raise EmbedderError(
                f"detectron2/{self.name} found no proposal in an image; give trained weights, or plant=true"
            )
        return Chosen(scored.features, boxes, extent, candidates)

    def counts(self, output: Chosen) -> dict[str, int]:
        """Returns the boxes before and after NMS, over all images."""
        return {"candidates": output.candidates, "kept": sum(map(len, output.boxes))}


class Align(nn.Module):
    """Pools cells for each proposal, in float32 as `embedders.region.heads.C4Align`."""

    def __init__(self, pooler: Any, levels: Sequence[int]) -> None:
        """Take detectron2's pooling, and which of the feature maps it takes."""
        super().__init__()
        self.pooler = pooler
        self.levels = list(levels)

    def forward(self, chosen: Chosen) -> PooledRegions:
        """Returns the cells of all proposals, image after image."""
        maps = [chosen.features.maps[level] for level in self.levels]
        if maps[0].is_meta:  # which box belongs to which level is known from values only
            cells = maps[0].new_empty(sum(map(len, chosen.boxes)), maps[0].shape[1], *self.pooler.output_size)
        else:
            from detectron2.structures import Boxes

            cells = self.pooler([level.float() for level in maps], list(map(Boxes, chosen.boxes))).to(maps[0].dtype)
        return PooledRegions(cells, chosen.boxes, chosen.extent)


class Head(nn.Module):
    """Runs the RoI head over all pooled regions at once, and averages what cells it leaves: to [R, F]."""

    def __init__(self, head: nn.Module) -> None:
        """Take the layers."""
        super().__init__()
        self.head = head

    def forward(self, regions: PooledRegions) -> RegionFeatures:
        """Returns a vector a region."""
        features = self.head(regions.cells)
        return RegionFeatures(
            features.mean(dim=(2, 3)) if features.dim() == 4 else features, regions.boxes, regions.extent
        )


class Predictor(nn.Module):
    """Predicts class logits and regression deltas."""

    def __init__(self, predictor: Any, *, planted: PlantedLogits | None) -> None:
        """Take the layers, and what replaces their logits."""
        super().__init__()
        self.classes = predictor.cls_score
        self.boxes = predictor.bbox_pred
        self.planted = planted

    def forward(self, regions: RegionFeatures) -> Predicted:
        """Returns the predictions for all regions, image after image."""
        features, proposals, extent = regions
        logits, deltas = self.classes(features).float(), self.boxes(features).float()
        if self.planted is not None:
            planted = torch.cat([self.planted(*image) for image in zip(proposals, extent, strict=True)])
            logits = put_in_place(planted.roll(-1, dims=1), logits)  # detectron2 has the background last
        return Predicted(features, logits, deltas, proposals, extent)


class ClassNMS(nn.Module):
    """Runs detectron2's inference of detections: softmax, decoding, threshold, NMS within each class."""

    def __init__(self, predictor: Any, *, regions: int, name: str) -> None:
        """Take the thresholds."""
        super().__init__()
        self.transform = predictor.box2box_transform
        self.score_threshold = float(predictor.test_score_thresh)
        self.iou_threshold = float(predictor.test_nms_thresh)
        self.regions = regions
        self.name = name

    def forward(self, predicted: Predicted) -> Selection:
        """Returns N detections of each image, best first, padded where there are fewer.

        Raises:
            EmbedderError: an image has none.
        """
        counts = [len(image) for image in predicted.proposals]
        boxes = self.transform.apply_deltas(predicted.deltas, torch.cat(predicted.proposals))
        scores = predicted.logits.softmax(dim=1)
        by_image = zip(
            *(torch.split(part, counts) for part in (predicted.features, boxes, scores)), predicted.extent, strict=True
        )
        found = [self._keep(*image) for image in by_image]
        features, kept_boxes, kept_scores, labels = (tuple(part) for part in zip(*found, strict=True))
        kept = [len(image) for image in kept_boxes]
        if 0 in kept:
            raise EmbedderError(
                f"detectron2/{self.name} ended with no detection in image {kept.index(0) + 1} of {len(kept)}; lower "
                f"score_threshold={self.score_threshold:g}, or give trained weights"
            )
        return Selection(
            features=padded(features, self.regions),
            boxes=padded(kept_boxes, self.regions),
            mask=padding_mask(kept, self.regions, predicted.extent.device),
            extent=predicted.extent,
            kept=sum(kept),
            scores=padded(kept_scores, self.regions),
            labels=padded(labels, self.regions),
        )

    def counts(self, output: Selection) -> dict[str, int]:
        """Returns the detections kept, over all images."""
        return {"kept": output.kept}

    def _keep(
        self, features: Tensor, boxes: Tensor, scores: Tensor, extent: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns features, boxes, scores and labels of an image's best; labels from 1 on, as elsewhere here."""
        if scores.is_meta:  # as in the proposals' NMS
            rows = torch.zeros(self.regions, dtype=torch.int64, device=scores.device)
            return features[rows], boxes[rows, :4], scores[rows, 0], rows
        from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference

        width, height = (int(side) for side in extent[:2].tolist())
        (found,), (rows,) = fast_rcnn_inference(
            [boxes], [scores], [(height, width)], self.score_threshold, self.iou_threshold, self.regions
        )
        return (
            features[rows],
            cast("Tensor", found.pred_boxes.tensor),
            cast("Tensor", found.scores),
            cast("Tensor", found.pred_classes) + 1,
        )
