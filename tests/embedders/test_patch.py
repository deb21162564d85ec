import pytest
import torch
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
