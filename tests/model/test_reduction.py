from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedders.grid import grid_r50_c4
from embedders.patch import patch, patch32
from embedders.region.detectors import region_grid
from embedders.timm_encoder import timm_encoder
from vilt_bench.ask.case import Case, parse_reduction
from vilt_bench.ask.registry import build
from vilt_bench.embedding import ImageBatch, Projection, VisualEmbedder, VisualFeatures, VisualTokens
from vilt_bench.errors import ConfigError, EmbedderError
from vilt_bench.model.reduction import AveragePool, BilinearPool, PixelShuffle, TokenMerging, reduced
from vilt_bench.testing import check_embedder
from vilt_bench.worker.meters.meta import building


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def features(height: int, width: int, *, channels: int = 6, mask: Tensor | None = None) -> VisualFeatures:
    return VisualFeatures(draw(2, height * width, channels), mask, cells=(height, width))


def tower(**options: Any) -> VisualEmbedder:
    torch.manual_seed(0)
    return timm_encoder(model="test_vit", resolution=(96, 96), hidden_size=32, **options).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("reduce", "count"),
    [
        ("pixel-shuffle:2", 9),
        ("avg-pool:3", 4),
        ("perceiver:5", 5),
        pytest.param("qformer:4", 4, marks=pytest.mark.slow),
        ("tome:20", 16),
    ],
)
def test_a_reduction_is_a_stage_between_tower_and_projection(reduce: str, count: int) -> None:
    def factory(*, hidden_size: int = 32, resolution: Any = None) -> VisualEmbedder:
        return reduced(timm_encoder(model="test_vit", hidden_size=hidden_size, resolution=resolution), reduce)

    check_embedder(factory, resolution=(96, 96))
    embedder = reduced(tower(), reduce)
    assert list(embedder.stages) == ["backbone", "reduction", "projection"]
    found = embedder(ImageBatch(draw(1, 3, 96, 96)))
    assert found.embeddings.shape == (1, count, 32)


@pytest.mark.parametrize(
    "reduce",
    [
        "pixel-shuffle:2",
        "avg-pool:2",
        pytest.param("perceiver:5", marks=pytest.mark.slow),
        pytest.param("qformer:4", marks=pytest.mark.slow),
        "tome:5",
    ],
)
def test_an_embedder_without_that_seam_is_reduced_at_its_end(reduce: str) -> None:
    def factory(*, hidden_size: int = 768) -> VisualEmbedder:
        return reduced(patch32(hidden_size=hidden_size), reduce)

    check_embedder(factory, resolution=(96, 128))
    assert list(factory().stages) == ["projection", "reduction"]


def test_pixel_shuffle_holds_each_squares_cells_in_one_token() -> None:
    given = features(4, 6)
    found = PixelShuffle(6, 2)(given)
    assert found.embeddings.shape == (2, 6, 24)
    assert found.cells == (2, 3)
    square = [given.embeddings[0, row * 6 + column] for row in (2, 3) for column in (2, 3)]
    # torch's order: channel by channel, row by row
    torch.testing.assert_close(found.embeddings[0, 4], torch.stack(square, dim=1).flatten())


def test_an_incomplete_square_is_filled_up_with_zeros() -> None:
    given = features(3, 3)
    found = PixelShuffle(6, 2)(given)
    assert found.cells == (2, 2)
    expected = torch.zeros(6, 4)
    expected[:, 0] = given.embeddings[0, 8]
    torch.testing.assert_close(found.embeddings[0, 3], expected.flatten())


def test_average_pooling_is_the_mean_of_the_cells_that_are_there() -> None:
    given = features(3, 4)
    found = AveragePool(6, 2)(given)
    cells = given.embeddings.view(2, 3, 4, 6)
    torch.testing.assert_close(found.embeddings[:, 0], cells[:, :2, :2].mean(dim=(1, 2)))
    torch.testing.assert_close(found.embeddings[:, 3], cells[:, 2:, 2:].mean(dim=(1, 2)))


def test_bilinear_pooling_is_what_llava_onevision_does_with_the_frames_of_a_video() -> None:
    onevision = pytest.importorskip("transformers.models.llava_onevision.modeling_llava_onevision")
    given = features(27, 27)
    found = BilinearPool(6, 2)(given)
    tower = SimpleNamespace(image_size=378, patch_size=14)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=tower))
    expected = onevision.LlavaOnevisionModel.apply_pooling(model, given.embeddings)
    assert found.cells == (14, 14)
    torch.testing.assert_close(found.embeddings, expected)


def test_padding_has_no_weight_in_bilinear_pooling_either() -> None:
    mask = torch.zeros(2, 3, 3, dtype=torch.bool)
    mask[:, 0, 0] = True
    given = features(3, 3, mask=mask.flatten(1))
    found = BilinearPool(6, 2)(given)
    assert found.mask is not None
    assert found.mask.tolist() == [[True, False, False, False]] * 2
    torch.testing.assert_close(found.embeddings[:, 0], given.embeddings[:, 0])
    assert found.embeddings.isfinite().all()


def test_padding_has_no_weight_and_a_square_of_it_is_masked() -> None:
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, :1, :2] = True
    given = features(4, 4, mask=mask.flatten(1))
    found = AveragePool(6, 2)(given)
    torch.testing.assert_close(found.embeddings[:, 0], given.embeddings[:, :2].mean(dim=1))
    assert found.mask is not None
    assert found.mask.tolist() == [[True, False, False, False]] * 2
    merged = TokenMerging(6, 10)(given)
    assert merged.mask is not None
    assert merged.embeddings.isfinite().all()
    assert merged.mask.any(dim=1).all()


def test_a_resampler_is_transformers_own_whole_model() -> None:
    stage = reduced(tower(), "perceiver:5").stages["reduction"].eval()
    given = features(4, 4, channels=64)
    mask = torch.ones(2, 16, dtype=torch.bool)
    expected = stage.reducer.resampler(given.embeddings, attention_mask=mask)
    torch.testing.assert_close(stage(given).embeddings, expected)
    mask[1, 7:] = False
    expected = stage.reducer.resampler(given.embeddings, attention_mask=mask)
    torch.testing.assert_close(stage(given._replace(mask=mask)).embeddings, expected)


def test_a_q_former_is_transformers_own_with_blip_2s_size() -> None:
    with torch.device("meta"):
        stage = reduced(timm_encoder(model="eva_giant_patch14_clip_224"), "qformer:32").stages["reduction"]
    # Blip2's published Q-Former, as transformers' Blip2Model builds it: 105.1 M parameters with 32 queries
    assert sum(parameter.numel() for parameter in stage.parameters()) == pytest.approx(105.1e6, abs=0.1e6)
    real = reduced(tower(), "qformer:4").stages["reduction"].eval()
    given = features(4, 4, channels=64)
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[0, 3:] = False
    expected = real.reducer.qformer(
        query_embeds=real.reducer.queries.expand(2, -1, -1),
        encoder_hidden_states=given.embeddings,
        encoder_attention_mask=mask.long(),
    ).last_hidden_state
    torch.testing.assert_close(real(given._replace(mask=mask)).embeddings, expected)


def test_merging_all_but_one_leaves_the_mean() -> None:
    given = features(3, 5)
    found = TokenMerging(6, 14)(given)
    torch.testing.assert_close(found.embeddings[:, 0], given.embeddings.mean(dim=1))
    assert found.cells is None


def test_positions_that_are_still_to_be_added_are_so_to_the_smaller_grid() -> None:
    embedder = reduced(patch32(hidden_size=16), "avg-pool:2")
    assert embedder(ImageBatch(draw(1, 3, 128, 192))).grid == (2, 3)
    own = reduced(patch(style="norm", hidden_size=16), "avg-pool:2")
    found = own(ImageBatch(draw(1, 3, 128, 192)))
    assert (found.grid, found.cells) == (None, (2, 3))


def test_a_grid_is_known_though_it_has_positions() -> None:
    with torch.device("meta"):
        embedder = reduced(grid_r50_c4(hidden_size=16), "pixel-shuffle:2").eval()
        found = embedder(ImageBatch(torch.empty(1, 3, 128, 256)))
    assert found.embeddings.shape == (1, 2 * 4, 16)
    assert isinstance(found, VisualTokens)


def test_regions_are_no_grid() -> None:
    with torch.device("meta"):
        embedder = reduced(region_grid(hidden_size=16), "avg-pool:2").eval()
    with pytest.raises(EmbedderError, match=r"`reduce` avg-pool:2 needs .* cells of a grid.*perceiver:64"):
        embedder(ImageBatch(torch.empty(1, 3, 128, 256, device="meta")))


def test_a_projection_is_made_for_the_reductions_channels() -> None:
    embedder = tower()
    before = embedder.stages["projection"]
    assert isinstance(before, Projection)
    same = reduced(embedder, "avg-pool:2").stages["projection"]
    assert same is before
    wider = reduced(tower(), "pixel-shuffle:2").stages["projection"]
    assert wider.linear.in_features == 4 * before.linear.in_features


def test_more_merging_than_tokens_is_refused() -> None:
    with pytest.raises(EmbedderError, match="as many tokens away as there are: 36; expected at most 35"):
        reduced(tower(), "tome:36")(ImageBatch(draw(1, 3, 96, 96)))


def test_a_second_reduction_is_refused() -> None:
    embedder = reduced(tower(), "avg-pool:2")
    with pytest.raises(EmbedderError, match="has a stage 'reduction' of its own"):
        reduced(embedder, "avg-pool:2")


@pytest.mark.parametrize(
    "text", ["", "avg-pool", "avg-pool:", "avg-pool:two", "avg-pool:1", "avg-pool:-2", "tome:0", "x:2"]
)
def test_what_is_no_reduction_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="`reduce`"):
        parse_reduction(text)
    with pytest.raises(ConfigError, match="`reduce`"):
        Case("patch32", reduce=text)


def test_without_transformers_the_line_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EmbedderError, match=r"pip install 'transformers>="):
        reduced(tower(), "perceiver:4")


def test_a_reduction_of_known_weights_says_that_it_is_random() -> None:
    embedder = VisualEmbedder(
        {"projection": nn.Identity()}, kind="linear", hidden_size=8, resolution=(32, 32), weights="known.pth"
    )
    assert reduced(embedder, "perceiver:4").weights == "known.pth, reduction random"


def test_a_projection_that_is_made_anew_is_told_to_be_random() -> None:
    with building():
        embedder = build("torchvision/resnet18", {}, hidden_size=64)
    embedder.weights = "known.pth"
    assert reduced(embedder, "pixel-shuffle:2").weights == "known.pth, projection random"
