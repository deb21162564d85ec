from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedders.grid import grid_r50, grid_r50_c4, grid_x152
from embedders.patch import patch, patch16, patch32
from embedders.region.detectors import region_grid, region_r101_c4, region_x152_c4, region_x152_fpn
from vilt_bench.embedding import EmbedderFactory, ImageBatch, VisualEmbedder, VisualTokens
from vilt_bench.testing import check_embedder


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (patch32, {}),
        (patch16, {}),
        (patch, {"patch_size": 48}),
        pytest.param(grid_r50, {}, marks=pytest.mark.slow),
        pytest.param(grid_r50, {"pool": False}, marks=pytest.mark.slow),
        (grid_r50_c4, {}),
        pytest.param(grid_x152, {}, marks=pytest.mark.slow),
        pytest.param(region_r101_c4, {"proposals": 20, "regions": 10}, marks=pytest.mark.slow),
        pytest.param(region_x152_c4, {"proposals": 20, "regions": 10}, marks=pytest.mark.slow),
        pytest.param(region_x152_fpn, {"proposals": 20, "regions": 10}, marks=pytest.mark.slow),
        pytest.param(region_grid, {}, marks=pytest.mark.slow),
    ],
)
def test_built_in_embedders_keep_the_contract(factory: EmbedderFactory, options: dict[str, Any]) -> None:
    check_embedder(factory, resolution=(96, 96), **options)


class Stage(nn.Module):
    """A tiny patch projection whose faults are chosen."""

    def __init__(self, hidden_size: int, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.convolution = nn.Conv2d(3, hidden_size, 8, 8)

    def forward(self, images: ImageBatch) -> VisualTokens | Tensor:
        pixels = images.pixels
        if self.fault == "constant":
            pixels = torch.zeros_like(pixels)
        elif self.fault == "batch":
            pixels = pixels - pixels.mean(dim=0)
        elif self.fault == "meta" and pixels.is_meta:
            pixels = torch.cat([pixels, pixels], dim=2)
        tokens = self.convolution(pixels).flatten(2).transpose(1, 2)
        batch_size, count, _ = tokens.shape
        match self.fault:
            case "tensor":
                return tokens
            case "random":
                tokens = tokens + torch.rand_like(tokens)
            case "nan":
                tokens = tokens / 0
            case "integer":
                tokens = tokens.long()
            case "mask_shape":
                return VisualTokens(tokens, torch.ones(batch_size, count + 1, dtype=torch.bool))
            case "mask_type":
                return VisualTokens(tokens, torch.ones(batch_size, count))
            case "mask_empty":
                return VisualTokens(tokens, torch.zeros(batch_size, count, dtype=torch.bool))
            case "boxes":
                return VisualTokens(tokens, boxes=torch.zeros(batch_size, count, 5))
            case "grid":
                return VisualTokens(tokens, grid=(1, count + 1))
        return VisualTokens(tokens)


def faulty(fault: str, *, hidden_size: int) -> Any:
    size = 64 if fault == "size" else hidden_size
    stage = Stage(size, fault)
    if fault == "type":
        return stage
    embedder = VisualEmbedder(
        {"projection": stage},
        kind="linear",
        hidden_size=64 if fault == "said_size" else hidden_size,
        resolution=(64, 64),
    )
    if fault == "outside":
        embedder.position = nn.Parameter(torch.zeros(1))
    elif fault == "shared":
        embedder.stages["again"] = Again(stage)
    elif fault == "mark":
        embedder.forward = lambda images, mark=None: stage(images)  # type: ignore[method-assign]
    elif fault == "forward":
        embedder.forward = lambda images, mark=None: VisualTokens(stage(images).embeddings * 2)  # type: ignore[method-assign]
    return embedder


class Again(nn.Module):
    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, tokens: VisualTokens) -> VisualTokens:
        return tokens


def test_a_sound_embedder_of_outsiders_passes() -> None:
    check_embedder(partial(faulty, "none"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("type", "builds a Stage, not a VisualEmbedder"),
        ("said_size", "was asked for hidden_size=32 and says 64"),
        ("size", "not .2, N, 32."),
        ("tensor", "returns a Tensor, not VisualTokens"),
        ("integer", "not floating point"),
        ("nan", "not all finite"),
        ("mask_shape", "mask is .2, 65., not .2, 64."),
        ("mask_type", "not bool"),
        ("mask_empty", "without a token"),
        ("boxes", "boxes are .2, 64, 5., not"),
        ("grid", "grid is"),
        ("random", "other tokens for the same images"),
        ("constant", "different images the same tokens"),
        ("batch", "alone than in a batch"),
        ("outside", "position is in no stage"),
        ("shared", "more than one stage: projection, again"),
        ("mark", "marks nothing; expected projection"),
        ("forward", "run one after the other"),
        ("meta", "on the meta device, .2, 64, 64. elsewhere"),
    ],
)
def test_each_breach_is_named(fault: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_embedder(partial(faulty, fault))
    assert "\n" not in str(caught.value)
