import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", minversion="5.24")

from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.embedding import ImageBatch, TextBatch, VisualEmbedder, VisualTokens
from vilt_bench.embedding.configurations import find_configuration, read_table
from vilt_bench.errors import CheckpointError, ConfigError, InputError
from vilt_bench.judge.remarks import remarks
from vilt_bench.judge.summary import summarise
from vilt_bench.model import FirstToken, LanguageModel, VisionLanguageModel, shared_sizes, stages
from vilt_bench.model.language import TABLE
from vilt_bench.report import lines
from vilt_bench.report.remarks import sentences
from vilt_bench.worker import count, failures, runner
from vilt_bench.worker.meters.latency import timer_for
from vilt_bench.worker.meters.meta import building
from vilt_bench.worker.meters.parameters import count_parameters

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 32,
}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **SIZES, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **SIZES, "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", **SIZES, "head_dim": 16},
    "opt": {
        "model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 300, "max_position_embeddings": 32,
    },
}  # fmt: skip
MakeFolder = Callable[[object], str]


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    """Returns what writes a folder with a configuration, and returns its path."""

    def make(config: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return make


@pytest.fixture
def text() -> TextBatch:
    return TextBatch(torch.randint(300, (2, 5), generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def visual() -> VisualTokens:
    return VisualTokens(torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(2)))


def ours_and_theirs(config: dict[str, Any], path: str) -> tuple[LanguageModel, Any]:
    """Returns our model and transformers' own with the same weights, drawn wider than at their start."""
    import transformers

    ours = LanguageModel(path).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    parsed = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(config)
    theirs: Any = transformers.AutoModelForCausalLM.from_config(parsed).eval()
    stage = ours.modality_interaction.stages
    base = dict(theirs.base_model.named_parameters())
    own = dict(stage["prefill"].decoder.named_parameters())
    with torch.no_grad():
        for name, parameter in base.items():
            parameter.copy_(own[name] if name in own else stage["first_token"].norm.weight)
        theirs.get_output_embeddings().weight.copy_(stage["first_token"].head.weight)
    return ours, theirs


@pytest.mark.parametrize("name", TINY)
def test_stages_one_after_the_other_give_the_logits_of_transformers_model(
    name: str, folder: MakeFolder, text: TextBatch, visual: VisualTokens
) -> None:
    ours, theirs = ours_and_theirs(TINY[name], folder(TINY[name]))
    connector = ours.modality_interaction.stages["connector"]
    with torch.no_grad():
        found = ours(text, visual)
        projected = nn.functional.gelu(visual.embeddings) @ connector.linear.weight.T + connector.linear.bias
        words = theirs.get_input_embeddings()(text.token_ids)
        expected = theirs(inputs_embeds=torch.cat([projected, words], dim=1)).logits[:, -1]
    assert isinstance(found, FirstToken)
    torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-5)
    assert found.token_ids.tolist() == expected.argmax(dim=1).tolist()


def test_padding_does_not_change_the_first_token(folder: MakeFolder, text: TextBatch, visual: VisualTokens) -> None:
    model = LanguageModel(folder(TINY["llama"])).eval()
    with torch.no_grad():
        expected = model(text, visual).logits
        ids = torch.cat([text.token_ids, text.token_ids.new_full((2, 2), 7)], dim=1)
        tokens = torch.cat([visual.embeddings, torch.full((2, 3, 32), 9.0)], dim=1)
        padded = model(
            TextBatch(ids, torch.arange(7).expand(2, 7) < 5), VisualTokens(tokens, torch.arange(10).expand(2, 10) < 7)
        )
    torch.testing.assert_close(padded.logits, expected, atol=1e-5, rtol=1e-5)


def test_connector_and_projection_are_llavas_two_layers() -> None:
    from transformers import LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    with building():
        model = LanguageModel("SmolLM2-135M")
        embedder_projection = nn.Linear(768, 576)
        theirs = LlavaMultiModalProjector(
            LlavaConfig(
                vision_config={"model_type": "clip_vision_model", "hidden_size": 768},
                text_config={"model_type": "llama", "hidden_size": 576},
            )
        )
    connector = model.modality_interaction.stages["connector"]
    ours = [*embedder_projection.parameters(), *connector.parameters()]
    assert [tuple(p.shape) for p in ours] == [tuple(p.shape) for p in theirs.parameters()]


# Of the model cards; weights that input and output share count once.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("SmolLM2-135M", 134_515_008),
        ("SmolLM2-360M", 361_821_120),
        ("SmolLM2-1.7B", 1_711_376_384),
        ("Qwen2.5-0.5B", 494_032_768),
        ("Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen2.5-7B", 7_615_616_512),
        ("Llama-3.2-1B", 1_235_814_400),
        ("Llama-3.2-3B", 3_212_749_824),
        ("Vicuna-7B", 6_738_415_616),
    ],
)
def test_bundled_language_models_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with building():
        model = LanguageModel(name)
    parts = [("words", model.textual_embedder), *model.modality_interaction.stages.items()]
    sizes = count_parameters(parts)
    assert sum(size.parameters for part, size in sizes.items() if part != "connector") == parameters


def test_every_bundled_configuration_is_tested_and_says_where_it_is_from() -> None:
    assert len(read_table(TABLE)) == 9
    assert all(entry["source"] and entry["hub"] for entry in json.loads(TABLE.read_text()).values())


def test_sizes_are_known_before_the_model_is_built() -> None:
    assert shared_sizes("lm:Qwen2.5-0.5B", ViltConfig()) == (896, 24, 14, 151_936)
    assert shared_sizes("vilt", ViltConfig()) == (768, 12, 12, 30_522)


@pytest.fixture
def case(folder: MakeFolder) -> Case:
    return Case(
        "patch32", resolution=(64, 96), images=("synthetic",), text_length=6, interaction=f"lm:{folder(TINY['llama'])}"
    )


def test_a_case_runs_up_to_the_first_token_stage_by_stage(case: Case) -> None:
    subject = runner.prepare(case, torch.device("cpu"), timer_for(torch.device("cpu")))
    subject.first_call()
    counted, _, warnings = subject.count()
    assert not warnings
    assert [stage.name for stage in counted] == [
        "textual_embedder", "visual_embedder.projection", "modality_interaction.connector",
        "modality_interaction.prefill", "modality_interaction.first_token",
    ]  # fmt: skip
    by_name = {stage.name.rpartition(".")[2]: stage for stage in counted}
    length, width = 12, 32
    assert by_name["connector"].flops == 2 * 6 * width**2
    assert by_name["first_token"].flops == 2 * width * 300
    # Queries and output, keys and values for half of the heads, three of the MLP; scores and their use.
    linear = 2 * length * (2 * width**2 + 2 * width * 16 + 3 * width * 64)
    assert by_name["prefill"].flops == 2 * (linear + 2 * 2 * length**2 * width)
    assert by_name["prefill"].counts == {"bytes_of_keys_and_values": 2 * 2 * 16 * length * 4}
    facts = subject.facts()
    assert (facts.hidden_size, facts.layers, facts.heads, facts.vocabulary) == (32, 2, 4, 300)
    assert facts.interaction == case.interaction
    assert facts.shared_weights == "random"
    model, shown = count.inspect(case)
    assert [stage.flops for stage in shown] == [stage.flops for stage in counted]
    assert model.vocabulary == 300


def test_a_language_model_prefills_the_tokens_of_all_images_of_a_text(case: Case) -> None:
    case = dataclasses.replace(case, images_per_text=3, batch_size=2)
    subject = runner.prepare(case, torch.device("cpu"), timer_for(torch.device("cpu")))
    subject.first_call()
    counted = {stage.name.rpartition(".")[2]: stage for stage in subject.count()[0]}
    tokens = 3 * 2 * 3  # three images of 64×96 pixels in squares of 32
    assert counted["projection"].output == "embeddings [6, 6, 32]"
    assert counted["assembly"].output == f"embeddings [2, {tokens}, 32]"
    # A convolution's channels come first, so tokens of it are copied: read once, written once.
    assert (counted["assembly"].flops, counted["assembly"].moved_bytes) == (0, 2 * 2 * tokens * 32 * 4)
    layers, heads, size, scalar = 2, 2, 8, 4
    of_a_text = 2 * layers * heads * size * (tokens + case.text_length) * scalar
    assert counted["prefill"].counts == {"bytes_of_keys_and_values": 2 * of_a_text}
    assert subject.facts().visual_tokens == tokens
    model, shown = count.inspect(case)
    assert model.visual_tokens == tokens
    assert [stage.flops for stage in shown] == [stage.flops for stage in counted.values()]


def test_more_images_than_the_language_model_has_positions_for_are_one_line(case: Case) -> None:
    case = dataclasses.replace(case, images_per_text=5)
    with pytest.raises(InputError, match=r"30 visual and 6 .* the 32 positions .*lower `images_per_text`"):
        count.inspect(case)


def test_reports_say_the_time_to_the_first_token_and_what_takes_it(make_run: Any) -> None:
    latencies = {
        "textual_embedder": 0.01, "visual_embedder.backbone": 0.05, "modality_interaction.connector": 0.01,
        "modality_interaction.prefill": 0.12, "modality_interaction.first_token": 0.01,
    }  # fmt: skip
    run = make_run(latencies_s=latencies, noise=0.0)
    assert not any("first token" in remark for remark in sentences(remarks(run)))
    model = dataclasses.replace(run.model, interaction="lm:SmolLM2-135M", layers=30, hidden_size=576, vocabulary=49_152)
    run = dataclasses.replace(run, model=model)
    assert (
        "Time to first token: 200.0 ms; the visual embedder takes 25.0%, the connector 5.0%, the prefill of 240 visual "
        "and 40 text tokens 60.0%, norm, head and choice of the token 5.0%." in sentences(remarks(run))
    )
    assert "lm:SmolLM2-135M (30 layers of width 576, vocabulary 49,152)" in lines.model_line(summarise(run))


def test_text_may_be_longer_than_vilts_position_table() -> None:
    assert Case("patch32", interaction="lm:SmolLM2-135M", text_length=500).language_model == "SmolLM2-135M"
    assert Case("patch32").language_model is None
    with pytest.raises(ConfigError, match="position table"):
        Case("patch32", text_length=500)


def test_more_tokens_than_positions_are_one_line(folder: MakeFolder, text: TextBatch) -> None:
    model = LanguageModel(folder(TINY["llama"]))
    with pytest.raises(InputError, match="28 visual and 5 text tokens are more than the 32 positions"):
        model(text, VisualTokens(torch.randn(2, 28, 32)))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "clip_vision_model"}, "no causal language model"),
        ({"model_type": "t5"}, "no causal language model"),
        ({"model_type": "of_the_future"}, "no model type 'of_the_future'"),
        ({**TINY["llama"], "num_hidden_layers": "two"}, "no valid configuration of 'llama'"),
        ({"model_type": "reformer"}, "is a 'reformer' of transformers"),
        ({"model_type": "dbrx"}, "its DbrxAttentionConfig has no 'rope_theta'"),
        ({"model_type": "dots3_note_text"}, "is a 'dots3_note_text' of transformers"),
    ],
)
def test_what_is_no_language_model_is_refused(config: dict[str, Any], said: str, folder: MakeFolder) -> None:
    with building(), pytest.raises(ConfigError) as caught:
        LanguageModel(folder(config))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'lm:SmolLM2-135M'\? known: .*Llama-3\.2-1B"):
        LanguageModel("smollm-135m")
    with pytest.raises(ConfigError, match=r"did you mean 'lm:SmolLM2-135M'\?"):
        LanguageModel("smollm")
    with pytest.raises(ConfigError, match=r"lm:hub: needs a repository"):
        LanguageModel("hub:")
    with pytest.raises(CheckpointError, match=r"no config\.json in"):
        LanguageModel("./nowhere")


@pytest.mark.parametrize(
    ("interaction", "vilt", "said"),
    [
        ("lm:", ViltConfig(), "needs a name"),
        ("gpt", ViltConfig(), "must be one of vilt, bert, lxmert, vilbert, none, lm:NAME"),
        ("lm:SmolLM2-135M", ViltConfig(layers=2), "has sizes of its own"),
    ],
)
def test_impossible_interactions_are_refused(interaction: str, vilt: ViltConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Case("patch32", interaction=interaction, vilt=vilt)


def test_the_language_model_of_a_vision_language_model_is_taken_from_its_configuration(folder: MakeFolder) -> None:
    vlm = {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}, "text_config": TINY["llama"]}
    assert LanguageModel(folder(vlm)).sizes == (32, 2, 4, 300)


def test_marks_see_the_stages_in_order(folder: MakeFolder, text: TextBatch) -> None:
    language = LanguageModel(folder(TINY["qwen2"]))

    class Flat(nn.Module):
        def forward(self, images: ImageBatch) -> VisualTokens:
            return VisualTokens(images.pixels.flatten(2).transpose(1, 2).repeat(1, 1, 11)[..., :32])

    embedder = VisualEmbedder({"flat": Flat()}, kind="linear", hidden_size=32, resolution=(2, 2))
    model = VisionLanguageModel(language, embedder).eval()
    seen: list[str] = []
    with torch.no_grad():
        model(ImageBatch(torch.randn(2, 3, 2, 2)), text, lambda name, _output: seen.append(name))
    assert seen == [name for name, _ in stages(model)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 5_000_000}, "num_hidden_layers is 5000000; expected at most 1000: no model has more"),
        ({"vision_config": {"depths": [2, 10**12]}}, "depths is .2, 1000000000000.; expected at most 1000"),
        ({"text_config": {"num_local_experts": 10**7}}, "num_local_experts is 10000000; expected at most 16384"),
        ({"layer_types": ["full_attention"] * 10, "block_size": 10**6}, None),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}},
            r"quantised weights \(quantization_config: awq\)",
        ),
        (
            {"text_config": {"quantization_config": {"load_in_4bit": True}}},
            r"quantised weights \(quantization_config\)",
        ),
        ({"quantization_config": None}, None),
    ],
)
def test_a_configuration_that_can_not_be_built_as_it_says_is_refused_before_it_is(
    changes: dict[str, Any], message: str | None, folder: MakeFolder
) -> None:
    path = folder(TINY["llama"] | changes)
    if message is None:
        assert find_configuration(path, TABLE, family="lm:").config["hidden_size"] == 32
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        LanguageModel(path)
    assert str(caught.value).startswith(f"{path}/config.json")
    assert "\n" not in str(caught.value)


def test_a_language_model_larger_than_memory_is_refused_by_an_estimate_before_it_is_built(folder: MakeFolder) -> None:
    # Llama's closed form: 2 V D of words and head, and a layer 4 D² of attention (as many keys as queries), 3 D M of
    # the MLP and 2 D of norms, D of the last norm; of the connector D² + D.
    width, layers, inner, words = 65_536, 1000, 262_144, 300_000
    config = {
        "model_type": "llama", "hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner,
        "num_attention_heads": 64, "num_key_value_heads": 64, "vocab_size": words, "tie_word_embeddings": False,
    }  # fmt: skip
    parameters = 2 * words * width + layers * (4 * width**2 + 3 * width * inner + 2 * width) + width + width**2 + width
    parameters += 3 * 32 * 32 * width + width  # patch32
    case = Case("patch32", interaction=f"lm:{folder(config)}", device="cpu", resolution=(64, 96))
    with pytest.raises(MemoryError) as caught:
        runner.prepare(case, torch.device("cpu"), timer_for(torch.device("cpu")))
    assert str(caught.value).startswith(f"weights take {4 * parameters / 1e9:,.1f} GB and inputs 0.0 GB, and ")
    failure = failures.failure_of(caught.value)
    assert (failure.kind, failure.message) == ("out-of-memory", str(caught.value))
