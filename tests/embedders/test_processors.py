import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", minversion="5.24")

import transformers
from transformers import CONFIG_MAPPING, AutoModel
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from embedders.timm_encoder import timm_encoder
from embedders.transformers_encoder import transformers_encoder
from vilt_bench.ask.case import Case
from vilt_bench.ask.images import fitted_size
from vilt_bench.embedding import ImageBatch, VisualEmbedder
from vilt_bench.embedding.processors import find_processor
from vilt_bench.errors import ConfigError, InputError
from vilt_bench.model.reduction import reduced
from vilt_bench.worker.build import build_inputs

SIZES = [(427, 640), (320, 200), (224, 224), (1, 1), (30, 900), (90, 450), (333, 77), (50, 70), (1100, 300), (28, 28)]
"""(height, width) of images."""
SLIM = {"hidden_size": 32, "intermediate_size": 48}
PACKED = {"depth": 1, "num_heads": 2, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 48, **SLIM}
TOWERS: dict[str, tuple[dict[str, Any], str]] = {
    "qwen2.5-vl": (
        {"model_type": "qwen2_5_vl_vision", **PACKED, "patch_size": 14, "fullatt_block_indexes": [0]},
        "Qwen2VLImageProcessorPil",
    ),
    "qwen3-vl": (
        {"model_type": "qwen3_vl_vision", **PACKED, "patch_size": 16, "deepstack_visual_indexes": []},
        "Qwen2VLImageProcessorPil",
    ),
    "glm4v": ({"model_type": "glm4v_vision", **PACKED, "patch_size": 14, "image_size": 336}, "Glm4vImageProcessorPil"),
    "pixtral": (
        {
            "model_type": "pixtral", **SLIM, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16,
            "image_size": 1024,
        },
        "PixtralImageProcessorPil",
    ),
    "naflex": (
        {
            "model_type": "siglip2_vision_model", **SLIM, "num_hidden_layers": 1, "num_attention_heads": 2,
            "patch_size": 16, "num_patches": 256,
        },
        "Siglip2ImageProcessorPil",
    ),
}  # fmt: skip


def folder(path: Path, config: dict[str, Any], **files: object) -> str:
    for name, content in {"config": config, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return f"{path}/"


def photograph(height: int, width: int) -> Image.Image:
    return Image.new("RGB", (width, height), (200, 100, 50))


def native_batch(embedder: VisualEmbedder, path: Path) -> ImageBatch:
    case = Case("a tower", fit="native", images=(str(path),))
    return build_inputs(case, embedder, torch.device("cpu")).batches[0][0]


def tokens_of_theirs(model: Any, prepared: Any) -> int:
    """Returns how many visual tokens transformers' own model makes of what its own processor made of an image."""
    if "image_grid_thw" in prepared:
        return len(model(prepared["pixel_values"], grid_thw=prepared["image_grid_thw"]).pooler_output)
    if "spatial_shapes" in prepared:
        return int(prepared["pixel_attention_mask"].sum())
    return model(prepared["pixel_values"].to("meta"), image_sizes=prepared["image_sizes"]).last_hidden_state.shape[1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", TOWERS)
def test_images_of_native_size_become_as_many_tokens_as_the_towers_own_processor_and_model_make(
    name: str, tmp_path: Path
) -> None:
    config, processor_name = TOWERS[name]
    with torch.device("meta"):
        embedder = transformers_encoder(model=folder(tmp_path, config), hidden_size=8).eval()
    with torch.device("meta" if name in ("pixtral", "naflex") else "cpu"):
        model = AutoModel.from_config(CONFIG_MAPPING[config["model_type"]](**config)).eval()
    own: Any = get_image_processor_class_from_name(processor_name)
    patches = {key: config[key] for key in ("patch_size",) if name != "pixtral"}
    for size in SIZES:
        image = photograph(*size)
        image.save(path := tmp_path / "image.png")
        with torch.inference_mode():
            pixels = native_batch(embedder, path).pixels
            ours = embedder(ImageBatch(pixels.to("meta"))).embeddings.shape[1]
            theirs = tokens_of_theirs(model, own(**patches)(image, return_tensors="pt"))
        assert ours == theirs, size


@pytest.mark.parametrize("family", ["qwen2_5_vl", "glm4v", "ernie4_5_vl_moe", "hunyuan_vl", "paddleocr_vl", "kimi_k25"])
def test_patches_that_a_processor_returns_are_put_together_to_the_image(family: str) -> None:
    size = (672, 896)  # multiples of all patches and squares: nothing is resized
    pixels = torch.randint(256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    processor = find_processor([family], resolution=size, mean=(0, 0, 0), std=(1, 1, 1))("")
    (found,) = processor.pixels(processor([pixels]))
    torch.testing.assert_close(found, pixels / 255, atol=1e-6, rtol=0)
    assert processor.size(*size) == size


def test_native_tokens_are_those_that_the_makers_publish() -> None:
    # Qwen2-VL's paper, section 2.1: 224×224 is 66 tokens, two of them mark the image; 427×640 is 15×23 squares of 28.
    qwen = find_processor(["qwen2_vl"], resolution=(448, 448), mean=(0, 0, 0), std=(1, 1, 1))("")
    squares = {size: (qwen.size(*size)[0] // 28) * (qwen.size(*size)[1] // 28) for size in [(224, 224), (427, 640)]}
    assert squares == {(224, 224): 66 - 2, (427, 640): 345}
    # Pixtral's announcement: images at their natural size and aspect, in patches of 16, up to 1024.
    pixtral = find_processor(["pixtral"], resolution=(448, 448), mean=(0, 0, 0), std=(1, 1, 1))("")
    assert pixtral.size(2048, 1024) == (1024, 512)


def test_gemma_3_makes_256_tokens_of_any_image(tmp_path: Path) -> None:
    from transformers import Gemma3ImageProcessor, Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector

    vision = {
        "model_type": "siglip_vision_model", **SLIM, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 896, "patch_size": 14,
    }  # fmt: skip
    path = folder(tmp_path, {"model_type": "gemma3", "vision_config": vision, "mm_tokens_per_image": 256})
    parsed = CONFIG_MAPPING["gemma3"](vision_config=vision, text_config=Gemma3TextConfig(hidden_size=8))
    with torch.device("meta"):
        embedder = transformers_encoder(model=path, hidden_size=8)
        connector = Gemma3MultiModalProjector(parsed)
    assert embedder.fixed_size
    assert embedder.processor is not None
    ours, theirs = embedder.processor(""), Gemma3ImageProcessor(size={"height": 896, "width": 896})
    for size in SIZES[:3]:
        (image,) = theirs(photograph(*size), return_tensors="pt")["pixel_values"]
        assert image.shape[1:] == ours.size(*size) == embedder.resolution == (896, 896)
    patches = embedder(ImageBatch(torch.empty(1, 3, 896, 896, device="meta"))).embeddings.shape[1]
    assert connector(torch.empty(1, patches, 32, device="meta")).shape[1] == patches // 4**2 == 256


def test_gemma_4s_images_become_as_many_tokens_as_its_own_processor_and_model_make(tmp_path: Path) -> None:
    config = transformers.Gemma4VisionConfig(
        **SLIM, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=16
    )
    model, own = transformers.Gemma4VisionModel(config).eval(), transformers.Gemma4ImageProcessor()
    case = Case("timm/gemma4_vit_167m.gemma4_e4b_it", reduce="avg-pool:3", fit="native")
    with torch.device("meta"):
        tower = timm_encoder(model="gemma4_vit_167m.gemma4_e4b_it", hidden_size=8).eval()
    embedder = reduced(tower, "avg-pool:3")
    for size in SIZES:
        photograph(*size).save(path := tmp_path / "image.png")
        with torch.inference_mode():
            (batch, *_), *_ = build_inputs(replace(case, images=(str(path),)), embedder, torch.device("cpu")).batches
            ours = embedder(ImageBatch(batch.pixels.to("meta"))).embeddings.shape[1]
            with Image.open(path) as image:
                prepared = own(image, return_tensors="pt")
            theirs = model(prepared["pixel_values"], prepared["image_position_ids"]).last_hidden_state
        assert [ours] == [len(theirs)] == prepared["num_soft_tokens_per_image"].tolist(), size


def test_patches_with_positions_are_put_together_to_the_image() -> None:
    size = (672, 912)  # what its processor leaves as it is: multiples of 48, as many as it has
    pixels = torch.randint(256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    processor = find_processor(["gemma4"], resolution=(768, 768), mean=(0, 0, 0), std=(1, 1, 1))("")
    (found,) = processor.pixels(processor([pixels]))
    torch.testing.assert_close(found, pixels / 255, atol=1e-6, rtol=0)


def test_native_sizes_are_bound_by_what_comes_with_a_checkpoint(tmp_path: Path) -> None:
    config, _ = TOWERS["qwen2.5-vl"]
    given = {"image_processor_type": "Qwen2VLImageProcessorFast", "min_pixels": 3136, "max_pixels": 100 * 28**2}
    path = folder(tmp_path, config, preprocessor_config=given)
    with torch.device("meta"):
        embedder = transformers_encoder(model=path)
    assert embedder.processor is not None
    height, width = embedder.processor("").size(2000, 1000)
    assert height * width <= 100 * 28**2 < (height + 28) * (width + 28)


def test_what_a_processor_refuses_is_told_of_the_image() -> None:
    processor = find_processor(["qwen2_vl"], resolution=(448, 448), mean=(0, 0, 0), std=(1, 1, 1))("")
    with pytest.raises(InputError, match=r"^image 'x.png' of 2x900 pixels: Qwen2VLImageProcessor refuses .* 200, got"):
        fitted_size(
            2, 900, resolution=(1, 1), size_divisor=28, fit="native", native=processor.size, name="image 'x.png'"
        )


@pytest.mark.parametrize(
    ("families", "kind", "given", "message"),
    [
        (["no_such_family"], "", {}, "has none for no_such_family; give pillow or torchvision"),
        (["dinov3_vit"], "slow", {}, "processor:slow of dinov3_vit is not there; transformers .* has fast"),
        (["qwen2_vl"], "", {"image_processor_type": "CLIPImageProcessor"}, "of another family than qwen2_vl"),
        (["qwen2_vl"], "", {"size": {"height": "tall"}}, "Qwen2VLImageProcessor"),
    ],
)  # fmt: skip
def test_a_processor_that_is_not_there_is_refused_in_a_line(
    families: list[str], kind: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        find_processor(families, resolution=(32, 32), mean=(0, 0, 0), std=(1, 1, 1), given=given)(kind).size(40, 40)
