import importlib
import importlib.util
import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("transformers", minversion="5.24")

import transformers

from embedders.transformers_encoder import TABLE, flat_patches, pack_patches, transformers_encoder
from vilt_bench.ask import catalog, registry
from vilt_bench.embedding import ImageBatch
from vilt_bench.embedding.configurations import read_table
from vilt_bench.errors import CheckpointError, ConfigError, EmbedderError
from vilt_bench.testing import check_embedder
from vilt_bench.worker.meters.meta import building

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
PACKED = {"depth": 2, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
SAM = {
    "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "output_channels": 8,
    "downsample_channels": [16, 32],
}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    "clip": {"model_type": "clip_vision_model", **SIZES, "image_size": 32, "patch_size": 8, "projection_dim": 16},
    "siglip": {"model_type": "siglip_vision_model", **SIZES, "image_size": 32, "patch_size": 8},
    "naflex": {"model_type": "siglip2_vision_model", **SIZES, "num_patches": 16, "patch_size": 8},
    "dinov2": {"model_type": "dinov2", **SIZES, "image_size": 32, "patch_size": 8},
    "dinov2-registers": {"model_type": "dinov2_with_registers", **SIZES, "image_size": 32, "patch_size": 8},
    "dinov3": {"model_type": "dinov3_vit", **SIZES, "image_size": 32, "patch_size": 8, "num_register_tokens": 4},
    "dinov3-convnext": {
        "model_type": "dinov3_convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "image_size": 32,
        "layer_scale_init_value": 0.5,
    },
    "swin": {
        "model_type": "swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "patch_size": 4,
        "window_size": 4,
    },
    "internvl": {"model_type": "internvl_vision", **SIZES, "image_size": [32, 32], "patch_size": [8, 8]},
    "pixtral": {"model_type": "pixtral", **SIZES, "image_size": 64, "patch_size": 8},
    "idefics2": {"model_type": "idefics2_vision", **SIZES, "image_size": 64, "patch_size": 8},
    "idefics3": {"model_type": "idefics3_vision", **SIZES, "image_size": 32, "patch_size": 8},
    "smolvlm": {"model_type": "smolvlm_vision", **SIZES, "image_size": 32, "patch_size": 8},
    "qwen2-vl": {"model_type": "qwen2_vl_vision", **PACKED, "embed_dim": 32, "hidden_size": 48},
    "qwen2.5-vl": {
        "model_type": "qwen2_5_vl_vision", **PACKED, "hidden_size": 32, "intermediate_size": 40, "out_hidden_size": 48,
        "window_size": 32, "fullatt_block_indexes": [1],
    },
    "qwen3-vl": {
        "model_type": "qwen3_vl_vision", **PACKED, "hidden_size": 32, "intermediate_size": 40, "out_hidden_size": 48,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    },
    "glm4v": {
        "model_type": "glm4v_vision", **PACKED, "hidden_size": 32, "intermediate_size": 40, "out_hidden_size": 48,
        "image_size": 32,
    },
    "ernie": {
        "model_type": "ernie4_5_vl_moe_vision", "hidden_size": 32, "intermediate_size": 40, "depth": 2, "num_heads": 2,
        "patch_size": 8,
    },
    "hunyuan": {
        "model_type": "hunyuan_vl_vision", **SIZES, "patch_size": 8, "text_hidden_size": 48, "max_image_size": 64,
    },
    "paddleocr": {"model_type": "paddleocr_vl_vision", **SIZES, "image_size": 32, "patch_size": 8},
    "kimi": {"model_type": "kimi_k25_vision", **SIZES, "patch_size": 8, "pos_emb_height": 4, "pos_emb_width": 4},
    "molmo2": {
        "model_type": "molmo2_vision", **SIZES, "num_key_value_heads": 2, "head_dim": 16, "image_size": [32, 32],
        "patch_size": 8,
    },
    "step3.7": {
        "model_type": "step3p5_vision", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8, "mlp_ratio": 2.0,
    },
    "llama3.2": {
        "model_type": "mllama_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_global_layers": 1, "attention_heads": 2, "image_size": 32, "patch_size": 8, "vision_output_dim": 64,
        "intermediate_layers_indices": [1],
    },
    "deepseek-ocr": {
        "model_type": "unlimited_ocr_vision", "sam_config": SAM,
        "encoder_config": {**SIZES, "image_size": 32, "patch_size": 8},
    },
    "deepseek-ocr-2": {
        "model_type": "deepseek_ocr2_vision", "sam_config": SAM | {"image_size": 96, "patch_size": 2},
        "encoder_config": {**SIZES, "num_key_value_heads": 1},
    },
}  # fmt: skip
TINY_CLIPS: dict[str, dict[str, Any]] = {
    "vjepa2": {
        "model_type": "vjepa2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "crop_size": 32,
        "patch_size": 8, "frames_per_clip": 4, "pred_hidden_size": 16, "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    },
    "videomae": {
        "model_type": "videomae", **SIZES, "image_size": 32, "patch_size": 8, "num_frames": 4,
        "use_mean_pooling": False,
    },
}  # fmt: skip

POOLED = ("head.", "post_layernorm.", "pooler.", "layernorm.", "query_1024")
"""What only pooled outputs need, or images of another size."""
BUNDLED = read_table(TABLE)
FIRST = {found.config["model_type"]: name for name, found in reversed(BUNDLED.items())}
LITTLE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "depth": 2,
    "num_heads": 2, "embed_dim": 32, "out_hidden_size": 48, "deepstack_visual_indexes": [0], "patch_size": 8,
    "fullatt_block_indexes": [1], "window_size": 32, "num_position_embeddings": 16, "head_dim": 16,
    "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "num_patches": 16,
    "image_size": 32,
}  # fmt: skip
"""A tower's sizes, by whatever name its configuration has for them."""


def little(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a bundled configuration with few and narrow layers, else as it is."""
    return config | {
        key: [LITTLE[key]] * 2 if isinstance(config[key], list) and isinstance(LITTLE[key], int) else LITTLE[key]
        for key in LITTLE
        if key in config
    }


OTHERS: dict[str, dict[str, Any]] = {
    "vit": {"model_type": "vit", **SIZES, "image_size": 32, "patch_size": 8},
    "deit": {"model_type": "deit", **SIZES, "image_size": 32, "patch_size": 8},
    "beit": {
        "model_type": "beit", **SIZES, "image_size": 32, "patch_size": 8, "use_relative_position_bias": True,
        "use_mask_token": True,
    },
    "msn": {"model_type": "vit_msn", **SIZES, "image_size": 32, "patch_size": 8},
    "i-jepa": {"model_type": "ijepa", **SIZES, "image_size": 32, "patch_size": 8},
    "segformer": {
        "model_type": "segformer", "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2], "image_size": 32,
    },
}  # fmt: skip
"""Types that nobody bundles, and `AutoModel` knows."""
_TYPES = {config["model_type"] for config in (TINY | TINY_CLIPS).values()}
FAMILIES = (
    TINY
    | TINY_CLIPS
    | OTHERS
    | {kind: little(BUNDLED[name].config) for kind, name in FIRST.items() if kind not in _TYPES}
)
"""A little tower of every family that is built here."""
PACKED_OTHERWISE = ("ernie", "hunyuan", "paddleocr", "kimi")
"""Those that take patches in one sequence without saying how many frames a patch spans."""

MakeFolder = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    """Returns what writes a folder with a configuration, and returns its path."""

    def make(config: object, **files: object) -> str:
        for name, content in {"config": config, **files}.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return str(tmp_path)

    return make


@pytest.fixture
def images() -> ImageBatch:
    return ImageBatch(torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)))


ALIKE = ("ernie", "paddleocr", "kimi", "molmo2", "step3.7", "deepseek-ocr", "deepseek-ocr-2")
"""Towers whose stages others of the fast ones have, too."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in (*TINY, *TINY_CLIPS)],
)
def test_towers_of_each_family_keep_the_contract(name: str, folder: MakeFolder) -> None:
    config = (TINY | TINY_CLIPS)[name]
    kind = config["model_type"]
    size = OF_THEIRS[kind][1] if kind in OF_THEIRS else SQUARE
    check_embedder(partial(transformers_encoder, model=folder(config)), resolution=size)


def theirs(config: dict[str, Any]) -> Any:
    """Returns transformers' own model of a configuration."""
    import transformers

    parts = {  # no AutoModel knows them
        "qwen2_vl_vision": "qwen2_vl.modeling_qwen2_vl.Qwen2VisionTransformerPretrainedModel",
        "idefics2_vision": "idefics2.modeling_idefics2.Idefics2VisionTransformer",
        "llama4_vision_model": "llama4.modeling_llama4.Llama4VisionModel",
        "qwen2_5_omni_vision_encoder": "qwen2_5_omni.modeling_qwen2_5_omni.Qwen2_5OmniVisionEncoder",
        "qwen3_omni_moe_vision_encoder": "qwen3_omni_moe.modeling_qwen3_omni_moe.Qwen3OmniMoeVisionEncoder",
        "ernie4_5_vl_moe_vision": "ernie4_5_vl_moe.modeling_ernie4_5_vl_moe"
        ".Ernie4_5_VLMoeVisionTransformerPretrainedModel",
        "hunyuan_vl_vision": "hunyuan_vl.modeling_hunyuan_vl.HunYuanVLVisionTransformer",
        "paddleocr_vl_vision": "paddleocr_vl.modeling_paddleocr_vl.PaddleOCRVisionTransformer",
        "kimi_k25_vision": "kimi_k25.modeling_kimi_k25.Kimi_K25VisionModel",
        "molmo2_vision": "molmo2.modeling_molmo2.Molmo2VisionModel",
        "step3p5_vision": "step3p7.modeling_step3p7.Step3p7VisionModel",
        "mllama_vision_model": "mllama.modeling_mllama.MllamaVisionModel",
        "unlimited_ocr_vision": "unlimited_ocr.modeling_unlimited_ocr.UnlimitedOcrVisionModel",
        "deepseek_ocr2_vision": "deepseek_ocr2.modeling_deepseek_ocr2.DeepseekOcr2VisionModel",
    }
    parsed = transformers.CONFIG_MAPPING[config["model_type"]](**config)
    if parsed.model_type in parts:
        module, _, name = parts[parsed.model_type].rpartition(".")
        return getattr(importlib.import_module(f"transformers.models.{module}"), name)(parsed).eval()
    return transformers.AutoModel.from_config(parsed).eval()


def scatter(module: Any) -> None:
    """Gives every parameter a value: what starts at zero or one would hide an error."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(index))


def our_and_their_copy(config: dict[str, Any], folder: str, resolution: tuple[int, int] | None) -> tuple[Any, Any]:
    """Returns our embedder, and transformers' model with the same weights."""
    embedder, model = transformers_encoder(model=folder, resolution=resolution).eval(), theirs(config)
    scatter(embedder)
    state = embedder.stages["backbone"].tower.state_dict()
    if merger := embedder.stages["backbone"].plan.merger:
        state |= {f"{merger}.{key}": value for key, value in embedder.stages["merger"].merger.state_dict().items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith(POOLED) or key.endswith("mask_token") for key in missing)  # of training
    return embedder, model


def features(embedder: Any, images: ImageBatch) -> Tensor:
    value: Any = images
    for stage in list(embedder.stages.values())[:-1]:
        value = stage(value)
    return value.embeddings  # type: ignore[no-any-return]


def of_pixels(model: Any, pixels: Tensor) -> Tensor:
    """Returns what transformers' tower makes of images, [B, N, C] with whatever stands before the patches' features."""
    output: Tensor = model(pixel_values=pixels).last_hidden_state
    return output.flatten(2).transpose(1, 2) if output.ndim == 4 else output.view(len(pixels), -1, output.shape[-1])


def of_one_sequence(model: Any, pixels: Tensor) -> Tensor:
    """Returns what a tower makes of what the model's own processor makes of images."""
    import transformers

    own = {
        "hunyuan_vl_vision": "HunYuanVLImageProcessor",
        "ernie4_5_vl_moe_vision": "Ernie4_5_VLMoeImageProcessor",
        "paddleocr_vl_vision": "PaddleOCRVLImageProcessor",
        "kimi_k25_vision": "Kimi_K25ImageProcessor",
    }
    kind, merge = model.config.model_type, getattr(model.config, "spatial_merge_size", 2)
    processor = getattr(transformers, own.get(kind, "Qwen2VLImageProcessor"))(
        patch_size=model.config.patch_size, merge_size=merge, do_resize=False, do_rescale=False, do_normalize=False,
        do_convert_rgb=False,
    )  # fmt: skip
    inputs = processor(list(pixels), return_tensors="pt")
    grids, patches = inputs["image_grid_thw"], inputs["pixel_values"]
    output = model(patches[None] if kind == "paddleocr_vl_vision" else patches, grid_thw=grids)
    if kind not in own or kind == "hunyuan_vl_vision":
        packed: Tensor = output.pooler_output
        return packed.view(len(pixels), -1, packed.shape[-1])
    states = output.last_hidden_state.view(len(pixels), -1, output.last_hidden_state.shape[-1])
    if kind == "ernie4_5_vl_moe_vision":  # square by square
        places = transformers.vision_utils.get_vision_position_ids(grids[:1], merge)
        states = states[:, (places[:, 0] * grids[0, 2] + places[:, 1]).argsort()]
    return states  # type: ignore[no-any-return]


def of_flat_patches(model: Any, pixels: Tensor) -> Tensor:
    """Returns what NaFlex makes of what its processor makes of images."""
    from transformers import Siglip2ImageProcessor

    processor = Siglip2ImageProcessor(
        patch_size=8, max_num_patches=48, do_rescale=False, do_normalize=False, do_convert_rgb=False
    )
    inputs = processor(list(pixels), return_tensors="pt")
    assert inputs["spatial_shapes"].tolist() == [[6, 8]] * 2
    return model(**inputs).last_hidden_state  # type: ignore[no-any-return]


def of_crops(model: Any, pixels: Tensor) -> Tensor:
    """Returns what Molmo 2's tower makes of patches that its processor cuts."""
    from transformers.models.molmo2.image_processing_molmo2 import batch_pixels_to_patches

    return model(pixel_values=batch_pixels_to_patches(pixels.permute(0, 2, 3, 1), 8)).last_hidden_state  # type: ignore[no-any-return]


def of_tiles(model: Any, pixels: Tensor) -> Tensor:
    """Returns what Llama 3.2 Vision's tower makes of the tiles that its processor cuts, cell by cell."""
    from transformers import MllamaImageProcessor

    processor = MllamaImageProcessor(
        size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False, do_convert_rgb=False
    )
    inputs = processor([[each] for each in pixels.numpy()], return_tensors="pt", input_data_format="channels_first")
    tiles = inputs.pop("num_tiles")
    assert tiles == [[2], [2]]
    states = model(**inputs).last_hidden_state[:, 0, :2, 1:]  # (B, tiles, N, C): side by side
    return torch.cat([tile.unflatten(1, (4, 4)) for tile in states.unbind(1)], dim=2).flatten(1, 2)


TALL, SQUARE, WIDE = (48, 64), (32, 32), (32, 64)
OF_THEIRS: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, int]]] = {
    "siglip2_vision_model": (of_flat_patches, TALL),
    "molmo2_vision": (of_crops, SQUARE),
    "mllama_vision_model": (of_tiles, WIDE),
    "unlimited_ocr_vision": (of_pixels, (64, 64)),
    "deepseek_ocr2_vision": (of_pixels, (96, 96)),  # its queries are for 144 places, or 256
}
"""By type, what asks transformers' tower, and the images' size."""


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in TINY_CLIPS])
def test_a_tower_of_every_family_computes_what_transformers_does(name: str, folder: MakeFolder) -> None:
    config = FAMILIES[name]
    packed = any(key in config for key in ("spatial_merge_size", "temporal_patch_size")) or name in PACKED_OTHERWISE
    ask, size = OF_THEIRS.get(config["model_type"], (of_one_sequence, TALL) if packed else (of_pixels, SQUARE))
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    embedder, model = our_and_their_copy(config, folder(config), size)
    with torch.no_grad():
        expected, found = ask(model, pixels), features(embedder, ImageBatch(pixels))
    assert found.shape[0] == 2
    assert found.std() > 1e-3
    atol = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found, expected[:, -found.shape[1] :], atol=max(atol, 1e-5), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "frames"),
    [*((name, 3) for name, config in FAMILIES.items() if config.get("temporal_patch_size") == 2), ("qwen2.5-vl", 4)],
)
def test_frames_of_clips_are_taken_two_by_two_as_transformers_does(name: str, frames: int, folder: MakeFolder) -> None:
    from transformers import Qwen2VLVideoProcessor

    config = FAMILIES[name]
    embedder, model = our_and_their_copy(config, folder(config), None)
    clips = torch.randn(2, frames, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    processor = Qwen2VLVideoProcessor(
        patch_size=8, merge_size=2, do_resize=False, do_rescale=False, do_normalize=False, do_convert_rgb=False
    )
    inputs = processor(list(clips), return_tensors="pt")
    grids = embedder.clips.grids(frames)
    assert inputs["video_grid_thw"].tolist() == [[grids, 6, 8]] * 2
    # GLM-V's model gives its tower each temporal patch as an image.
    sizes = torch.tensor([[1, 6, 8]] * 2 * grids) if name.startswith("glm") else inputs["video_grid_thw"]
    with torch.no_grad():
        expected = model(inputs["pixel_values_videos"], grid_thw=sizes).pooler_output
        found = features(embedder, ImageBatch(clips.flatten(0, 1), frames=frames))
    assert found.shape == (2 * grids, 12, 48)
    torch.testing.assert_close(found.flatten(0, 1), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


def test_the_mask_of_a_temporal_patch_is_its_frames(folder: MakeFolder) -> None:
    mask = torch.ones(2, 3, 48, 64, dtype=torch.bool)
    mask[1, ..., 32:] = False
    pixels = torch.zeros(6, 3, 48, 64)
    embedder = transformers_encoder(model=folder(TINY["qwen2-vl"]), hidden_size=8).eval()
    tokens = embedder(ImageBatch(pixels, mask.flatten(0, 1), frames=3))
    assert tokens.mask is not None
    assert tokens.mask.tolist() == [[True] * 12] * 2 + [[True, True, False, False] * 3] * 2


@pytest.mark.parametrize(("name", "frames"), [("vjepa2", 4), ("vjepa2", 2), ("videomae", 4)])
def test_towers_of_clips_compute_what_transformers_does(name: str, frames: int, folder: MakeFolder) -> None:
    clips = torch.randn(2, frames, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = theirs(TINY_CLIPS[name])
    embedder = transformers_encoder(model=folder(TINY_CLIPS[name]), resolution=(32, 32)).eval()
    missing, unexpected = model.load_state_dict(embedder.stages["backbone"].tower.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith("predictor.") for key in missing)
    with torch.no_grad():
        expected = model(clips).last_hidden_state
        tokens = embedder.stages["backbone"](ImageBatch(clips.flatten(0, 1), frames=frames))
    assert expected.shape == (2, 16 * frames // 2, 32)
    assert tokens.embeddings.shape == (2 * frames // 2, 16, 32)
    assert tokens.cells == (4, 4)
    torch.testing.assert_close(tokens.embeddings.reshape(expected.shape), expected, atol=1e-5, rtol=0)


def test_a_tower_of_clips_says_what_it_takes(folder: MakeFolder) -> None:
    pixels = torch.zeros(3, 3, 32, 32)
    path = folder(TINY_CLIPS["vjepa2"])
    embedder = transformers_encoder(model=path, resolution=(32, 32))
    with pytest.raises(EmbedderError, match="a 'vjepa2' takes clips; give `frames` 4"):
        embedder(ImageBatch(pixels))
    with pytest.raises(EmbedderError, match="takes 2 frames together; give `frames` in multiples of that, got 3"):
        embedder(ImageBatch(pixels, frames=3))
    for size, said in (((32, 48), "takes squares; give `resolution` 32x32 or 48x48"), ((20, 20), "multiples of 8")):
        with pytest.raises(EmbedderError, match=said):
            transformers_encoder(model=path, resolution=size)
    fixed = transformers_encoder(model=folder(TINY_CLIPS["videomae"]))
    with pytest.raises(EmbedderError, match="a 'videomae' takes clips of 4 frames; give `frames` 4"):
        fixed(ImageBatch(pixels[:2], frames=2))


def test_a_pass_on_the_meta_device_leaves_no_indices_to_one_with_values(folder: MakeFolder) -> None:
    from transformers.models.beit.modeling_beit import BeitRelativePositionBias

    path = folder(OTHERS["beit"] | {"image_size": 40})
    with building():
        transformers_encoder(model=path)(ImageBatch(torch.empty(1, 3, 40, 40, device="meta")))
    assert not BeitRelativePositionBias.generate_relative_position_index((5, 5)).is_meta


def test_random_weights_tell_images_apart_where_a_checkpoint_would_fill_them(folder: MakeFolder) -> None:
    embedder = transformers_encoder(model=folder(TINY["deepseek-ocr"]), hidden_size=8).eval()
    first, second = (ImageBatch(torch.full((1, 3, 64, 64), value)) for value in (-1.0, 1.0))
    assert not torch.allclose(features(embedder, first), features(embedder, second))


def test_padding_is_not_attended_to_where_the_tower_takes_a_mask(folder: MakeFolder, images: ImageBatch) -> None:
    mask = torch.ones(2, 48, 64, dtype=torch.bool)
    mask[:, :, 32:] = False
    other = images.pixels.clone()
    other[:, :, :, 32:] = 7
    for name in ("naflex", "idefics2", "pixtral"):
        embedder = transformers_encoder(model=folder(TINY[name]), hidden_size=8).eval()
        with torch.no_grad():
            first, second = (embedder(ImageBatch(pixels, mask)) for pixels in (images.pixels, other))
        assert first.mask is not None
        assert first.mask.sum(dim=1).tolist() == [24, 24]
        torch.testing.assert_close(first.embeddings[first.mask], second.embeddings[first.mask])


def test_mergers_tokens_are_masked_by_their_squares(folder: MakeFolder, images: ImageBatch) -> None:
    mask = torch.ones(2, 48, 64, dtype=torch.bool)
    mask[1, :, 32:] = False
    tokens = transformers_encoder(model=folder(TINY["qwen2-vl"]), hidden_size=8).eval()(images._replace(mask=mask))
    assert tokens.cells == (3, 4)
    assert tokens.mask is not None
    assert tokens.mask.tolist() == [[True] * 12, [True, True, False, False] * 3]


def test_patches_are_cut_as_their_description_says() -> None:
    pixels = torch.arange(3 * 4 * 8, dtype=torch.float32).view(1, 3, 4, 8)
    flat = flat_patches(pixels, patch=2)
    assert flat.shape == (1, 8, 12)
    assert flat[0, 5].tolist() == [pixels[0, c, 2 + y, 2 + x].item() for y in (0, 1) for x in (0, 1) for c in range(3)]
    packed = pack_patches(pixels.unsqueeze(1).expand(-1, 2, -1, -1, -1), patch=2, merge=2)
    assert packed.shape == (8, 24)
    # The second patch of the second square: row 0, column 3.
    assert packed[5].tolist() == [
        pixels[0, c, y, 6 + x].item() for c in range(3) for _ in (0, 1) for y in (0, 1) for x in (0, 1)
    ]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FIRST.values() else pytest.mark.slow) for name in BUNDLED]
)
def test_bundled_towers_have_as_many_parameters_as_transformers_counts(name: str) -> None:
    config = BUNDLED[name].config
    left_out = {
        "clip_vision_model": POOLED,
        "mlcd_vision_model": POOLED,
        "siglip_vision_model": ("head.",),
        "siglip2_vision_model": ("head.",),
        "deepseek_ocr2_vision": ("query_768",),  # of images of another size
        "vjepa2": ("predictor.",),
    }
    with building():
        embedder, model = transformers_encoder(model=name), theirs(config)
    expected = {
        key: parameter.numel()
        for key, parameter in model.named_parameters()
        if not key.startswith(left_out.get(config["model_type"], ("nothing",))) and not key.endswith("mask_token")
    }
    found = [p.numel() for stage, part in embedder.stages.items() if stage != "projection" for p in part.parameters()]
    assert sum(found) == sum(expected.values())


# Of the papers and model cards, in millions.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("dinov2-giant", 1136.5),
        ("dinov3-convnext-base", 87.6),
        ("internvit-6b-448", 5537),
        ("clip-vit-large-patch14-336", 303.5),
        ("paligemma-224", 412.4),
    ],
)
def test_bundled_towers_are_as_large_as_published(name: str, millions: float) -> None:
    with building():
        backbone = transformers_encoder(model=name).stages["backbone"]
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_every_bundled_configuration_says_where_it_is_from() -> None:
    for name, entry in json.loads(TABLE.read_text()).items():
        assert entry["source"], name
        assert entry["hub"].count("/") == 1, name


def test_the_list_shows_every_bundled_tower_by_the_name_that_builds_it() -> None:
    assert [row.name for row in catalog.find("transformers/").rows] == [f"transformers/{name}" for name in BUNDLED]


def test_a_tower_of_fixed_positions_is_built_for_the_resolution_asked_for(folder: MakeFolder) -> None:
    path = folder(TINY["siglip"])
    embedder = transformers_encoder(model=path, hidden_size=8, resolution=(48, 64)).eval()
    assert (embedder.resolution, embedder.fixed_size, embedder.size_divisor) == ((48, 64), True, 1)
    assert embedder(ImageBatch(torch.randn(1, 3, 48, 64))).cells == (6, 8)
    native = transformers_encoder(model=folder(TINY["qwen2-vl"]), resolution=(48, 64))
    assert (native.resolution, native.fixed_size, native.size_divisor) == ((48, 64), False, 16)


def test_the_tower_of_a_vision_language_model_is_taken_from_its_configuration(folder: MakeFolder) -> None:
    vlm = {"model_type": "llava", "vision_config": TINY["clip"], "text_config": {"model_type": "llama"}}
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    embedder = registry.build(f"transformers/{folder(vlm, preprocessor_config=processor)}", {}, hidden_size=8)
    assert type(embedder.stages["backbone"].tower).__name__ == "CLIPVisionModel"
    assert embedder.resolution == (32, 32)
    assert embedder.mean == (0.1, 0.2, 0.3)
    assert embedder.std == (0.4, 0.5, 0.6)


@pytest.mark.parametrize("prefix", ["", "vision_tower.", "model.visual.", "model.vision_tower.vision_model."])
def test_weights_are_taken_from_the_tower_or_the_model_around_it(
    prefix: str, folder: MakeFolder, tmp_path: Path, images: ImageBatch
) -> None:
    path = folder(TINY["siglip"])
    model = theirs(TINY["siglip"])  # its pooling head is left out
    state = {f"{prefix}{key}": tensor.clone() for key, tensor in model.state_dict().items()}
    save_file(state | {"language_model.norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    embedder = transformers_encoder(model=path, pretrained=True).eval()
    said = f", its names without {prefix}" if prefix else ""
    assert embedder.weights == f"{path}{said}, projection random"
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(
        features(embedder, ImageBatch(pixels)), model(pixel_values=pixels).last_hidden_state, atol=1e-5, rtol=0
    )
    again = transformers_encoder(model=path, weights=str(tmp_path / "model.safetensors"))
    ours = (each.stages["backbone"].state_dict().values() for each in (embedder, again))
    assert all(torch.equal(first, second) for first, second in zip(*ours, strict=True))
    with building():  # nothing to load into
        assert transformers_encoder(model=path, pretrained=True).weights == f"{path}, projection random"


@pytest.mark.parametrize(
    ("tower", "family", "around"),
    [
        ("hunyuan", "HunYuanVL", {}),
        ("molmo2", "Molmo2", {"adapter_config": {"hidden_size": 32, "vision_feature_layer": [1]}}),
        ("deepseek-ocr", "UnlimitedOcr", {}),
    ],
)
def test_a_whole_models_checkpoint_is_loaded_under_the_names_that_its_release_writes(
    tower: str, family: str, around: dict[str, Any], tmp_path: Path
) -> None:
    text = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 64, "head_dim": 16, "pad_token_id": 0, "first_k_dense_replace": 1,
    }  # fmt: skip
    config = getattr(transformers, f"{family}Config")(vision_config=TINY[tower], text_config=text, **around)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    model.save_pretrained(tmp_path)
    loaded = transformers_encoder(model=f"{tmp_path}/", pretrained=True).stages["backbone"].tower.state_dict()
    theirs = model.model.vision_tower.state_dict()
    assert loaded
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in loaded.items() if key in theirs)
    assert len(theirs.keys() & loaded.keys()) > len(loaded) / 2


def test_the_constants_that_older_releases_kept_are_no_obstacle(folder: MakeFolder, tmp_path: Path) -> None:
    path = folder(TINY["clip"])
    state = theirs(TINY["clip"]).state_dict()  # as in a checkpoint that transformers 4.30 wrote, distributed
    table = next(key for key in state if key.endswith("position_embedding.weight"))
    state[table.replace("position_embedding.weight", "position_ids")] = torch.arange(17)[None]
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "clip.bin")
    embedder = transformers_encoder(model=path, weights=str(tmp_path / "clip.bin"))
    assert embedder.weights == f"{tmp_path / 'clip.bin'}, its names without module., projection random"
    assert torch.equal(embedder.stages["backbone"].tower.state_dict()[table], state[table])


def saved(config: dict[str, Any], folder: Path, **options: Any) -> Any:
    """Saves a random model as the installed transformers does, and returns it."""
    model = theirs(config)
    scatter(model)
    model.save_pretrained(folder, **options)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_of_the_installed_transformers_loads_into_every_family(name: str, tmp_path: Path) -> None:
    config = FAMILIES[name]
    model = saved(config, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    embedder = transformers_encoder(model=f"{tmp_path}/", hidden_size=8, pretrained=True)
    expected = model.state_dict()
    backbone: Any = embedder.stages["backbone"]
    stages = {"backbone": "", "merger": f"{backbone.plan.merger}."}
    found = {
        stages[stage] + key.removeprefix("tower.").removeprefix("merger."): tensor
        for stage, module in embedder.stages.items()
        if stage in stages
        for key, tensor in module.state_dict().items()
    }
    assert len(found) > 10
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, expected[key], msg=key)


CLASSICS = (*OTHERS, "swin", "dinov2", "dinov2-registers", "dinov3", "dinov3-convnext")
"""Of some, releases write other names than their classes have."""


@pytest.mark.parametrize("name", CLASSICS)
def test_a_tower_is_taken_out_of_a_model_in_half_precision_and_shards(name: str, tmp_path: Path) -> None:
    model = theirs(FAMILIES[name]).half()
    model.save_pretrained(tmp_path / "tower", max_shard_size="5KB")
    shards = sorted((tmp_path / "tower").glob("*.safetensors"))
    assert len(shards) > 1
    files = {}
    for shard in shards:  # as the part of a model around it
        tensors = {f"model.vision_tower.{key}": tensor for key, tensor in load_file(shard).items()}
        tensors[f"model.language_model.{shard.stem}.weight"] = torch.ones(3)
        save_file(tensors, tmp_path / shard.name)
        files |= dict.fromkeys(tensors, shard.name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (tmp_path / "config.json").write_text(json.dumps(FAMILIES[name]))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"image_mean": [0.1, 0.2, 0.3]}}))
    embedder = transformers_encoder(model=f"{tmp_path}/", hidden_size=8, pretrained=True)
    assert embedder.mean == (0.1, 0.2, 0.3)
    assert "its names without model.vision_tower." in embedder.weights
    tower: Any = embedder.stages["backbone"]
    for key, tensor in tower.tower.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, model.state_dict()[key].float(), msg=key, rtol=0, atol=0)


def test_constants_and_wrappers_of_training_are_no_obstacle(folder: MakeFolder, tmp_path: Path) -> None:
    path = folder(TINY["dinov3"])
    state = {f"module._orig_mod.model.{key}": tensor for key, tensor in theirs(TINY["dinov3"]).state_dict().items()}
    state["module._orig_mod.model.rope_embeddings.inv_freq"] = torch.ones(4)
    torch.save(state, tmp_path / "dino.bin")
    embedder = transformers_encoder(model=path, weights=str(tmp_path / "dino.bin"))
    for word in ("module.", "_orig_mod.", "model."):
        assert word in embedder.weights


def test_a_deeper_checkpoint_is_refused(folder: MakeFolder, tmp_path: Path) -> None:
    path = folder(TINY["dinov2"])
    saved(TINY["dinov2"] | {"num_hidden_layers": 3}, tmp_path / "deeper")
    with pytest.raises(CheckpointError, match="unexpected"):
        transformers_encoder(model=path, weights=str(tmp_path / "deeper"))


@pytest.mark.parametrize("name", ["preprocessor_config", "processor_config"])
def test_mean_std_and_size_are_those_of_the_processor(name: str, folder: MakeFolder) -> None:
    prepares = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 48, "width": 64}}
    content = prepares if name.startswith("pre") else {"image_processor": prepares, "processor_class": "Some"}
    embedder = transformers_encoder(model=folder(TINY["siglip"], **{name: content}))
    assert (embedder.mean, embedder.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert embedder.resolution == (48, 64)


def test_weights_of_another_model_are_refused(folder: MakeFolder, tmp_path: Path) -> None:
    path = folder(TINY["siglip"])
    with pytest.raises(CheckpointError, match="holds no weights"):
        transformers_encoder(model=path, pretrained=True)
    save_file({"some.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected the weights of this tower or of a model around it"):
        transformers_encoder(model=path, pretrained=True)
    other = theirs(TINY["siglip"] | {"intermediate_size": 80}).state_dict()
    save_file(other, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="of the wrong shape"):
        transformers_encoder(model=path, pretrained=True)


def refusal(caught: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        transformers_encoder(model="siglip2-so400-patch16-512")
    assert "did you mean 'transformers/siglip2-so400m-patch16-512'?" in refusal(caught)


def test_a_repository_of_the_hub_leads_to_its_bundled_configuration_and_to_the_hub() -> None:
    with pytest.raises(CheckpointError) as caught:
        transformers_encoder(model="google/siglip-base-patch16-224")
    assert "did you mean 'transformers/siglip-base-patch16-224'?" in refusal(caught)
    assert "'transformers/hub:google/siglip-base-patch16-224' fetches" in refusal(caught)


def test_a_configuration_may_be_given_itself(folder: MakeFolder) -> None:
    place = folder(TINY["clip"], preprocessor_config={"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]})
    assert transformers_encoder(model=f"{place}/config.json").mean == transformers_encoder(model=place).mean
    with pytest.raises(CheckpointError) as caught:
        transformers_encoder(model=f"{place}/preprocessor_config.json")
    assert "give the folder that has the model's config.json" in refusal(caught)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert"}, "is a 'bert', which takes no images"),
        ({"model_type": "vit_mae"}, "drops patches at random"),
        ({"model_type": "llama"}, "is a 'llama', which takes no images"),
        ({"model_type": "of_the_future"}, "no model type 'of_the_future', and code that comes with a checkpoint"),
        ({**TINY["clip"], "hidden_size": 33}, "not a multiple of the number of attention heads"),
        ({**TINY["clip"], "hidden_size": "wide"}, "no valid 'clip_vision_model'"),
    ],
)
def test_a_configuration_of_no_vision_tower_is_refused(config: dict[str, Any], said: str, folder: MakeFolder) -> None:
    with pytest.raises(EmbedderError) as caught:
        transformers_encoder(model=folder(config))
    assert said in refusal(caught)


def test_configurations_as_their_authors_publish_them_are_read(folder: MakeFolder) -> None:
    # allenai/Molmo2: the checkpoint has the blocks up to the deepest that the adapter reads, whatever the file says.
    molmo = {
        "model_type": "molmo2",
        "vit_config": {
            "model_type": "molmo2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh",
            "image_default_input_size": [32, 32], "image_num_pos": 16, "image_patch_size": 8,
        },
        "adapter_config": {"model_type": "molmo2", "vit_layers": [-3, -5], "hidden_size": 32},
    }  # fmt: skip
    embedder = transformers_encoder(model=folder(molmo), hidden_size=8)
    assert embedder.resolution == (32, 32)
    assert len(embedder.stages["backbone"].tower.layers) == 4  # type: ignore[union-attr, arg-type]
    # stepfun-ai/Step-3.7-Flash: width, layers and heads.
    step = {
        "model_type": "step3p7",
        "vision_config": {
            "model_type": "perception_encoder", "width": 32, "layers": 2, "heads": 2, "image_size": 64, "patch_size": 8,
            "mlp_ratio": 2.0, "hidden_act": "quick_gelu", "ls_init_value": 0.1, "use_cls_token": False,
        },
    }  # fmt: skip
    embedder = transformers_encoder(model=folder(step), hidden_size=8)
    assert embedder.resolution == (64, 64)
    assert len(embedder.stages["backbone"].tower.layers) == 2  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("minimax_m3_vl_vision", "its MiniMaxM3VLVisionModel has no 'merger'"),
        ("dots3_note_vision_encoder", "whose grids are not known here (it has no temporal_patch_size)"),
        ("chmv2", "whose features are not known here: its DepthEstimatorOutput has no 'last_hidden_state'"),
        ("pp_chart2table_vision", "transformers.models.pp_chart2table has no modeling_pp_chart2table"),
    ],
)
def test_what_is_not_known_of_a_tower_is_a_sentence_with_its_type(kind: str, said: str, folder: MakeFolder) -> None:
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    with building(), pytest.raises(EmbedderError) as caught:
        transformers_encoder(model=folder({"model_type": kind}))
    assert f"is a {kind!r}" in refusal(caught)
    assert said in refusal(caught)
    assert "AttributeError" not in refusal(caught)


@pytest.mark.parametrize(("content", "said"), [("{", "can't be read"), ("[]", "JSON object"), ("{}", "no model_type")])
def test_a_damaged_configuration_is_one_line(content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json in"):
        transformers_encoder(model=f"{tmp_path}/missing")
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        transformers_encoder(model=str(tmp_path))
    assert said in refusal(caught)


def test_a_resolution_that_the_tower_refuses_is_one_line(folder: MakeFolder) -> None:
    with pytest.raises(EmbedderError) as caught:
        transformers_encoder(model=folder(TINY["siglip"]), resolution=(4, 4))
    assert "refuses `resolution` 4x4" in refusal(caught)
    with pytest.raises(EmbedderError) as caught:
        transformers_encoder(model=folder(TINY["qwen2-vl"]), resolution=(8, 64))
    assert "edges of 16 at least" in refusal(caught)


def test_tiles_that_a_tower_has_no_place_for_are_refused(folder: MakeFolder) -> None:
    path = folder(TINY["llama3.2"])
    assert transformers_encoder(model=path, resolution=(64, 64)).resolution == (64, 64)
    for size in ((96, 64), (40, 32)):
        with pytest.raises(EmbedderError) as caught:
            transformers_encoder(model=path, resolution=size)
        assert f"refuses `resolution` {size[0]}x{size[1]}; its tiles of 32 pixels make 32x32, 32x64," in refusal(caught)


def test_more_places_than_queries_are_refused(folder: MakeFolder) -> None:
    with pytest.raises(EmbedderError) as caught:
        transformers_encoder(model=folder(TINY["deepseek-ocr-2"]), resolution=(64, 64))
    assert "returns 144 features of an image of 64x64 pixels, no grid of patches; give another `resolution`" in refusal(
        caught
    )


def test_molmo_2_takes_crops_of_its_own_size_only(folder: MakeFolder) -> None:
    with pytest.raises(EmbedderError) as caught:
        transformers_encoder(model=folder(TINY["molmo2"]), resolution=(48, 48))
    assert "refuses `resolution` 48x48" in refusal(caught)


def test_rows_that_end_in_a_token_are_masked_with_their_images(folder: MakeFolder, images: ImageBatch) -> None:
    mask = torch.ones(2, 48, 64, dtype=torch.bool)
    mask[1, :, 32:] = False
    tokens = transformers_encoder(model=folder(TINY["hunyuan"]), hidden_size=8).eval()(images._replace(mask=mask))
    assert tokens.embeddings.shape[1] == 3 * (4 + 1) + 2
    assert tokens.mask is not None
    assert tokens.mask.tolist() == [[True] * 17, [True, *[True, True, False, False, True] * 3, True]]
    assert tokens.cells is None


def test_more_patches_than_positions_are_refused(folder: MakeFolder) -> None:
    embedder = transformers_encoder(model=folder(TINY["idefics2"]))
    with pytest.raises(EmbedderError) as caught:
        embedder(ImageBatch(torch.zeros(1, 3, 64, 128)))
    assert "8x16 patches are too many for the position table of 8x8" in refusal(caught)


def test_the_network_is_asked_only_where_the_user_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def refuse(name: str, **_: object) -> str:
        raise hub.errors.LocalEntryNotFoundError("offline\nwith a long explanation")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with building():
        transformers_encoder(model="siglip2-base-patch16-224")
    with pytest.raises(CheckpointError) as caught:
        transformers_encoder(model="hub:organisation/name")
    assert "hub:organisation/name can't be fetched (offline); check name and network" in refusal(caught)


def test_without_transformers_the_message_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    with pytest.raises(EmbedderError) as caught:
        transformers_encoder(model="siglip2-base-patch16-224")
    (needed,) = {each.partition(";")[0].strip() for each in requires("vilt-bench") or () if each.startswith("transf")}
    assert f"pip install '{needed}'" in refusal(caught)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_towers_run_in_half_precision(dtype: torch.dtype, folder: MakeFolder) -> None:
    native = ("qwen2.5-vl", "qwen3-vl", "naflex", "pixtral", "hunyuan", "paddleocr", "kimi", "ernie")
    for name in (*native, "idefics3", "molmo2", "step3.7", "llama3.2", "deepseek-ocr", "deepseek-ocr-2"):
        embedder = transformers_encoder(model=folder(TINY[name]), hidden_size=8).eval().to(dtype)
        size = SQUARE if name in native else embedder.resolution
        assert embedder(ImageBatch(torch.randn(1, 3, *size, dtype=dtype))).embeddings.dtype == dtype, name


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b", "siglip2-base-patch16-naflex"])
def test_an_image_that_is_no_whole_number_of_squares_is_refused(name: str) -> None:
    with building():
        embedder = registry.build(f"transformers/{name}", {}, hidden_size=64)
        unit = embedder.size_divisor
        with pytest.raises(EmbedderError, match=rf"{4 * unit + 2}x{4 * unit} pixels can't be cut into squares"):
            embedder(ImageBatch(torch.empty(1, 3, 4 * unit + 2, 4 * unit, device="meta")))
