"""An embedder whose stages take the device as long as its options say."""

from __future__ import annotations

import time

import torch
from torch import nn

from vilt_bench.embedding import ImageBatch, VisualEmbedder, VisualTokens

MEBIBYTE = 2**20


class Backbone(nn.Module):
    """Takes the device its time, on the current stream and on one of its own, and memory that it gives back."""

    def __init__(self, *, spend_ms: float, side_ms: float, passing_mib: int) -> None:
        """Keep what is scripted."""
        super().__init__()
        self.spend_ms, self.side_ms, self.passing_mib = spend_ms, side_ms, passing_mib
        self._side: torch.Stream | None = None

    def forward(self, images: ImageBatch) -> torch.Tensor:
        """Returns the pixels, shape as given."""
        if images.pixels.device.type != "lagging":
            return images.pixels
        torch.ops.lagging.spend(self.spend_ms / 1000)
        torch.empty(self.passing_mib * MEBIBYTE, dtype=torch.uint8, device=images.pixels.device)
        if self.side_ms:
            self._side = self._side or torch.Stream(images.pixels.device)
            with self._side:
                torch.ops.lagging.spend(self.side_ms / 1000)
        return images.pixels


class Projection(nn.Module):
    """Takes device and host their time, and has the device fail in the pass of that number, from 1."""

    def __init__(self, *, hidden_size: int, spend_ms: float, host_ms: float, fail_in: int, wait: bool) -> None:
        """Keep what is scripted."""
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(1, 4, hidden_size))
        self.spend_ms, self.host_ms, self.fail_in, self.wait = spend_ms, host_ms, fail_in, wait
        self.passes = 0

    def forward(self, pixels: torch.Tensor) -> VisualTokens:
        """Returns four tokens an image."""
        tokens = self.tokens.expand(len(pixels), -1, -1).clone()
        if pixels.device.type != "lagging":
            return VisualTokens(tokens)
        self.passes += 1
        if self.passes == self.fail_in:
            torch.ops.lagging.fail("the device is lost")
        torch.ops.lagging.spend(self.spend_ms / 1000)
        time.sleep(self.host_ms / 1000)
        if self.wait:
            tokens[0, 0, 0].item()
        return VisualTokens(tokens)


def scripted(
    *,
    hidden_size: int = 768,
    backbone_ms: float = 4.0,
    side_ms: float = 0.0,
    passing_mib: int = 0,
    projection_ms: float = 2.0,
    host_ms: float = 0.0,
    fail_in: int = 0,
    wait: bool = False,
) -> VisualEmbedder:
    """Returns the embedder: two stages that the device takes so long for, in milliseconds."""
    return VisualEmbedder(
        {
            "backbone": Backbone(spend_ms=backbone_ms, side_ms=side_ms, passing_mib=passing_mib),
            "projection": Projection(
                hidden_size=hidden_size, spend_ms=projection_ms, host_ms=host_ms, fail_in=fail_in, wait=wait
            ),
        },
        kind="grid",
        hidden_size=hidden_size,
        resolution=(64, 64),
        size_divisor=32,
        weights="random",
    )
