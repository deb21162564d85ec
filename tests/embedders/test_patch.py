from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import unfold

from embedders.patch import patch, patch16, patch32
from vilt_bench.embedding import ImageBatch
from vilt_bench.errors import EmbedderError


def images(batch_size: int = 2, height: int = 64, width: int = 96) -> ImageBatch:
    return ImageBatch(torch.randn(batch_size, 3, height, width, generator=torch.Generator().manual_seed(0)))


def test_patch32_has_the_papers_2_360_064_parameters() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in patch32().parameters()) == 2_360_064


def test_vilts_input_gives_12_by_20_tokens() -> None:
    with torch.device("meta"):
        tokens = patch32()(ImageBatch(torch.empty(1, 3, 384, 640)))
    assert tokens.embeddings.shape == (1, 240, 768)
    assert tokens.grid == (12, 20)
    assert tokens.mask is None


def test_projection_equals_a_matrix_product_over_unfolded_patches() -> None:
    embedder = patch16(hidden_size=32)
    pixels = images().pixels
    convolution = embedder.stages["projection"].convolution
    patches = unfold(pixels, kernel_size=16, stride=16).transpose(1, 2)
    expected = patches @ convolution.weight.flatten(1).T + convolution.bias
    torch.testing.assert_close(embedder(ImageBatch(pixels)).embeddings, expected)


def test_cells_of_padding_are_masked_out() -> None:
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[0] = True
    mask[1, :32, :64] = True
    tokens = patch32(hidden_size=8)(images()._replace(mask=mask))
    assert tokens.mask is not None
    assert tokens.mask.tolist() == [[True] * 6, [True, True, False, False, False, False]]


@pytest.mark.parametrize(("patch_size", "divisor"), [(32, 32), (16, 32), (48, 48), (14, 14)])
def test_inputs_are_multiples_of_the_patch(patch_size: int, divisor: int) -> None:
    assert patch(patch_size=patch_size, hidden_size=8).size_divisor == divisor


def test_a_patch_larger_than_the_image_is_refused_in_one_line() -> None:
    with pytest.raises(EmbedderError, match="patch of 128x128 pixels is larger than the image of 64x96") as caught:
        patch(patch_size=128, hidden_size=8)(images())
    assert "\n" not in str(caught.value)


def test_edges_that_are_no_multiples_of_the_patch_are_refused() -> None:
    with pytest.raises(EmbedderError, match="expected edges that are multiples of 40"):
        patch(patch_size=40, hidden_size=8)(images())


@pytest.mark.parametrize("patch_size", [0, -32])
def test_an_impossible_patch_size_is_refused(patch_size: int) -> None:
    with pytest.raises(EmbedderError, match="patch_size="):
        patch(patch_size=patch_size)


def test_fuyus_patches_are_its_linear_layer() -> None:
    embedder = patch(patch_size=30, hidden_size=64)
    # FuyuModel: nn.Linear(patch_size * patch_size * num_channels, hidden_size)
    assert sum(p.numel() for p in embedder.parameters()) == 30 * 30 * 3 * 64 + 64


def test_normed_patches_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Gemma4UnifiedVisionConfig"):
        pytest.skip(f"transformers {transformers.__version__} has no Gemma 4 unified")
    from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedVisionEmbedder

    config = transformers.Gemma4UnifiedVisionConfig(patch_size=16, mm_embed_dim=32)
    text = transformers.Gemma4UnifiedTextConfig(hidden_size=16)
    theirs = Gemma4UnifiedVisionEmbedder(config, text).eval()
    theirs.multimodal_embedder = torch.nn.Identity()  # the way into the language model
    embedder = patch(patch_size=48, style="norm", hidden_size=32).eval()
    ours = embedder.stages["projection"]
    with torch.no_grad():
        for own, other in (
            (ours.patch_norm, theirs.patch_ln1),
            (ours.linear, theirs.patch_dense),
            (ours.norm, theirs.patch_ln2),
            (ours.position_norm, theirs.pos_norm),
        ):
            own.load_state_dict(other.state_dict())
        theirs.pos_embedding.copy_(torch.randn_like(theirs.pos_embedding))
        ours.positions.copy_(theirs.pos_embedding)
    pixels = images(1, 96, 144).pixels
    patches = unfold(pixels, kernel_size=48, stride=48).transpose(1, 2)  # channel by channel
    patches = patches.unflatten(2, (3, 48, 48)).permute(0, 1, 3, 4, 2).flatten(2)  # pixel by pixel
    positions = torch.tensor([[[x, y] for y in range(2) for x in range(3)]])
    with torch.no_grad():
        found = embedder(ImageBatch(pixels))
        torch.testing.assert_close(found.embeddings, theirs(patches, positions).last_hidden_state)
    assert (found.grid, found.cells) == (None, (2, 3))


def test_a_patch_mlp_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "NeoMMEConfig"):
        pytest.skip(f"transformers {transformers.__version__} has no NeoMME")
    from transformers.models.neomme.modeling_neomme import NeoMMEPatchEmbeddings

    theirs = NeoMMEPatchEmbeddings(transformers.NeoMMEConfig())
    with torch.device("meta"):
        ours = patch(style="mlp", hidden_size=1024)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    embedder = patch(patch_size=8, style="mlp", hidden_size=16)
    norm, up, act, down = embedder.stages["projection"].mlp
    pixels = images(1, 16, 24).pixels
    cell = pixels[0, :, 8:16, 16:24].permute(1, 2, 0).flatten()
    torch.testing.assert_close(embedder(ImageBatch(pixels)).embeddings[0, 5], down(act(up(norm(cell)))))


def test_more_patches_than_positions_are_refused() -> None:
    with pytest.raises(EmbedderError, match="more than the 1120 positions"):
        patch(patch_size=1, style="norm", hidden_size=1)(ImageBatch(torch.zeros(1, 3, 1, 1121)))


def test_weights_of_distributed_training_are_loaded_and_named(tmp_path: Path) -> None:
    source = patch(patch_size=32, hidden_size=8)
    torch.save(nn.DataParallel(source).state_dict(), tmp_path / "patch.pt")
    loaded = patch(patch_size=32, hidden_size=8, weights=str(tmp_path / "patch.pt"))
    assert loaded.weights == f"{tmp_path / 'patch.pt'}, its names without module."
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded.parameters(), source.parameters(), strict=True))
