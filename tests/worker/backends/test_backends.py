import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.cli import main
from vilt_bench.errors import ConfigError
from vilt_bench.worker import backends
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.runner import prepare

TOY = """
from torch import nn

class Twice(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.bytes = linear.weight.nbytes

    def forward(self, inputs):
        return self.linear(inputs)

def prepare(model):
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and not isinstance(parent, Twice):
                setattr(parent, name, Twice(child))
    return "a toy"

PRODUCTS = {"a toy's product": lambda weight: lambda rows: rows @ weight.t()}

def packed_bytes(model):
    return sum(layer.bytes for layer in model.modules() if isinstance(layer, Twice))
"""
TINY = ViltConfig(hidden_size=32, layers=2, heads=4, mlp_size=64)
WEIGHT_BYTES = 4 * (2 * (3 * 32 * 32 + 32 * 32 + 2 * 32 * 64) + 32 * 32)
"""Of the linear layers, by the shapes of equations (4) to (6): queries, keys, values; projection; MLP; the pooler's."""


def case(linear: str) -> Case:
    return Case(
        "patch32",
        vilt=TINY,
        resolution=(32, 32),
        text_length=8,
        device="cpu",
        images=("synthetic",),
        linear=linear,
    )


def offer(folder: Path, module: str, *, name: str = "toy", distribution: str = "toy-backend") -> None:
    (folder / f"{module}.py").write_text(TOY)
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[vilt_bench.backends]\n{name} = {module}\n")


def check_that_the_toy_computes() -> None:
    assert "a toy's product" in backends.products("toy")
    subject = prepare(case("toy"), torch.device("cpu"), HostTimer())
    assert (subject.facts().linear, subject.packed_bytes) == ("a toy", WEIGHT_BYTES)
    plain = prepare(case("torch"), torch.device("cpu"), HostTimer())
    assert (plain.facts().linear, plain.packed_bytes) == ("torch", 0)
    subject.first_call(), plain.first_call()
    with torch.inference_mode():
        torch.testing.assert_close(*(each.model(*each.inputs.batches[0]) for each in (subject, plain)))
    (ours, _, _), (theirs, _, _) = subject.count(), plain.count()
    assert [stage.parameters for stage in ours] == [stage.parameters for stage in theirs]
    for packed, stage in zip(ours, theirs, strict=True):
        assert packed.memory is not None
        assert stage.memory is not None
        assert packed.memory.live_before_bytes - stage.memory.live_before_bytes == WEIGHT_BYTES


def test_a_package_offers_a_backend_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, "toy_backend_of_a_package")
    monkeypatch.syspath_prepend(tmp_path)
    assert backends.names() == ["onednn", "torch", "toy"]
    check_that_the_toy_computes()


def test_a_backend_is_one_file_in_the_folder_of_backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{backends.__name__}.toy", raising=False)
    assert backends.names() == ["onednn", "torch", "toy"]
    check_that_the_toy_computes()


def test_an_unknown_backend_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "patch32", "--linear", "tensor-rt"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no backend named 'tensor-rt'" in line
    assert "there are onednn, torch" in line
    with pytest.raises(ConfigError, match="there are onednn, torch"):
        prepare(case("tensor-rt"), torch.device("cpu"), HostTimer())


def test_a_backend_that_two_packages_offer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, "toy_one", distribution="one")
    offer(tmp_path, "toy_other", distribution="other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="uninstall all but one"):
        backends.load("toy")


@pytest.mark.parametrize(
    ("text", "problem"),
    [("raise KeyError('a\\nb')", "KeyError"), ("def prepare(model): ...", "no function packed_bytes")],
    ids=["broken", "incomplete"],
)
def test_a_backend_that_can_not_be_used_is_told_in_one_line(
    text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"toy_{tmp_path.name.replace('-', '_')}"
    offer(tmp_path, module)
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=problem) as caught:
        backends.load("toy")
    assert "\n" not in str(caught.value)


def test_to_find_a_backend_needs_no_torch() -> None:
    script = (
        "import sys; from vilt_bench.worker import backends; backends.check_name('onednn'); backends.names();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_torchs_own_layers_are_left_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    before = list(model.modules())
    assert backends.load("torch").prepare(model) == "torch"
    assert list(model.modules()) == before
