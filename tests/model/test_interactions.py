import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import ImageBatch, TextBatch, VisualEmbedder, VisualTokens
from vilt_bench.errors import ConfigError, EmbedderError
from vilt_bench.model import (
    Bert,
    Lxmert,
    LxmertConfig,
    SharedModel,
    Vilbert,
    VilbertConfig,
    VisionLanguageModel,
    stages,
)

LENGTH, REGIONS = 7, 5
SIZES = {"hidden_size": 48, "heads": 4, "mlp_size": 96, "vocabulary": 300, "text_positions": 20}
BERT = ViltConfig(layers=3, **SIZES)  # type: ignore[arg-type]
LXMERT = LxmertConfig(layers=3, vision_layers=2, cross_layers=2, **{**SIZES, "text_positions": 20})  # type: ignore[arg-type]
VILBERT = VilbertConfig(
    text=dataclasses.replace(BERT, layers=4),
    vision=ViltConfig(hidden_size=64, layers=2, heads=8, mlp_size=64),
    co_layers=2,
    co_hidden_size=32,
    co_heads=4,
)


@pytest.fixture
def text() -> TextBatch:
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[1, 5:] = False
    return TextBatch(torch.randint(300, (2, LENGTH), generator=torch.Generator().manual_seed(1)), mask)


def visual_tokens(width: int) -> VisualTokens:
    mask = torch.ones(2, REGIONS, dtype=torch.bool)
    mask[0, 4:] = False
    return VisualTokens(torch.randn(2, REGIONS, width, generator=torch.Generator().manual_seed(2)), mask)


def randomised(model: Any) -> Any:
    # Not as initialised: zero biases and unit gains would hide a tensor in the wrong place.
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.eval().requires_grad_(False)


def copy_linears(source: list[Any], target: Any) -> None:
    target.weight.copy_(torch.cat([layer.weight for layer in source]))
    target.bias.copy_(torch.cat([layer.bias for layer in source]))


def copy_text(source: Any, target: Any) -> None:
    target.words.load_state_dict(source.word_embeddings.state_dict())
    target.positions.load_state_dict(source.position_embeddings.state_dict())
    target.segments.load_state_dict(source.token_type_embeddings.state_dict())
    target.norm.load_state_dict(source.LayerNorm.state_dict())


def copy_attention(source: Any, output: Any, target: Any, norm: Any) -> None:
    copy_linears([source.query, source.key, source.value], target.qkv)
    copy_linears([output.dense], target.projection)
    norm.load_state_dict(output.LayerNorm.state_dict())


def copy_mlp(intermediate: Any, output: Any, target: Any) -> None:
    copy_linears([intermediate.dense], target.layers[0])
    copy_linears([output.dense], target.layers[2])
    target.norm.load_state_dict(output.LayerNorm.state_dict())


def copy_layer(source: Any, target: Any) -> None:
    copy_attention(source.attention.self, source.attention.output, target.attention.attention, target.attention.norm)
    copy_mlp(source.intermediate, source.output, target.mlp)


@pytest.fixture
def hugging_face() -> Iterator[Any]:
    transformers = pytest.importorskip("transformers")
    with torch.no_grad():
        yield transformers


def test_single_stream_computes_what_transformers_bert_does(hugging_face: Any, text: TextBatch) -> None:
    theirs = randomised(
        hugging_face.BertModel(
            hugging_face.BertConfig(
                vocab_size=300,
                hidden_size=48,
                num_hidden_layers=3,
                num_attention_heads=4,
                intermediate_size=96,
                max_position_embeddings=20,
            )
        )
    )
    theirs.embeddings.position_embeddings.weight[19] = 0  # for the visual tokens, whose positions are their own
    ours = Bert(BERT).eval()
    joining, transformer, pooler = ours.modality_interaction.stages.children()
    copy_text(theirs.embeddings, ours.textual_embedder)
    joining.segment.copy_(theirs.embeddings.token_type_embeddings.weight[1])
    joining.norm.load_state_dict(theirs.embeddings.LayerNorm.state_dict())
    for source, target in zip(theirs.encoder.layer, transformer.layers, strict=True):
        copy_layer(source, target)
    copy_linears([theirs.pooler.dense], pooler.projection)

    visual = visual_tokens(48)
    words = theirs.embeddings.word_embeddings(text.token_ids)
    expected = theirs(
        inputs_embeds=torch.cat([words, visual.embeddings], dim=1),
        attention_mask=torch.cat([text.mask, visual.mask], dim=1).long(),
        token_type_ids=torch.tensor([[0] * LENGTH + [1] * REGIONS] * 2),
        position_ids=torch.tensor([[*range(LENGTH), *[19] * REGIONS]] * 2),
    )
    output = ours(text, visual)
    assert torch.allclose(output.tokens, expected.last_hidden_state, atol=1e-5, rtol=0)
    assert torch.allclose(output.pooled, expected.pooler_output, atol=1e-5, rtol=0)


def test_cross_modality_encoder_computes_what_transformers_lxmert_does(hugging_face: Any, text: TextBatch) -> None:
    theirs = randomised(
        hugging_face.LxmertModel(
            hugging_face.LxmertConfig(
                vocab_size=300,
                hidden_size=48,
                num_attention_heads=4,
                intermediate_size=96,
                max_position_embeddings=20,
                l_layers=3,
                r_layers=2,
                x_layers=2,
                visual_feat_dim=24,
            )
        )
    )
    ours = Lxmert(LXMERT).eval()
    language, vision, cross, pooler = ours.modality_interaction.stages.children()
    copy_text(theirs.embeddings, ours.textual_embedder)
    for source, target in zip(theirs.encoder.layer, language.layers, strict=True):
        copy_layer(source, target)
    for source, target in zip(theirs.encoder.r_layers, vision.layers, strict=True):
        copy_layer(source, target)
    for source, target in zip(theirs.encoder.x_layers, cross.layers, strict=True):
        copy_attention(source.visual_attention.att, source.visual_attention.output, target.cross, target.cross.norm)
        for attention, intermediate, output, layer in (
            (source.lang_self_att, source.lang_inter, source.lang_output, target.language),
            (source.visn_self_att, source.visn_inter, source.visn_output, target.vision),
        ):
            copy_attention(attention.self, attention.output, layer.attention.attention, layer.attention.norm)
            copy_mlp(intermediate, output, layer.mlp)
    copy_linears([theirs.pooler.dense], pooler.projection)

    features, boxes = torch.randn(2, REGIONS, 24), torch.rand(2, REGIONS, 4)
    visual = visual_tokens(48)._replace(embeddings=theirs.encoder.visn_fc(features, boxes))
    assert visual.mask is not None
    expected = theirs(
        input_ids=text.token_ids,
        attention_mask=text.mask,
        visual_feats=features,
        visual_pos=boxes,
        visual_attention_mask=visual.mask.long(),
    )
    output = ours(text, visual)
    tokens = torch.cat([expected.language_output, expected.vision_output], dim=1)
    assert torch.allclose(output.tokens, tokens, atol=1e-5, rtol=0)
    assert torch.allclose(output.pooled, expected.pooled_output, atol=1e-5, rtol=0)


def test_two_streams_compute_vilberts_layer_equations(text: TextBatch) -> None:
    model = randomised(Vilbert(VILBERT))
    weights = {name.removeprefix("modality_interaction.stages."): p for name, p in model.named_parameters()}
    visual = visual_tokens(64)
    assert text.mask is not None
    assert visual.mask is not None

    def linear(name: str, x: Tensor, part: int | None = None) -> Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if part is not None:
            weight, bias = weight.chunk(3)[part], bias.chunk(3)[part]
        return x @ weight.T + bias

    def normalise(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-12)

    def read(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, heads: int) -> Tensor:
        parts = []
        for q, k, v in zip(query.chunk(heads, 2), key.chunk(heads, 2), value.chunk(heads, 2), strict=True):
            scores = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
            parts.append(scores.masked_fill(~mask[:, None, :], float("-inf")).softmax(2) @ v)
        return torch.cat(parts, 2)

    def mlp(name: str, x: Tensor) -> Tensor:
        return normalise(f"{name}.norm", linear(f"{name}.layers.2", gelu(linear(f"{name}.layers.0", x))) + x)

    def layer(name: str, x: Tensor, mask: Tensor, heads: int) -> Tensor:
        qkv = [linear(f"{name}.attention.attention.qkv", x, part) for part in range(3)]
        attended = linear(f"{name}.attention.attention.projection", read(*qkv, mask, heads))
        return mlp(f"{name}.mlp", normalise(f"{name}.attention.norm", attended + x))

    words = model.textual_embedder(text).embeddings
    regions = visual.embeddings
    for index in range(2):
        words = layer(f"language_encoder.layers.{index}", words, text.mask, 4)
    for index in range(2):
        name = f"co_encoder.co.{index}"
        of_text = [linear(f"{name}.language_qkv", words, part) for part in range(3)]
        of_image = [linear(f"{name}.vision_qkv", regions, part) for part in range(3)]
        for_text = linear(f"{name}.language_projection", read(of_text[0], *of_image[1:], visual.mask, 4))
        for_image = linear(f"{name}.vision_projection", read(of_image[0], *of_text[1:], text.mask, 4))
        words = mlp(f"{name}.language_mlp", normalise(f"{name}.language_norm", for_text + words))
        regions = mlp(f"{name}.vision_mlp", normalise(f"{name}.vision_norm", for_image + regions))
        words = layer(f"co_encoder.language.{index}", words, text.mask, 4)
        regions = layer(f"co_encoder.vision.{index}", regions, visual.mask, 8)
    pooled = linear("pooler.language", words[:, 0]).relu() * linear("pooler.vision", regions[:, 0]).relu()

    output = model(text, visual)
    assert torch.allclose(output.tokens, words, atol=1e-5, rtol=0)
    assert torch.allclose(output.pooled, pooled, atol=1e-4, rtol=1e-5)  # products of dozens


@pytest.mark.parametrize(
    ("build", "expected_m"),
    [
        (lambda: Bert(ViltConfig()), 85.05),
        (lambda: Lxmert(LxmertConfig()), 181.93),
        (lambda: Vilbert(VilbertConfig()), 207.93),
    ],
    ids=["bert", "lxmert", "vilbert"],
)
def test_layers_have_the_published_number_of_parameters(build: Callable[[], SharedModel], expected_m: float) -> None:
    with torch.device("meta"):
        chain = build().modality_interaction.stages
    layers = [stage for name, stage in chain.items() if name not in ("concatenation", "pooler")]
    parameters = sum(parameter.numel() for stage in layers for parameter in stage.parameters())
    assert round(parameters / 1e6, 2) == expected_m


@pytest.mark.parametrize(
    "shared", [Bert(BERT), Lxmert(LXMERT), Vilbert(VILBERT)], ids=lambda shared: type(shared).__name__
)
def test_any_shared_model_stands_behind_an_embedder(shared: SharedModel, text: TextBatch) -> None:
    class Regions(nn.Module):
        def forward(self, images: ImageBatch) -> VisualTokens:
            return VisualTokens(images.pixels.new_ones(len(images.pixels), REGIONS, shared.visual_size))

    embedder = VisualEmbedder(
        {"regions": Regions()}, kind="region", hidden_size=shared.visual_size, resolution=(32, 32)
    )
    model = VisionLanguageModel(shared, embedder)
    marked: list[str] = []
    output = model(ImageBatch(torch.zeros(2, 3, 32, 32)), text, lambda name, _: marked.append(name))
    assert marked == [name for name, _ in stages(model)]
    assert output.pooled.isfinite().all()


@pytest.mark.parametrize("shared", [Bert(BERT), Lxmert(LXMERT), Vilbert(VILBERT)], ids=lambda s: type(s).__name__)
def test_no_mask_is_as_a_mask_of_all_tokens(shared: SharedModel, text: TextBatch) -> None:
    shared.eval()
    visual = visual_tokens(shared.visual_size)._replace(mask=None)
    with torch.no_grad():
        unmasked = shared(text._replace(mask=None), visual)
        masked = shared(text._replace(mask=torch.ones(2, LENGTH, dtype=torch.bool)), visual)
    assert torch.allclose(unmasked.pooled, masked.pooled, atol=1e-5)


@pytest.mark.parametrize("shared", [Bert(BERT), Lxmert(LXMERT), Vilbert(VILBERT)], ids=lambda s: type(s).__name__)
def test_tokens_that_wait_for_vilts_positions_are_refused(shared: SharedModel, text: TextBatch) -> None:
    visual = visual_tokens(shared.visual_size)._replace(grid=(1, REGIONS))
    with pytest.raises(EmbedderError, match=r"only ViLT adds them; expected one that adds its own"):
        shared(text, visual)


def test_vilbert_whose_streams_do_not_meet_is_refused() -> None:
    with pytest.raises(ConfigError, match="as many vision layers"):
        VilbertConfig(co_layers=5)
    with pytest.raises(ConfigError, match="multiple of co_heads"):
        VilbertConfig(co_heads=7)
