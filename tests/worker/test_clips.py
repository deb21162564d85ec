"""Clips from the case to the tokens of a text, against transformers' own models and processors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", minversion="5.24")

from vilt_bench.ask.case import Case
from vilt_bench.errors import EmbedderError
from vilt_bench.worker.build import build_inputs, build_model
from vilt_bench.worker.count import inspect

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
SIGLIP = {"model_type": "siglip_vision_model", **SIZES, "image_size": 56, "patch_size": 8}
TEXT = {"model_type": "qwen2", **SIZES, "num_key_value_heads": 2, "vocab_size": 320}


def folder(tmp_path: Path, config: dict[str, Any]) -> str:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return f"transformers/{tmp_path}/"


def tokens_of(embedder: str, **asked: Any) -> int:
    return inspect(Case(embedder, interaction="none", **asked))[0].visual_tokens


def test_frames_pooled_as_llava_onevision_are_as_many_tokens_as_its_own_model_makes(tmp_path: Path) -> None:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionModel

    model = LlavaOnevisionModel(LlavaOnevisionConfig(vision_config=SIGLIP, text_config=TEXT, vision_feature_layer=-1))
    with torch.no_grad():
        theirs = model.eval().get_video_features(torch.zeros(2, 3, 3, 56, 56)).pooler_output
    assert tokens_of(folder(tmp_path, SIGLIP), frames=3, reduce="bilinear-pool:2") == theirs.shape[1] == 3 * 16 + 1


@pytest.mark.parametrize(
    ("embedder", "asked", "tokens"),
    [
        # LLaVA-OneVision: 27×27 cells to 14×14, and a newline; InternVL: 256 a frame; Qwen2.5-VL: two frames a grid.
        ("transformers/siglip-so400m-patch14-384", {"frames": 8, "reduce": "bilinear-pool:2"}, 8 * 196 + 1),
        ("transformers/internvit-300m-448", {"frames": 8, "reduce": "pixel-shuffle:2"}, 8 * 256),
        ("transformers/qwen2.5-vl-3b", {"frames": 7, "resolution": (224, 224)}, 4 * 64),
        ("transformers/vjepa2-vitl-fpc64-256", {"frames": 16}, 8 * 256),
        ("patch32", {"frames": 4, "resolution": (64, 64)}, 4 * 4),
    ],
)
def test_a_clip_has_as_many_tokens_as_published(embedder: str, asked: dict[str, Any], tokens: int) -> None:
    assert tokens_of(embedder, **asked) == tokens


def test_the_tokens_of_a_text_are_those_of_its_clips_frame_by_frame() -> None:
    case = Case(
        "patch32", frames=2, images_per_text=2, batch_size=2, resolution=(64, 64), interaction="lm:SmolLM2-135M"
    )
    embedder = build_model(Case("patch32", frames=2, resolution=(64, 64), interaction="none")).visual_embedder
    images, _ = build_inputs(case, embedder, torch.device("cpu")).batches[0]
    assert (images.pixels.shape, images.frames) == ((8, 3, 64, 64), 2)
    rows: Any = images
    for stage in list(embedder.stages.values())[:-1]:
        rows = stage(rows)
    joined = embedder(images).embeddings
    assert joined.shape == (4, 8, 768)
    torch.testing.assert_close(joined, rows.embeddings.reshape(4, 8, 768))


def test_a_tower_of_clips_without_frames_is_refused_with_what_to_give() -> None:
    with pytest.raises(EmbedderError, match="transformers/vjepa2-vitl-fpc64-256 takes clips; give `frames` 64"):
        tokens_of("transformers/vjepa2-vitl-fpc64-256")
    with pytest.raises(EmbedderError, match=r"takes 2 frames together; give `frames` in multiples of that, got 7"):
        tokens_of("transformers/vjepa2-vitl-fpc64-256", frames=7)
