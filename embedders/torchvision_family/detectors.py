"""torchvision's detectors by name: checks, weights, two stages or one."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models import get_model
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import FrozenBatchNorm2d

from embedders.region.boxes import MOST
from embedders.torchvision_family.one_stage import build_one_stage
from embedders.torchvision_family.parts import DetectorOptions
from embedders.torchvision_family.two_stage import build_two_stages
from embedders.torchvision_family.weights import load_asked_weights, redraw_fading_weights, rgb
from vilt_bench.embedding import VisualEmbedder
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
KEYPOINT_CLASSES = 1
"""What a keypoint detector detects: persons."""


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
    origin = load_asked_weights(model, name, pretrained=pretrained, weights=weights)
    if options.score_threshold >= 0:
        (model.roi_heads if isinstance(model, GeneralizedRCNN) else model).score_thresh = options.score_threshold
    planted = options.seed if options.plant and origin == "random" else None
    if isinstance(model, GeneralizedRCNN):
        stages, notes = build_two_stages(name, model, options, hidden_size=hidden_size, seed=planted)
    else:
        stages, notes = build_one_stage(name, model, options, hidden_size=hidden_size, seed=planted)
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
        mean=rgb(transform.image_mean),
        std=rgb(transform.image_std),
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
    redraw_fading_weights(model.backbone)
    return model.eval()


def _freeze(module: nn.Module, epsilon: float) -> None:
    """Replace batch normalisation by torchvision's frozen one, which is no parameter and is not fused."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps=epsilon))
        else:
            _freeze(child, epsilon)
