import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from embedders.patch import patch
from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import ImageBatch, TextBatch, VisualTokens
from vilt_bench.errors import EmbedderError, InputError
from vilt_bench.model import Vilt, VisionLanguageModel, load_checkpoint, stages
from vilt_bench.model.positions import interpolate_positions, interpolate_positions_padded
from vilt_bench.model.shared import build_shared

SMALL = ViltConfig(hidden_size=32, layers=2, heads=4, mlp_size=64, vocabulary=200)
STAGES = [
    "textual_embedder",
    "visual_embedder.projection",
    "modality_interaction.concatenation",
    "modality_interaction.transformer",
    "modality_interaction.pooler",
]


def build(config: ViltConfig = SMALL) -> VisionLanguageModel:
    return VisionLanguageModel(Vilt(config), patch(hidden_size=config.hidden_size)).eval()


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def batch(sizes: list[tuple[int, int]], lengths: list[int], *, vocabulary: int = 200) -> tuple[ImageBatch, TextBatch]:
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    pixels = torch.randn(len(sizes), 3, height, width)
    pixel_mask = torch.zeros(len(sizes), height, width, dtype=torch.bool)
    for index, (h, w) in enumerate(sizes):
        pixel_mask[index, :h, :w] = True
    text_mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    token_ids = torch.randint(1, vocabulary, text_mask.shape) * text_mask
    return (
        ImageBatch(pixels, None if pixel_mask.all() else pixel_mask),
        TextBatch(token_ids, None if text_mask.all() else text_mask),
    )


def twins(config: ViltConfig, tmp_path, **options):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.ViltModel(
        transformers.ViltConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_size,
            vocab_size=config.vocabulary,
            **options,
        )
    ).eval()
    for parameter in theirs.parameters():  # tables that start at zero, and norms at one, would hide mistakes
        parameter.add_(torch.randn_like(parameter) * 0.02)
    theirs.save_pretrained(tmp_path)
    ours = build(config)
    load_checkpoint(ours, str(tmp_path))
    return theirs, ours


def largest_difference(theirs, ours, images: ImageBatch, text: TextBatch, monkeypatch) -> float:
    def in_order(weights: Tensor, count: int, replacement: bool = False) -> Tensor:
        return torch.arange(int(count)) % len(weights)

    monkeypatch.setattr(torch, "multinomial", in_order)  # theirs shuffles the image tokens
    batch_size, _, height, width = images.pixels.shape
    pixel_mask = torch.ones(batch_size, height, width) if images.mask is None else images.mask
    text_mask = torch.ones_like(text.token_ids) if text.mask is None else text.mask
    expected = theirs(
        input_ids=text.token_ids,
        attention_mask=text_mask.long(),
        pixel_values=images.pixels,
        pixel_mask=pixel_mask.long(),
    )
    actual = ours(images, text)
    length = text.token_ids.shape[1]
    differences = [(actual.pooled - expected.pooler_output).abs().max()]
    for index in range(batch_size):
        valid_text = text_mask[index].bool()
        differences.append(
            (actual.tokens[index, :length] - expected.last_hidden_state[index, :length])[valid_text].abs().max()
        )
        cells = pixel_mask[index, ::32, ::32].flatten().bool()  # no padding cuts through a patch here
        our_image = actual.tokens[index, length + 1 :][cells]
        # Theirs moves the valid tokens of an image to the front.
        their_image = expected.last_hidden_state[index, length + 1 :][: len(our_image)]
        assert len(our_image) == len(their_image)
        differences.append((our_image - their_image).abs().max())
        differences.append((actual.tokens[index, length] - expected.last_hidden_state[index, length]).abs().max())
    return float(torch.stack(differences).max())


CASES = [
    ([(384, 640)], [40]),
    ([(384, 384)], [12]),
    ([(224, 352)], [7]),
    ([(384, 640), (384, 640)], [40, 40]),
    ([(384, 640), (384, 384)], [9, 40]),
    ([(384, 640), (224, 352), (384, 384)], [40, 5, 23]),
    ([(384, 384), (640, 384), (32, 64)], [8, 8, 8]),
    ([(224, 352), (224, 352), (224, 352)], [4, 20, 11]),
]


@pytest.mark.parametrize(("sizes", "lengths"), CASES)
def test_outputs_equal_those_of_hugging_face(sizes, lengths, tmp_path, monkeypatch):
    theirs, ours = twins(SMALL, tmp_path)
    assert largest_difference(theirs, ours, *batch(sizes, lengths), monkeypatch) < 1e-5


@pytest.mark.slow
def test_outputs_of_the_full_size_equal_those_of_hugging_face(tmp_path, monkeypatch):
    theirs, ours = twins(ViltConfig(), tmp_path)
    for sizes, lengths in CASES:
        images, text = batch(sizes, lengths, vocabulary=30_522)
        assert largest_difference(theirs, ours, images, text, monkeypatch) < 1e-5


def test_padding_does_not_change_what_is_not_padded():
    model = build()
    images, text = batch([(96, 160), (64, 96)], [10, 6])
    together = model(images, text)
    alone = model(ImageBatch(images.pixels[1:, :, :64, :96]), TextBatch(text.token_ids[1:, :6]))
    torch.testing.assert_close(together.pooled[1:], alone.pooled, atol=1e-5, rtol=0)


def test_masks_that_hide_nothing_equal_no_masks():
    model = build()
    images, text = batch([(96, 160)] * 2, [10, 10])
    masked = model(
        ImageBatch(images.pixels, torch.ones(2, 96, 160, dtype=torch.bool)),
        TextBatch(text.token_ids, torch.ones(2, 10, dtype=torch.bool)),
    )
    torch.testing.assert_close(model(images, text).tokens, masked.tokens, atol=1e-5, rtol=0)


@pytest.mark.parametrize("masked", ["text", "image"])
def test_a_mask_on_one_side_only_is_enough(masked):
    model = build()
    images, text = batch([(64, 96), (64, 96 if masked == "text" else 64)], [6, 4 if masked == "text" else 6])
    output = model(images, text)
    assert (images.mask is None) == (masked == "text")
    assert output.tokens.shape == (2, 6 + 1 + 6, 32)
    assert output.tokens.isfinite().all()


@pytest.mark.parametrize("grid", [(12, 20), (20, 12), (12, 12), (7, 11), (1, 1), (1, 5)])
def test_positions_of_padded_images_equal_each_images_own_interpolation(grid):
    table = torch.randn(12, 12, 8)
    height, width = grid
    mask = torch.zeros(2, height + 3, width + 2, dtype=torch.bool)
    mask[0, :height, :width] = True
    mask[1] = True
    positions = interpolate_positions_padded(table, mask.flatten(1), (height + 3, width + 2))
    positions = positions.view(2, height + 3, width + 2, 8)
    expected = interpolate(table.permute(2, 0, 1)[None], size=grid, mode="bilinear", align_corners=True)[0]
    torch.testing.assert_close(positions[0, :height, :width], expected.permute(1, 2, 0), atol=1e-5, rtol=0)
    assert not positions[0, height:].any()
    torch.testing.assert_close(
        positions[1].flatten(0, 1), interpolate_positions(table, (height + 3, width + 2))[0], atol=1e-5, rtol=0
    )


def test_an_embedder_with_positions_of_its_own_gets_none_more():
    vilt = Vilt(SMALL).eval()
    text = batch([(32, 32)], [5])[1]
    embeddings = torch.randn(1, 3, 32)
    first = vilt(text, VisualTokens(embeddings)).tokens
    vilt.modality_interaction.stages["concatenation"].positions[:, 1:] += 1
    assert torch.equal(vilt(text, VisualTokens(embeddings)).tokens, first)
    gridded = VisualTokens(embeddings, grid=(1, 3))
    assert not torch.equal(vilt(text, gridded).tokens, first)


def test_region_features_with_a_mask_are_attended_to_where_it_says():
    vilt = Vilt(SMALL).eval()
    text = batch([(32, 32)], [5])[1]
    embeddings = torch.randn(1, 4, 32)
    mask = torch.tensor([[True, True, False, False]])
    padded = vilt(text, VisualTokens(embeddings, mask)).pooled
    torch.testing.assert_close(padded, vilt(text, VisualTokens(embeddings[:, :2])).pooled, atol=1e-5, rtol=0)


def test_a_mark_sees_every_stage_in_order_and_changes_nothing():
    model = build()
    inputs = batch([(64, 96)], [6])
    seen = []
    marked = model(*inputs, lambda name, output: seen.append((name, output)))
    assert [name for name, _ in seen] == STAGES == [name for name, _ in stages(model)]
    assert seen[-1][1] is marked
    assert torch.equal(marked.tokens, model(*inputs).tokens)


def test_every_parameter_is_in_exactly_one_stage():
    model = build()
    found = [parameter for _, stage in stages(model) for parameter in stage.parameters()]
    assert {id(parameter) for parameter in found} == {id(parameter) for parameter in model.parameters()}
    assert len(found) == len(list(model.parameters()))


def test_the_full_size_has_the_papers_parameters():
    with torch.device("meta"):
        model = build(ViltConfig())
    counts = {name: sum(p.numel() for p in stage.parameters()) for name, stage in stages(model)}
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert counts == {
        "textual_embedder": (30_522 + 40 + 2 + 2) * 768,
        "visual_embedder.projection": 2_360_064,
        "modality_interaction.concatenation": (1 + 145 + 2) * 768,
        "modality_interaction.transformer": 12 * layer + 2 * 768,
        "modality_interaction.pooler": 768 * 768 + 768,
    }


def test_the_seed_decides_the_weights():
    first, second = [torch.manual_seed(3) and build().state_dict() for _ in range(2)]
    other = build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["shared.textual_embedder.words.weight"], other["shared.textual_embedder.words.weight"])
    assert 0.015 < float(first["shared.textual_embedder.words.weight"].std()) < 0.025


@pytest.mark.parametrize("interaction", ["vilt", "bert", "lxmert", "vilbert"])
def test_all_weights_of_shared_models_are_drawn_once_and_alike(interaction):
    config = ViltConfig(hidden_size=96, layers=6, heads=2, mlp_size=192, vocabulary=200)
    drawn = 0
    for module in build_shared(interaction, config).modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            tolerance = 0.02 * 4 / math.sqrt(2 * module.weight.numel())
            assert float(module.weight.std()) == pytest.approx(0.02, abs=tolerance)
            drawn += 1
        if isinstance(module, nn.Linear):
            assert not module.bias.any()
    assert drawn > 20


def test_the_model_runs_on_meta_where_no_value_can_be_read():
    with torch.device("meta"):
        model = build()
        images = ImageBatch(torch.empty(2, 3, 64, 96), torch.empty(2, 64, 96, dtype=torch.bool))
        text = TextBatch(torch.empty(2, 6, dtype=torch.int64), torch.empty(2, 6, dtype=torch.bool))
        output = model(images, text)
    assert output.tokens.shape == (2, 13, 32)
    assert output.pooled.device.type == "meta"


@pytest.mark.parametrize("lengths", [[6, 6], [6, 4]])
def test_the_exported_model_computes_the_same(lengths):
    model = build()
    inputs = batch([(64, 96), (64, 96)] if lengths[0] == lengths[1] else [(64, 96), (32, 64)], lengths)
    exported = torch.export.export(model, inputs, strict=False).module()
    torch.testing.assert_close(exported(*inputs).tokens, model(*inputs).tokens, atol=1e-5, rtol=0)


def test_attention_runs_without_a_mask_where_nothing_is_padded():
    model = build()
    exported = torch.export.export(model, batch([(64, 96)] * 2, [6, 6]), strict=False)
    attentions = [node for node in exported.graph.nodes if "scaled_dot_product_attention" in str(node.target)]
    assert len(attentions) == SMALL.layers
    assert all(not node.kwargs.get("attn_mask") and not any(node.args[3:4]) for node in attentions)


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [[(384, 640)], [(384, 640), (224, 352)]])
def test_the_forward_never_waits_for_the_gpu(sizes):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = build().cuda()
    images, text = batch(sizes, [8] * len(sizes))
    images = ImageBatch(images.pixels.cuda(), None if images.mask is None else images.mask.cuda())
    text = TextBatch(text.token_ids.cuda())
    expected = model(images, text).pooled
    torch.cuda.set_sync_debug_mode("error")
    try:
        pooled = model(images, text).pooled
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(pooled, expected)


def test_a_text_longer_than_the_position_table_is_refused():
    with pytest.raises(InputError, match=r"41 tokens .* 40"):
        build()(*batch([(32, 32)], [41]))


def test_an_embedder_of_another_width_is_refused():
    with pytest.raises(EmbedderError, match=r"16 channels.*32"):
        VisionLanguageModel(Vilt(SMALL), patch(hidden_size=16))
