from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FrozenBatchNorm2d

from vilt_bench.ask.case import Case, Option, ViltConfig
from vilt_bench.errors import ConfigError
from vilt_bench.worker.backends import Prepared, StageToPrepare, load
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.runner import prepare

TINY = ViltConfig(hidden_size=32, layers=2, heads=4, mlp_size=64)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    precision = torch.get_float32_matmul_precision()
    with torch.no_grad():
        yield
    torch.set_float32_matmul_precision(precision)


def prepared(module: nn.Module, inputs: Any, **options: Option) -> Prepared:
    stage = StageToPrepare("a.b", module, inputs, module(inputs), torch.device("cpu"), torch.float32, 1)
    return load("torch").prepare(stage, options)


def with_statistics(module: nn.Module) -> nn.Module:
    """Returns the module with normalisations that change something, in eval mode."""
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum("BatchNorm" in type(layer).__name__ for layer in module.modules())


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = FrozenBatchNorm2d(8, eps=1e-3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.convolution(pixels)).relu()


@pytest.mark.parametrize(
    ("build", "folded"),
    [
        (lambda: Conv2dNormActivation(3, 8), 1),
        (Frozen, 1),
        (lambda: timm.create_model("resnet18", num_classes=0), 20),
        (lambda: timm.create_model("mobilenetv3_small_050", num_classes=0), 34),  # whose norms go on with an activation
    ],
    ids=["torchvision", "frozen", "resnet18", "mobilenet"],
)
def test_folding_batch_normalisation_computes_the_same_to_a_hundred_thousandth(build, folded):
    module = with_statistics(build())
    inputs = torch.randn(2, 3, 32, 48)
    expected = module(inputs)
    assert norms(module) == folded
    ready = prepared(module, inputs, fold_batch_norm=True)
    assert norms(module) == 0
    assert ready.computed_by == f"torch, {folded} batch normalisation{'s' * (folded > 1)} folded"
    found = ready.run(inputs)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    other = torch.randn(1, 3, 40, 40)  # the pass that was seen had other pixels
    assert ready.run(other).isfinite().all()


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pixels: Tensor) -> Tensor:
        found = self.convolution(pixels)
        return self.norm(found) + found


class CalledTwice(UsedTwice):
    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.convolution(pixels)) + self.convolution(pixels.flip(0))


@pytest.mark.parametrize(
    "build", [UsedTwice, CalledTwice, lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))]
)
def test_a_convolution_whose_output_goes_elsewhere_as_well_keeps_its_normalisation(build):
    module = with_statistics(build())
    inputs = torch.randn(2, 3, 4, 4)
    expected = module(inputs)
    ready = prepared(module, inputs, fold_batch_norm=True)
    assert (ready.computed_by, norms(module)) == ("torch", 1)
    assert torch.equal(ready.run(inputs), expected)


def test_channels_last_computes_in_that_layout():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    inputs = torch.randn(1, 3, 16, 16)
    expected = module(inputs)
    ready = prepared(module, inputs, channels_last=True)
    found = ready.run(inputs)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert ready.computed_by == "torch, channels last"
    assert prepared(nn.Linear(2, 2), torch.ones(1, 2), channels_last=True).computed_by == "torch"


class Attention(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize(
    ("kernel", "operator"), [("math", "aten::softmax"), ("flash", "aten::_scaled_dot_product_flash_attention_for_cpu")]
)
def test_attention_is_by_the_kernel_that_was_asked_for(kernel, operator):
    ready = prepared(Attention(), torch.randn(1, 2, 8, 4), attention=kernel)
    assert "attention by " in ready.computed_by
    assert kernel in ready.computed_by
    with torch.autograd.profiler.profile() as profile:
        ready.run(torch.randn(1, 2, 8, 4))
    called = {event.name for event in profile.function_events or ()}
    # Softmax is an operator of its own only where attention is computed by products and a softmax.
    assert operator in called or operator.replace("::", "::_") in called
    assert any("flash" in name for name in called) == (kernel == "flash")
    assert prepared(nn.Linear(2, 2), torch.ones(1, 2), attention=kernel).computed_by == "torch"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"attention": "cudnn"}, "attention=cudnn is of CUDA devices; on the CPU there are math and flash"),
        ({"attention": "efficient"}, "attention=efficient is of CUDA devices"),
        ({"tf32": True}, "tf32 is of CUDA devices, and `device` is cpu"),
    ],
)
def test_an_option_that_means_nothing_on_the_device_is_refused(options, problem):
    with pytest.raises(ConfigError, match=problem):
        prepared(Attention(), torch.randn(1, 2, 8, 4), **options)


def test_the_precision_of_products_is_set_and_told():
    assert prepared(nn.Linear(2, 2), torch.ones(1, 2), matmul_precision="high").precision == (
        "float32, products in tf32 or better"
    )
    assert torch.get_float32_matmul_precision() == "high"
    case = Case("patch32", vilt=TINY, dtype="bfloat16", images=("synthetic",), device="cpu", resolution=(32, 32))
    with pytest.raises(ConfigError, match="matmul_precision is of products in float32, and `dtype` is bfloat16"):
        prepare(replace(case, backend="torch:matmul_precision=high"), torch.device("cpu"), HostTimer())
