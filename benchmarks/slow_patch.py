"""ViLT's patch projection with extra work: a slowdown that is real, for trying gates on.

The extra work is a multilayer perceptron over `ROWS` rows, like the transformer's own, `REPEATS` times;
its result is thrown away.
"""

from __future__ import annotations

import torch
from torch import nn

from embedders.patch import PatchProjection
from vilt_bench.embedding import ImageBatch, VisualEmbedder, VisualTokens

ROWS = 0
REPEATS = 1
WIDTH, HIDDEN = 768, 3072
"""Of ViLT-B/32's own perceptrons."""


class BusyProjection(PatchProjection):
    """A patch projection that also does what nobody asked for."""

    def __init__(self, rows: int, *, hidden_size: int) -> None:
        """Make the projection and the extra work; weights that no other pass has in the caches."""
        super().__init__(patch_size=32, hidden_size=hidden_size)
        self.extra = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.register_buffer("rows", torch.empty(rows, WIDTH).normal_())

    def forward(self, images: ImageBatch) -> VisualTokens:
        """Returns the tokens, after the extra work."""
        if len(self.rows):
            for _ in range(REPEATS):
                self.extra(self.rows)
        return super().forward(images)


def patch32(*, hidden_size: int = 768, rows: int = ROWS) -> VisualEmbedder:
    """Returns ViLT-B/32's patch projection with extra work over so many rows."""
    return VisualEmbedder(
        {"projection": BusyProjection(rows, hidden_size=hidden_size)},
        kind="linear",
        hidden_size=hidden_size,
        resolution=(384, 640),
        size_divisor=32,
        weights="random",
    )
