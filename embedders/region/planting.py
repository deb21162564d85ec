"""Seeded planted tensors for the two NMS seams, so that random weights leave NMS the work that real ones do.

With random weights no proposal may survive, or all candidates fall into few classes: NMS would then be
measured on nothing. What is planted replaces values, not work: the layers before it run in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou

OBJECTS = 40
POOL = 18
"""Classes that the objects belong to: detections of a real model come from 17 or 18 an image."""
SYNONYMS = 4
"""Classes that compete for an object, as near-synonyms do among 1600."""

# Chosen together: of 6000 boxes in an 800x1333 image about 1200 survive NMS at IoU 0.7; of the best 300 proposals
# 100 to 130 candidates, in 15 to 17 classes, score above 0.2, and 430 to 480 above 0.05.
JITTER = 0.15
STRENGTH, STRENGTH_STD = 8.5, 1.5
BACKGROUND, NOISE_STD = 10.0, 0.5


def put_in_place(planted: Tensor, computed: Tensor) -> Tensor:
    """Returns the planted values, and NaN where the computed ones are, both of one shape.

    For its sake a compiler computes what is replaced, and does not drop it as work that nobody uses.
    """
    return torch.where(computed.isnan(), computed, planted)


class Planted(nn.Module):
    """Values that go where the module goes, and stay in float32: a cast to half precision leaves coordinates exact."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Planted:
        """Apply a function to the values, and take no more of it than the device."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, moved in self._buffers.items():
            if (value := before[name]) is not None and moved is not None and moved.dtype != value.dtype:
                self._buffers[name] = value.to(moved.device)
        return self

    def keep(self, name: str, values: Tensor) -> None:
        """Keep values by a name, on the device where modules are made."""
        self.register_buffer(name, values.to(torch.empty(0).device), persistent=False)


class PlantedBoxes(Planted):
    """Boxes jittered around the objects, level by level, with the objectness of each."""

    def __init__(self, most: Sequence[int], *, seed: int, objects: int = OBJECTS) -> None:
        """Draw them.

        Args:
            most: boxes to draw on each level of the pyramid; a level gets the objects of its size.
            seed: of all that is drawn.
            objects: that the boxes crowd around.
        """
        super().__init__()
        places, random = _objects(seed, objects)
        groups = places.tensor_split(len(most))
        around = torch.cat([group.repeat(-(-n // len(group)), 1)[:n] for group, n in zip(groups, most, strict=True)])
        noise = torch.randn(len(around), 4, generator=random, device="cpu")
        clean = box_convert(around, "xyxy", "cxcywh")
        centres = clean[:, :2] + JITTER * noise[:, :2] * clean[:, 2:]
        sides = clean[:, 2:] * (JITTER * noise[:, 2:]).exp()
        self.keep("boxes", box_convert(torch.cat([centres, sides], dim=1), "cxcywh", "xyxy").clamp(0, 1))
        # The closer to its object, the better.
        self.keep("scores", -noise.norm(dim=1) + 0.1 * torch.randn(len(around), generator=random, device="cpu"))
        self.most = list(most)

    def forward(self, counts: Sequence[int], extent: Tensor) -> tuple[Tensor, Tensor]:
        """Returns boxes [B, M, 4] in pixels and objectness logits [B, M].

        Args:
            counts: boxes wanted on each level, M in all.
            extent: [B, 4], (width, height, width, height) of each image.
        """
        boxes, scores = (
            torch.cat(
                [level[:n] for level, n in zip(torch.split(self.get_buffer(name), self.most), counts, strict=True)]
            )
            for name in ("boxes", "scores")
        )
        return boxes * extent.unsqueeze(1), scores.expand(len(extent), -1)


class PlantedLogits(Planted):
    """Class logits of the objects over background noise."""

    def __init__(self, *, boxes: int, classes: int, seed: int, pool: int = POOL, objects: int = OBJECTS) -> None:
        """Draw them.

        Args:
            boxes: the most boxes of an image.
            classes: without the background, which comes first.
            seed: as of the boxes.
            pool: classes that the objects belong to.
            objects: as of the boxes.
        """
        super().__init__()
        places, random = _objects(seed, objects)
        members = 1 + torch.randperm(classes, generator=random, device="cpu")[:pool]
        first = torch.randint(len(members), (objects, 1), generator=random, device="cpu")
        synonyms = members[(first + torch.arange(SYNONYMS, device="cpu")) % len(members)]  # (objects, synonyms)
        strengths = STRENGTH + STRENGTH_STD * torch.randn(objects, SYNONYMS, generator=random, device="cpu")
        noise = NOISE_STD * torch.randn(boxes, classes + 1, generator=random, device="cpu")
        noise[:, 0] += BACKGROUND
        self.keep("objects", places)
        self.keep("logits", torch.zeros(objects, classes + 1, device="cpu").scatter_(1, synonyms, strengths))
        self.keep("noise", noise)

    def forward(self, boxes: Tensor, extent: Tensor) -> Tensor:
        """Returns logits [K, classes + 1] of boxes [K, 4] in an image of extent [4], in pixels.

        A box speaks for the object that it overlaps most, the louder the more it does.
        """
        overlap, nearest = box_iou(boxes / extent, self.get_buffer("objects")).max(dim=1)
        loudness = overlap.clamp(min=0.3).sqrt().unsqueeze(1)
        logits: Tensor = self.get_buffer("noise")[: len(boxes)] + self.get_buffer("logits")[nearest] * loudness
        return logits


def _objects(seed: int, count: int) -> tuple[Tensor, torch.Generator]:
    """Returns the objects' boxes [objects, 4] in shares of the image, smallest first, and the generator after them.

    Sides are 10% to 40% of the image's for 40 objects; more are smaller, so that all together cover the same area.
    """
    random = torch.Generator(device="cpu").manual_seed(seed)
    sides = torch.empty(count, 2, device="cpu").uniform_(-2.3, -0.9, generator=random).exp()
    sides = (sides * math.sqrt(OBJECTS / count)).clamp(max=0.9)
    centres = sides / 2 + torch.rand(count, 2, generator=random, device="cpu") * (1 - sides)
    boxes = box_convert(torch.cat([centres, sides], dim=1), "cxcywh", "xyxy")
    return boxes[sides.prod(dim=1).argsort()], random
