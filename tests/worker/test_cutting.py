from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vilt_bench.ask.case import Case
from vilt_bench.ask.images import cut, read_image
from vilt_bench.ask.tiles import parse_tiles
from vilt_bench.embedding import ImageBatch
from vilt_bench.errors import EmbedderError, InputError
from vilt_bench.worker.build import build_inputs, embedder_on_meta, memory_needs
from vilt_bench.worker.count import inspect
from vilt_bench.worker.cutting import cutting_of
from vilt_bench.worker.foresee import foresee
from vilt_bench.worker.inputs import Inputs
from vilt_bench.worker.preprocessing import to_tensor

CPU = torch.device("cpu")


def photograph(folder: Path, height: int, width: int, name: str = "a.png") -> str:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = folder / name
    Image.fromarray(pixels).save(path)
    return str(path)


def inputs_of(case: Case) -> Inputs:
    return build_inputs(case, embedder_on_meta(case), CPU)


def test_the_tower_gets_the_tiles_of_all_images_one_behind_the_other(tmp_path: Path) -> None:
    path = photograph(tmp_path, 448, 896)
    case = Case("patch32", tiles="internvl", interaction="none", images=(path,), batch_size=2)
    inputs = inputs_of(case)
    pixels = inputs.batches[0][0].pixels
    tiles = cut(read_image(path), parse_tiles("internvl"), mean=(0.5, 0.5, 0.5))
    expected = torch.stack([(to_tensor(tile) / 255 - 0.5) / 0.5 for tile in tiles])
    assert torch.equal(pixels[:3], expected)
    assert torch.equal(pixels[3:], expected.flip(-1))  # the same photograph again, tile by tile mirrored
    assert (inputs.resolution, inputs.batches[0][0].mask, inputs.fit) == ((448, 448), None, "native")


@pytest.mark.parametrize("resolution", [None, (448, 900)])
def test_tiles_that_are_cut_within_the_pass_are_those_cut_beforehand(
    tmp_path: Path, resolution: tuple[int, int] | None
) -> None:
    path = photograph(tmp_path, 500, 900)
    case = Case(
        "patch32", tiles="deepseek-vl2", interaction="none", images=(path,), resolution=resolution, preprocessing=True
    )
    inputs = inputs_of(case)
    assert inputs.preprocessing is not None
    stages = ["decode", "tile", "normalise"] if resolution is None else ["decode", "resize", "tile", "normalise"]
    assert list(inputs.preprocessing.stages) == stages
    assert torch.equal(inputs.preprocessing(inputs.encoded[0]).pixels, inputs.batches[0][0].pixels)


def test_tokens_of_an_image_are_what_the_scheme_has_of_its_size(tmp_path: Path) -> None:
    path = photograph(tmp_path, 448, 896)
    case = Case("patch32", tiles="internvl:12", interaction="none", images=(path,))
    model, stages = inspect(case)
    # Begin, end, and 14×14 patches of 32 pixels of three tiles.
    assert model.visual_tokens == 2 + 3 * 196 == parse_tiles("internvl:12").tokens((448, 896), 196)
    assert (model.resolution, model.tiles) == ((448, 448), "3 tiles of 448×448 (1×2 and a thumbnail)")
    assert [stage.name for stage in stages] == ["visual_embedder.projection", "visual_embedder.assembly"]
    assert stages[-1].note == "3 tiles of 448×448 (1×2 and a thumbnail) an image; a word before and behind them"
    (forecast,) = foresee([case])
    assert forecast.visual_tokens == model.visual_tokens


def test_a_reduction_is_of_each_tile(tmp_path: Path) -> None:
    path = photograph(tmp_path, 700, 700)
    case = Case(
        "patch",
        options={"patch_size": 14},
        tiles="llava-next",
        images=(path,),
        interaction="none",
        reduce="avg-pool:2",
    )
    # 24×24 patches of a tile become 12×12: a thumbnail, and 24 rows of 24 with a newline each.
    assert inspect(case)[0].visual_tokens == 144 + 24 * 25


def test_all_images_of_a_text_are_cut(tmp_path: Path) -> None:
    path = photograph(tmp_path, 448, 896)
    case = Case("patch32", tiles="internvl", images=(path,), interaction="lm:SmolLM2-135M", images_per_text=2)
    pixels = inputs_of(case).batches[0][0].pixels
    assert pixels.shape == (2 * 3, 3, 448, 448)
    found = embedder_on_meta(case)(ImageBatch(pixels.to("meta")))
    assert (found.embeddings.shape[:2], found.images) == ((1, 2 * (2 + 3 * 196)), 2)


def test_memory_of_all_tiles_is_foreseen(tmp_path: Path) -> None:
    case = Case("patch32", tiles="internvl", images=(photograph(tmp_path, 448, 896),), interaction="none")
    ((_, _, inputs),) = memory_needs(case, embedder_on_meta(case), CPU, weights=False)
    assert inputs >= 4 * 3 * 3 * 448 * 448 * 4  # four batches of three tiles in float32


def test_noise_is_cut_at_the_resolution_that_it_gets() -> None:
    case = Case("patch32", tiles="internvl", images=("synthetic",), resolution=(448, 896), interaction="none")
    inputs = inputs_of(case)
    assert inputs.batches[0][0].pixels.shape == (3, 3, 448, 448)
    assert not torch.equal(inputs.batches[0][0].pixels, inputs.batches[1][0].pixels)


def test_images_that_give_different_tiles_are_named(tmp_path: Path) -> None:
    images = (photograph(tmp_path, 448, 896), photograph(tmp_path, 896, 448, "b.png"))
    case = Case("patch32", tiles="internvl", images=images, interaction="none")
    with pytest.raises(InputError, match=r"1×2 and a thumbnail\) of a\.png, and .*2×1 and a thumbnail\) of b\.png"):
        cutting_of(case)
    assert cutting_of(Case("patch32", tiles="internvl", images=images[:1], interaction="none")) is not None


def test_an_image_that_is_too_long_is_named(tmp_path: Path) -> None:
    case = Case("patch32", tiles="llava-next", images=(photograph(tmp_path, 1, 4000),), interaction="none")
    with pytest.raises(InputError, match=r"image 'a\.png': an image of 1x4000 pixels is too long"):
        cutting_of(case)


@pytest.mark.parametrize(
    ("embedder", "tiles", "told"),
    [
        (
            "patch32",
            "llava-next",
            r"images of multiples of 32 pixels, and the tiles of `tiles` llava-next have 336x336",
        ),
        ("region-r101-c4", "internvl", "finds regions of a whole image"),
    ],
)
def test_a_tower_that_does_not_take_the_tiles_is_refused(tmp_path: Path, embedder: str, tiles: str, told: str) -> None:
    path = photograph(tmp_path, 448, 896)
    with pytest.raises(EmbedderError, match=told):
        embedder_on_meta(Case(embedder, tiles=tiles, images=(path,), interaction="none"))


@pytest.mark.parametrize(
    ("embedder", "tiles", "reduce", "tokens"),
    [
        # Of 427×640 pixels, as the models' processors say: tests/model/test_tiles.py holds the schemes to them.
        ("transformers/llama-4", "llama4", None, 727),
        ("transformers/idefics3-8b", "idefics3:364", "pixel-shuffle:2", 2227),
        ("transformers/smolvlm-256m", "idefics3:512", "pixel-shuffle:4", 862),
        ("transformers/internvit-300m-448", "internvl:12", "pixel-shuffle:2", 1794),
        ("timm/vit_large_patch14_clip_quickgelu_336.openai", "llava-next", None, 2144),
        ("timm/vit_so400m_patch14_siglip_384.webli", "llava-onevision", None, 2709),
        ("timm/vit_so400m_patch14_siglip_384.webli", "deepseek-vl2", "pixel-shuffle:2", 1023),
    ],
)
def test_the_models_own_towers_make_as_many_tokens_of_a_photograph_as_the_models_do(
    embedder: str, tiles: str, reduce: str | None, tokens: int
) -> None:
    images = ("synthetic",)
    case = Case(embedder, tiles=tiles, reduce=reduce, images=images, resolution=(427, 640), interaction="none")
    tower = embedder_on_meta(case)
    cutting = cutting_of(case)
    assert cutting is not None
    pixels = torch.empty(cutting.tiling.count, 3, cutting.tiling.edge, cutting.tiling.edge, device="meta")
    with torch.inference_mode():
        assert tower(ImageBatch(pixels)).embeddings.shape[1] == tokens
