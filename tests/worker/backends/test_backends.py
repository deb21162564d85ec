import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vilt_bench.ask.case import Case, ViltConfig, parse_backend, write_backend
from vilt_bench.cli import main
from vilt_bench.errors import ConfigError, DeviceError
from vilt_bench.record.run import Deviation, Failure
from vilt_bench.worker import backends
from vilt_bench.worker.failures import StageError, failure_of
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.runner import prepare

TOY = """
OPTIONS = {"slow": bool, "speed": ("low", "high"), "times": int}
DEVICES = ("cpu",)

def prepare(stage, options):
    from torch import nn
    from vilt_bench.worker.backends import NotPreparedError, Prepared

    linears = [layer for layer in stage.module.modules() if type(layer) is nn.Linear]
    if not linears:
        raise NotPreparedError("it has no linear layers")
    packed = sum(layer.weight.nbytes for layer in linears)
    return Prepared(lambda inputs: stage.module(inputs), "a toy", "float32", packed_bytes=packed)

def version():
    return "toy 1.0"

PRODUCTS = {"a toy's product": lambda weight: lambda rows: rows @ weight.t()}
"""
TINY = ViltConfig(hidden_size=32, layers=2, heads=4, mlp_size=64)
WEIGHT_BYTES = 4 * (2 * (3 * 32 * 32 + 32 * 32 + 2 * 32 * 64) + 32 * 32)
"""Of the linear layers, by the shapes of equations (4) to (6): queries, keys, values; projection; MLP; the pooler's."""


def case(backend: str, **asked: Any) -> Case:
    return Case(
        "patch32",
        vilt=TINY,
        resolution=(32, 32),
        text_length=8,
        device="cpu",
        images=("synthetic",),
        backend=backend,
        **asked,
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
    assert subject.computing.packed_bytes == WEIGHT_BYTES
    assert subject.facts().linear.startswith("toy, except by torch textual_embedder, ")
    plain = prepare(case("torch"), torch.device("cpu"), HostTimer())
    assert (plain.facts().linear, plain.computing.packed_bytes) == ("torch", 0)
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
    assert {"onednn", "torch", "toy"} < {*backends.names()}
    check_that_the_toy_computes()


def test_a_backend_is_one_file_in_the_folder_of_backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{backends.__name__}.toy", raising=False)
    assert {"onednn", "torch", "toy"} < {*backends.names()}
    check_that_the_toy_computes()


def test_an_unknown_backend_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "patch32", "--backend", "tensor-rt"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--backend 'tensor-rt' is none that is known" in line
    assert re.search(r"there are .*\bonednn, .*\btorch\b", line)
    with pytest.raises(ConfigError, match=r"there are .*onednn, .*torch"):
        prepare(case("tensor-rt"), torch.device("cpu"), HostTimer())


def test_a_backend_that_two_packages_offer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, "toy_one", distribution="one")
    offer(tmp_path, "toy_other", distribution="other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="uninstall all but one"):
        backends.load("toy")


@pytest.mark.parametrize(
    ("text", "problem"),
    [("raise KeyError('a\\nb')", "KeyError"), ("def prepare(stage, options): ...", "no function version")],
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
        "import sys; from vilt_bench.worker import backends; backends.names();"
        "backends.check('onednn'); backends.check('torch:channels_last', 'cpu');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_torchs_own_layers_are_left_as_they_are_and_nothing_is_compared() -> None:
    subject = prepare(case("torch"), torch.device("cpu"), HostTimer())
    subject.first_call()
    subject.compare()
    assert subject.facts().computation is None
    assert subject.computing.prepare_time_s is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("torch:channels_lasst", "no option 'channels_lasst'; did you mean 'channels_last'?"),
        ("torch:attention=fast", "attention must be one of math, flash, efficient, cudnn; got fast"),
        ("torch:attention", "got no value"),
        ("torch:channels_last=3", "channels_last must be true or false, got 3"),
        ("torch:tf32,tf32", "'tf32' is given twice"),
        ("torch:", "is not KEY or KEY=VALUE"),
        ("channels_last", "'channels_last' is an option of torch; write torch:channels_last"),
        ("onedn", "did you mean 'onednn'?"),
        ("torch,onednn:fast", "onednn has no option 'fast'"),
    ],
)
def test_what_a_backend_has_not_is_refused_in_one_line(
    text: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "patch32", "--backend", text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--backend" in line
    assert problem in line


def test_a_device_that_a_backend_can_not_use_is_refused() -> None:
    with pytest.raises(DeviceError, match="`backend` onednn can't use cuda:0; give `device` cpu"):
        backends.check("onednn", "cuda:0")


def test_what_a_backend_needs_and_is_not_installed_is_told_with_pips_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "toy_that_needs")
    (tmp_path / "toy_that_needs.py").write_text(f"{TOY}\nNEEDS = {{'no_such_package': 'toy-backend[fast]'}}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"no_such_package, which is not installed; python -m pip install 'toy-"):
        backends.check("toy")


def test_a_stage_that_can_not_be_prepared_is_recorded_with_the_reason_and_strict_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "toy_that_falls_back")
    monkeypatch.syspath_prepend(tmp_path)
    subject = prepare(case("toy"), torch.device("cpu"), HostTimer())
    subject.first_call()
    subject.compare()
    found = subject.facts().computation
    assert found is not None
    told = {stage.name: (stage.computed_by, stage.fell_back) for stage in found.stages}
    assert told["textual_embedder"] == ("torch", "it has no linear layers")
    assert told["modality_interaction.transformer"] == ("a toy", None)
    assert found.version == "toy 1.0"
    assert found.deviation == Deviation(0.0, 0.0, 0.0)
    with pytest.raises(ConfigError, match=r"toy can't prepare textual_embedder: it has no linear layers; leave strict"):
        prepare(case("toy:strict"), torch.device("cpu"), HostTimer())


@pytest.mark.parametrize(
    ("backend", "asked", "reason"),
    [
        ("onednn", {}, "it has no linear layers"),
        ("torch", {"quantize": "int8"}, "it has no linear layers"),
        ("torch:fold_batch_norm", {}, "there is nothing in it for fold_batch_norm"),
    ],
)
def test_a_backend_that_finds_nothing_at_all_to_compute_is_no_name_for_eager_torch(
    backend: str, asked: dict[str, str], reason: str
) -> None:
    # What is left of patch32 is a convolution, without a normalisation.
    alone = Case(
        "patch32",
        resolution=(32, 32),
        interaction="none",
        device="cpu",
        images=("synthetic",),
        backend=backend,
        quantize=asked.get("quantize"),
    )
    subject = prepare(alone, torch.device("cpu"), HostTimer())
    subject.first_call()
    subject.compare()
    found = subject.facts().computation
    assert found is not None
    assert {stage.fell_back for stage in found.stages} == {reason}
    name = "torch in int8" if asked else backend
    assert subject.computing.description == f"torch ({name} asked for, but {reason})"
    strict = write_backend(backend.partition(":")[0], {**parse_backend(backend)[1], "strict": True})
    with pytest.raises(ConfigError, match=rf"finds nothing to compute in visual_embedder.projection: {reason}"):
        prepare(replace(alone, backend=strict), torch.device("cpu"), HostTimer())


def test_as_a_whole_embedder_and_interaction_are_a_stage_each() -> None:
    subject, plain = (prepare(case(text), torch.device("cpu"), HostTimer()) for text in ("torch:whole", "torch"))
    subject.first_call(), plain.first_call()
    subject.compare()
    ours, theirs = subject.count().stages, plain.count().stages
    assert [stage.name for stage in ours] == ["textual_embedder", "visual_embedder.whole", "modality_interaction.whole"]
    assert sum(stage.parameters for stage in ours) == sum(stage.parameters for stage in theirs)
    assert sum(stage.flops or 0 for stage in ours) == sum(stage.flops or 0 for stage in theirs)
    assert subject.block(0.001).stages.keys() == {stage.name for stage in ours}


WRONG = """
def prepare(stage, options):
    from vilt_bench.worker.backends import Prepared

    def run(inputs):
        output = stage.module(inputs)
        return output._replace(pooled=output.pooled * FACTOR) if hasattr(output, "pooled") else output

    return Prepared(run, "wrong", "float32")

def version():
    return "wrong 1.0"
"""


def test_the_difference_of_a_stage_that_computes_one_percent_more_is_one_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "wrong_by_a_percent", name="wrong")
    (tmp_path / "wrong_by_a_percent.py").write_text(WRONG.replace("FACTOR", "1.01"))
    monkeypatch.syspath_prepend(tmp_path)
    subject = prepare(case("wrong"), torch.device("cpu"), HostTimer())
    subject.first_call()
    subject.compare()
    found = subject.facts().computation
    assert found is not None
    assert found.deviation is not None
    assert (found.deviation.relative, found.deviation.relative_l2) == pytest.approx((0.01, 0.01), rel=1e-3)
    largest = {stage.name: stage.deviation.relative_l2 for stage in found.stages if stage.deviation is not None}
    assert [name for name, value in largest.items() if value] == ["modality_interaction.pooler"]


def test_a_backend_whose_output_is_not_finite_fails_with_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "wrong_by_far", name="wrong")
    (tmp_path / "wrong_by_far.py").write_text(WRONG.replace("FACTOR", "float('nan')"))
    monkeypatch.syspath_prepend(tmp_path)
    subject = prepare(case("wrong"), torch.device("cpu"), HostTimer())
    subject.first_call()
    with pytest.raises(StageError) as caught:
        subject.compare()
    assert failure_of(caught.value) == Failure(
        "error",
        "NotFiniteError: its output holds NaN or infinite values where eager float32's holds numbers",
        "modality_interaction.pooler",
    )


def test_bfloat16_is_compared_with_float32_of_the_same_weights() -> None:
    subject = prepare(case("torch", dtype="bfloat16"), torch.device("cpu"), HostTimer())
    subject.first_call()
    subject.compare()
    found = subject.facts().computation
    assert found is not None
    assert found.deviation is not None
    # bfloat16 keeps 8 bits: a rounding is 2**-9 of a number at most, and each stage has several.
    assert 2**-12 < found.deviation.relative_l2 < 2**-4
    assert {stage.precision for stage in found.stages} == {"bfloat16"}


def test_the_backend_of_the_documents_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[3] / "docs" / "extend.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Prepared(" in block]
    offer(tmp_path, "backend_of_the_documents", name="autocast")
    (tmp_path / "backend_of_the_documents.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    subject = prepare(case("autocast:dtype=bfloat16"), torch.device("cpu"), HostTimer())
    subject.first_call()
    subject.compare()
    found = subject.facts().computation
    assert found is not None
    assert found.deviation is not None
    assert 2**-12 < found.deviation.relative_l2 < 2**-4
    assert {stage.name for stage in found.stages if stage.fell_back} == {
        "textual_embedder",
        "modality_interaction.concatenation",
    }
