import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.cli import main
from vilt_bench.errors import ConfigError, DeviceError
from vilt_bench.worker import backends
from vilt_bench.worker.backends import NotPreparedError, StageToPrepare, _compiled, compile
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.runner import prepare

# Without code of inductor's, which takes a C++ compiler half a minute: torch finds graphs the same way.
PLAIN = "eager"


class LooksAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.linear(inputs)
        if output.sum().item() > 0:
            output = output + 1
        return self.linear(output)


class Nothing(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def to_prepare(module: nn.Module, *, device: str = "cpu", **fields: Any) -> StageToPrepare:
    inputs = torch.randn(2, 4)
    with torch.no_grad():
        return StageToPrepare(
            "visual_embedder.projection",
            module.eval(),
            inputs,
            module(inputs),
            torch.device(device),
            torch.float32,
            1,
            **fields,
        )


def test_a_stage_that_looks_at_values_is_two_graphs_and_its_break_is_told() -> None:
    _, graphs = _compiled.compile_stage(to_prepare(LooksAtValues()), PLAIN)
    assert graphs.number == 2
    (why,) = graphs.breaks
    assert ".item()" in why
    assert _compiled.told(graphs).startswith("2 graphs, 1 graph break (")


def test_stages_of_one_class_are_a_graph_each() -> None:
    for _ in range(2):
        _, graphs = _compiled.compile_stage(to_prepare(nn.Linear(4, 4)), PLAIN)
        assert _compiled.told(graphs) == "one graph"


def test_with_fullgraph_a_stage_of_several_graphs_is_not_prepared() -> None:
    with pytest.raises(NotPreparedError, match="it is not one graph"):
        _compiled.compile_stage(to_prepare(LooksAtValues()), PLAIN, fullgraph=True)


def test_a_stage_in_which_there_is_nothing_to_compile_is_not_prepared() -> None:
    with pytest.raises(NotPreparedError, match="finds nothing in it to compile"):
        _compiled.compile_stage(to_prepare(Nothing()), PLAIN)


def test_a_pass_of_the_examples_size_compiles_nothing_more_and_one_of_another_is_remarked() -> None:
    run, _ = _compiled.compile_stage(to_prepare(nn.Linear(4, 4)), PLAIN)
    with torch.inference_mode():
        run(torch.randn(2, 4))
        assert compile.remarks() == ()
        run(torch.randn(3, 4))
    (remark,) = compile.remarks()
    assert remark.startswith("The compiler made 1 more graph in passes")


def test_a_model_is_compiled_once_and_not_again_in_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    of_inductor = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **_: of_inductor(run, backend=PLAIN, dynamic=False))
    asked = Case(
        "patch32",
        vilt=ViltConfig(hidden_size=32, layers=2, heads=4, mlp_size=64),
        resolution=(32, 32),
        text_length=8,
        device="cpu",
        images=("synthetic",),
        backend="compile",
    )
    subject = prepare(asked, torch.device("cpu"), HostTimer())
    subject.first_call()
    subject.compare()
    subject.count()
    assert subject.remarks() == ()
    found = subject.facts().computation
    assert found is not None
    assert {stage.computed_by for stage in found.stages} == {"inductor: one graph, cold cache"}
    assert found.deviation is not None
    assert found.deviation.relative < 1e-5


def test_without_a_cpp_compiler_there_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as settings

    monkeypatch.setattr(settings.cpp, "cxx", (None, "no-such-compiler"))
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler .* install g\+\+ or clang, or name one in .* CXX"):
        compile.prepare(to_prepare(nn.Linear(4, 4)), {"cache": True})


@pytest.mark.slow
def test_inductor_computes_the_same_from_a_cache_that_is_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    stage = to_prepare(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)))
    ready = compile.prepare(stage, {})
    assert ready.computed_by == "inductor: one graph, cold cache"
    assert os.listdir(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    with torch.inference_mode():
        torch.testing.assert_close(ready.run(stage.inputs), stage.outputs)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("compile:mode=fast", "compile: mode must be one of default, reduce-overhead, max-autotune"),
        ("compile:full_graph", "compile has no option 'full_graph'; did you mean 'fullgraph'?"),
        ("tensorrt", "pip install torch-tensorrt"),
    ],
)
def test_what_a_compiler_has_not_is_refused_in_one_line(
    text: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "patch32", "--backend", text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--backend" in line
    assert problem in line


@pytest.mark.parametrize("name", ["cudagraph", "tensorrt"])
def test_what_is_of_cuda_only_says_so_elsewhere(name: str) -> None:
    with pytest.raises(DeviceError, match=f"`backend` {name} can't use cpu; give `device` cuda"):
        backends.check_device(name, "cpu")
