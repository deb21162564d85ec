from pathlib import Path

import pytest
import torch

from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.worker.count import Counts
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.runner import prepare

TOY = """
from torch import nn

def linear_layers(forward, stages):
    counts, pending = {}, []
    layers = [layer for stage in stages.values() for layer in stage.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda *_: pending.append(1)) for layer in layers]

    def mark(name, output):
        counts[name] = len(pending)
        pending.clear()

    forward(mark)
    for hook in hooks:
        hook.remove()
    return {name: count for name, count in counts.items() if count}

def broken(forward, stages):
    raise KeyError("a\\nb")

def stranger(forward, stages):
    return {"elsewhere": 1}
"""


def counted(folder: Path, **meters: str) -> Counts:
    module = f"toy_meters_{folder.name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(TOY)
    info = folder / "toy_meters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-meters\nVersion: 1.0\n")
    lines = (f"{name} = {module}:{function}\n" for name, function in meters.items())
    (info / "entry_points.txt").write_text("[vilt_bench.meters]\n" + "".join(lines))
    case = Case(
        "patch32",
        vilt=ViltConfig(hidden_size=32, layers=3, heads=4, mlp_size=64),
        resolution=(32, 32),
        text_length=8,
        device="cpu",
        images=("synthetic",),
    )
    runner = prepare(case, torch.device("cpu"), HostTimer())
    runner.first_call()
    return runner.count()


def test_a_packages_meter_counts_by_stage_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = {stage.name: dict(stage.counts) for stage in counted(tmp_path, toy="linear_layers").stages}
    assert found.pop("modality_interaction.transformer") == {"toy": 3 * 4}  # QKV, projection, the two of the MLP
    assert found.pop("modality_interaction.pooler") == {"toy": 1}
    assert not any(found.values())


@pytest.mark.parametrize(
    ("function", "problem"), [("broken", "KeyError: 'a"), ("stranger", "no stage is called 'elsewhere'")]
)
def test_a_meter_that_fails_is_told_and_costs_nothing_else(
    function: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = counted(tmp_path, bad=function, toy="linear_layers")
    (warning,) = found.warnings
    assert warning.startswith("The meter 'bad' (toy_meters_")
    assert problem in warning
    assert "\n" not in warning
    assert sum(stage.counts.get("toy", 0) for stage in found.stages) == 13
    assert all(stage.flops is not None and stage.memory is not None for stage in found.stages)
