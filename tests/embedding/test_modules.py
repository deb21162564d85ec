"""A module of one's own is cut into stages that compute what it computes."""

import pytest
import torch
from torch import nn

from vilt_bench.embedding import ImageBatch
from vilt_bench.embedding.modules import as_tokens, cut, default_stages, sent, stages_of
from vilt_bench.errors import EmbedderError


class Branching(nn.Module):
    """Children with a skip over one of them, a parameter of its own, and arguments that are seldom given."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, stride=8)
        self.position = nn.Parameter(torch.randn(1, 16, 4, 4))
        self.drop = nn.Dropout()
        self.blocks = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(16, 10)
        self.spare = nn.Linear(2, 2)

    def forward(self, images, mask=None):
        if mask is not None:
            images = images * mask
        early = self.stem(images) + self.position
        late = self.blocks(self.drop(early)) + early
        return self.head(late.mean((2, 3)))


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, images):
        found = self.first(images)
        return self.second(found) if found.sum() > 0 else found


def run(stages, value):
    for stage in stages.values():
        value = stage(value)
    return value


@pytest.mark.parametrize(
    "names", [("stem", "blocks", "head"), ("head", "stem"), ("blocks.0", "blocks.1"), ("stem",), ()]
)
def test_stages_one_after_the_other_compute_what_the_module_computes(names):
    module, images = Branching().eval(), torch.randn(2, 3, 32, 32)

    tokens = run(stages_of(module, names), ImageBatch(images))

    torch.testing.assert_close(tokens.embeddings[:, 0], module(images), rtol=0, atol=0)


def test_a_parameter_of_the_module_itself_is_of_the_stage_that_uses_it_and_all_are_in_one():
    module = Branching()
    stages = stages_of(module, ("stem", "blocks", "head"))

    counts = {name: sum(each.numel() for each in stage.parameters()) for name, stage in stages.items()}

    # Weights and biases by hand; the positions, 16·4·4, are added behind the stem.
    assert counts == {"stem": 3 * 16 * 64 + 16, "blocks": 16 * 4 * 4 + 16 * 16 * 9 + 16, "head": 16 * 10 + 10}


def test_children_that_are_not_called_or_do_nothing_are_no_stages_unless_they_are_named():
    module = Branching()
    assert list(cut(module, default_stages(module), only_called=True)) == ["stem", "blocks", "head"]
    assert list(cut(module, ("drop", "head"))) == ["drop", "head"]


@pytest.mark.parametrize(
    ("module", "names", "told"),
    [
        (Branching(), ("steam",), "'steam' in `stages` is no submodule of it; its children are stem, drop"),
        (Branching(), ("spare",), "'spare' in `stages` is not called by itself"),
        (Deciding(), ("first", "second"), "can't be cut into stages: .*; leave `stages` out to measure it whole"),
    ],
)
def test_what_can_not_be_cut_is_refused_in_one_line(module, names, told):
    with pytest.raises(EmbedderError, match=told) as caught:
        cut(module, names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "shape", "cells"),
    [
        (torch.zeros(2, 8, 3, 5), (2, 15, 8), (3, 5)),
        (torch.zeros(2, 7, 8), (2, 7, 8), None),
        (torch.zeros(2, 8), (2, 1, 8), None),
        (torch.zeros(2), (2, 1, 1), None),
        (torch.zeros(2, 7, dtype=torch.long), (2, 1, 7), None),
        ({"logits": torch.zeros(2, 8)}, (2, 1, 8), None),
        ((None, torch.zeros(2, 8)), (2, 1, 8), None),
    ],
)
def test_whatever_tensor_comes_out_is_tokens(output, shape, cells):
    tokens = as_tokens(output)
    assert (tuple(tokens.embeddings.shape), tokens.cells) == (shape, cells)
    assert tokens.embeddings.is_floating_point()


def test_a_child_that_is_named_as_a_method_of_mappings_is_a_stage():
    module = nn.Sequential()
    module.add_module("keys", nn.Conv2d(3, 4, 1))
    module.add_module("last", nn.Conv2d(4, 4, 1))
    assert nn.ModuleDict(stages_of(module, ("keys", "last"))).keys() == {"keys_", "last"}


def test_a_module_of_another_program_is_not_to_be_had(monkeypatch):
    monkeypatch.delenv("VILT_BENCH_MODULES", raising=False)
    with pytest.raises(EmbedderError, match="'Net' is a module of somebody's program or notebook"):
        sent(model="Net", hidden_size=8)
