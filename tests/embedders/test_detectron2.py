"""Without detectron2 the Python part of a PyPI copy of it is used, where that can be had.

Its compiled part is a stub that raises on use (RoIAlign and NMS are torchvision's), so nothing here may be timed.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import tarfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from embedders.detectron2_detector import INSTALL, detectron2_detector
from embedders.region.selection import Selection
from vilt_bench.embedding import ImageBatch
from vilt_bench.errors import CheckpointError, EmbedderError
from vilt_bench.testing import check_embedder

C4, FPN = "COCO-Detection/faster_rcnn_R_50_C4_3x.yaml", "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
SOURCE = "VILT_BENCH_DETECTRON2_SDIST"
"""Environment variable: path of the sdist of `pb1-detectron2` from PyPI, fetched without building it."""


def stub(name: str) -> types.ModuleType:
    """Returns a module whose every attribute raises when it is called."""

    def missing(attribute: str) -> Any:
        def raises(*_arguments: Any, **_options: Any) -> None:
            raise RuntimeError(f"{name}.{attribute} is compiled, and stubbed here")

        return raises

    module = types.ModuleType(name)
    module.__getattr__ = missing  # type: ignore[method-assign]
    return module


@pytest.fixture(scope="module")
def detectron2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if importlib.util.find_spec("detectron2") is not None:
        yield
        return
    sdist = os.environ.get(SOURCE, "")
    if not Path(sdist).is_file():
        pytest.skip(
            f"no detectron2, and no sdist of it: pip download --no-deps --no-binary :all: --no-build-isolation "
            f"pb1-detectron2, and give its path in {SOURCE}"
        )
    for needed in ("fvcore", "iopath", "omegaconf", "pycocotools", "pkg_resources"):
        pytest.importorskip(needed, reason=f"detectron2's Python part needs {needed}")
    from PIL import Image

    folder = tmp_path_factory.mktemp("detectron2")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(root)
    patch.setitem(sys.modules, "detectron2._C", stub("detectron2._C"))
    patch.setattr(Image, "LINEAR", Image.Resampling.BILINEAR, raising=False)
    yield
    patch.undo()
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        del sys.modules[name]


@pytest.mark.skipif(importlib.util.find_spec("detectron2") is not None, reason="detectron2 is installed")
def test_without_detectron2_the_install_line_is_told() -> None:
    with pytest.raises(EmbedderError, match="detectron2 is not installed") as refused:
        detectron2_detector(model=C4)
    assert str(refused.value).endswith(INSTALL)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.usefixtures("detectron2")
@pytest.mark.parametrize("name", [C4, FPN])
def test_a_detector_keeps_the_contract(name: str) -> None:
    check_embedder(functools.partial(detectron2_detector, model=name), resolution=(128, 160), regions=8, proposals=20)


@pytest.mark.usefixtures("detectron2")
def test_a_detector_shows_its_stages_and_what_is_planted() -> None:
    with torch.device("meta"):
        embedder = detectron2_detector(model=FPN)
    assert " ".join(embedder.stages) == "backbone rpn proposal_nms roi_align roi_head predictor class_nms projection"
    assert embedder.resolution == (800, 1333)
    assert "planted" in embedder.notes["proposal_nms"]


@pytest.mark.slow
@pytest.mark.usefixtures("detectron2")
@pytest.mark.parametrize("name", [C4, FPN])
def test_detections_are_those_of_detectron2s_own_model(name: str, tmp_path: Path) -> None:
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    config = get_cfg()
    config.merge_from_file(model_zoo.get_config_file(name))
    config.MODEL.DEVICE = "cpu"
    config.MODEL.RPN.POST_NMS_TOPK_TEST = 40
    torch.manual_seed(1)
    reference = build_model(config).eval()
    for key, tensor in reference.state_dict().items():
        if key.endswith("conv3.norm.weight"):
            tensor.fill_(0.2)  # untrained, activations would grow until nothing of their precision is left
        elif key.endswith("cls_score.bias"):
            tensor.normal_(std=2)
    torch.save({"model": reference.state_dict()}, tmp_path / "weights.pth")
    embedder = detectron2_detector(model=name, regions=50, proposals=40, weights=str(tmp_path / "weights.pth")).eval()
    rgb = torch.rand(1, 3, 128, 160)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (embedder.mean, embedder.std))
    seen: list[Selection] = []

    with torch.no_grad():
        (expected,) = reference.inference([{"image": 255 * rgb[0].flip(0)}], do_postprocess=False)
        embedder(
            ImageBatch((rgb - mean) / std),
            lambda _, output: seen.append(output) if isinstance(output, Selection) else None,
        )

    count = min(50, len(expected))
    assert count > 5
    found = seen[0]
    assert found.scores is not None
    assert found.labels is not None
    torch.testing.assert_close(found.boxes[0, :count], expected.pred_boxes.tensor[:count], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found.scores[0, :count], expected.scores[:count], rtol=1e-4, atol=1e-5)
    assert (found.labels[0, :count] - 1).tolist() == expected.pred_classes[:count].tolist()


@pytest.mark.usefixtures("detectron2")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("COCO-Detection/nothing.yaml", "is no configuration of the model zoo"),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "is no two-stage detector"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", "is a cascade"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(name: str, said: str) -> None:
    with torch.device("meta"), pytest.raises(EmbedderError, match=said) as refused:
        detectron2_detector(model=name)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("detectron2")
def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"other": torch.zeros(1)}}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="1 unexpected: other"):
        detectron2_detector(model=C4, weights=str(tmp_path / "weights.pth"))
