import pytest
import torch
from acme_embedder.two_scales import acme
from vilt_bench.embedding import ImageBatch
from vilt_bench.errors import EmbedderError
from vilt_bench.testing import check_embedder


def test_it_keeps_the_contract():
    check_embedder(acme, resolution=(128, 192))


def test_every_option_keeps_the_contract():
    check_embedder(acme, resolution=(64, 64), patch_size=8, width=32)


def test_there_is_a_token_a_patch_of_either_size():
    tokens = acme(patch_size=16)(ImageBatch(torch.zeros(1, 3, 128, 192)))
    assert tokens.embeddings.shape == (1, 8 * 12 + 2 * 3, 768)


def test_an_impossible_patch_is_refused():
    with pytest.raises(EmbedderError, match="patch_size=0"):
        acme(patch_size=0)
