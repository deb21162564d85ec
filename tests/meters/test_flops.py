"""FLOPs and parameters, against closed forms."""

import torch
from torch import nn

from vilt_bench.meters.flops import count_flops
from vilt_bench.meters.parameters import Size, count_parameters


def on_meta(make):
    with torch.device("meta"):
        return make()


def test_a_linear_layer_costs_two_flops_a_multiply_add():
    layer = on_meta(lambda: nn.Linear(48, 32))

    def forward(mark):
        mark("projection", layer(torch.empty(5, 48, device="meta")))

    assert count_flops(forward, layer) == {"projection": 2 * 5 * 48 * 32}


def test_fused_attention_counts():
    length, width = 281, 64

    def forward(mark):
        query = torch.empty(1, 12, length, width, device="meta")
        mark("transformer", nn.functional.scaled_dot_product_attention(query, query, query))

    assert count_flops(forward) == {"transformer": 2 * 2 * 12 * length * length * width}


def test_flops_are_split_at_the_marks():
    layer = on_meta(lambda: nn.Linear(8, 8, bias=False))

    def forward(mark):
        tokens = layer(torch.empty(3, 8, device="meta"))
        mark("first", tokens)
        mark("nothing", tokens)
        mark("last", layer(layer(tokens)))

    assert count_flops(forward, layer) == {"first": 384, "nothing": 0, "last": 768}


def test_a_model_with_query_parameters_counts():
    class Resampler(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries = nn.Parameter(torch.empty(4, 8))
            self.layer = nn.Linear(8, 8, bias=False)

        def forward(self):
            return self.layer(self.queries)

    resampler = on_meta(Resampler)

    def forward(mark):
        mark("resampler", resampler())

    assert count_flops(forward, resampler) == {"resampler": 2 * 4 * 8 * 8}


def test_parameters_and_buffers_are_counted_apart():
    assert count_parameters([("norm", nn.BatchNorm2d(16))]) == {"norm": Size(parameters=32, buffers=33)}


def test_a_shared_parameter_counts_in_the_first_stage_that_has_it():
    layer = nn.Linear(4, 4, bias=False)
    sizes = count_parameters([("first", layer), ("second", nn.Sequential(layer, nn.Linear(4, 2, bias=False)))])
    assert (sizes["first"].parameters, sizes["second"].parameters) == (16, 8)


def test_frozen_parameters_count():
    layer = nn.Linear(4, 4, bias=False).requires_grad_(False)
    assert count_parameters([("stage", layer)])["stage"].parameters == 16
