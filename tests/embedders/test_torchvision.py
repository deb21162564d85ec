from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model

from embedders.region.selection import Selection
from embedders.torchvision_family import detectors, grid
from embedders.torchvision_family.models import torchvision_model
from vilt_bench.ask.case import Case
from vilt_bench.ask.registry import build
from vilt_bench.embedding import ImageBatch, VisualEmbedder
from vilt_bench.errors import CheckpointError, EmbedderError
from vilt_bench.model.reduction import reduced
from vilt_bench.testing import check_embedder
from vilt_bench.worker.meters.meta import building

DETECTORS = torchvision.models.list_models(module=torchvision.models.detection)
CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)
SMALL = (128, 160)
QUICK_DETECTORS = ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"]
QUICK_CLASSIFIERS = ["mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"]
ONE_OF_EACH_KIND = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "regnet_x_400mf",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vit_b_32",
]


def slow_unless(quick: list[str], names: list[str]) -> list[Any]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def state_with_detections(name: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    model = get_model(name, weights=None, weights_backbone=None)
    state = model.state_dict()
    for key, tensor in state.items():
        if "running_var" in key:
            tensor.uniform_(0.5, 1.5)
        elif "running_mean" in key:
            tensor.normal_(std=0.1)
        elif "cls_score" in key:
            tensor.normal_(std=2)
        elif "cls_logits" in key:
            tensor.normal_(std=0.02)
    return {key: tensor for key, tensor in state.items() if "num_batches_tracked" not in key}


def publish(monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]) -> None:
    def fetched(*_arguments: Any, **_options: Any) -> dict[str, Tensor]:
        return dict(state)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)


def selection_of(embedder: VisualEmbedder, pixels: Tensor) -> Selection:
    seen: list[Selection] = []
    with torch.no_grad():
        embedder.eval()(
            ImageBatch(pixels), lambda _, output: seen.append(output) if isinstance(output, Selection) else None
        )
    return seen[-1]


@pytest.mark.parametrize(
    "name", slow_unless(["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"], DETECTORS)
)
def test_detections_are_those_of_torchvisions_own_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, state_with_detections(name))
    reference = get_model(name, weights="DEFAULT", weights_backbone=None).eval()
    embedder = torchvision_model(model=name, pretrained=True, regions=50)
    height, width = embedder.resolution if embedder.fixed_size else SMALL
    torch.manual_seed(2)
    images = torch.rand(2, 3, height, width)
    reference.transform.min_size, reference.transform.max_size = (height,), width  # as the images are
    with torch.no_grad():
        expected = reference(list(images))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (embedder.mean, embedder.std))

    found = selection_of(embedder, (images - mean) / std)

    assert found.scores is not None
    assert found.labels is not None
    for image, theirs in enumerate(expected):
        count = min(50, len(theirs["boxes"]))
        assert count > 5
        torch.testing.assert_close(found.boxes[image, :count], theirs["boxes"][:count], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(found.scores[image, :count], theirs["scores"][:count], rtol=1e-4, atol=1e-5)
        assert found.labels[image, :count].tolist() == theirs["labels"][:count].tolist()


@pytest.mark.parametrize("name", slow_unless(QUICK_DETECTORS, DETECTORS))
def test_every_detector_keeps_the_contract(name: str) -> None:
    check_embedder(
        functools.partial(torchvision_model, model=name),
        resolution=None if name.startswith("ssd") else SMALL,
        regions=8,
        classes=20,
        batch_size=2,
    )


@pytest.mark.parametrize("name", slow_unless(QUICK_CLASSIFIERS, CLASSIFIERS))
def test_every_classifier_keeps_the_contract(name: str) -> None:
    resolution = (64, 64) if name.startswith("vit_") and not name.endswith("14") else (96, 128)
    if name.startswith("maxvit") or name.endswith("14"):
        resolution = None
    check_embedder(functools.partial(torchvision_model, model=name), resolution=resolution)


@pytest.mark.parametrize("name", slow_unless(ONE_OF_EACH_KIND, CLASSIFIERS))
def test_every_classifier_has_a_grid_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        embedder = torchvision_model(model=name).eval()
        tokens = embedder(ImageBatch(torch.empty(1, 3, *embedder.resolution)))
    assert tokens.embeddings.shape[1] >= 9
    assert tokens.embeddings.shape[2] == 768


def test_a_two_stage_detector_shows_all_its_stages_and_what_is_planted() -> None:
    with torch.device("meta"):
        embedder = build("torchvision/fasterrcnn_resnet50_fpn", {}, hidden_size=768)
    assert " ".join(embedder.stages) == (
        "backbone fpn rpn proposal_nms roi_align roi_head predictor class_nms projection"
    )
    assert embedder.resolution == (800, 1333)
    assert "planted boxes (seed 0)" in embedder.notes["proposal_nms"]
    assert "planted logits (seed 0)" in embedder.notes["class_nms"]


def test_parameters_of_a_detector_are_torchvisions_without_its_masks_and_with_the_projection() -> None:
    with torch.device("meta"):
        embedder = torchvision_model(model="maskrcnn_resnet50_fpn")
        reference = get_model("maskrcnn_resnet50_fpn", weights=None, weights_backbone=None)
    masks = sum(p.numel() for name, p in reference.named_parameters() if "mask" in name)
    frozen = sum(p.numel() for m in reference.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters())
    found = sum(p.numel() for name, p in embedder.named_parameters() if "projection" not in name)
    assert found == sum(p.numel() for p in reference.parameters()) - masks - frozen


def test_planted_detections_fill_a_one_stage_detectors_regions() -> None:
    embedder = torchvision_model(model="ssdlite320_mobilenet_v3_large", regions=10)
    found = selection_of(embedder, torch.randn(1, 3, 320, 320))
    assert found.kept == 10
    assert found.scores is not None
    assert float(found.scores.min()) > 0.1


def test_a_file_in_torchvisions_layout_is_loaded_and_leaves_the_projection_random(tmp_path: Path) -> None:
    state = get_model("shufflenet_v2_x0_5", weights=None).state_dict()
    path = tmp_path / "shufflenet.pth"
    torch.save(state, path)
    embedder = torchvision_model(model="shufflenet_v2_x0_5", weights=str(path))
    assert embedder.weights == f"{path}, projection random"
    assert torch.equal(embedder.state_dict()["stages.backbone.layers.0.0.weight"], state["conv1.0.weight"])


def test_weights_of_distributed_training_are_loaded(tmp_path: Path) -> None:
    state = nn.DataParallel(get_model("shufflenet_v2_x0_5", weights=None)).state_dict()
    path = tmp_path / "shufflenet.pth"
    torch.save({"model": state, "epoch": 3}, path)  # as torchvision's references write it
    embedder = torchvision_model(model="shufflenet_v2_x0_5", weights=str(path))
    assert embedder.weights == f"{path}, its names without module., projection random"
    assert torch.equal(embedder.state_dict()["stages.backbone.layers.0.0.weight"], state["module.conv1.0.weight"])


def test_incomplete_weights_are_refused_by_name(tmp_path: Path) -> None:
    state = get_model("shufflenet_v2_x0_5", weights=None).state_dict()
    del state["conv1.0.weight"]
    torch.save(state | {"other": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: conv1\.0\.weight; 1 unexpected: other"):
        torchvision_model(model="shufflenet_v2_x0_5", weights=str(tmp_path / "part.pth"))


def test_without_a_network_pretrained_weights_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_arguments: Any, **_options: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(CheckpointError, match=r"^torchvision/resnet18: no weights from https://.*weights=FILE$"):
        torchvision_model(model="resnet18", pretrained=True)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet5O", {}, "did you mean 'torchvision/resnet50'"),
        ("resnet18", {"regions": 10}, "regions are options of detectors"),
        ("fcos_resnet50_fpn", {"proposals": 10}, "has one stage and no proposals"),
        ("fcos_resnet50_fpn", {"regions": 0}, "regions=0 is out of range; expected 1 to 100000$"),
        ("fasterrcnn_resnet50_fpn", {"classes": 10**9}, "classes=1000000000 is out of range"),
        ("fasterrcnn_resnet50_fpn", {"score_threshold": 1.0}, "lets nothing through"),
        ("resnet18", {"pretrained": True, "weights": "a.pth"}, "exclude each other"),
    ],
)
def test_impossible_options_are_refused_in_one_line(name: str, options: dict[str, Any], said: str) -> None:
    with torch.device("meta"), pytest.raises((EmbedderError, CheckpointError), match=said) as refused:
        torchvision_model(model=name, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "resolution"), [("vit_b_16", (224, 256)), ("maxvit_t", (256, 256))])
def test_a_resolution_that_the_layers_refuse_is_told(name: str, resolution: tuple[int, int]) -> None:
    with torch.device("meta"), pytest.raises(EmbedderError, match="multiples of"):
        torchvision_model(model=name, resolution=resolution)


def test_without_planting_random_weights_end_in_one_line() -> None:
    embedder = torchvision_model(model="fcos_resnet50_fpn", plant=False).eval()
    with torch.no_grad(), pytest.raises(EmbedderError, match="ended with no detection in image 1 of 1"):
        embedder(ImageBatch(torch.zeros(1, 3, 64, 64)))


def test_the_family_is_offered_by_name() -> None:
    assert Case("torchvision/resnet18").embedder == "torchvision/resnet18"
    with torch.device("meta"):
        assert build("torchvision/resnet18", {}, hidden_size=64).kind == "grid"


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn"])
def test_boxes_stay_within_an_image_that_is_padded_in_its_batch(name: str) -> None:
    embedder = torchvision_model(model=name, regions=8).eval()
    mask = torch.ones(2, 64, 96, dtype=torch.bool)
    mask[1, :, 64:] = False
    with torch.no_grad():
        tokens = embedder(ImageBatch(torch.randn(2, 3, 64, 96), mask))
    assert tokens.boxes is not None
    assert float(tokens.boxes[0, :, 2].max()) > 64
    assert float(tokens.boxes[1, :, 2].max()) <= 64


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn"])
def test_a_detector_runs_in_bfloat16_with_exact_boxes(name: str) -> None:
    embedder = torchvision_model(model=name, regions=8).eval().to(torch.bfloat16)
    with torch.no_grad():
        tokens = embedder(ImageBatch(torch.randn(1, 3, 64, 96, dtype=torch.bfloat16)))
    assert tokens.embeddings.dtype == torch.bfloat16
    assert tokens.boxes is not None
    assert tokens.boxes.dtype == torch.float32


def test_a_classifier_is_reduced_before_its_projection_as_timms_is() -> None:
    ours, timms = (
        build(name, {}, hidden_size=64, resolution=(64, 64)) for name in ("torchvision/resnet18", "timm/resnet18")
    )
    counts = []
    for embedder in (ours, timms):
        stages = reduced(embedder, "pixel-shuffle:2").stages
        assert list(stages) == ["backbone", "reduction", "projection"]
        counts.append({name: sum(p.numel() for p in stages[name].parameters()) for name in ("reduction", "projection")})
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("name", "kind"), [("swin_t", "encoder"), ("resnet18", "grid")])
def test_what_attends_is_an_encoder(name: str, kind: str) -> None:
    with building():
        assert build(f"torchvision/{name}", {}, hidden_size=64).kind == kind


@pytest.mark.parametrize("model", ["resnet18", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_whatever_torchvision_raises_is_a_sentence_with_its_version(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise KeyError("stem")

    for module in (grid, detectors):
        monkeypatch.setattr(module, "get_model", fail)
    version = importlib.metadata.version("torchvision")
    with pytest.raises(EmbedderError) as caught:
        torchvision_model(model=model)
    assert str(caught.value).startswith(
        f"torchvision/{model} of torchvision {version} can't be built here: it has no 'stem'; "
    )
