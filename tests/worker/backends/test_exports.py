import subprocess
import sys
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.cli import main
from vilt_bench.embedding import tensors
from vilt_bench.errors import ConfigError
from vilt_bench.record.run import Computation
from vilt_bench.worker import backends
from vilt_bench.worker.backends import NotPreparedError, Prepared, StageToPrepare
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.runner import Runner, prepare

TINY = ViltConfig(hidden_size=32, layers=2, heads=4, mlp_size=64)
EXPORTS = pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
ROUNDING = 1e-5
"""A dozen roundings of float32, of 2**-24 each, and the size of sums beside that of their parts."""


def case(backend: str, embedder: str = "patch32", **asked: Any) -> Case:
    asked = {"resolution": (32, 64), "images": ("synthetic",)} | asked
    return Case(embedder, vilt=TINY, text_length=8, device="cpu", backend=backend, **asked)


def measured(asked: Case) -> tuple[Runner, Computation]:
    subject = prepare(asked, torch.device("cpu"), HostTimer())
    subject.first_call()
    subject.compare()
    found = subject.facts().computation
    assert found is not None
    return subject, found


def prepared(
    backend: str, module: nn.Module, inputs: Any, other: Any = None, dtype: torch.dtype = torch.float32, **options: Any
) -> Prepared:
    module = module.eval().to(dtype)
    with torch.no_grad():
        outputs = module(inputs)
        another = None if other is None else (other, module(other))
        stage = StageToPrepare("stage", module, inputs, outputs, torch.device("cpu"), dtype, 1, another)
        return backends.load(backend).prepare(stage, options)


@EXPORTS
@pytest.mark.parametrize(
    ("embedder", "asked"),
    [
        ("patch32", {"batch_size": 2}),
        pytest.param("grid-r50", {"resolution": (128, 128)}, marks=pytest.mark.slow),
        pytest.param("timm/vit_tiny_patch16_224", {"resolution": (224, 224)}, marks=pytest.mark.slow),
    ],
)
def test_all_stages_are_exported_and_compute_what_eager_torch_does(
    backend: str, embedder: str, asked: dict[str, Any]
) -> None:
    subject, found = measured(case(backend, embedder, **asked))
    assert found.version.startswith(f"{backend} ")
    assert {stage.fell_back for stage in found.stages} == {None}
    assert {stage.precision for stage in found.stages} == {"float32"}
    for stage in (*found.stages, found):
        assert stage.deviation is not None
        assert stage.deviation.relative < ROUNDING
    assert subject.computing.allocates_elsewhere


@EXPORTS
@pytest.mark.slow
def test_of_a_region_detector_what_finds_things_stays_with_torch_and_the_answer_is_the_same(backend: str) -> None:
    asked = case(backend, "region-r101-c4", resolution=(128, 128), images=(), options={"proposals": 20})
    _, found = measured(asked)
    by_torch = {stage.name for stage in found.stages if stage.fell_back is not None}
    assert by_torch == {"visual_embedder.proposal_nms", "visual_embedder.class_nms"}
    assert found.deviation is not None
    assert found.deviation.relative < 1e-4


class Given(NamedTuple):
    values: Tensor
    mask: Tensor | None
    size: int


class Doubled(nn.Module):
    def forward(self, inputs: Given) -> dict[str, Any]:
        return {"double": inputs.values * 2, "same": inputs.values, "none": inputs.mask, "size": inputs.size}


@EXPORTS
def test_the_output_is_of_the_same_kind_with_what_is_no_tensor_and_what_passes_through(backend: str) -> None:
    values = torch.rand(2, 3)
    ready = prepared(backend, Doubled(), Given(torch.rand(2, 3), None, 5))
    output = ready.run(Given(values, None, 5))
    assert output.keys() == {"double", "same", "none", "size"}
    assert torch.equal(output["double"], 2 * values)
    assert output["same"] is values
    assert (output["none"], output["size"]) == (None, 5)
    with pytest.raises(ValueError, match="other numbers"):
        ready.run(Given(values, None, 6))


@EXPORTS
def test_an_output_stays_as_it_is_when_the_next_pass_runs(backend: str) -> None:
    ready = prepared(backend, nn.Linear(4, 4), torch.rand(2, 4))
    first = ready.run(torch.ones(2, 4))
    before = first.clone()
    ready.run(torch.zeros(2, 4))
    assert torch.equal(first, before)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("onnxruntime", torch.float32), ("openvino", torch.float32), ("openvino", torch.bfloat16)],
)
def test_an_output_that_nobody_holds_is_written_again_in_the_same_place_and_none_that_a_view_holds(
    backend: str, dtype: torch.dtype
) -> None:
    layer = nn.Linear(4, 4)
    given = torch.rand(2, 4, dtype=dtype)
    ready = prepared(backend, layer, given, dtype=dtype)
    place = ready.run(given).data_ptr()
    assert {ready.run(given).data_ptr() for _ in range(3)} == {place}
    held = [ready.run(given * factor)[0] for factor in range(4)]
    torch.testing.assert_close(held, [layer(given * factor)[0] for factor in range(4)], rtol=0.02, atol=0.02)
    assert len({each.data_ptr() for each in held}) == 4


@EXPORTS
def test_the_input_may_lie_otherwise_in_memory_than_the_example(backend: str) -> None:
    layer = nn.Linear(4, 4)
    ready = prepared(backend, layer, torch.rand(3, 4))
    turned = torch.rand(4, 3).t()
    torch.testing.assert_close(ready.run(turned), layer(turned))


@EXPORTS
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_inputs_and_outputs_of_whole_numbers_and_truths_keep_their_type(backend: str, dtype: torch.dtype) -> None:
    class Turned(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flip(0)

    given = torch.tensor([1, 0, 0]).to(dtype)
    output = prepared(backend, Turned(), given).run(given)
    assert output.dtype == dtype
    assert torch.equal(output, given.flip(0))


@EXPORTS
def test_sizes_that_another_batch_has_otherwise_are_left_open(backend: str) -> None:
    layer = nn.Linear(4, 2)
    ready = prepared(backend, layer, torch.rand(3, 4), other=torch.rand(7, 4))
    for rows in (3, 7, 5):
        given = torch.rand(rows, 4)
        torch.testing.assert_close(ready.run(given), layer(given))


class Specialised(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * float(inputs.sum() > 0) if not torch.compiler.is_exporting() else inputs


@EXPORTS
def test_a_graph_that_is_right_for_its_example_only_is_refused_with_how_far_it_is_off(backend: str) -> None:
    with pytest.raises(NotPreparedError, match="of another batch of the case, its output differs by 1 of the largest"):
        prepared(backend, Specialised(), torch.ones(3), other=torch.tensor([-1.0, -0.5, 0.0]))


class Found(nn.Module):
    def forward(self, inputs: Tensor) -> list[Tensor]:
        return [row for row in inputs if row.sum() > 0]


@EXPORTS
def test_a_stage_whose_course_depends_on_values_is_left_to_torch_with_a_reason(backend: str) -> None:
    with pytest.raises(NotPreparedError, match=r"torch.export does not take it: .*data-dependent"):
        prepared(backend, Found(), torch.rand(3, 2))


@EXPORTS
def test_preparing_says_nothing_and_warns_of_nothing(backend: str, capfd: pytest.CaptureFixture[str]) -> None:
    prepared(backend, nn.Linear(4, 4), torch.rand(2, 4))
    assert capfd.readouterr() == ("", "")


@EXPORTS
@pytest.mark.parametrize("whole", [":whole", ""])
def test_what_it_was_asked_for_is_what_ran(backend: str, whole: str) -> None:
    subject = prepare(case(f"{backend}{whole}"), torch.device("cpu"), HostTimer())
    assert all(stage.prepare_time_s for stage in subject.computing.stages)
    assert len(subject.computing.stages) == (3 if whole else 5)


@EXPORTS
def test_a_machines_peak_is_tried_with_the_runtimes_own_product(backend: str) -> None:
    rows, weight = torch.rand(5, 3), torch.rand(2, 3)
    (pack,) = getattr(backends.load(backend), "PRODUCTS", {}).values()
    assert pack in backends.products("torch").values()
    product = pack(weight)
    assert product is not None
    torch.testing.assert_close(product(rows), rows @ weight.t())
    assert pack(weight.to("meta")) is None


def test_openvino_computes_bfloat16_and_says_so_where_it_is_asked_to() -> None:
    values = torch.rand(64, 64)
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        expected = layer(values)
        ready = prepared("openvino", layer, values, precision="bf16")
        difference = (ready.run(values) - expected).norm() / expected.norm()
    assert ready.precision == "bfloat16"
    assert 2**-12 < difference < 2**-6  # bfloat16 keeps 8 bits: a rounding is 2**-9 of a number at most


def test_openvino_takes_and_returns_bfloat16_in_a_case_of_bfloat16() -> None:
    values = torch.rand(8, 64).bfloat16()
    layer = nn.Linear(64, 64)
    ready = prepared("openvino", layer, values, dtype=torch.bfloat16)
    output = ready.run(values)
    assert (output.dtype, ready.precision) == (torch.bfloat16, "bfloat16")
    torch.testing.assert_close(output, layer(values), rtol=2**-7, atol=2**-7)


def test_to_prepare_for_openvino_tells_nobody() -> None:
    script = (
        "import sys, torch; from vilt_bench.worker.backends import _openvino_request;"
        "sys.exit(any(name.startswith('openvino_telemetry.') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("onnxruntime:provider=CUDAExecutionProvider", "there is no CUDAExecutionProvider here; python -m pip install"),
        ("onnxruntime:provider=Fast", "there is no Fast here; there are "),
        ("openvino:device=GPU", "there is no device GPU here; there is CPU"),
        ("openvino:device=XPU", "there is no device XPU here; there is CPU"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        prepare(case(text), torch.device("cpu"), HostTimer())
    assert "\n" not in str(caught.value)


def test_onnx_runtime_refuses_a_precision_that_it_would_not_compute_in() -> None:
    with pytest.raises(ConfigError, match="computes in float32 on the CPU, and `dtype` is bfloat16"):
        prepare(case("onnxruntime", dtype="bfloat16"), torch.device("cpu"), HostTimer())


def test_an_option_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "patch32", "--backend", "openvino:precision=f8"]) == 2
    assert "openvino: precision must be one of f32, bf16, f16; got f8" in capsys.readouterr().err


@EXPORTS
def test_without_the_packages_pips_line_is_told(backend: str) -> None:
    script = (
        f"import sys; sys.modules[{backend!r}] = None; from vilt_bench.cli import main;"
        f"sys.exit(main(['run', 'patch32', '--backend', {backend!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"python -m pip install '{backend}>=" in line


def test_nothing_of_them_is_imported_where_another_backend_is_asked_for() -> None:
    script = (
        "import sys; from vilt_bench.worker import backends, runner;"
        "tried = [each for name in backends.names() for each in backends.own_products(name)]; backends.check('torch');"
        "sys.exit(len(tried) != 1 or bool({'onnx', 'onnxruntime', 'openvino', 'nncf', 'torchao'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@EXPORTS
def test_what_a_stage_returns_are_tensors_of_torch_that_hold_their_memory(backend: str) -> None:
    output = prepared(backend, Doubled(), Given(torch.ones(2, 3), None, 1)).run(Given(torch.ones(2, 3), None, 1))
    assert all(each.is_contiguous() for each in tensors(output))
    assert output["double"].sum() == 12


class Reinterpreted(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.view(torch.int32)


@EXPORTS
def test_what_a_converter_has_no_rule_for_is_named_in_the_reason(backend: str) -> None:
    with pytest.raises(NotPreparedError, match=r"aten\.view.*dtype") as caught:
        prepared(backend, Reinterpreted(), torch.rand(3))
    assert not {"\n", "\x1b"} & {*str(caught.value)}


class Copied(nn.Module):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        double = inputs * 2
        return double, inputs.clone(), double


@EXPORTS
def test_what_a_stage_copies_or_returns_twice_is_written_too(backend: str) -> None:
    ready = prepared(backend, Copied(), torch.zeros(2, 3))
    ready.run(torch.zeros(2, 3))
    double, same, again = ready.run(torch.ones(2, 3))
    assert (double.sum(), same.sum(), again.sum()) == (12, 6, 12)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_int8_rounds_weights_and_activations_to_256_steps_and_is_told(
    backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    values = torch.rand(32, 64) - 0.5
    with torch.no_grad():
        expected = layer(values)
        stage = StageToPrepare(
            "stage", layer, values, expected, torch.device("cpu"), torch.float32, 1, None, quantize="int8"
        )
        ready = backends.load(backend).prepare(stage, {})
        difference = (ready.run(values) - expected).norm() / expected.norm()
    assert ready.precision == "int8"
    assert "int8 weights and activations" in ready.computed_by
    assert (
        2**-11 < difference < 2**-4
    )  # a step is 2**-7 of the largest value, and the largest some three times the usual
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_a_case_in_int8_is_compared_with_float32_and_names_what_quantised(backend: str) -> None:
    subject, found = measured(case(backend, quantize="int8"))
    told = {stage.name: stage.precision for stage in found.stages}
    assert told["modality_interaction.transformer"] == "int8"
    assert "int8" not in told["modality_interaction.concatenation"]
    assert {stage.fell_back for stage in found.stages} == {None}
    assert found.deviation is not None
    assert 1e-4 < found.deviation.relative_l2 < 0.2
    assert not any("Nothing is computed in int8" in remark for remark in subject.remarks())
    assert subject.count().stages


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"backend": "onnxruntime", "quantize": "int8"},
            "Nothing is computed in int8: onnxruntime has quantised none of the stages.",
        ),
    ],
)
def test_what_comes_to_nothing_in_a_net_of_convolutions_is_remarked(asked: dict[str, Any], said: str) -> None:
    alone = Case("grid-r50", resolution=(64, 64), images=("synthetic",), interaction="none", device="cpu", **asked)
    subject, _ = measured(alone)
    assert said in subject.remarks()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--backend", "onednn", "--quantize", "int8"], "--quantize int8 is none that --backend onednn has"),
        (
            ["--backend", "openvino", "--quantize", "fp8"],
            "--quantize fp8 is none that --backend openvino has; it has int8",
        ),
        (["--quantize", "int3"], "must be one of int8, fp8; got 'int3'"),
    ],
)
def test_what_a_backend_can_not_quantise_to_is_refused_in_one_line(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "patch32", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--quantize" in line
    assert problem in line


@pytest.mark.parametrize(
    ("able", "is_told"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_vnni": False, "avx_vnni": False}, True),  # a Skylake
        ({"architecture": "x86_64", "avx2": True, "avx512_vnni": False, "avx_vnni": True}, False),  # an Alder Lake
        ({"architecture": "aarch64"}, False),
    ],
)
def test_a_processor_without_instructions_for_int8_is_remarked(
    able: dict[str, Any], is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    subject = prepare(case("torch", quantize="int8"), torch.device("cpu"), HostTimer())
    assert any("no instructions for products in int8" in remark for remark in subject.remarks()) == is_told


def test_fp8_is_refused_where_the_device_has_none() -> None:
    with pytest.raises(ConfigError, match=r"fp8 by torch needs a GPU of compute capability 8\.9 or later"):
        prepare(case("torch", quantize="fp8"), torch.device("cpu"), HostTimer())


def test_an_older_version_refuses_a_quantised_case_and_this_one_reads_it_as_it_was() -> None:
    asked = case("torch", quantize="int8")
    assert asked.linear not in ("torch", "onednn")
    assert (asked.backend, asked.quantize) == ("torch", "int8")


class PutInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.work = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        self.work(inputs)
        return inputs + 1


@EXPORTS
def test_a_stage_of_which_a_graph_would_leave_work_out_stays_with_torch(backend: str) -> None:
    with pytest.raises(NotPreparedError, match="a graph would leave out work, whose output is not used"):
        prepared(backend, PutInPlace(), torch.rand(2, 4))
