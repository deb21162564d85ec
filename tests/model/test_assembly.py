import pytest
import torch
from torch import nn

from embedders.patch import patch
from vilt_bench.embedding import VisualTokens
from vilt_bench.errors import EmbedderError
from vilt_bench.model.assembly import Assembly, Newline, assembled, rows_of
from vilt_bench.worker.observe import strange_values


class Separators(nn.Module):
    def forward(self, parts: torch.Tensor) -> torch.Tensor:
        separators = parts.new_full((*parts.shape[:2], 1, parts.shape[3]), -1.0)
        return torch.cat([parts, separators], dim=2).flatten(1, 2)


@pytest.fixture
def tokens() -> VisualTokens:
    embeddings = torch.arange(12.0).view(12, 1, 1).expand(12, 2, 3)  # each row's number
    return VisualTokens(embeddings, torch.ones(12, 2, dtype=torch.bool), grid=(1, 2), cells=(1, 2))


def test_tokens_of_a_texts_images_follow_each_other_and_keep_each_images_grid(tokens: VisualTokens) -> None:
    found = Assembly(images=3)(tokens)
    assert found.embeddings[:, :, 0].tolist() == [[3 * b + i for i in range(3) for _ in range(2)] for b in range(4)]
    assert (found.mask.shape, found.grid, found.images) == ((4, 6), (1, 2), 3)


def test_parts_of_an_image_are_arranged_before_images_are_joined(tokens: VisualTokens) -> None:
    found = Assembly(images=2, parts=3, arrange=Separators())(tokens._replace(mask=None))
    first = [0, 0, -1, 1, 1, -1, 2, 2, -1]
    assert found.embeddings[0, :, 0].tolist() == [*first, *(each + 3 if each >= 0 else each for each in first)]
    assert (found.embeddings.shape, found.grid, found.cells) == ((2, 18, 3), None, None)


def test_parts_without_an_arrangement_follow_each_other_without_a_grid(tokens: VisualTokens) -> None:
    found = Assembly(images=1, parts=4)(tokens)
    assert (found.embeddings.shape, found.mask.shape, found.grid, found.images) == ((3, 8, 3), (3, 8), None, 1)


def test_masked_parts_can_not_be_arranged(tokens: VisualTokens) -> None:
    with pytest.raises(EmbedderError, match="these have a mask"):
        Assembly(images=1, parts=2, arrange=Separators())(tokens)


def test_an_embedder_is_assembled_once() -> None:
    embedder = patch(patch_size=32)
    assert rows_of(assembled(embedder, None)) == 1
    assert rows_of(assembled(embedder, Assembly(images=2, parts=3))) == 6
    with pytest.raises(EmbedderError, match="stage 'assembly' of its own"):
        assembled(embedder, Assembly(images=2))


def test_a_newline_stands_behind_the_last_part_of_each_image() -> None:
    arrange = Newline(3)
    found = Assembly(images=1, parts=2, arrange=arrange)(VisualTokens(torch.arange(24.0).view(4, 2, 3)))
    assert found.embeddings.shape == (2, 5, 3)
    torch.testing.assert_close(found.embeddings[:, :4], torch.arange(24.0).view(2, 4, 3))
    torch.testing.assert_close(found.embeddings[:, 4], arrange.token.expand(2, 3))


def test_an_image_without_a_token_is_told_where_others_of_its_text_have_some() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    tokens = VisualTokens(torch.zeros(2, 4, 8), mask=mask, images=2)
    assert strange_values(tokens, dtype="float32") == (
        "The mask of the visual tokens leaves an image without a token.",
    )
    full = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    assert strange_values(tokens._replace(mask=full), dtype="float32") == ()
