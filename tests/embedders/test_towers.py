"""The bundled towers, and what models use, against what stands elsewhere: other libraries, published tables, papers."""

import json
import re
from functools import cache
from typing import Any

import pytest

pytest.importorskip("transformers", minversion="5.24")
pytest.importorskip("timm")

import timm

from embedders.timm_encoder import timm_encoder
from embedders.transformers_encoder import TABLE, transformers_encoder
from vilt_bench.ask import catalog
from vilt_bench.ask.case import parse_embedder
from vilt_bench.ask.presets import Used, used_by_models
from vilt_bench.ask.registry import build
from vilt_bench.embedding import VisualEmbedder
from vilt_bench.worker.meters.meta import building

TOWERS: dict[str, dict[str, Any]] = json.loads(TABLE.read_text())
ELSEWHERE = [name for name, entry in TOWERS.items() if "timm" in entry]
FIRST = {TOWERS[name]["config"]["model_type"]: name for name in reversed(ELSEWHERE)}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
ACTIVATIONS = {
    "quick_gelu": ("QuickGELU",),
    "gelu_pytorch_tanh": ("GELUTanh", "GELU"),  # timm computes some of big_vision's approximate ones exactly
    "gelu": ("GELU",),
    "silu": ("SiLU",),
}
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NONE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def parameters(embedder: VisualEmbedder) -> int:
    parts = [part for name, part in embedder.stages.items() if name != "projection"]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def beyond_timm(config: dict[str, Any]) -> int:
    """Returns how many parameters transformers' tower has that timm's has not."""
    kind = config["model_type"]
    if kind == "clip_vision_model":
        return -2 * config["hidden_size"]  # the last norm, which is behind the last features
    if kind == "dinov2_with_registers":
        return int(config["hidden_size"])  # the class token's position
    if kind == "dinov3_vit":  # biases of queries and values, which timm drops as they are zero
        biases = config["query_bias"] + config["value_bias"]
        return int(biases * config["num_hidden_layers"] * config["hidden_size"])
    if kind == "dinov3_convnext":
        return int(2 * config["hidden_sizes"][-1])  # the last norm
    if "out_hidden_size" in config:
        width, out = config["hidden_size"], config["out_hidden_size"]
        joined = config["spatial_merge_size"] ** 2 * width
        merger = 2 * joined + joined * (joined + 1) + (joined + 1) * out
        # DeepStack's mergers, and the second of the two equal frames.
        frame = 3 * config["patch_size"] ** 2 * width
        return len(config.get("deepstack_visual_indexes", ())) * merger + frame
    return 0


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FIRST.values() else pytest.mark.slow) for name in ELSEWHERE]
)
def test_a_bundled_tower_is_as_large_as_timm_has_it(name: str) -> None:
    entry = TOWERS[name]
    with building():
        ours, theirs = transformers_encoder(model=name), timm_encoder(model=entry["timm"])
    config, tower = entry["config"], theirs.stages["backbone"].tower
    assert parameters(ours) - parameters(theirs) == beyond_timm(config)
    assert (ours.mean, ours.std) == (tuple(theirs.mean), tuple(theirs.std))
    if "depths" in config:
        assert [len(stage.blocks) for stage in tower.stages] == config["depths"]
        return
    tower = getattr(tower, "encoder", tower)
    blocks = tower.blocks
    assert len(blocks) == config.get("num_hidden_layers", config.get("depth"))
    assert blocks[0].norm1.weight.numel() == config["hidden_size"]
    assert blocks[0].attn.num_heads == config.get("num_attention_heads", config.get("num_heads"))
    if "hidden_act" in config:
        act = type(blocks[0].mlp.act).__name__
        assert act in ACTIVATIONS["silu" if config.get("use_swiglu_ffn") else config["hidden_act"]]
    if "layer_norm_eps" in config and config["model_type"] != "internvl_vision":
        assert blocks[0].norm1.eps == config["layer_norm_eps"]


def test_every_family_that_timm_has_is_held_against_it() -> None:
    without = {entry["config"]["model_type"] for entry in TOWERS.values() if "timm" not in entry}
    held = {TOWERS[name]["config"]["model_type"] for name in ELSEWHERE}
    assert len(held) > 9
    assert not {"clip_vision_model", "siglip_vision_model", "dinov2", "dinov3_vit", "qwen3_5_vision"} & (without - held)


def test_towers_in_chains_and_cut_ones_are_as_large_as_timm_has_their_parts() -> None:
    def of_timm(model: str) -> int:
        with building():
            return parameters(timm_encoder(model=model))

    def ours(name: str) -> int:
        with building():
            return parameters(transformers_encoder(model=name))

    # DeepSeek-OCR: SAM's base, two convolutions of stride 2, CLIP's large without its patches and last norm.
    convolutions = 9 * (256 * 512 + 512 * 1024)
    clip = of_timm("vit_large_patch14_clip_quickgelu_224.openai") - 3 * 14**2 * 1024 - 2 * 1024
    assert ours("deepseek-ocr") == of_timm("samvit_base_patch16.sa1b") + convolutions + clip
    # Molmo 2: 25 of SigLIP 2's 27 blocks, and no norm behind them.
    block = 4 * 1152 * 1153 + 2 * 1152 * 4304 + 1152 + 4304 + 4 * 1152
    assert ours("molmo2") == of_timm("vit_so400m_patch14_siglip_378.v2_webli") - 2 * block - 2 * 1152
    # Step-3.7: Perception Encoder's lang G with more positions, and two convolutions of stride 2.
    convolutions = 9 * (1536 * 3072 + 3072 * 6144) + 3072 + 6144
    positions = (52**2 - 32**2) * 1536
    assert ours("step-3.7-flash") == of_timm("vit_pe_lang_gigantic_patch14_448.fb_tiling") + convolutions + positions


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("idefics3-8b", "vit_so400m_patch14_siglip_384.webli"),
        ("idefics2-8b", "vit_so400m_patch14_siglip_384.webli"),
        ("minicpm-v-2.6", "vit_so400m_patch14_siglip_384.webli"),
        ("mlcd-vit-bigg-336", "vit_gigantic_patch14_clip_224.metaclip2_worldwide"),
    ],
)
def test_towers_of_other_sizes_and_positions_are_as_large_as_timm_has_the_rest(name: str, model: str) -> None:
    config = TOWERS[name]["config"]
    width, places = config["hidden_size"], (config["image_size"] // config["patch_size"]) ** 2
    with building():
        ours, theirs = transformers_encoder(model=name), timm_encoder(model=model)
    tower = theirs.stages["backbone"].tower
    assert (tower.blocks[0].attn.num_heads, len(tower.blocks)) == (
        config["num_attention_heads"],
        config["num_hidden_layers"],
    )
    beyond = places * width - tower.pos_embed.numel()
    if config["model_type"] == "mlcd_vision_model":  # rotary positions, of the class token learned; no last norm
        beyond = width // config["num_attention_heads"] // 2 - tower.pos_embed.numel() - 2 * width
    assert parameters(ours) - parameters(theirs) == beyond


def left_to_defaults(config: dict[str, Any], known: dict[str, Any]) -> list[str]:
    """Returns the names of activations and the like that a configuration does not tell, in its parts neither."""
    left = [
        key
        for key in known
        if re.search(r"(_act|_activation|_eps|_bias|rope_theta|_ratio)$", key) and key not in config
    ]
    parts = [key for key, value in config.items() if isinstance(value, dict) and key in known]
    return left + [name for key in parts for name in left_to_defaults(config[key], known[key])]


@pytest.mark.parametrize("name", TOWERS)
def test_no_activation_or_epsilon_is_left_to_a_default(name: str) -> None:
    from transformers import CONFIG_MAPPING

    config = TOWERS[name]["config"]
    assert not left_to_defaults(config, CONFIG_MAPPING[config["model_type"]].from_dict(config).to_dict())


@pytest.mark.parametrize("name", TOWERS)
def test_the_source_of_a_bundled_configuration_is_no_class_of_defaults(name: str) -> None:
    source: str = TOWERS[name]["source"]
    assert re.search(r"github:[\w.-]+/[\w.-]+ [\w./-]+|(timm|transformers) models/[\w/]+\.py", source), source
    assert not re.match(r"transformers models/\w+/configuration_", source)


def test_pixtral_gates_by_silu() -> None:
    # mistral-inference, transformer_layers.py: silu(w1 x) * w3 x
    for name in ("pixtral-12b", "mistral-small-3.1"):
        with building():
            layer = transformers_encoder(model=name).stages["backbone"].tower.transformer.layers[0]
        assert type(layer.feed_forward.act_fn).__name__ == "SiLUActivation"


@pytest.mark.parametrize("name", [name for name in TOWERS if name.startswith("dino")])
def test_a_mask_token_that_no_pass_uses_is_not_counted(name: str) -> None:
    with building():
        tower = transformers_encoder(model=name).stages["backbone"].tower
    assert not [key for key, _ in tower.named_parameters() if "mask_token" in key]


@cache
def used(model: str) -> Used:
    """Returns what a vision-language model uses."""
    (found,) = [each for each in used_by_models("embedders") if each.used_by.startswith(model)]
    return found


def built(row: Used) -> VisualEmbedder:
    name, options = parse_embedder(row.embedder)
    for own in ("reduce", "resolution"):
        options.pop(own, None)
    with building():
        return build(name, options, hidden_size=768)


@pytest.mark.parametrize(
    ("model", "embedder", "said"),
    [
        # timm: "natively QuickGELU, use quickgelu model variant"; LlavaConfig: vision_feature_layer is -2.
        ("LLaVA-1.5", "timm/vit_large_patch14_clip_quickgelu_336.openai", "23 of the 24 blocks"),
        ("Qwen3-VL-4B, without", "timm/qwen3_vit_306m_merge.qwen3_vl_4b", "without its three DeepStack mergers"),
        ("Qwen3-VL-8B, without", "timm/qwen3_vit_416m_merge.qwen3_vl_8b", "without its three DeepStack mergers"),
        ("Janus-Pro", "timm/vit_large_patch16_siglip_384.webli", ""),
    ],
)
def test_models_use_the_tower_that_their_library_names(model: str, embedder: str, said: str) -> None:
    assert used(model).embedder == embedder
    assert said in used(model).used_by


@pytest.mark.parametrize(
    ("model", "normalisation"),
    [
        ("LLaVA-1.5", CLIP),  # transformers' CLIPImageProcessor
        ("GOT-OCR2", CLIP),  # transformers' GotOcr2ImageProcessor
        ("FastVLM", NONE),  # apple/ml-fastvlm, mobileclip_encoder.py
        ("Janus-Pro", HALF),
        ("InternVL3 ", IMAGENET),
        ("Pixtral-12B", CLIP),
    ],
)
def test_models_normalise_as_their_processors_do(model: str, normalisation: object) -> None:
    embedder = built(used(model))
    assert (embedder.mean, embedder.std) == normalisation


# Of the models' processors and classes in transformers, and timm's own count of parameters without the projection.
@pytest.mark.parametrize(
    ("model", "resolution", "tokens"),
    [
        ("Aya Vision", (364, 364), 169),  # processing_aya_vision.py: img_size=364, patch_size=28
        ("GOT-OCR2", (1024, 1024), 256),  # GotOcr2MultiModalProjector: two convolutions of stride 2
        ("LLaVA-1.5", (336, 336), 576),
        ("FastVLM", (1024, 1024), 256),
    ],
)
def test_models_have_as_many_tokens_as_their_processors_count(
    model: str, resolution: tuple[int, int], tokens: int
) -> None:
    entry = catalog.read("embedders")[used(model).embedder]
    assert (entry.resolution, entry.visual_tokens) == (resolution, tokens)


def test_what_a_model_uses_of_timm_has_its_tag() -> None:
    for row in used_by_models("embedders"):
        name = row.embedder.partition(",")[0]
        if name.startswith("timm/") and len(timm.list_pretrained(f"{name.removeprefix('timm/')}.*")) > 1:
            pytest.fail(f"{row.embedder} has several tags")
