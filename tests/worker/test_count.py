"""What `show` can't show is told with part, line and cause; what `run` measures, with its command."""

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vilt_bench.ask.case import Case, ViltConfig, command_line
from vilt_bench.cli import run
from vilt_bench.cli.options import cases
from vilt_bench.errors import EmbedderError
from vilt_bench.worker import count, failures, runner
from vilt_bench.worker.catalog import compute
from vilt_bench.worker.meters.latency import HostTimer

CPU = torch.device("cpu")
TINY = ViltConfig(hidden_size=32, layers=1, heads=4, mlp_size=64)
MODULE = """
import torch
from torch import nn
from vilt_bench.embedding import VisualEmbedder, VisualTokens

class First(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, images):
        return VisualTokens(self.layer(self.choose(images.pixels.flatten(2).transpose(1, 2))))  # layer

    def choose(self, pixels):
        return pixels[:, :4]

class ByValue(First):
    def choose(self, pixels):
        return pixels[:, : 4 + int(pixels.mean().item() * 0)]  # values

class BySelection(First):
    def choose(self, pixels):
        return pixels[pixels > -torch.inf].view(1, -1, 3)[:, :4]  # shapes

class OnTheHost(First):
    def choose(self, pixels):
        return pixels[:, :4] + torch.ones(3)  # constant

class Transposed(First):
    def choose(self, pixels):
        return pixels.transpose(1, 2)

class Missing(First):
    def choose(self, pixels):
        return self.chosen[pixels]  # missing

class Looking(First):
    def choose(self, pixels):
        return {}["meta"]  # looking

class Unknown(First):
    def choose(self, pixels):
        return pixels[:, :3] @ torch.linalg.inv(pixels[:, :3])

def embedder(first, hidden_size, layer=None):
    stages = {"projection": first(layer or nn.Linear(3, hidden_size))}
    return VisualEmbedder(stages, kind="linear", hidden_size=hidden_size, resolution=(32, 32))

def value(*, hidden_size=768): return embedder(ByValue, hidden_size)
def selection(*, hidden_size=768): return embedder(BySelection, hidden_size)
def host(*, hidden_size=768): return embedder(OnTheHost, hidden_size)
def wrong(*, hidden_size=768): return embedder(Transposed, hidden_size)
def missing(*, hidden_size=768): return embedder(Missing, hidden_size)
def looking(*, hidden_size=768): return embedder(Looking, hidden_size)
def unknown(*, hidden_size=768): return embedder(Unknown, hidden_size)
def lazy(*, hidden_size=768): return embedder(First, hidden_size, nn.LazyLinear(hidden_size))

def build(*, hidden_size=768):
    rates = [rate.item() for rate in torch.linspace(0, 0.1, 2)]  # rates
    return embedder(First, hidden_size)
"""
MOE = {
    "model_type": "mixtral", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the name of a module of embedders, in the current folder."""
    name = f"acme_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def line_of(comment: str) -> int:
    return next(index for index, line in enumerate(MODULE.splitlines(), 1) if line.endswith(f"# {comment}"))


def case(embedder: str, **given: Any) -> Case:
    return Case(embedder, **{"vilt": TINY, "images": ("synthetic",), "text_length": 8, "device": "cpu", **given})


def refusal(asked: Case) -> str:
    with pytest.raises(EmbedderError) as caught:
        count.inspect(asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "comment"), [("value", "values"), ("selection", "shapes"), ("host", "constant"), ("build", "rates")]
)
def test_running_is_advised_only_where_it_measures(acme: str, name: str, comment: str) -> None:
    asked = case(f"{acme}:{name}", batch_size=1)
    said = refusal(asked)
    assert f"in {acme}.py, line {line_of(comment)}" in said
    assert "looks at values, which the meta device does not have" in said
    assert f"'{command_line(asked, 'run')}' measures it for real" in said
    subject = runner.prepare(asked, CPU, HostTimer())
    subject.first_call()  # as was promised
    stages, _, (warning,) = subject.count()
    assert all(stage.flops is None and stage.memory is not None for stage in stages)
    assert f"in {acme}.py, line {line_of(comment)}" in warning


@pytest.mark.parametrize(
    ("name", "comment", "cause"),
    [
        ("wrong", "layer", "RuntimeError: "),
        ("missing", "missing", "AttributeError: 'Missing' object has no attribute 'chosen'"),
        ("looking", "looking", "KeyError: 'meta'"),
    ],
)
def test_what_fails_in_a_run_as_well_is_told_with_stage_line_and_cause(
    acme: str, name: str, comment: str, cause: str
) -> None:
    said = refusal(case(f"{acme}:{name}"))
    assert said.startswith(f"visual_embedder.projection of {acme}:{name} fails: {cause}")
    assert said.endswith(f"in {acme}.py, line {line_of(comment)}")
    assert "vilt-bench run" not in said
    subject = runner.prepare(case(f"{acme}:{name}"), CPU, HostTimer())
    with pytest.raises(failures.StageError):
        subject.first_call()


def test_a_catalogue_tells_what_fails_from_what_only_a_run_can_show(acme: str) -> None:
    with pytest.raises(EmbedderError, match="looks at values, which the meta device does not have: RuntimeError"):
        compute(f"{acme}:value")
    with pytest.raises(EmbedderError, match=r":looking' fails: KeyError: 'meta'"):
        compute(f"{acme}:looking")
    assert compute(f"{acme}:unknown").flops is None


def test_lazy_layers_are_refused_by_both(acme: str) -> None:
    assert "has lazy layers" in refusal(case(f"{acme}:lazy"))
    with pytest.raises(EmbedderError, match="has lazy layers"):
        runner.prepare(case(f"{acme}:lazy"), CPU, HostTimer())


def test_an_operator_without_a_formula_is_named_and_its_stage_alone_is_unknown(acme: str) -> None:
    _, stages = count.inspect(case(f"{acme}:unknown"))
    unknown = [stage.name for stage in stages if stage.flops is None]
    assert unknown == ["visual_embedder.projection"]
    assert "aten::linalg_inv_ex" in next(stage.note for stage in stages if stage.name in unknown)
    subject = runner.prepare(case(f"{acme}:unknown"), CPU, HostTimer())
    subject.first_call()
    counted, _, (warning,) = subject.count()
    assert [stage.flops for stage in counted] == [stage.flops for stage in stages]
    assert warning == ("FLOPs of visual_embedder.projection are not known: there is no formula for aten::linalg_inv_ex")


@pytest.fixture
def experts(tmp_path: Path) -> Case:
    (tmp_path / "config.json").write_text(json.dumps(MOE))
    return Case(
        "patch32", resolution=(64, 96), images=("synthetic",), text_length=6, interaction=f"lm:{tmp_path}", device="cpu"
    )


def test_the_experts_that_a_token_goes_to_are_counted(experts: Case) -> None:
    width, tokens = 32, 6 + 6
    attention = 2 * width**2 + 2 * width * (width // 2)  # queries and output; keys and values of half of the heads
    router, expert = width * 8, 3 * width * 64
    scores = 2 * tokens * tokens * width  # queries with keys, and their use
    expected = 2 * 2 * (tokens * (attention + router + 2 * expert) + scores)
    _, shown = count.inspect(experts)
    assert {stage.name: stage.flops for stage in shown}["modality_interaction.prefill"] == expected
    subject = runner.prepare(experts, CPU, HostTimer())
    subject.first_call()
    counted, _, warnings = subject.count()
    assert not warnings
    assert [stage.flops for stage in counted] == [stage.flops for stage in shown]


def test_the_part_that_cannot_run_is_named_and_the_advice_keeps_what_was_asked(
    experts: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    def look(_module: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * hidden.mean().item()

    monkeypatch.setattr(MixtralSparseMoeBlock, "forward", look)
    said = refusal(experts)
    assert said.startswith(f"modality_interaction.prefill of {experts.interaction} looks at values")
    advised = re.search(r"'(vilt-bench run .*)' measures", said)
    assert advised is not None
    assert asked_for(advised[1]) == [experts]


@pytest.mark.parametrize(
    "asked",
    [
        Case("patch32"),
        Case("patch", options={"patch_size": 48}, reduce="pixel-shuffle:2", batch_size=3, seed=7, dtype="bfloat16"),
        Case("patch32", fit="native", images=("a b.png", "c.png"), preprocessing=True, threads=2, backend="onednn"),
        Case("acme:value", resolution=(64, 96), fit="crop", device="cuda:1", checkpoint="hub:a/b", vilt=TINY),
        Case("patch32", interaction="lm:./moe", text_length=99),
    ],
)
def test_a_command_line_asks_for_its_case(asked: Case) -> None:
    assert asked_for(command_line(asked, "run")) == [asked]


def asked_for(command: str) -> list[Case]:
    parser = argparse.ArgumentParser()
    run.register(lambda *_: parser)
    program, name, *words = shlex.split(command)
    assert (program, name) == ("vilt-bench", "run")
    return cases(parser.parse_args(words))
