from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", minversion="5.24")

import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from vilt_bench.ask.tiles import Size, parse_tiles
from vilt_bench.errors import InputError
from vilt_bench.model.tiles import arrangement

SIZES = [
    (1, 1), (40, 300), (224, 224), (336, 672), (427, 640), (640, 427), (768, 1024), (1080, 1920), (1500, 700),
    (4000, 300),
]  # fmt: skip
WIDTH = 8
TOWER = {"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
TEXT = {
    "model_type": "llama", **TOWER, "num_key_value_heads": 1, "vocab_size": 32, "pad_token_id": 0,
}  # fmt: skip

Features = Callable[[Size], int]


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    found = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?")), unk_token="?", extra_special_tokens=special
    )
    # As the tokenizers of Llama 3 and SmolLM2 do: two ends of lines are one token.
    found.add_tokens(["\n\n", "\n"])
    return found


def on_meta(model: Any, config: Any) -> Any:
    with torch.device("meta"):
        return model(config).eval()


def tiles_on_meta(scheme: str, size: Size, *, images: bool) -> Tensor:
    tiling = parse_tiles(scheme).tiling(size)
    tiles = torch.empty(tiling.count, 3, tiling.edge, tiling.edge, device="meta")
    return tiles[None] if images else tiles


def llava(name: str, edge: int, tower: dict[str, Any]) -> Any:
    config = getattr(transformers, f"{name}Config")(
        vision_config={"image_size": edge, "patch_size": 14, **TOWER, **tower}, text_config=TEXT
    )
    return on_meta(getattr(transformers, f"{name}Model"), config)


def llava_next() -> tuple[Any, Features]:
    processor = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        tokenizer(image_token="<image>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    model = llava("LlavaNext", 336, {"model_type": "clip_vision_model", "projection_dim": 8})
    return processor, lambda size: lava_features(model, "llava-next", size)


def llava_onevision() -> tuple[Any, Features]:
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(),
        tokenizer(image_token="<image>", video_token="<video>"),
        transformers.LlavaOnevisionVideoProcessor(),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
    )
    model = llava("LlavaOnevision", 384, {"model_type": "siglip_vision_model", "vision_use_head": False})
    return processor, lambda size: lava_features(model, "llava-onevision", size)


def lava_features(model: Any, scheme: str, size: Size) -> int:
    pixels = tiles_on_meta(scheme, size, images=True)
    (found,) = model.get_image_features(pixels, torch.tensor([size])).pooler_output
    return len(found)


def internvl() -> tuple[Any, Features]:
    words = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<c>"}
    processor = transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size={"height": 448, "width": 448}),
        tokenizer(**words, video_token="<video>"),
        transformers.InternVLVideoProcessor(),
    )
    model = on_meta(transformers.InternVLModel, transformers.InternVLConfig(vision_config={**TOWER}, text_config=TEXT))

    def features(size: Size) -> int:
        pixels = tiles_on_meta("internvl:12", size, images=False)
        return 2 + model.get_image_features(pixels).pooler_output.flatten(0, 1).shape[0]  # begin and end

    return processor, features


def idefics3() -> tuple[Any, Features]:
    processor = transformers.Idefics3Processor(transformers.Idefics3ImageProcessor(), tokenizer(), image_seq_len=169)
    config = transformers.Idefics3Config(vision_config={"image_size": 364, "patch_size": 14, **TOWER}, text_config=TEXT)
    return processor, idefics_features(transformers.Idefics3Model(config).eval(), "idefics3:364")


def smolvlm() -> tuple[Any, Features]:
    # SmolVLM's own processor is Idefics3's for images, and wants a package more for videos.
    processor = transformers.Idefics3Processor(
        transformers.SmolVLMImageProcessor(size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}),
        tokenizer(),
        image_seq_len=64,
    )
    config = transformers.SmolVLMConfig(
        vision_config={"image_size": 512, "patch_size": 16, **TOWER}, text_config=TEXT, scale_factor=4
    )
    return processor, idefics_features(transformers.SmolVLMModel(config).eval(), "idefics3:512")


def idefics_features(model: Any, scheme: str) -> Features:
    # It looks at values, to leave out images that are padding: one tile is run, as all are alike.
    edge = parse_tiles(scheme).edge
    with torch.no_grad():
        (tile,) = model.get_image_features(torch.ones(1, 1, 3, edge, edge)).pooler_output

    def features(size: Size) -> int:
        tiling = parse_tiles(scheme).tiling(size)
        rows, _ = tiling.grid
        # Around and before each tile, the ends of rows, and the word behind the last.
        return tiling.count * (len(tile) + 2) + rows + 1

    return features


def llama4() -> tuple[Any, Features]:
    processor = transformers.Llama4Processor(transformers.Llama4ImageProcessor(), tokenizer())
    projected = {"vision_output_dim": WIDTH, "projector_input_dim": WIDTH, "projector_output_dim": WIDTH}
    config = transformers.Llama4Config(
        vision_config={**TOWER, **projected, "intermediate_size": 4 * WIDTH, "image_size": 336},
        text_config={
            **TOWER, "intermediate_size_mlp": 8, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 32,
            "num_local_experts": 1, "pad_token_id": 0,
        },
    )  # fmt: skip
    model = on_meta(transformers.Llama4ForConditionalGeneration, config)

    def features(size: Size) -> int:
        tiling = parse_tiles("llama4").tiling(size)
        pixels = tiles_on_meta("llama4", size, images=False)
        found = model.get_image_features(pixels, vision_feature_select_strategy="default").last_hidden_state
        separators = tiling.count - 1
        return found.shape[0] * found.shape[1] + separators + 3  # begin, image, end

    return processor, features


def said_by(processor: Any, scheme: str, sizes: Sequence[Size]) -> list[int]:
    """How many tokens the processor puts in the place of an image."""
    if hasattr(processor, "_get_num_multimodal_tokens") and not isinstance(processor, transformers.Llama4Processor):
        return processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"]  # type: ignore[no-any-return]
    found = []
    for size in sizes:
        tiling = parse_tiles(scheme).tiling(size)
        pixels = tiles_on_meta(scheme, size, images=True)
        text = processor.replace_image_token({"pixel_values": pixels, "aspect_ratios": [tiling.grid]}, 0)
        found.append(text.count("<"))
    return found


MODELS = {
    "llava-next": (llava_next, 576), "llava-onevision": (llava_onevision, 729), "internvl:12": (internvl, 256),
    "idefics3:364": (idefics3, 169), "idefics3:512": (smolvlm, 64), "llama4:16": (llama4, 144),
}  # fmt: skip


@pytest.mark.parametrize("scheme", MODELS)
def test_as_many_tokens_stand_for_an_image_as_the_models_processor_and_class_have(scheme: str) -> None:
    make, per_tile = MODELS[scheme]
    processor, features = make()
    ours = [parse_tiles(scheme).tokens(size, per_tile) for size in SIZES]
    assert ours == said_by(processor, scheme, SIZES)
    assert ours == [features(size) for size in SIZES]


def some_tiles(scheme: str, size: Size, *, cells: int) -> Tensor:
    count = parse_tiles(scheme).tiling(size).count
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, count, cells**2, WIDTH, generator=generator)


def arranged(scheme: str, size: Size, tiles: Tensor) -> tuple[Any, Tensor]:
    found = parse_tiles(scheme)
    arrange = arrangement(found, found.tiling(size), {"a.png": size}, hidden_size=WIDTH)
    return arrange, arrange(tiles)


@pytest.mark.parametrize("size", [(427, 640), (640, 427), (300, 900), (1, 1), (2304, 2000), (1080, 1920)])
def test_llavas_tokens_are_packed_as_its_model_packs_them(size: Size) -> None:
    next_model = llava("LlavaNext", 336, {"model_type": "clip_vision_model", "projection_dim": 8})
    one_vision = llava("LlavaOnevision", 384, {"model_type": "siglip_vision_model", "vision_use_head": False})
    for model, scheme, cells, more in (
        (next_model, "llava-next", 24, {"vision_feature_select_strategy": "default"}),
        (one_vision, "llava-onevision", 27, {}),
    ):
        tiles = some_tiles(scheme, size, cells=cells)
        arrange, ours = arranged(scheme, size, tiles)
        theirs, _ = model.pack_image_features(
            list(tiles), torch.tensor([size] * len(tiles)), image_newline=arrange.newline, **more
        )
        assert torch.equal(ours, torch.stack(theirs)), scheme


def test_words_stand_between_tiles_where_llama4_has_them() -> None:
    size = (336, 672)
    tiles = some_tiles("llama4", size, cells=2)
    arrange, ours = arranged("llama4", size, tiles)
    processor = transformers.Llama4Processor(transformers.Llama4ImageProcessor(), tokenizer(), patch_size=84)
    pixels = tiles_on_meta("llama4", size, images=True)
    text = processor.replace_image_token({"pixel_values": pixels, "aspect_ratios": [(1, 2)]}, 0)
    pieces = text.replace("<|patch|>" * 4, "T").replace("><", "> <").replace("T", " T ").split()
    rows = iter(tiles.unbind(1))
    words = dict(zip([part for part in arrange.parts if isinstance(part, str)], arrange.words, strict=False))
    expected = [next(rows) if each == "T" else words[each].expand(2, 1, -1) for each in pieces]
    assert torch.equal(ours, torch.cat(expected, dim=1))


def test_deepseek_vl2_ends_every_row_and_separates_its_thumbnail() -> None:
    # Its model has h·(w + 1) tokens of the thumbnail, one more, and those of the map: h·w are a tile's cells.
    tiles = some_tiles("deepseek-vl2", (384, 768), cells=14)
    arrange, ours = arranged("deepseek-vl2", (384, 768), tiles)
    assert ours.shape[1] == 14 * 15 + 1 + 14 * 29 == parse_tiles("deepseek-vl2").tokens((384, 768), 196)
    assert torch.equal(ours[:, 14], arrange.newline.expand(2, -1))
    assert torch.equal(ours[:, 14 * 15], arrange.separator.expand(2, -1))
    first_row = torch.cat([tiles[:, 1, :14], tiles[:, 2, :14], arrange.newline.expand(2, 1, -1)], dim=1)
    assert torch.equal(ours[:, 14 * 15 + 1 : 14 * 15 + 30], first_row)


def test_images_whose_padding_differs_are_named() -> None:
    scheme = parse_tiles("llava-next")
    sizes = {"a.png": (427, 640), "b.png": (500, 640)}
    arrange = arrangement(scheme, scheme.tiling((427, 640)), sizes, hidden_size=WIDTH)
    with pytest.raises(InputError, match=r"a\.png has 1568 tokens of its map, and b\.png"):
        arrange(some_tiles("llava-next", (427, 640), cells=24))


def test_tokens_that_are_no_square_of_cells_are_refused_where_they_are_a_map() -> None:
    with pytest.raises(InputError, match="577 tokens of a tile are no square"):
        arranged("llava-next", (427, 640), torch.zeros(1, 5, 577, WIDTH))
