"""No shared model: the visual embedder alone, up to its tokens."""

from __future__ import annotations

from torch import nn

from vilt_bench.ask.case import ViltConfig
from vilt_bench.model.vilt import SharedModel, Sizes


class Alone(SharedModel):
    """What stands behind a visual embedder that is alone: nothing, without a parameter and without a stage."""

    has_text = False

    def __init__(self, config: ViltConfig) -> None:
        """Keep the width that the visual tokens are to have."""
        super().__init__(alone_sizes(config), nn.Identity(), {})


def alone_sizes(config: ViltConfig) -> Sizes:
    """Returns the sizes of no model, with the width of the visual tokens."""
    return Sizes(config.hidden_size, layers=0, heads=0, vocabulary=0)
