import logging
import subprocess
import sys

import pytest
import torch
from torch import nn

from vilt_bench.worker.meters.meta import building, without_compiler

COUNT = """
import sys
from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.worker.count import inspect
model, stages = inspect(Case("patch32", resolution=(64, 64), vilt=ViltConfig(hidden_size=32, layers=1, heads=2)))
print(sum(stage.flops for stage in stages), "torch._dynamo" in sys.modules)
"""


def test_counting_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True)
    flops, imported = done.stdout.split()
    assert int(flops) > 0, done.stderr
    assert imported == "False"


def test_a_computation_that_needs_the_compiler_gets_it() -> None:
    program = """
from vilt_bench.worker.meters.meta import without_compiler
calls = []
def compute():
    calls.append(1)
    from torch._dynamo import config
    return config.cache_size_limit
print(without_compiler(compute) > 0, len(calls))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "2"], done.stderr


def test_an_error_of_the_computation_is_raised() -> None:
    def fail() -> None:
        raise AttributeError("its own")

    with pytest.raises(AttributeError, match="its own"):
        without_compiler(fail)


def test_modules_built_on_meta_are_as_those_built_elsewhere_but_for_values() -> None:
    def build() -> nn.Module:
        module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Embedding(3, 8))
        nn.init.trunc_normal_(module[0].weight)
        return module

    with building():
        meta = build()
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in build().state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in meta.state_dict().items()} == shapes
    assert all(tensor.is_meta for tensor in meta.state_dict().values())
    with building():
        assert torch.zeros(3, device="cpu").normal_().std() > 0


def test_who_shows_a_model_is_not_told_what_torch_objects_to_in_another_package(caplog):
    with building():
        logging.getLogger("torch.utils._pytree").warning("an Enum is supported by now")
    assert caplog.text == ""
