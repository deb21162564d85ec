import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from embedders.patch import patch
from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import ImageBatch, TextBatch, VisualEmbedder, VisualTokens
from vilt_bench.errors import CheckpointError
from vilt_bench.model import Bert, Vilt, VisionLanguageModel, load_checkpoint
from vilt_bench.model.assembly import Assembly, assembled

transformers = pytest.importorskip("transformers")

SMALL = ViltConfig(hidden_size=32, layers=2, heads=4, mlp_size=64, vocabulary=200)
OPTIONS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 200,
    "num_labels": 5,
}
IMAGES = ImageBatch(torch.rand(1, 3, 64, 96))
TEXT = TextBatch(torch.arange(1, 9)[None])


def build(config: ViltConfig = SMALL, patch_size: int = 32) -> VisionLanguageModel:
    embedder = patch(patch_size=patch_size, hidden_size=config.hidden_size)
    return VisionLanguageModel(Vilt(config), embedder).eval()


def hugging_face(kind: str = "ViltModel", **options) -> nn.Module:
    torch.manual_seed(1)
    model = getattr(transformers, kind)(transformers.ViltConfig(**(OPTIONS | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


@torch.no_grad()
def pooled(model: nn.Module) -> Tensor:
    if isinstance(model, VisionLanguageModel):
        return model(IMAGES, TEXT).pooled
    mask = torch.ones(1, 64, 96, dtype=torch.long)
    return model(input_ids=TEXT.token_ids, pixel_values=IMAGES.pixels, pixel_mask=mask).pooler_output


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def official(theirs: nn.Module) -> dict[str, Tensor]:
    """The official release's names, written down by hand for each tensor of Hugging Face's model."""
    state = theirs.state_dict()
    result = {
        "text_embeddings.position_ids": torch.arange(40)[None],
        "transformer.cls_token": state["embeddings.cls_token"],
        "transformer.pos_embed": state["embeddings.position_embeddings"],
        "transformer.patch_embed.proj.weight": state["embeddings.patch_embeddings.projection.weight"],
        "transformer.patch_embed.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
        "token_type_embeddings.weight": state["embeddings.token_type_embeddings.weight"],
        "itm_score.fc.weight": torch.zeros(2, 32),
        "mlm_score.bias": torch.zeros(200),
    }
    for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        result[f"text_embeddings.{table}.weight"] = state[f"embeddings.text_embeddings.{table}.weight"]
    for kind in ("weight", "bias"):
        result[f"text_embeddings.LayerNorm.{kind}"] = state[f"embeddings.text_embeddings.LayerNorm.{kind}"]
        result[f"transformer.norm.{kind}"] = state[f"layernorm.{kind}"]
        result[f"pooler.dense.{kind}"] = state[f"pooler.dense.{kind}"]
        for layer in range(2):
            a, b = f"transformer.blocks.{layer}", f"encoder.layer.{layer}"
            result[f"{a}.attn.qkv.{kind}"] = torch.cat(
                [state[f"{b}.attention.attention.{name}.{kind}"] for name in ("query", "key", "value")]
            )
            result[f"{a}.attn.proj.{kind}"] = state[f"{b}.attention.output.dense.{kind}"]
            result[f"{a}.norm1.{kind}"] = state[f"{b}.layernorm_before.{kind}"]
            result[f"{a}.norm2.{kind}"] = state[f"{b}.layernorm_after.{kind}"]
            result[f"{a}.mlp.fc1.{kind}"] = state[f"{b}.intermediate.dense.{kind}"]
            result[f"{a}.mlp.fc2.{kind}"] = state[f"{b}.output.dense.{kind}"]
    return result


@pytest.mark.parametrize(
    "kind", ["ViltModel", "ViltForMaskedLM", "ViltForQuestionAnswering", "ViltForImageAndTextRetrieval"]
)
def test_every_hugging_face_model_loads(kind, tmp_path):
    theirs, ours = hugging_face(kind), build()
    theirs.save_pretrained(tmp_path)
    assert load_checkpoint(ours, str(tmp_path)) == str(tmp_path)
    assert ours.visual_embedder.weights == str(tmp_path)
    torch.testing.assert_close(pooled(ours), pooled(getattr(theirs, "vilt", theirs)), atol=1e-5, rtol=0)


def test_a_pickled_hugging_face_folder_loads(tmp_path):
    theirs, ours = hugging_face(), build()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    theirs.config.save_pretrained(tmp_path)
    load_checkpoint(ours, str(tmp_path))
    torch.testing.assert_close(pooled(ours), pooled(theirs), atol=1e-5, rtol=0)


def test_the_official_release_loads_and_says_that_heads_are_assumed(tmp_path):
    theirs, ours = hugging_face(), build()
    torch.save({"state_dict": official(theirs), "epoch": 9}, tmp_path / "vilt.ckpt")
    assert "4 heads assumed" in load_checkpoint(ours, str(tmp_path / "vilt.ckpt"))
    torch.testing.assert_close(pooled(ours), pooled(theirs), atol=1e-5, rtol=0)


def test_a_checkpoint_of_compiled_distributed_training_loads_and_says_so(tmp_path):
    theirs, ours = hugging_face(), build()
    state = {f"module._orig_mod.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "vilt.ckpt")
    said = load_checkpoint(ours, str(tmp_path / "vilt.ckpt"))
    assert "its names without _orig_mod. and module." in said
    torch.testing.assert_close(pooled(ours), pooled(theirs), atol=1e-5, rtol=0)


def test_of_three_modality_types_the_first_two_are_used(tmp_path):
    theirs = hugging_face("ViltForImagesAndTextClassification", modality_type_vocab_size=3, num_images=2)
    theirs.save_pretrained(tmp_path)
    ours = build()
    assert "type of a second image left out" in load_checkpoint(ours, str(tmp_path))
    torch.testing.assert_close(pooled(ours), pooled(theirs.vilt), atol=1e-5, rtol=0)


PAIR = {"kind": "ViltForImagesAndTextClassification", "modality_type_vocab_size": 3, "num_images": 2}


def with_two_images(config: ViltConfig = SMALL) -> VisionLanguageModel:
    embedder = assembled(patch(patch_size=32, hidden_size=config.hidden_size), Assembly(images=2))
    return VisionLanguageModel(Vilt(config, images_per_text=2), embedder).eval()


@torch.no_grad()
def test_two_images_a_text_give_what_the_model_for_images_and_text_gives_for_them(tmp_path):
    theirs, ours = hugging_face(**PAIR), with_two_images()
    theirs.save_pretrained(tmp_path)
    assert load_checkpoint(ours, str(tmp_path)) == str(tmp_path)
    pixels = torch.rand(3, 2, 3, 64, 96)
    texts = torch.arange(1, 25).view(3, 8)
    # The second text's second image is padded at its right and bottom.
    mask = torch.ones(3, 2, 64, 96, dtype=torch.bool)
    mask[1, 1, 32:], mask[1, 1, :, 64:] = False, False
    pixels = pixels * mask[:, :, None]
    found = ours(ImageBatch(pixels.flatten(0, 1), mask.flatten(0, 1)), TextBatch(texts))
    entering = []
    theirs.classifier.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    theirs(input_ids=texts, attention_mask=torch.ones_like(texts), pixel_values=pixels, pixel_mask=mask.long())
    assert found.pooled.shape == (3, 2 * 32)
    torch.testing.assert_close(found.pooled, entering[0], atol=1e-5, rtol=0)


def test_the_type_of_one_image_serves_two_as_vilts_own_code_lends_it(tmp_path):
    hugging_face().save_pretrained(tmp_path)
    ours = with_two_images()
    assert "type of the second image as of the first" in load_checkpoint(ours, str(tmp_path))
    types = ours.shared.modality_interaction.stages["concatenation"].types.weight
    assert torch.equal(types[1], types[2])
    assert not torch.equal(types[0], types[1])


def test_a_checkpoint_of_another_size_is_refused_with_names_and_changes_nothing(tmp_path):
    hugging_face(hidden_size=16).save_pretrained(tmp_path)
    ours = build()
    before = copy_of(ours)
    with pytest.raises(CheckpointError, match=r"of the wrong shape: \S+ 200×16 instead of 200×32") as caught:
        load_checkpoint(ours, str(tmp_path))
    assert "\n" not in str(caught.value)
    assert unchanged(ours, before)


@pytest.mark.parametrize(
    ("layers", "problem"), [(1, "16 missing: encoder.layer.1"), (3, "16 unexpected: encoder.layer.2")]
)
def test_a_checkpoint_of_another_depth_is_refused_with_names(layers, problem, tmp_path):
    hugging_face(num_hidden_layers=layers).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(build(), str(tmp_path))
    assert problem in str(caught.value)


def test_an_incomplete_checkpoint_is_refused_with_the_name_and_changes_nothing(tmp_path):
    state = dict(hugging_face().state_dict())
    del state["encoder.layer.1.attention.attention.key.weight"]
    save_file(state, tmp_path / "model.safetensors")
    ours = build()
    before = copy_of(ours)
    with pytest.raises(CheckpointError, match=r"1 missing: encoder\.layer\.1\.attention\.attention\.key\.weight"):
        load_checkpoint(ours, str(tmp_path))
    assert unchanged(ours, before)


@pytest.mark.parametrize("name", ["decoder.weight", "transformer.mask_token"])
def test_an_unexpected_tensor_is_refused_with_its_name(name, tmp_path):
    save_file(official(hugging_face()) | {name: torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=f"1 unexpected: {name}"):
        load_checkpoint(build(), str(tmp_path / "a.safetensors"))


def test_another_model_altogether_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"missing: .*2 unexpected: weight, bias"):
        load_checkpoint(build(), str(tmp_path / "a.pt"))


def test_a_patch_projection_of_another_patch_size_is_refused_with_both_shapes(tmp_path):
    hugging_face().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"projection\.weight 32×3×32×32 instead of 32×3×16×16"):
        load_checkpoint(build(patch_size=16), str(tmp_path))


class AveragedPixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(3, 32)

    def forward(self, images: ImageBatch) -> VisualTokens:
        return VisualTokens(self.projection(images.pixels.flatten(2).mean(2))[:, None])


def test_another_kind_of_embedder_keeps_its_weights_and_the_description_says_so(tmp_path):
    hugging_face().save_pretrained(tmp_path)
    embedder = VisualEmbedder({"pool": AveragedPixels()}, kind="grid", hidden_size=32, resolution=(64, 96))
    before = copy_of(embedder)
    description = load_checkpoint(VisionLanguageModel(Vilt(SMALL), embedder), str(tmp_path))
    assert "patch projection left out" in description
    assert unchanged(embedder, before)
    assert embedder.weights == "random"


def test_a_patch_embedder_with_weights_of_its_own_keeps_them(tmp_path):
    hugging_face().save_pretrained(tmp_path)
    own = {name: torch.ones_like(tensor) for name, tensor in patch(hidden_size=32).state_dict().items()}
    save_file(own, tmp_path / "patch.safetensors")
    embedder = patch(hidden_size=32, weights=str(tmp_path / "patch.safetensors"))
    description = load_checkpoint(VisionLanguageModel(Vilt(SMALL), embedder), str(tmp_path))
    assert "patch projection left out" in description
    assert unchanged(embedder, own)


@pytest.mark.parametrize(
    ("key", "value"), [("num_attention_heads", 8), ("layer_norm_eps", 1e-6), ("hidden_act", "gelu_new")]
)
def test_what_no_shape_shows_is_read_from_the_configuration(key, value, tmp_path):
    hugging_face(**{key: value}).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"{key} {value}, the model has"):
        load_checkpoint(build(), str(tmp_path))


def test_a_broken_configuration_is_refused(tmp_path):
    save_file(hugging_face().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json can't be read"):
        load_checkpoint(build(), str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(CheckpointError, match="no model's configuration"):
        load_checkpoint(build(), str(tmp_path))


def test_a_hub_checkpoint_is_fetched_by_its_name(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    theirs, ours = hugging_face(), build()
    asked = []

    def download(name: str, **options: object) -> str:
        asked.append(name)
        if len(asked) == 2:  # only then torch's format
            torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    description = load_checkpoint(ours, "hub:dandelin/vilt-b32-mlm")
    assert asked == ["dandelin/vilt-b32-mlm"] * 2
    assert description.startswith("hub:dandelin/vilt-b32-mlm")
    torch.testing.assert_close(pooled(ours), pooled(theirs), atol=1e-5, rtol=0)


def test_an_unreachable_hub_is_one_line(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def fail(name: str, **options: object) -> str:
        raise hub.errors.LocalEntryNotFoundError("no connection\nand a long explanation")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"hub:org/name can't be fetched \(no connection\)"):
        load_checkpoint(build(), "hub:org/name")


def test_a_missing_hub_client_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install huggingface_hub"):
        load_checkpoint(build(), "hub:org/name")


def test_a_checkpoint_is_refused_where_the_shared_model_is_no_vilt():
    model = VisionLanguageModel(Bert(SMALL), patch(hidden_size=32))
    with pytest.raises(CheckpointError, match="the shared model is a Bert; leave it out"):
        load_checkpoint(model, "vilt-b32")
