from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from vilt_bench.worker.meters.traffic import count_traffic


class Model(nn.Module):
    """Stages of known traffic; a table of which only a row is read."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 4)
        self.backbone = nn.Conv2d(3, 5, 2, stride=2)
        self.projection = nn.Linear(5, 4, bias=False)
        self.unused = nn.Linear(100, 100)
        self.mix = nn.Linear(4, 4)

    def forward(self, pixels: torch.Tensor, mark: Any) -> None:
        text = self.table(torch.zeros(1, 2, dtype=torch.long))
        mark("textual_embedder", text)  # 8 scalars
        cells = self.backbone(pixels)
        mark("visual_embedder.backbone", (cells, torch.ones(3, dtype=torch.bool)))
        tokens = self.projection(cells.flatten(2).transpose(1, 2))
        mark("visual_embedder.projection", tokens)
        mark("modality_interaction.mix", self.mix(torch.cat([text, tokens], dim=1)))


@pytest.mark.parametrize("scalar_bytes", [4, 2])
def test_weights_input_and_output_are_counted_once(scalar_bytes: int) -> None:
    model, pixels = Model(), torch.zeros(1, 3, 4, 6)  # to 5 channels of 2×3 cells
    with torch.no_grad(), count_traffic(model, pixels, scalar_bytes=scalar_bytes) as (mark, moved):
        model(pixels, mark)
    assert moved == {
        "textual_embedder": scalar_bytes * 8,
        "visual_embedder.backbone": scalar_bytes * (3 * 4 * 6 + 5 * 3 * 4 + 5 + 5 * 6),
        "visual_embedder.projection": scalar_bytes * (5 * 6 + 5 * 4 + 6 * 4),
        "modality_interaction.mix": scalar_bytes * (8 + 6 * 4 + 4 * 4 + 4 + 8 * 4),
    }


class Pyramid(nn.Module):
    """Stages that return mappings, views, data classes, and what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 5, 2, stride=2)
        self.head = nn.Linear(5, 7, bias=False)

    def forward(self, pixels: torch.Tensor, mark: Any) -> None:
        cells = self.backbone(pixels)  # 5 channels of 2×3 cells
        levels = OrderedDict(fine=cells, coarse=cells.mean(dim=(2, 3)))
        mark("visual_embedder.backbone", levels)
        mark("visual_embedder.same", {"levels": levels, "flat": cells.flatten(2)})
        last = cells.flatten(2)[:, :, -1]
        mark("visual_embedder.head", Logits({"scores": self.head(last)}, levels))


@dataclass
class Logits:
    values: dict[str, torch.Tensor]
    levels: OrderedDict[str, torch.Tensor]


def test_tensors_in_mappings_count_and_what_was_there_before_does_not() -> None:
    model, pixels = Pyramid(), torch.zeros(1, 3, 4, 6)
    with torch.no_grad(), count_traffic(model, pixels, scalar_bytes=4) as (mark, moved):
        model(pixels, mark)
    assert moved == {
        "visual_embedder.backbone": 4 * (3 * 4 * 6 + 5 * 3 * 4 + 5 + 5 * 6 + 5),
        "visual_embedder.same": 0,
        "visual_embedder.head": 4 * (5 + 5 * 7 + 7),  # of its input the one cell that its layer reads
    }


def test_layers_are_not_watched_afterwards() -> None:
    model = Model()
    with count_traffic(model, torch.zeros(1), scalar_bytes=4):
        pass
    assert not any(module._forward_pre_hooks for module in model.modules())
