import gzip
import json
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.cli import main
from vilt_bench.embedding import Chain
from vilt_bench.record.profile import Profile, ProfiledStage
from vilt_bench.worker.meters.flops import count_flops_within
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.profile import modules_within, profile, profile_passes
from vilt_bench.worker.runner import prepare

TINY = ViltConfig(hidden_size=32, layers=2, heads=4, mlp_size=64)
FLAGS = ["--hidden-size", "32", "--layers", "1", "--heads", "4", "--mlp-size", "64", "--resolution", "32x32"]
FLAGS += ["--text-length", "8", "--image", "synthetic", "--device", "cpu", "--max-time", "0.01"]


class Sleeps(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return inputs


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Sleeps(0.06), Sleeps(0.02)])
        self.unused = nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            inputs = block(inputs)
        return inputs


def of_chain(chain: Chain, inputs: Tensor, *, depth: int = 1) -> Profile:
    modules = {
        label: each for name, stage in chain.stages.items() for label, each in modules_within(name, stage, depth)
    }
    sizes = {label: sum(each.numel() for each in module.parameters()) for label, module in modules.items()}
    return profile_passes(
        lambda _: lambda mark: chain(inputs, mark), modules, HostTimer(), seconds=0.0, flops={}, parameters=sizes
    )


def check_sums(stage: ProfiledStage) -> None:
    assert sum(block.exclusive_s for block in stage.blocks) == pytest.approx(stage.time_s)
    assert stage.blocks[0].inclusive_s == pytest.approx(stage.time_s)
    assert sum(each.self_s for each in stage.operators) + stage.outside_s == pytest.approx(stage.time_s)


def test_modules_that_sleep_three_to_one_share_the_stage_three_to_one() -> None:
    found = of_chain(Chain({"tower": Tower()}), torch.zeros(1))
    (stage,) = found.stages
    check_sums(stage)
    times = {block.name: block.inclusive_s for block in stage.blocks}
    # Asleep is asleep: a busy machine adds to both, which brings the ratio nearer to one.
    assert 1.5 < times["blocks.0"] / times["blocks.1"] < 3.2
    assert {block.name: block.calls for block in stage.blocks} == {"": 1, "blocks.0": 1, "blocks.1": 1, "unused": 0}


def test_a_module_that_is_called_twice_has_two_calls_and_time_within_is_not_its_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(Sleeps(0.01))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(self.inner(inputs))

    (stage,) = of_chain(Chain({"stage": Twice()}), torch.zeros(1), depth=2).stages
    check_sums(stage)
    whole, inner, sleeping = stage.blocks
    assert [block.depth for block in stage.blocks] == [0, 1, 2]
    assert [block.calls for block in stage.blocks] == [1, 2, 2]
    assert sleeping.inclusive_s > 0.5 * whole.inclusive_s
    assert inner.exclusive_s == pytest.approx(inner.inclusive_s - sleeping.inclusive_s)


def test_flops_of_a_block_are_those_of_its_layers_by_their_shapes() -> None:
    asked = Case("patch32", vilt=TINY, resolution=(32, 32), text_length=8, device="cpu", images=("synthetic",))
    subject = prepare(asked, torch.device("cpu"), HostTimer())
    subject.first_call()
    found = profile(subject, seconds=0.0, depth=2)
    for each in found.stages:
        check_sums(each)
    blocks = {block.name: block for each in found.stages if "transformer" in each.name for block in each.blocks}
    tokens, width, hidden = 8 + 1 + 1, 32, 64  # text, class token, one patch
    # Equations (4) and (5): an MLP of two products; queries, keys, values and projection, QKᵀ and its product with V.
    assert blocks["blocks.0.mlp"].flops == 2 * tokens * 2 * width * hidden
    assert blocks["blocks.0.attention"].flops == 2 * tokens * 4 * width * width + 2 * 2 * tokens * tokens * width
    mlp = blocks["blocks.0.mlp"].flops
    attention = blocks["blocks.0.attention"].flops
    assert mlp is not None
    assert attention is not None
    assert blocks["blocks.0"].flops == mlp + attention
    assert blocks["blocks.1.mlp"].parameters == 2 * width * hidden + width + hidden
    assert "aten::addmm" in {each.name for stage in found.stages for each in stage.operators}


def test_behind_an_operator_without_a_formula_flops_of_the_stage_are_not_known() -> None:
    class Unknown(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.linalg.inv_ex(inputs)[0]

    first, second = nn.Linear(4, 4, bias=False), nn.Sequential(Unknown(), nn.Linear(4, 4))
    modules = {"first": first, "second": second, "third": nn.Linear(4, 4, bias=False)}
    inputs = torch.empty(4, 4, device="meta")
    for each in modules.values():
        each.to("meta")

    def forward() -> object:
        return modules["third"](modules["second"](modules["first"](inputs)))

    assert count_flops_within(forward, modules) == {"first": 128, "second": None, "third": 128}


def test_the_command_prints_and_writes_trace_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, figure = tmp_path / "trace.json.gz", tmp_path / "figure.svg"
    code = main(
        ["profile", "patch32", *FLAGS, "--format", "json", "--trace", str(trace), "--figure", str(figure), "--quiet"]
    )
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    for stage in told["stages"]:
        assert sum(block["exclusive_s"] for block in stage["blocks"]) == pytest.approx(stage["time_s"])
    names = {event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert "modality_interaction.transformer / blocks.0" in names
    assert "blocks.0" in figure.read_text()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--depth", "9"], "--depth must be between 0 and 8, got 9"),
        (["--operators", "-1"], "--operators must be 0 or more"),
        (["--trace", "trace.txt"], "expected a name with .json or .json.gz"),
        (["--figure", "figure.docx"], "--figure figure.docx: no format is known by the ending .docx"),
        (["--with-preprocessing"], "has no modules"),
        (["--backend", "compile"], "--backend compile computes a stage without its modules"),
        (["grid-r50"], "'profile' takes one embedder"),
        (["--max-time", "2h"], "--max-time must be between 0 and 600 seconds"),
    ],
)
def test_what_no_profile_has_is_refused_in_one_line(
    flags: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "patch32", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
