from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from embedders.grid import IMAGENET_MEAN, IMAGENET_STD
from embedders.region.detectors import region_r101_c4
from vilt_bench.embedding import VisualEmbedder
from vilt_bench.errors import CheckpointError

CLASSES = 5
ANCHORS = 12
ATTRIBUTES = {
    "detectron2": {"cls_embed.weight": 1, "attr_linear1.weight": 1, "attr_linear1.bias": 1, "attr_linear2.weight": 1},
    "lxmert": {"cls_embedding.weight": 1, "fc_attr.weight": 1, "fc_attr.bias": 1, "attr_score.weight": 1},
}


def theirs(name: str) -> str:
    """Returns their name of our tensor, as detectron2's and LXMERT's modules give it."""
    name = re.sub(r"^stages\.backbone\.stem\.0", "backbone.stem.conv1", name)
    name = re.sub(r"^stages\.backbone\.stem\.1", "backbone.stem.conv1.norm", name)
    name = re.sub(r"^stages\.backbone\.layers\.(\d)", lambda m: f"backbone.res{int(m[1]) + 2}", name)
    name = re.sub(r"^stages\.roi_head\.head\.0", "roi_heads.res5", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"\.bn([123])\.", r".conv\1.norm.", name)
    name = name.replace("stages.rpn.head.conv.0.0", "proposal_generator.rpn_head.conv")
    name = name.replace("stages.rpn.head.cls_logits", "proposal_generator.rpn_head.objectness_logits")
    name = name.replace("stages.rpn.head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas")
    name = name.replace("stages.predictor.classes", "roi_heads.box_predictor.cls_score")
    return name.replace("stages.predictor.boxes", "roi_heads.box_predictor.bbox_pred")


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Tensor]:
    torch.manual_seed(3)
    with torch.device("meta"):
        shapes = embedder_of("").state_dict()
    state = {
        theirs(name): torch.rand(tensor.shape) * 0.02
        for name, tensor in shapes.items()
        if "projection" not in name and "num_batches" not in name
    }
    head = "roi_heads.box_predictor"
    for kind, width in (("cls_score", CLASSES + 1), ("bbox_pred", 4 * CLASSES)):
        state[f"{head}.{kind}.bias"] = torch.arange(width).float()
    rpn = "proposal_generator.rpn_head"
    state[f"{rpn}.objectness_logits.bias"] = torch.arange(ANCHORS).float()
    state[f"{rpn}.anchor_deltas.bias"] = torch.arange(4 * ANCHORS).float()
    return state


def embedder_of(weights: str) -> VisualEmbedder:
    return region_r101_c4(hidden_size=8, classes=CLASSES, rpn_channels=512, anchors=ANCHORS, weights=weights)


def saved(folder: Path, state: dict[str, Tensor], **wrapped: object) -> str:
    torch.save({"model": state, **wrapped} if wrapped else state, folder / "weights.pth")
    return str(folder / "weights.pth")


@pytest.mark.parametrize("layout", ["detectron2", "lxmert"])
def test_a_checkpoint_of_either_layout_fills_the_detector_and_leaves_its_attribute_head_out(
    layout: str, checkpoint: dict[str, Tensor], tmp_path: Path
) -> None:
    attributes = {f"roi_heads.box_predictor.{name}": torch.zeros(size) for name, size in ATTRIBUTES[layout].items()}
    embedder = embedder_of(path := saved(tmp_path, checkpoint | attributes, iteration=1))
    state = embedder.state_dict()
    for ours in ("stages.backbone.layers.2.22.conv3.weight", "stages.roi_head.head.0.0.downsample.1.running_var"):
        assert torch.equal(state[ours], checkpoint[theirs(ours)])
    assert embedder.weights == f"{path}, projection random"
    for name in attributes:
        assert name.rpartition(".")[0] in embedder.notes["predictor"]
    assert "class_nms" not in embedder.notes


def test_a_checkpoint_of_distributed_training_fills_the_detector(checkpoint: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path, {f"module.{name}": tensor for name, tensor in checkpoint.items()}, iteration=1)
    assert embedder_of(path).weights == f"{path}, its names without module., projection random"


def test_an_image_gives_the_first_layer_the_same_in_their_colours_and_in_ours(
    checkpoint: dict[str, Tensor], tmp_path: Path
) -> None:
    stem = embedder_of(saved(tmp_path, checkpoint)).stages["backbone"].stem.eval()
    assert isinstance(stem, nn.Sequential)
    rgb = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    caffe = torch.tensor([102.9801, 115.9465, 122.7717]).view(3, 1, 1)
    theirs_first = nn.functional.conv2d(
        255 * rgb.flip(1) - caffe, checkpoint["backbone.stem.conv1.weight"], stride=2, padding=3
    )
    norm = "backbone.stem.conv1.norm"
    expected = nn.functional.batch_norm(
        theirs_first, *(checkpoint[f"{norm}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
    )
    found = stem[1](stem[0]((rgb - mean) / std))
    torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-3)


def test_each_anchor_keeps_its_own_outputs(checkpoint: dict[str, Tensor], tmp_path: Path) -> None:
    state = embedder_of(saved(tmp_path, checkpoint)).state_dict()
    sizes, ratios = (64, 128, 256, 512), (0.5, 1.0, 2.0)
    # As modeling_frcnn.py makes them: sizes in the outer loop.
    shapes = [(size / ratio**0.5, ratio * (size / ratio**0.5)) for size in sizes for ratio in ratios]
    cells = AnchorGenerator.generate_anchors(AnchorGenerator((sizes,), (ratios,)), list(sizes), list(ratios))
    for row, (x1, y1, x2, y2) in enumerate(cells.tolist()):
        theirs_row = int(state["stages.rpn.head.cls_logits.bias"][row])
        assert (x2 - x1, y2 - y1) == pytest.approx(shapes[theirs_row], abs=1.01)
        deltas = state["stages.rpn.head.bbox_pred.bias"][4 * row : 4 * row + 4]
        assert deltas.tolist() == [4 * theirs_row + side for side in range(4)]


def test_the_background_comes_first_here_and_last_there(checkpoint: dict[str, Tensor], tmp_path: Path) -> None:
    state = embedder_of(saved(tmp_path, checkpoint)).state_dict()
    assert state["stages.predictor.classes.bias"].tolist() == [CLASSES, *range(CLASSES)]
    assert state["stages.predictor.boxes.bias"].tolist() == list(range(4 * CLASSES))


def test_caffes_background_first_and_its_two_logits_an_anchor_are_understood(
    checkpoint: dict[str, Tensor], tmp_path: Path
) -> None:
    head, rpn = "roi_heads.box_predictor.bbox_pred", "proposal_generator.rpn_head.objectness_logits"
    caffe = checkpoint | {
        f"{head}.weight": torch.rand(4 * (CLASSES + 1), 2048),
        f"{head}.bias": torch.arange(4 * (CLASSES + 1)).float(),
        f"{rpn}.weight": torch.rand(2 * ANCHORS, 512, 1, 1),
        f"{rpn}.bias": torch.cat([torch.full((ANCHORS,), 2.0), torch.full((ANCHORS,), 7.0)]),
    }
    state = embedder_of(saved(tmp_path, caffe)).state_dict()
    assert state["stages.predictor.classes.bias"].tolist() == list(range(CLASSES + 1))
    assert state["stages.predictor.boxes.bias"].tolist() == list(range(4, 4 * (CLASSES + 1)))
    assert state["stages.rpn.head.cls_logits.bias"].tolist() == [5.0] * ANCHORS


def test_what_is_missing_or_unknown_is_refused_by_name(checkpoint: dict[str, Tensor], tmp_path: Path) -> None:
    partial = {name: tensor for name, tensor in checkpoint.items() if name != "backbone.res3.1.conv2.weight"}
    path = saved(tmp_path, partial | {"roi_heads.mask_head.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError) as refused:
        embedder_of(path)
    assert "1 missing: stages.backbone.layers.1.1.conv2.weight" in str(refused.value)
    assert "1 unexpected: roi_heads.mask_head.weight" in str(refused.value)


def test_another_proposal_network_is_refused_with_the_options_that_fit(
    checkpoint: dict[str, Tensor], tmp_path: Path
) -> None:
    path = saved(tmp_path, checkpoint)
    with pytest.raises(CheckpointError, match="build the embedder with rpn_channels=512,anchors=12"):
        region_r101_c4(hidden_size=8, classes=CLASSES, weights=path)
