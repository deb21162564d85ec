from collections import OrderedDict
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN
from torchvision.ops import box_iou

from embedders.region.detectors import region_grid, region_r101_c4, region_x152_c4, region_x152_fpn
from embedders.region.heads import PooledRegions, Predictions, Predictor, PyramidAlign, RegionFeatures, RoIHead
from embedders.region.planting import PlantedBoxes
from embedders.region.proposals import Candidates, GridProposals, ProposalNMS, Proposals, RegionProposalNetwork
from embedders.region.selection import (
    ClassNMS,
    RegionProjection,
    Selection,
    class_agnostic,
    per_class,
    per_class_unthresholded,
)
from embedders.resnet import FeatureMaps
from vilt_bench.embedding import EmbedderFactory, ImageBatch, VisualEmbedder
from vilt_bench.errors import EmbedderError

TRANSFORMER = 85_054_464
"""Parameters of the shared transformer's twelve layers."""
FACTORIES = {factory.__name__: factory for factory in (region_r101_c4, region_x152_c4, region_x152_fpn, region_grid)}


@cache
def meta(name: str) -> VisualEmbedder:
    with torch.device("meta"):
        return FACTORIES[name]().eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def paper_count(module: nn.Module, *, norms: bool) -> int:
    """Trainable parameters as the detectors' configurations count them: norms as told, stem and res2 frozen."""
    if hasattr(module, "stem"):
        return sum(paper_count(layer, norms=norms) for layer in list(module.layers)[1:])
    return count(module) - (0 if norms else sum(count(m) for m in module.modules() if isinstance(m, nn.BatchNorm2d)))


@pytest.mark.parametrize(
    ("name", "norms", "expected"),
    [
        (
            "region_r101_c4",
            False,
            {"backbone": 27_230_208, "rpn": 9_515_083, "roi_head": 14_942_208, "predictor": 16_394_049},
        ),
        (
            "region_x152_c4",
            False,
            {"backbone": 42_975_232, "rpn": 9_515_083, "roi_head": 14_942_208, "predictor": 3_288_645},
        ),
        (
            "region_x152_fpn",
            True,
            {
                "backbone": 57_687_040,
                "fpn": 3_344_384,
                "rpn": 593_935,
                "roi_head": 13_895_680,
                "predictor": 8_201_025,
            },
        ),
    ],
)
def test_components_have_the_papers_parameters_as_it_counted(name: str, norms: bool, expected: dict[str, int]) -> None:
    stages = meta(name).stages
    assert {stage: paper_count(stages[stage], norms=norms) for stage in expected} == expected
    assert {stage for stage, module in stages.items() if count(module)} == {*expected, "projection"}


@pytest.mark.parametrize(
    ("name", "millions"), [("region_r101_c4", 155.04), ("region_x152_c4", 157.75), ("region_x152_fpn", 170.57)]
)
def test_detectors_with_twelve_layers_have_the_known_total_of_every_parameter(name: str, millions: float) -> None:
    detector = sum(count(module) for stage, module in meta(name).stages.items() if stage != "projection")
    assert (detector + 1_573_632 + TRANSFORMER) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("name", "features"), [("region_r101_c4", 1_573_632), ("region_x152_fpn", 787_200)])
def test_the_projection_of_features_and_of_boxes_count_apart(name: str, features: int) -> None:
    projection = meta(name).stages["projection"]
    assert count(projection.feature) == features
    assert count(projection.position) == 8 * 768


def flops(name: str) -> dict[str, int]:
    value: Any = ImageBatch(torch.empty(1, 3, 800, 1344, device="meta"))
    found = {}
    for stage, module in meta(name).stages.items():
        with FlopCounterMode(display=False) as counter:
            value = module(value)
        found[stage] = counter.get_total_flops()
    assert value.embeddings.shape == (1, 36, 768)
    return found


def test_flops_of_a_c4_detector_follow_from_its_shapes() -> None:
    found = flops("region_r101_c4")
    assert found["rpn"] == 2 * 50 * 84 * (9 * 1024 * 1024 + 1024 * 75)
    assert found["predictor"] == 2 * 1000 * 2048 * 8001
    assert found["roi_head"] / 2e9 == pytest.approx(732, abs=0.5)
    assert found["proposal_nms"] == found["class_nms"] == 0
    assert found["projection"] == 2 * 36 * 768 * (2048 + 7)


def test_flops_of_a_pyramid_detector_follow_from_its_shapes() -> None:
    found = flops("region_x152_fpn")
    cells = [200 * 336, 100 * 168, 50 * 84, 25 * 42, 13 * 21]
    assert found["rpn"] == 2 * sum(cells) * (9 * 256 * 256 + 256 * 15)
    assert found["fpn"] == 2 * sum(
        n * 256 * (channels + 9 * 256) for n, channels in zip(cells, (256, 512, 1024, 2048), strict=False)
    )
    assert found["roi_head"] == 2 * 1000 * (7 * 7 * 256 * 1024 + 1024 * 1024)


def features(*shapes: tuple[int, int], images: int = 2, channels: int = 8, mask: Tensor | None = None) -> FeatureMaps:
    random = torch.Generator().manual_seed(1)
    maps = tuple(torch.randn(images, channels, *shape, generator=random) for shape in shapes)
    return FeatureMaps(maps, (96, 128), mask)


def test_proposals_are_those_of_torchvisions_network_with_the_same_weights() -> None:
    shapes, sizes, strides = [(24, 32), (12, 16), (6, 8)], [(16,), (32,), (64,)], [4, 8, 16]
    ours = RegionProposalNetwork(channels=8, sizes=sizes, strides=strides, most=200, seed=None)
    for parameter in ours.head.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs = TorchvisionRPN(
        AnchorGenerator(tuple(sizes), ((0.5, 1.0, 2.0),) * 3),
        ours.head,
        0.7,
        0.3,
        256,
        0.5,
        {"training": 200, "testing": 200},
        {"training": 100, "testing": 100},
        0.7,
    ).eval()
    maps = features(*shapes)
    with torch.no_grad():
        found = ProposalNMS(proposals=100, name="x")(ours(maps))
        images = ImageList(torch.empty(2, 3, 96, 128), [(96, 128)] * 2)
        expected, _ = theirs(images, OrderedDict((str(i), cells) for i, cells in enumerate(maps.maps)))
    assert [len(boxes) for boxes in found.boxes] == [100, 100]
    for mine, other in zip(found.boxes, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)


def crowd(rows: int = 60, classes: int = 7) -> tuple[Tensor, Tensor]:
    """Boxes [K, classes, 4] that overlap much, and scores [K, classes]."""
    random = torch.Generator().manual_seed(3)
    corners = torch.rand(rows, classes, 2, generator=random) * 60
    sides = 20 + torch.rand(rows, classes, 2, generator=random) * 30
    return torch.cat([corners, corners + sides], dim=2), torch.rand(rows, classes, generator=random)


def naive(boxes: Tensor, scores: Tensor, iou_threshold: float) -> set[int]:
    """NMS as written in any textbook."""
    order, kept = scores.argsort(descending=True).tolist(), []
    for index in order:
        if scores[index] > 0 and all(box_iou(boxes[[index]], boxes[[other]]).item() <= iou_threshold for other in kept):
            kept.append(index)
    return set(kept)


def test_per_class_nms_keeps_what_a_naive_one_keeps() -> None:
    boxes, scores = crowd()
    survivors = per_class(boxes, scores, 0.4)
    expected = {(k, c) for c in range(7) for k in naive(boxes[:, c], scores[:, c] * (scores[:, c] > 0.4), 0.3)}
    assert set(map(tuple, survivors.scores.nonzero().tolist())) == expected
    assert len(survivors.candidates) == int((scores > 0.4).sum())


def test_nms_without_threshold_keeps_what_the_thresholded_keeps_at_zero() -> None:
    boxes, scores = crowd()
    whole, thresholded = per_class_unthresholded(boxes, scores, 0.9), per_class(boxes, scores, 0.0)
    torch.testing.assert_close(whole.scores, thresholded.scores, rtol=0, atol=0)
    assert len(whole.candidates) == 60 * 7


def test_class_agnostic_nms_keeps_what_a_naive_one_keeps() -> None:
    boxes, scores = crowd(classes=1)
    scores = torch.cat([scores, scores / 2], dim=1)
    survivors = class_agnostic(boxes, scores, 0.4)
    assert set(survivors.scores[:, 0].nonzero().squeeze(1).tolist()) == naive(
        boxes[:, 0], scores[:, 0] * (scores[:, 0] > 0.4), 0.5
    )
    assert not survivors.scores[:, 1].any()


def test_detections_are_those_of_torchvisions_postprocessing_with_the_same_weights() -> None:
    random = torch.Generator().manual_seed(4)
    predictor = Predictor(features=16, classes=5, box_for_each_class=True, proposals=50, seed=None)
    nn.init.normal_(predictor.classes.weight, std=0.5)
    nn.init.normal_(predictor.boxes.weight, std=0.2)
    proposals = crowd(rows=50, classes=1)[0][:, 0]
    vectors = torch.randn(50, 16, generator=random)
    with torch.no_grad():
        found = predictor(RegionFeatures(vectors, (proposals,), torch.tensor([[128.0, 96.0, 128.0, 96.0]])))
        # torchvision also regresses a box for the background, which nothing reads.
        regression = torch.cat([torch.zeros(50, 4), predictor.boxes(vectors)], dim=1)
        theirs = RoIHeads(None, None, None, 0.5, 0.5, 1, 0.5, (10.0, 10.0, 5.0, 5.0), 0.2, 0.3, 10_000)
        boxes, scores, labels = theirs.postprocess_detections(
            predictor.classes(vectors), regression, [proposals], [(96, 128)]
        )
    survivors = per_class(found.boxes, found.scores, 0.2)
    rows, classes = survivors.scores.nonzero().unbind(1)
    order = survivors.scores[rows, classes].argsort(descending=True)
    rows, classes = rows[order], classes[order]
    assert len(rows) > 5
    torch.testing.assert_close(survivors.scores[rows, classes], scores[0])
    assert (classes + 1).tolist() == labels[0].tolist()
    torch.testing.assert_close(found.boxes[rows, classes], boxes[0], rtol=1e-4, atol=1e-3)


def predictions(scores: Tensor, *, counts: tuple[int, ...]) -> Predictions:
    boxes = crowd(rows=len(scores), classes=scores.shape[1])[0]
    rows = torch.arange(len(scores)).unsqueeze(1).float()
    return Predictions(rows, scores, boxes, counts, torch.full((len(counts), 4), 128.0))


def test_the_regions_of_highest_surviving_score_are_kept_and_missing_ones_masked() -> None:
    scores = torch.zeros(6, 2)
    scores[1, 0], scores[2, 1] = 0.5, 0.9
    scores[4, 1] = 0.3
    stage = ClassNMS(mode="per-class", regions=2, score_threshold=0.2, name="x")
    found = stage(predictions(scores, counts=(3, 3)))
    assert found.features.squeeze(2).tolist() == [[2, 1], [4, 0]]
    assert found.mask is not None
    assert found.mask.tolist() == [[True, True], [True, False]]
    assert stage.counts(found) == {"candidates": 3, "classes": 2, "kept": 3}


def test_without_missing_regions_there_is_no_mask() -> None:
    stage = ClassNMS(mode="class-agnostic", regions=1, score_threshold=0.0, name="x")
    assert stage(predictions(torch.full((3, 2), 0.5), counts=(3,))).mask is None


@pytest.mark.parametrize("mode", ["per-class", "class-agnostic", "per-class-unthresholded"])
def test_an_image_without_a_region_is_an_error_not_a_fast_result(mode: Any) -> None:
    stage = ClassNMS(mode=mode, regions=2, score_threshold=0.2, name="region-x")
    scores = torch.zeros(6, 2)
    scores[0, 0] = 0.5
    with pytest.raises(EmbedderError, match="region-x ended with no region in image 2 of 2; lower") as caught:
        stage(predictions(scores, counts=(3, 3)))
    assert "\n" not in str(caught.value)


def test_an_image_without_a_proposal_is_an_error() -> None:
    network = RegionProposalNetwork(channels=8, sizes=[(32,)], strides=[8], most=50, seed=None)
    nn.init.constant_(network.head.bbox_pred.bias, -1e4)  # boxes of no size
    with pytest.raises(EmbedderError, match="found no proposal"):
        ProposalNMS(proposals=5, name="x")(network(features((12, 16))))


@pytest.mark.parametrize(
    ("most", "counts"), [([6000], [6000]), ([1000] * 5, [1000, 1000, 1000, 1000, 819])], ids=["c4", "pyramid"]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_boxes_leave_a_thousand_proposals(most: list[int], counts: list[int], seed: int) -> None:
    boxes, scores = planted(most, counts, seed)
    assert boxes.shape == (1, sum(counts), 4)
    found = nms_of(boxes, scores, counts, proposals=10_000)
    assert 1000 <= len(found) <= 1500


def planted(most: list[int], counts: list[int], seed: int) -> tuple[Tensor, Tensor]:
    return PlantedBoxes(most, seed=seed)(counts, torch.tensor([[1333.0, 800.0, 1333.0, 800.0]]))


def nms_of(boxes: Tensor, scores: Tensor, counts: list[int], *, proposals: int) -> Tensor:
    extent = torch.tensor([[1333.0, 800.0, 1333.0, 800.0]])
    output = ProposalNMS(proposals=proposals, name="x")(
        Candidates(features((2, 2), images=1), boxes, scores, tuple(counts), extent)
    )
    return output.boxes[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_logits_of_300_proposals_give_about_100_candidates_in_about_17_classes(seed: int) -> None:
    proposals = nms_of(*planted([6000], [6000], seed), [6000], proposals=300)
    predictor = Predictor(features=4, classes=1600, box_for_each_class=False, proposals=300, seed=seed)
    extent = torch.tensor([[1333.0, 800.0, 1333.0, 800.0]])
    with torch.no_grad():
        found = predictor(RegionFeatures(torch.zeros(300, 4), (proposals,), extent))
    stage = ClassNMS(mode="per-class", regions=36, score_threshold=0.2, name="x")
    counts = stage.counts(stage(found))
    assert 80 <= counts["candidates"] <= 140
    assert 14 <= counts["classes"] <= 18
    assert counts["kept"] == 36


def test_what_is_planted_depends_on_the_layers_that_it_stands_in_for_so_that_no_compiler_drops_them() -> None:
    extent = torch.tensor([[64.0, 64.0, 64.0, 64.0]])
    proposals = RegionProposalNetwork(channels=4, sizes=[[32]], strides=[16], most=8, seed=0).eval()
    predictor = Predictor(features=4, classes=20, box_for_each_class=False, proposals=2, seed=0)
    for layer in (proposals.head.cls_logits, proposals.head.bbox_pred, predictor.classes):
        nn.init.constant_(layer.weight, torch.nan)
    found = proposals(FeatureMaps((torch.ones(1, 4, 4, 4),), (64, 64), None))
    regions = RegionFeatures(torch.ones(2, 4), (torch.tensor([[0.0, 0.0, 32.0, 32.0]] * 2),), extent)
    assert found.boxes.isnan().all()
    assert found.objectness.isnan().all()
    assert predictor(regions).scores.isnan().all()


def test_planted_boxes_survive_a_cast_to_half_precision() -> None:
    extent = torch.tensor([[1333.0, 800.0, 1333.0, 800.0]])
    exact, cast = (
        module([50], extent)[0] for module in (PlantedBoxes([50], seed=0), PlantedBoxes([50], seed=0).half())
    )
    assert torch.equal(exact, cast)


def test_padding_is_no_part_of_an_image() -> None:
    mask = torch.zeros(1, 96, 128, dtype=torch.bool)
    mask[:, :48, :64] = True
    network = RegionProposalNetwork(channels=8, sizes=[(32,)], strides=[8], most=50, seed=None)
    candidates = network(features((12, 16), images=1, mask=mask))
    assert candidates.extent.tolist() == [[64, 48, 64, 48]]
    assert candidates.boxes[..., 2].max() == 64
    assert candidates.boxes[..., 3].max() == 48


def test_a_fixed_grid_covers_the_image_in_row_major_order() -> None:
    found = GridProposals(cells=2)(features((2, 2), images=1))
    assert found.boxes[0].tolist() == [[0, 0, 64, 48], [64, 0, 128, 48], [0, 48, 64, 96], [64, 48, 128, 96]]


@pytest.mark.parametrize("chunk", [0, 3, 100])
def test_chunks_do_not_change_the_roi_heads_output(chunk: int) -> None:
    head = nn.Sequential(nn.Flatten(), nn.Linear(8, 4))
    regions = PooledRegions(torch.randn(7, 2, 2, 2), (torch.zeros(7, 4),), torch.zeros(1, 4))
    torch.testing.assert_close(RoIHead(head, chunk=chunk)(regions).features, head(regions.cells))


def test_a_regions_position_is_its_share_of_the_image() -> None:
    projection = RegionProjection(features=3, hidden_size=7)
    nn.init.zeros_(projection.feature.weight)
    nn.init.zeros_(projection.feature.bias)
    nn.init.eye_(projection.position.weight)
    nn.init.zeros_(projection.position.bias)
    selection = Selection(
        torch.zeros(1, 1, 3),
        torch.tensor([[[32.0, 24.0, 96.0, 96.0]]]),
        None,
        torch.tensor([[128.0, 96.0, 128.0, 96.0]]),
    )
    expected = torch.tensor([0.25, 0.25, 0.75, 1.0, 0.5, 0.75, 0.375])
    torch.testing.assert_close(projection(selection).embeddings[0, 0], expected)


def test_a_pyramid_pools_large_boxes_on_coarse_levels() -> None:
    maps = tuple(torch.full((1, 1, 512 // stride, 512 // stride), float(stride)) for stride in (4, 8, 16, 32))
    boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 448.0, 448.0]])
    proposals = Proposals(FeatureMaps(maps, (512, 512), None), (boxes,), torch.full((1, 4), 512.0))
    assert PyramidAlign()(proposals).cells.mean(dim=(1, 2, 3)).tolist() == [4, 32]


@pytest.mark.parametrize(
    "options",
    [
        {"regions": 0},
        {"proposals": 0},
        {"classes": 0},
        {"roi_chunk": -1},
        {"score_threshold": 1.5},
        {"classes": 10**9},
        {"rpn_channels": 10**9},
    ],
    ids=str,
)
def test_impossible_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with torch.device("meta"), pytest.raises(EmbedderError, match=next(iter(options))):
        region_r101_c4(**options)


def test_what_is_planted_is_noted_and_nothing_is_without_planting() -> None:
    assert set(meta("region_x152_fpn").notes) == {"proposal_nms", "class_nms"}
    assert "planted" in meta("region_r101_c4").notes["proposal_nms"]
    assert meta("region_grid").notes == {}
    with torch.device("meta"):
        assert region_r101_c4(plant=False).notes == {}


def test_a_fixed_grid_gives_64_tokens_without_proposals_or_nms() -> None:
    embedder = meta("region_grid")
    assert list(embedder.stages) == ["backbone", "roi_align", "roi_head", "projection"]
    tokens = embedder(ImageBatch(torch.empty(2, 3, 800, 1344, device="meta")))
    assert tokens.embeddings.shape == (2, 64, 768)


@pytest.mark.slow
@pytest.mark.parametrize("nms", ["per-class", "per-class-unthresholded", "class-agnostic"])
def test_a_small_detector_runs_the_same_twice(nms: Any) -> None:
    images = ImageBatch(torch.randn(2, 3, 64, 96))
    first, second = (small(region_r101_c4, nms=nms)(images) for _ in range(2))
    assert first.embeddings.shape == (2, 36, 768)
    assert first.boxes is not None
    assert second.boxes is not None
    assert torch.equal(first.embeddings, second.embeddings)
    assert torch.equal(first.boxes, second.boxes)


def small(factory: EmbedderFactory, **options: Any) -> VisualEmbedder:
    torch.manual_seed(0)
    return factory(proposals=20, **options).eval().requires_grad_(False)


@pytest.mark.slow
def test_own_weights_load_and_plant_nothing(tmp_path: Any) -> None:
    path = tmp_path / "weights.pt"
    torch.save(small(region_r101_c4).state_dict(), path)
    loaded = region_r101_c4(weights=str(path))
    assert loaded.weights == str(path)
    assert loaded.notes == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_detectors_run_on_cuda_in_every_precision(dtype: torch.dtype) -> None:
    images = torch.randn(1, 3, 256, 320, device="cuda", dtype=dtype)
    tokens = small(region_r101_c4).to("cuda", dtype)(ImageBatch(images))
    assert tokens.embeddings.dtype == dtype
    assert bool(tokens.embeddings.isfinite().all())
