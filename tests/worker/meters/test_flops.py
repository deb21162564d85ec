"""FLOPs and parameters, against closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import deform_conv2d, roi_align

from vilt_bench.worker.meters.flops import FORMULAS, _is_free, count_flops
from vilt_bench.worker.meters.parameters import Size, count_parameters

LONG = torch.long


def on_meta(make):
    with torch.device("meta"):
        return make()


def flops_of(compute):
    """Returns the FLOPs of what is computed with the function given, which makes tensors; `None`: not known."""
    tensors = {}

    def tensor(*shape, dtype=torch.float32):
        return tensors.setdefault((shape, dtype, len(tensors)), torch.empty(shape, dtype=dtype, device="meta"))

    return count_flops(lambda mark: mark("stage", compute(tensor))).stages["stage"]


def test_a_linear_layer_costs_two_flops_a_multiply_add():
    layer = on_meta(lambda: nn.Linear(48, 32))

    def forward(mark):
        mark("projection", layer(torch.empty(5, 48, device="meta")))

    assert count_flops(forward).stages == {"projection": 2 * 5 * 48 * 32}


def test_fused_attention_counts():
    length, width = 281, 64

    def forward(mark):
        query = torch.empty(1, 12, length, width, device="meta")
        mark("transformer", functional.scaled_dot_product_attention(query, query, query))

    assert count_flops(forward).stages == {"transformer": 2 * 2 * 12 * length * length * width}


def test_flops_are_split_at_the_marks():
    layer = on_meta(lambda: nn.Linear(8, 8, bias=False))

    def forward(mark):
        tokens = layer(torch.empty(3, 8, device="meta"))
        mark("first", tokens)
        mark("nothing", tokens)
        mark("last", layer(layer(tokens)))

    assert count_flops(forward).stages == {"first": 384, "nothing": 0, "last": 768}


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

    assert count_flops(forward).stages == {"resampler": 2 * 4 * 8 * 8}


N, K, M = 3, 5, 7


@pytest.mark.parametrize(
    "product",
    [
        lambda t: t(N, K) @ t(K, M),
        lambda t: torch.mm(t(N, K), t(M, K).t()),
        lambda t: torch.bmm(t(1, N, K), t(1, K, M)),
        lambda t: functional.linear(t(N, K), t(M, K), t(M)),
        lambda t: functional.linear(t(1, N, K), t(M, K)),
        lambda t: torch.einsum("nk,km->nm", t(N, K), t(K, M)),
        lambda t: torch.einsum("nk,mk->mn", t(N, K), t(M, K)),
        lambda t: torch.tensordot(t(N, K), t(K, M), dims=1),
        lambda t: torch.inner(t(N, K), t(M, K)),
        lambda t: torch.addmm(t(M), t(N, K), t(K, M)),
        lambda t: t(N, M).addmm_(t(N, K), t(K, M)),
        lambda t: torch.baddbmm(t(1, N, M), t(1, N, K), t(1, K, M)),
        lambda t: t(1, N, M).baddbmm_(t(1, N, K), t(1, K, M)),
        lambda t: torch.addbmm(t(N, M), t(1, N, K), t(1, K, M)),
        lambda t: t(N, M).addbmm_(t(1, N, K), t(1, K, M)),
        lambda t: torch.mm(t(N, K), t(K, M), out=t(N, M)),
        lambda t: functional.conv1d(t(1, K, N), t(M, K, 1)),
        lambda t: functional.conv2d(t(1, K, 1, N), t(M, K, 1, 1)),
        lambda t: functional.conv_transpose1d(t(1, K, N), t(K, M, 1)),
        lambda t: torch.conv_tbc(t(N, 1, K), t(1, K, M), t(M)),
        lambda t: torch._grouped_mm(t(N, K), t(4, K, M), offs=t(4, dtype=torch.int32)),
        lambda t: torch.linalg.multi_dot([t(N, K), t(K, M)]),
        lambda t: torch.cdist(t(N, K), t(M, K)),
        lambda t: torch.cdist(t(N, K), t(M, K), compute_mode="use_mm_for_euclid_dist"),
    ],
)
def test_a_product_costs_the_same_whatever_computes_it(product):
    assert flops_of(product) == 2 * N * K * M


@pytest.mark.parametrize(
    ("product", "expected"),
    [
        (lambda t: t(N, K) @ t(K), 2 * N * K),
        (lambda t: t(K) @ t(K, N), 2 * N * K),
        (lambda t: torch.mv(t(N, K), t(K)), 2 * N * K),
        (lambda t: torch.addmv(t(N), t(N, K), t(K)), 2 * N * K),
        (lambda t: t(N).addmv_(t(N, K), t(K)), 2 * N * K),
        (lambda t: t(2, N, K) @ t(K), 2 * 2 * N * K),
        (lambda t: functional.linear(t(K), t(N, K)), 2 * N * K),
        (lambda t: torch.einsum("nk,k->n", t(N, K), t(K)), 2 * N * K),
        (lambda t: torch.linalg.vecdot(t(N, K), t(K)), 2 * N * K),
        (lambda t: torch.einsum("nk,nk->n", t(N, K), t(N, K)), 2 * N * K),
        (lambda t: torch.dot(t(K), t(K)), 2 * K),
        (lambda t: t(K) @ t(K), 2 * K),
        (lambda t: torch.vdot(t(K), t(K)), 2 * K),
        (lambda t: torch.outer(t(N), t(M)), 2 * N * M),
        (lambda t: torch.ger(t(N), t(M)), 2 * N * M),
        (lambda t: torch.addr(t(N, M), t(N), t(M)), 2 * N * M),
        (lambda t: torch.einsum("n,m->nm", t(N), t(M)), 2 * N * M),
        (lambda t: torch.einsum("n,n->n", t(N), t(N)), 0),
        (lambda t: t(N, 1) @ t(1, M), 2 * N * M),
        (lambda t: torch.addbmm(t(N, M), t(4, N, K), t(4, K, M)), 4 * 2 * N * K * M),
        (lambda t: torch.bilinear(t(N, 4), t(N, 6), t(M, 4, 6), None), 2 * N * M * (4 * 6 + 6)),
        (lambda t: torch._int_mm(t(N, K, dtype=torch.int8), t(K, M, dtype=torch.int8)), 2 * N * K * M),
    ],
)
def test_products_with_vectors_and_of_groups_cost_their_multiply_adds(product, expected):
    assert flops_of(product) == expected


def test_a_deformable_convolution_costs_what_a_convolution_does():
    # Dai et al. 2017: a sum over the kernel's 3×3 samples; 8 channels in 2 groups to 6, 4×5 places.
    expected = 2 * (4 * 5) * 6 * (8 // 2) * 9
    arguments = ((1, 8, 4, 5), (1, 2 * 9, 4, 5), (6, 4, 3, 3))
    assert flops_of(lambda t: deform_conv2d(*(t(*shape) for shape in arguments), padding=1)) == expected
    modulated = flops_of(lambda t: deform_conv2d(*(t(*shape) for shape in arguments), padding=1, mask=t(1, 9, 4, 5)))
    assert modulated == flops_of(lambda t: functional.conv2d(t(1, 8, 4, 5), t(6, 4, 3, 3), padding=1, groups=2))
    assert modulated == expected


@pytest.mark.parametrize(("layer", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_cost_their_gates_at_every_step(layer, gates):
    recurrent = on_meta(lambda: layer(8, 16, num_layers=2, bidirectional=True))
    steps, batch = 5, 2
    first, second = 16 * (8 + 16), 16 * (2 * 16 + 16)  # the second layer reads both directions
    expected = 2 * steps * batch * 2 * gates * (first + second)
    assert flops_of(lambda t: recurrent(t(steps, batch, 8))) == expected


def test_transposed_convolutions_cost_the_kernel_at_each_cell_of_their_input():
    assert flops_of(lambda t: functional.conv_transpose2d(t(1, 4, 3, 3), t(4, 6, 2, 2), stride=2)) == 2 * 9 * 4 * 6 * 4
    grouped = flops_of(lambda t: functional.conv_transpose2d(t(1, 4, 3, 3), t(4, 3, 2, 2), stride=2, groups=2))
    assert grouped == 2 * 9 * 4 * 3 * 4


def test_fourier_transforms_cost_five_n_log_n_and_real_ones_half_of_it():
    complex_flops = 2 * 5 * 64 * math.log2(64)  # two signals
    assert flops_of(lambda t: torch.fft.fft(t(2, 64, dtype=torch.complex64))) == complex_flops
    assert flops_of(lambda t: torch.fft.rfft2(t(2, 8, 8))) == complex_flops / 2
    assert flops_of(lambda t: torch.fft.irfft(t(2, 33, dtype=torch.complex64))) == complex_flops / 2


@pytest.mark.parametrize(
    "compute",
    [
        lambda t: functional.layer_norm(functional.gelu(t(2, 8)), (8,)),
        lambda t: functional.batch_norm(t(2, 8, 4, 4), t(8), t(8)),
        lambda t: functional.rms_norm(t(2, 8), (8,)),
        lambda t: functional.group_norm(t(2, 8, 4), 2),
        lambda t: functional.silu(t(2, 8)) * t(2, 8).softmax(-1),
        lambda t: functional.interpolate(t(1, 3, 4, 4), scale_factor=2, mode="bicubic", antialias=True),
        lambda t: functional.grid_sample(t(1, 3, 4, 4), t(1, 2, 2, 2), align_corners=False),
        lambda t: functional.unfold(functional.pixel_shuffle(t(1, 4, 6, 6), 2), 3),
        lambda t: functional.adaptive_avg_pool2d(functional.max_pool2d(t(1, 3, 8, 8), 2), 1),
        lambda t: roi_align(t(1, 4, 8, 8), t(3, 5), 2),
        lambda t: torch.cat([t(2, 3).topk(2).values, t(2, 2).cumsum(1)]).roll(1, 0).clone().unsqueeze_(0).mean(),
        lambda t: functional.embedding(t(2, 3, dtype=LONG), t(9, 4)).index_add_(0, t(1, dtype=LONG), t(1, 3, 4)),
        lambda t: t(4, 3).scatter_(0, t(2, 3, dtype=LONG), t(2, 3)).masked_fill_(t(4, 3) > 0, 0.0).tril_().view(-1),
        lambda t: torch.polar(t(3), t(3)) + torch.linalg.cross(t(2, 3), t(2, 3)).sum(),
        lambda t: torch.nn.utils.parametrizations.weight_norm(on_meta(lambda: nn.Linear(2, 2))).weight,
    ],
)  # fmt: skip
def test_what_multiplies_nothing_with_a_sum_counts_zero(compute):
    assert flops_of(compute) == 0


@pytest.mark.parametrize(
    ("compute", "operator"),
    [
        (lambda t: torch.linalg.inv(t(4, 4)), "aten::linalg_inv_ex"),
        (lambda t: torch.linalg.svd(t(4, 4)), "aten::_linalg_svd"),
    ],
)
def test_an_operator_without_a_formula_makes_its_stage_unknown(compute, operator):
    def forward(mark):
        matrix = torch.empty(4, 4, device="meta")
        mark("product", matrix @ matrix)
        mark("unknown", compute(lambda *shape: torch.empty(shape, device="meta") @ matrix))
        mark("after", matrix @ matrix)

    count = count_flops(forward)
    assert count.stages == {"product": 2 * 4**3, "unknown": None, "after": 2 * 4**3}
    assert count.unknown == {"unknown": (operator,)}
    assert count.total is None


def test_operators_of_others_are_unknown_until_torch_is_given_their_formula():
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    library = torch.library.Library("acme_flops", "FRAGMENT")
    library.define("mix(Tensor left, Tensor right) -> Tensor")
    library.impl("mix", lambda left, right: left.new_empty(left.shape[0], right.shape[1]), "Meta")
    mix = torch.ops.acme_flops.mix
    count = count_flops(lambda mark: mark("mix", mix(*on_meta(lambda: (torch.empty(2, 3), torch.empty(3, 4))))))
    assert count.unknown == {"mix": ("acme_flops::mix",)}
    register_flop_formula(mix)(lambda left, right, **_: 2 * left[0] * left[1] * right[1])
    try:
        assert flops_of(lambda t: mix(t(2, 3), t(3, 4))) == 2 * 2 * 3 * 4
    finally:
        del flop_registry[mix]


def test_parameters_and_buffers_are_counted_apart():
    assert count_parameters([("norm", nn.BatchNorm2d(16))]) == {"norm": Size(parameters=32, buffers=33)}


def test_a_shared_parameter_counts_in_the_first_stage_that_has_it():
    layer = nn.Linear(4, 4, bias=False)
    sizes = count_parameters([("first", layer), ("second", nn.Sequential(layer, nn.Linear(4, 2, bias=False)))])
    assert (sizes["first"].parameters, sizes["second"].parameters) == (16, 8)


def test_frozen_parameters_count():
    layer = nn.Linear(4, 4, bias=False).requires_grad_(False)
    assert count_parameters([("stage", layer)])["stage"].parameters == 16


@pytest.mark.parametrize(
    "compute",
    [
        lambda of: of(3, 5) @ of(5, 7),
        lambda of: torch.bmm(of(2, 3, 5), of(2, 5, 7)),
        lambda of: torch.addmm(of(7), of(3, 5), of(5, 7)),
        lambda of: torch.baddbmm(of(2, 3, 7), of(2, 3, 5), of(2, 5, 7)),
        lambda of: functional.conv1d(of(2, 4, 9), of(6, 4, 3)),
        lambda of: functional.conv2d(of(2, 4, 9, 8), of(6, 2, 3, 3), groups=2, stride=2, padding=1),
        lambda of: functional.conv_transpose2d(of(2, 4, 9, 8), of(4, 3, 3, 3), groups=2, stride=2),
    ],
)
def test_what_is_common_costs_what_torchs_own_counter_says(compute):
    from torch.utils.flop_counter import FlopCounterMode

    def of(*shape):
        return torch.empty(*shape, device="meta")

    with FlopCounterMode(display=False) as counter:
        compute(of)
    assert count_flops(lambda mark: mark("stage", compute(of))).stages == {"stage": counter.get_total_flops()}


def test_torchs_registry_need_not_be_asked_of_what_is_free_or_made_of_other_operators():
    from torch.utils.flop_counter import flop_registry

    own = [packet for packet in flop_registry if isinstance(packet, torch._ops.OpOverloadPacket)]
    asked = [getattr(packet, name) for packet in own for name in packet.overloads()]
    assert asked
    assert [
        str(operator)
        for operator in asked
        if f"aten::{operator._schema.name.partition('::')[2]}" not in FORMULAS
        and (_is_free(operator) or operator._can_decompose())
    ] == []
