"""Region visual embedders: detectors whose best regions become the tokens, as in UNITER, VisualBERT and VinVL."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from embedders.grid import IMAGENET_MEAN, IMAGENET_STD
from embedders.region.boxes import MOST
from embedders.region.heads import C4Align, Predictor, PyramidAlign, RoIHead, res5_head, two_layer_head
from embedders.region.layouts import load_detector
from embedders.region.planting import OBJECTS, POOL, SYNONYMS
from embedders.region.proposals import GridProposals, ProposalNMS, RegionProposalNetwork
from embedders.region.selection import ClassNMS, EveryRegion, Mode, RegionProjection
from embedders.resnet import CHANNELS, STRIDES, FeatureMaps, ResNetBackbone
from vilt_bench.embedding import VisualEmbedder
from vilt_bench.errors import EmbedderError

ANCHOR_SIZES = (32, 64, 128, 256, 512)
"""In pixels; all on C4, one on each level of a pyramid."""
C4_BOXES, PYRAMID_BOXES = 6000, 1000
"""Boxes that enter the proposals' NMS: of C4, and of each level of a pyramid."""
PYRAMID_CHANNELS = 256


@dataclass(frozen=True)
class Options:
    """What users choose of a detector; meanings, errors and defaults as of `region_r101_c4`."""

    hidden_size: int
    regions: int
    proposals: int
    classes: int
    nms: Mode
    score_threshold: float
    roi_chunk: int
    plant: bool
    seed: int
    weights: str
    rpn_channels: int = CHANNELS[2]
    anchors: int = 3 * len(ANCHOR_SIZES)

    def __post_init__(self) -> None:
        """Refuse what is impossible.

        Raises:
            EmbedderError: an option is out of its range.
        """
        for name, least in (("regions", 1), ("proposals", 1), ("classes", 1), ("roi_chunk", 0)):
            if not least <= (value := getattr(self, name)) <= MOST:
                raise EmbedderError(f"{name}={value} is out of range; expected {least} to {MOST}")
        if not 0 <= self.score_threshold < 1:
            raise EmbedderError(
                f"score_threshold={self.score_threshold:g} is out of range; expected 0 or more and below 1"
            )
        if not 1 <= self.rpn_channels <= MOST or self.anchors not in range(3, 3 * len(ANCHOR_SIZES) + 1, 3):
            raise EmbedderError(
                f"rpn_channels={self.rpn_channels},anchors={self.anchors} is impossible; expected at least 1 channel, "
                f"and 3, 6, … or {3 * len(ANCHOR_SIZES)} anchors"
            )

    @property
    def planted_seed(self) -> int | None:
        """Of what is planted; `None`: nothing is."""
        return self.seed if self.plant and not self.weights else None


@dataclass(frozen=True)
class C4Detector:
    """A detector whose regions are pooled from the fourth group of a ResNet, at stride 16."""

    name: str
    depth: int
    groups: int
    box_for_each_class: bool


R101_C4 = C4Detector("region-r101-c4", depth=101, groups=1, box_for_each_class=True)
X152_C4 = C4Detector("region-x152-c4", depth=152, groups=32, box_for_each_class=False)


def region_r101_c4(
    *,
    hidden_size: int = 768,
    regions: int = 36,
    proposals: int = 1000,
    classes: int = 1600,
    nms: Mode = "per-class",
    score_threshold: float = 0.2,
    roi_chunk: int = 100,
    rpn_channels: int = 1024,
    anchors: int = 15,
    plant: bool = True,
    seed: int = 0,
    weights: str = "",
) -> VisualEmbedder:
    """Returns the detector of ViLBERT, LXMERT, UNITER and OSCAR: Faster R-CNN on C4 of a ResNet-101.

    Args:
        hidden_size: D of the tokens.
        regions: kept of each image.
        proposals: kept by the proposals' NMS; 1000 as the paper's FLOPs count, bottom-up attention keeps 300.
        classes: without the background.
        nms: over the predictions: `per-class` of scores above the threshold, `per-class-unthresholded` on the
            host, one class after the other, as the paper timed, or `class-agnostic`.
        score_threshold: lower scores never enter NMS.
        roi_chunk: regions that the RoI head takes at once; 0: all.
        rpn_channels: of the proposal network's hidden layer; published weights of bottom-up attention have 512.
        anchors: a cell, three for each size, the largest first chosen: 15 from 32 pixels on, 12 from 64.
        plant: with random weights, replace the boxes and logits that enter the two NMS by planted ones.
        seed: of what is planted.
        weights: a file with the embedder's weights, or bottom-up attention's in detectron2's or LXMERT's layout, which
            leave the projection random; empty: random.

    Raises:
        EmbedderError: an option is impossible.

    Source: ViLT paper, table 6.
    """
    return _c4(
        R101_C4,
        Options(
            hidden_size=hidden_size,
            regions=regions,
            proposals=proposals,
            classes=classes,
            nms=nms,
            score_threshold=score_threshold,
            roi_chunk=roi_chunk,
            rpn_channels=rpn_channels,
            anchors=anchors,
            plant=plant,
            seed=seed,
            weights=weights,
        ),
    )


def region_x152_c4(
    *,
    hidden_size: int = 768,
    regions: int = 36,
    proposals: int = 1000,
    classes: int = 1600,
    nms: Mode = "class-agnostic",
    score_threshold: float = 0.2,
    roi_chunk: int = 100,
    plant: bool = True,
    seed: int = 0,
    weights: str = "",
) -> VisualEmbedder:
    """Returns VinVL's detector, on C4 of a ResNeXt-152 32×4d, one box for all classes.

    Arguments, errors and source as in `region_r101_c4`.
    """
    options = Options(
        hidden_size=hidden_size,
        regions=regions,
        proposals=proposals,
        classes=classes,
        nms=nms,
        score_threshold=score_threshold,
        roi_chunk=roi_chunk,
        plant=plant,
        seed=seed,
        weights=weights,
    )
    return _c4(X152_C4, options)


def region_x152_fpn(
    *,
    hidden_size: int = 768,
    regions: int = 36,
    proposals: int = 1000,
    classes: int = 1600,
    nms: Mode = "per-class",
    score_threshold: float = 0.2,
    roi_chunk: int = 100,
    plant: bool = True,
    seed: int = 0,
    weights: str = "",
) -> VisualEmbedder:
    """Returns the detector of VisualBERT, Unicoder-VL and ImageBERT: a ResNeXt-152 32×4d with a feature pyramid.

    Its RoI head ends in 1024 features, so the projection has 787,200 parameters at D = 768; the paper counts
    1,573,632, as for 2048. Arguments, errors and source as in `region_r101_c4`.
    """
    options = Options(
        hidden_size=hidden_size,
        regions=regions,
        proposals=proposals,
        classes=classes,
        nms=nms,
        score_threshold=score_threshold,
        roi_chunk=roi_chunk,
        plant=plant,
        seed=seed,
        weights=weights,
    )
    name = "region-x152-fpn"
    levels = [(size,) for size in ANCHOR_SIZES]
    stages = {
        "backbone": ResNetBackbone(depth=152, groups=32, every=True),
        "fpn": Pyramid(),
        "rpn": RegionProposalNetwork(
            channels=PYRAMID_CHANNELS,
            sizes=levels,
            strides=(*STRIDES, 2 * STRIDES[-1]),
            most=PYRAMID_BOXES,
            seed=options.planted_seed,
        ),
        "proposal_nms": ProposalNMS(proposals=proposals, name=name),
        "roi_align": PyramidAlign(),
        "roi_head": RoIHead(two_layer_head(PYRAMID_CHANNELS), chunk=roi_chunk),
        **_after_head(options, name=name, features=1024, box_for_each_class=True),
    }
    return _embedder(stages, options, boxes=f"up to {PYRAMID_BOXES} boxes on each of {len(levels)} levels")


def region_grid(*, hidden_size: int = 768, roi_chunk: int = 100, weights: str = "") -> VisualEmbedder:
    """Returns X-LXMERT's regions: 8×8 fixed boxes on C4 of a ResNet-101, so no proposals and no NMS; 64 tokens.

    Args:
        hidden_size: D of the tokens.
        roi_chunk: regions that the RoI head takes at once; 0: all.
        weights: a file with the embedder's weights; empty: random.

    Raises:
        EmbedderError: an option is impossible.

    Source: Cho et al., "X-LXMERT", section 3.
    """
    if roi_chunk < 0:
        raise EmbedderError(f"roi_chunk={roi_chunk} is too small; expected at least 0")
    stages = {
        "backbone": ResNetBackbone(depth=101, last=4, caffe=True),
        "roi_align": nn.Sequential(GridProposals(cells=8), C4Align()),
        "roi_head": RoIHead(res5_head(), chunk=roi_chunk),
        "projection": nn.Sequential(EveryRegion(), RegionProjection(features=CHANNELS[3], hidden_size=hidden_size)),
    }
    return _region_embedder(stages, hidden_size=hidden_size, weights=weights, notes={})


class Pyramid(nn.Module):
    """Makes a feature pyramid of 256 channels: C2 to C5 to P2 to P6.

    Source: Lin et al., "Feature pyramid networks", section 3.
    """

    def __init__(self) -> None:
        """Make the convolutions."""
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(CHANNELS), PYRAMID_CHANNELS, LastLevelMaxPool())

    def forward(self, features: FeatureMaps) -> FeatureMaps:
        """Returns the pyramid's maps, finest first."""
        levels = self.pyramid(OrderedDict((str(level), cells) for level, cells in enumerate(features.maps)))
        return features._replace(maps=tuple(levels.values()))


def _c4(detector: C4Detector, options: Options) -> VisualEmbedder:
    stages = {
        "backbone": ResNetBackbone(depth=detector.depth, groups=detector.groups, last=4, caffe=True),
        "rpn": RegionProposalNetwork(
            channels=CHANNELS[2],
            sizes=[ANCHOR_SIZES[-options.anchors // 3 :]],
            strides=[STRIDES[2]],
            most=C4_BOXES,
            seed=options.planted_seed,
            hidden=options.rpn_channels,
        ),
        "proposal_nms": ProposalNMS(proposals=options.proposals, name=detector.name),
        "roi_align": C4Align(),
        "roi_head": RoIHead(res5_head(), chunk=options.roi_chunk),
        **_after_head(
            options, name=detector.name, features=CHANNELS[3], box_for_each_class=detector.box_for_each_class
        ),
    }
    return _embedder(stages, options, boxes=f"up to {C4_BOXES} boxes")


def _after_head(options: Options, *, name: str, features: int, box_for_each_class: bool) -> dict[str, nn.Module]:
    """Returns the stages that follow the RoI head's vectors of that width."""
    return {
        "predictor": Predictor(
            features=features,
            classes=options.classes,
            box_for_each_class=box_for_each_class,
            proposals=options.proposals,
            seed=options.planted_seed,
        ),
        "class_nms": ClassNMS(
            mode=options.nms, regions=options.regions, score_threshold=options.score_threshold, name=name
        ),
        "projection": RegionProjection(features=features, hidden_size=options.hidden_size),
    }


def _embedder(stages: dict[str, nn.Module], options: Options, *, boxes: str) -> VisualEmbedder:
    seed = options.planted_seed
    notes = (
        {}
        if seed is None
        else {
            "proposal_nms": f"planted boxes (seed {seed}): {boxes}, around {OBJECTS} objects",
            "class_nms": f"planted logits (seed {seed}): {OBJECTS} objects of {POOL} classes, "
            f"{SYNONYMS} near-synonyms each",
        }
    )
    return _region_embedder(stages, hidden_size=options.hidden_size, weights=options.weights, notes=notes)


def _region_embedder(
    stages: dict[str, nn.Module], *, hidden_size: int, weights: str, notes: dict[str, str]
) -> VisualEmbedder:
    embedder = VisualEmbedder(
        stages,
        kind="region",
        hidden_size=hidden_size,
        resolution=(800, 1333),
        size_divisor=32,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        weights=weights or "random",
        notes=notes,
    )
    if weights:
        embedder.weights, left_out = load_detector(embedder, weights)
        if left_out:
            embedder.notes["predictor"] = left_out
    return embedder
