from typing import Any

import pytest
import torch
from torch import nn

from vilt_bench.meters.traffic import count_traffic


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


def test_layers_are_not_watched_afterwards() -> None:
    model = Model()
    with count_traffic(model, torch.zeros(1), scalar_bytes=4):
        pass
    assert not any(module._forward_pre_hooks for module in model.modules())
