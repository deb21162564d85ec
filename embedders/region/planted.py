"""A region embedder of planted proposals and logits, without a backbone, to study NMS over classes alone."""

from __future__ import annotations

import torch
from torch import nn

from embedders.grid import IMAGENET_MEAN, IMAGENET_STD
from embedders.region.boxes import MOST, extents
from embedders.region.heads import Predictor, RegionFeatures
from embedders.region.planting import OBJECTS, POOL, SYNONYMS, PlantedBoxes
from embedders.region.proposals import Candidates, ProposalNMS
from embedders.region.selection import ClassNMS, Mode, RegionProjection
from embedders.resnet import CHANNELS, FeatureMaps
from vilt_bench.embedding import ImageBatch, VisualEmbedder
from vilt_bench.errors import EmbedderError

NAME = "region-planted"
BOXES = 6000
"""Planted boxes that enter the proposals' NMS, as on C4."""


def region_planted(
    *,
    hidden_size: int = 768,
    regions: int = 36,
    proposals: int = 1000,
    classes: int = 1600,
    pool: int = POOL,
    objects: int = OBJECTS,
    nms: Mode = "per-class",
    score_threshold: float = 0.2,
    seed: int = 0,
) -> VisualEmbedder:
    """Returns what follows the RoI head of `region-r101-c4`, on planted boxes and logits; the pixels don't matter.

    Args:
        hidden_size: D of the tokens.
        regions: kept of each image.
        proposals: kept by the proposals' NMS.
        classes: that the detector knows, without the background.
        pool: classes that the planted objects belong to.
        objects: that the planted boxes crowd around; the more, the less they overlap.
        nms: over the predictions, as of `region-r101-c4`.
        score_threshold: lower scores never enter NMS.
        seed: of what is planted.

    Raises:
        EmbedderError: an option is impossible.
    """
    for option, value, most in (
        ("regions", regions, MOST),
        ("proposals", proposals, BOXES),
        ("classes", classes, MOST),
        ("pool", pool, classes),
        ("objects", objects, BOXES),
    ):
        if not 1 <= value <= most:
            raise EmbedderError(f"{NAME}: {option}={value} is out of range; expected 1 to {most}")
    stages = {
        "proposals": PlantedRegions(proposals=proposals, features=CHANNELS[3], objects=objects, seed=seed),
        "predictor": Predictor(
            features=CHANNELS[3],
            classes=classes,
            box_for_each_class=True,
            proposals=proposals,
            seed=seed,
            pool=pool,
            objects=objects,
        ),
        "class_nms": ClassNMS(mode=nms, regions=regions, score_threshold=score_threshold, name=NAME),
        "projection": RegionProjection(features=CHANNELS[3], hidden_size=hidden_size),
    }
    planted = f"planted logits (seed {seed}): {objects} objects of {pool} classes, {SYNONYMS} near-synonyms each"
    return VisualEmbedder(
        stages,
        kind="region",
        hidden_size=hidden_size,
        resolution=(800, 1333),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        notes={"proposals": f"planted boxes (seed {seed}): {BOXES} around {objects} objects", "class_nms": planted},
    )


class PlantedRegions(nn.Module):
    """Proposals that NMS chose among planted boxes, each with a vector of noise as the RoI head's."""

    def __init__(self, *, proposals: int, features: int, objects: int, seed: int) -> None:
        """Draw boxes and vectors.

        Args:
            proposals: the most kept of an image.
            features: F, width of the vectors.
            objects: that the boxes crowd around.
            seed: of all that is drawn.
        """
        super().__init__()
        self.boxes = PlantedBoxes([BOXES], seed=seed, objects=objects)
        self.nms = ProposalNMS(proposals=proposals, name=NAME)
        random = torch.Generator(device="cpu").manual_seed(seed)
        noise = torch.randn(proposals, features, generator=random, device="cpu").relu()
        self.register_buffer("features", noise.to(torch.empty(0).device), persistent=False)

    def forward(self, images: ImageBatch) -> RegionFeatures:
        """Returns at most the number of proposals asked for, for each image."""
        height, width = images.pixels.shape[-2:]
        maps = FeatureMaps((images.pixels,), (height, width), images.mask)
        extent = extents(maps)
        boxes, scores = self.boxes([BOXES], extent)
        proposals = self.nms(Candidates(maps, boxes, scores, (BOXES,), extent))
        noise = self.get_buffer("features")
        features = torch.cat([noise[: len(image)] for image in proposals.boxes])
        return RegionFeatures(features, proposals.boxes, extent)
