from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llama4.image_processing_llama4 import (
    Llama4ImageProcessor,
    find_supported_resolutions,
    get_best_fit,
    get_max_res_without_distortion,
)
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor

from vilt_bench.ask.images import cut
from vilt_bench.ask.tiles import EXAMPLES, Size, parse_tiles
from vilt_bench.errors import ConfigError, InputError

Pixels = NDArray[np.int64]

SIZES = [
    (1, 1), (1, 2), (2, 1), (16, 16), (27, 91), (100, 100), (223, 225), (336, 336), (336, 337), (337, 336),
    (364, 364), (384, 384), (427, 640), (640, 427), (448, 448), (449, 896), (512, 512), (600, 800), (672, 672),
    (720, 1280), (768, 1024), (1000, 1000), (1080, 1920), (1456, 1092), (300, 4000), (4000, 300), (2000, 500),
    (1500, 1501), (999, 331), (2160, 1440),
]  # fmt: skip
FEW = [(27, 91), (640, 427)]
"""A small one, and one that stands on its edge, both with odd padding."""

# Class defaults, but for what a checkpoint's configuration must say: LLaVA-NeXT's class has tiles of 224 beside
# resolutions that are multiples of 336, InternVL has no class of its own for images, and SmolVLM's has Idefics3's edge.
NEXT = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
INTERNVL = {"size": {"height": 448, "width": 448}, "crop_to_patches": True}
SMOLVLM = {"size": {"longest_edge": 4 * 512}, "max_image_size": {"longest_edge": 512}}
PILLOW: Mapping[str, Callable[[], Any]] = {
    "llava-next": lambda: LlavaNextImageProcessorPil(**NEXT),
    "llava-onevision": LlavaOnevisionImageProcessorPil,
    "internvl:12": lambda: GotOcr2ImageProcessorPil(**INTERNVL),
    "idefics3:364": Idefics3ImageProcessorPil,
    "idefics3:512": lambda: SmolVLMImageProcessorPil(**SMOLVLM),
}
TORCHVISION: Mapping[str, Callable[[], Any]] = {
    "llava-next": lambda: LlavaNextImageProcessor(**NEXT),
    "llava-onevision": LlavaOnevisionImageProcessor,
    "internvl:12": lambda: GotOcr2ImageProcessor(**INTERNVL),
    "idefics3:364": Idefics3ImageProcessor,
    "idefics3:512": lambda: SmolVLMImageProcessor(**SMOLVLM),
    "llama4:16": Llama4ImageProcessor,
}
LEVELS = 5
"""Of 255, by which torchvision's interpolation, in integers, lies from Pillow's at most; the mean is below a fifth."""


def picture(size: Size) -> Image.Image:
    """Noise of eight pixels, blurred, as no photograph is harder to interpolate."""
    small = np.random.default_rng(0).integers(0, 256, (max(2, size[0] // 8), max(2, size[1] // 8), 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


def ours(scheme: str, size: Size) -> Pixels:
    tiles = cut(picture(size), parse_tiles(scheme), mean=(0.5, 0.5, 0.5))
    return np.stack([np.asarray(tile) for tile in tiles]).transpose(0, 3, 1, 2).astype(np.int64)


def theirs(processor: Any, size: Size) -> Pixels:
    pixels = processor(
        picture(size), return_tensors="pt", do_rescale=False, do_normalize=False, input_data_format="channels_last"
    )["pixel_values"]
    return pixels.reshape(-1, *pixels.shape[-3:]).numpy().astype(np.int64)  # type: ignore[no-any-return]


@pytest.mark.parametrize("scheme", PILLOW)
@pytest.mark.parametrize("size", FEW)
def test_tiles_are_those_of_the_models_own_processor_to_the_pixel(scheme: str, size: Size) -> None:
    assert np.array_equal(ours(scheme, size), theirs(PILLOW[scheme](), size))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", PILLOW)
def test_tiles_of_every_size_are_those_of_the_models_own_processor_to_the_pixel(scheme: str) -> None:
    for size in SIZES:
        assert np.array_equal(ours(scheme, size), theirs(PILLOW[scheme](), size)), size


@pytest.mark.parametrize("size", [(427, 640)])
@pytest.mark.parametrize("scheme", ["llama4:16", "llava-next"])
def test_tiles_are_those_of_a_processor_that_interpolates_otherwise_within_a_few_levels(
    scheme: str, size: Size
) -> None:
    check_near(scheme, TORCHVISION[scheme](), size)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", TORCHVISION)
def test_tiles_of_every_size_are_those_of_a_processor_that_interpolates_otherwise_within_a_few_levels(
    scheme: str,
) -> None:
    for size in SIZES:
        check_near(scheme, TORCHVISION[scheme](), size)


def check_near(scheme: str, processor: Any, size: Size) -> None:
    expected, found = theirs(processor, size), ours(scheme, size)
    assert found.shape == expected.shape, size
    distance = np.abs(found - expected)
    assert distance.max() <= LEVELS, size
    assert distance.mean() < 0.2, size


@pytest.mark.parametrize("size", SIZES)
def test_llavas_grid_and_place_are_what_transformers_chooses(size: Size) -> None:
    for scheme, processor, edge in (
        ("llava-next", LlavaNextImageProcessorPil, 336),
        ("llava-onevision", LlavaOnevisionImageProcessorPil, 384),
    ):
        canvas = select_best_resolution(size, processor.image_grid_pinpoints)
        resized = get_patch_output_size(np.zeros((3, *size)), canvas, "channels_first")
        tiling = parse_tiles(scheme).tiling(size)
        assert (tiling.grid[0] * edge, tiling.grid[1] * edge) == tiling.picture.canvas == canvas
        assert tiling.picture.resized == resized
        assert tiling.count == len(tiling.boxes) + 1


@pytest.mark.parametrize("size", SIZES)
def test_internvls_and_idefics3s_tiles_are_as_many_as_their_processors_say(size: Size) -> None:
    for most in (1, 6, 12):
        processor = GotOcr2ImageProcessorPil(**{**INTERNVL, "max_patches": most})
        assert parse_tiles(f"internvl:{most}").tiling(size).count == processor.get_number_of_image_patches(*size)
    for edge, processor in ((364, Idefics3ImageProcessorPil()), (512, SmolVLMImageProcessorPil(**SMOLVLM))):
        tiling = parse_tiles(f"idefics3:{edge}").tiling(size)
        assert (tiling.count, *tiling.grid) == processor.get_number_of_image_patches(*size, {})


@pytest.mark.parametrize("size", SIZES)
def test_llama4s_canvas_and_scale_are_what_transformers_chooses(size: Size) -> None:
    for most in (4, 16):
        find_supported_resolutions.cache_clear()
        canvases = torch.tensor(find_supported_resolutions(most, Llama4ImageProcessor().size))
        canvas = tuple(get_best_fit(size, canvases).tolist())
        limit = tuple(min(max(edge, 336), whole) for edge, whole in zip(size, canvas, strict=True))
        height, width = get_max_res_without_distortion(size, limit)
        tiling = parse_tiles(f"llama4:{most}").tiling(size)
        assert tiling.picture == (canvas, (max(height, 1), max(width, 1)), (0, 0))
        assert tiling.count == math.prod(tiling.grid) + (canvas != (336, 336))


@pytest.mark.parametrize("size", SIZES)
def test_deepseek_vl2_pads_as_pillow_pads(size: Size) -> None:
    # Its own processor is not in transformers: it pads by `ImageOps.pad`, in the mean colour.
    tiling = parse_tiles("deepseek-vl2").tiling(size)
    image = picture(size)
    tiles = cut(image, parse_tiles("deepseek-vl2"), mean=(0.5, 0.5, 0.5))
    assert tiles[0].tobytes() == ImageOps.pad(image, (384, 384), color=(127, 127, 127)).tobytes()
    whole = ImageOps.pad(image, tiling.picture.canvas[::-1], color=(127, 127, 127))
    assert [tile.tobytes() for tile in tiles[1:]] == [whole.crop(box).tobytes() for box in tiling.boxes]
    # Resolutions of its configuration, (width, height) in that order.
    edges = [(1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (4, 1), (2, 2), (1, 5), (5, 1), (1, 6), (6, 1), (2, 3),
             (3, 2), (1, 7), (7, 1), (1, 8), (8, 1), (2, 4), (4, 2), (1, 9), (9, 1), (3, 3)]  # fmt: skip
    width, height = select_best_resolution(size[::-1], [(384 * across, 384 * down) for across, down in edges])
    assert tiling.picture.canvas == (height, width)


def test_boxes_go_row_by_row() -> None:
    tiling = parse_tiles("internvl").tiling((448, 1000))
    assert (tiling.grid, tiling.count) == ((1, 2), 3)
    assert tiling.boxes == ((0, 0, 448, 448), (448, 0, 896, 448))
    assert parse_tiles("llava-next").tiling((700, 700)).boxes == (
        (0, 0, 336, 336), (336, 0, 672, 336), (0, 336, 336, 672), (336, 336, 672, 672),
    )  # fmt: skip


def test_a_tiling_says_what_it_is() -> None:
    assert str(parse_tiles("llava-next").tiling((427, 640))) == "5 tiles of 336×336 (2×2 and a thumbnail)"
    assert str(parse_tiles("internvl").tiling((40, 40))) == "1 tile of 448×448"


@pytest.mark.parametrize("scheme", EXAMPLES)
def test_a_scheme_can_be_sent_to_another_process(scheme: str) -> None:
    sent = pickle.loads(pickle.dumps(parse_tiles(scheme)))
    assert (sent.name, sent.tiling((427, 640))) == (scheme, parse_tiles(scheme).tiling((427, 640)))


def test_the_usual_number_of_a_scheme_is_its_models() -> None:
    assert tuple(parse_tiles(text.partition(":")[0]).name for text in EXAMPLES) == EXAMPLES


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pixtral", "cuts no tiles, as its tower takes an image whole"),
        ("qwen2.5-vl", "give `fit` native"),
        ("llava_next", "did you mean 'llava-next'?"),
        ("", "expected one of llava-next, llava-onevision, internvl:12"),
        ("llava-next:4", "has no number"),
        ("internvl:0", "the most tiles must be between 1 and 64, as in internvl:12"),
        ("internvl:", "the most tiles must be"),
        ("internvl:12.5", "the most tiles must be"),
        ("idefics3:5000", "the edge of a tile must be between 64 and 1024"),
        ("llama4:-1", "the most tiles must be"),
    ],
)
def test_what_is_no_scheme_is_refused_in_words(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_tiles(text)
    assert told in str(error.value)
    assert error.value.field == "tiles"


@pytest.mark.parametrize("scheme", ["llava-next", "llava-onevision", "deepseek-vl2"])
def test_an_image_of_which_no_pixel_would_be_left_is_refused(scheme: str) -> None:
    with pytest.raises(InputError, match="16000x1 pixels is too long"):
        parse_tiles(scheme).tiling((16_000, 1))
