import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from vilt_bench.machine.gpu import open_gpu, throttle_reasons
from vilt_bench.worker.meters.energy import measure_energy


class FakeMachine:
    """A clock and a counter: 50 W at rest, 2 s and 400 J a pass."""

    def __init__(self, readings: Iterator[float | None] | None = None) -> None:
        self.now_s = 100.0
        self.used_j = 1e6
        self.calls: list[str] = []
        self.readings = readings

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.calls.append("sleep")
        self.now_s += seconds
        self.used_j += 50 * seconds

    def run_pass(self) -> None:
        self.calls.append("pass")

    def synchronize(self) -> None:
        if self.calls[-1:] == ["pass"]:
            self.now_s += 2
            self.used_j += 400
        self.calls.append("synchronize")

    def energy_j(self) -> float | None:
        return next(self.readings) if self.readings else self.used_j


def energy_of(machine: FakeMachine, **options: Any) -> Any:
    return measure_energy(
        machine.run_pass, machine.synchronize, machine, clock=machine.clock, sleep=machine.sleep, **options
    )


def test_windows_hold_whole_passes_until_their_time_is_covered() -> None:
    energy = energy_of(FakeMachine(), windows=2, least_window_s=5.0)
    assert energy.passes == (3, 3)
    assert energy.window_s == (6.0, 6.0)
    assert energy.joules_per_pass == (400.0, 400.0)


def test_idle_power_stands_beside_and_is_not_subtracted() -> None:
    energy = energy_of(FakeMachine(), idle_s=4.0)
    assert energy.idle_power_w == 50.0
    assert energy.joules_per_pass == (400.0, 400.0, 400.0)


def test_without_a_look_at_rest_idle_power_is_unknown() -> None:
    assert energy_of(FakeMachine(), idle_s=0.0).idle_power_w is None


def test_a_pass_longer_than_a_window_is_measured_once() -> None:
    assert energy_of(FakeMachine(), least_window_s=0.5).passes == (1, 1, 1)


def test_the_device_rests_before_and_is_synchronised_after_every_pass() -> None:
    machine = FakeMachine()
    energy_of(machine, windows=1)
    assert machine.calls == ["synchronize", "sleep", *["pass", "synchronize"] * 3]


def test_without_a_gpu_there_is_no_energy_and_no_pass() -> None:
    machine = FakeMachine()
    assert measure_energy(machine.run_pass, machine.synchronize, None) is None
    assert machine.calls == []


def test_a_gpu_that_does_not_count_gives_no_energy_and_no_pass() -> None:
    machine = FakeMachine(readings=iter([None]))
    assert energy_of(machine) is None
    assert machine.calls == []


@pytest.mark.parametrize("last", [None, 10.0, 9.0], ids=["lost", "standing still", "reset"])
def test_a_counter_that_fails_on_the_way_gives_no_energy(last: float | None) -> None:
    assert energy_of(FakeMachine(readings=iter([10.0, 10.0, last])), windows=1, idle_s=0.0) is None


def test_throttle_reasons_are_named_and_unknown_ones_kept() -> None:
    assert throttle_reasons(0) == ()
    assert throttle_reasons(0x1 | 0x80) == ("gpu_idle", "hw_power_brake_slowdown")
    assert throttle_reasons(1 << 40) == ("reason_0x10000000000",)


def test_a_device_that_is_not_cuda_has_no_gpu() -> None:
    assert open_gpu(torch.device("cpu")) is None


@pytest.mark.parametrize("kind", ["GPU", "MIG"])
def test_torchs_device_is_found_in_nvml_by_its_uuid(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(uuid: str) -> str:
        if uuid != f"{kind}-12ab":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "handle"

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12ab"))
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", find)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit", {"handle": 700_000}.get)
    gpu = open_gpu(torch.device("cuda:0"))
    assert gpu is not None
    assert gpu.power_limit_w() == 700


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler on Linux")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("nvml_stub.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", str(library), str(source)], check=True)
    return library.parent


def ask_stub(stub: Path, expression: str, **environment: str) -> Any:
    code = f"""
import dataclasses, json, pynvml
from vilt_bench.machine.gpu import Gpu, look_at_gpus
try:
    result = {expression}
except pynvml.NVMLError as error:
    result = type(error).__name__
print(json.dumps(result))
"""
    variables = {**os.environ, "LD_LIBRARY_PATH": str(stub), **environment}
    child = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_nvmls_numbers_become_si_units_and_what_it_does_not_tell_none(stub: Path) -> None:
    assert ask_stub(stub, "dataclasses.asdict(Gpu.open('GPU-stub').state())") == {
        "sm_clock_hz": 1.98e9,
        "memory_clock_hz": 2.619e9,
        "temperature_c": None,
        "power_w": pytest.approx(123.456),
        "throttle_reasons": ["sw_power_cap", "hw_thermal_slowdown", "reason_0x10000"],
    }


def test_energy_is_in_joules(stub: Path) -> None:
    first, second = ask_stub(stub, "(lambda gpu: [gpu.energy_j(), gpu.energy_j()])(Gpu.open('GPU-stub'))")
    assert (first, second - first) == (pytest.approx(1001.5), pytest.approx(1.5))


def test_an_unsupported_counter_is_none_not_zero(stub: Path) -> None:
    assert ask_stub(stub, "Gpu.open('GPU-stub').energy_j()", STUB_NO_ENERGY="1") is None


def test_the_counter_of_a_partitioned_gpu_counts_others_too_and_is_not_used(stub: Path) -> None:
    assert ask_stub(stub, "[Gpu.open('GPU-stub').mig(), Gpu.open('GPU-stub').energy_j()]", STUB_MIG="1") == [True, None]


def test_driver_and_partitioning_are_told_and_a_missing_power_limit_is_none(stub: Path) -> None:
    gpu = "(lambda gpu: [gpu.driver(), gpu.mig(), gpu.power_limit_w(), gpu.close()])(Gpu.open('GPU-stub'))"
    assert ask_stub(stub, gpu) == ["555.42", False, None, None]


def test_all_gpus_are_looked_at_with_their_settings_and_none_without_a_driver(stub: Path) -> None:
    (facts,) = ask_stub(stub, "[dataclasses.asdict(each) for each in look_at_gpus()]")
    assert facts.pop("state")["sm_clock_hz"] == 1.98e9
    assert facts == {
        "name": "Stub 100",
        "persistence": False,
        "highest_sm_clock_hz": 2e9,
        "busy_share": 0.25,
        "mig": False,
    }
    assert ask_stub(stub, "look_at_gpus()", STUB_NO_DRIVER="1") == []


def test_a_missing_driver_or_gpu_is_nvmls_error(stub: Path) -> None:
    assert ask_stub(stub, "Gpu.open('GPU-other')") == "NVMLError_NotFound"
    assert ask_stub(stub, "Gpu.open('GPU-stub')", STUB_NO_DRIVER="1") == "NVMLError_DriverNotLoaded"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_tells_its_state_and_uses_more_energy_at_work() -> None:
    gpu = open_gpu(torch.device("cuda:0"))
    assert gpu is not None
    state = gpu.state()
    assert state.sm_clock_hz is None or 1e8 < state.sm_clock_hz < 1e10
    assert state.temperature_c is None or 0 < state.temperature_c < 120
    if gpu.energy_j() is None:
        pytest.skip("this GPU does not count its energy")
    matrix = torch.randn(8192, 8192, device="cuda")

    def run_pass() -> None:
        torch.mm(matrix, matrix)

    run_pass()
    torch.cuda.synchronize()
    time.sleep(2)
    energy = measure_energy(
        run_pass,
        torch.cuda.synchronize,
        gpu,
        windows=1,
        least_window_s=2.0,
    )
    gpu.close()
    assert energy is not None
    assert energy.idle_power_w is not None
    power_w = energy.joules_per_pass[0] * energy.passes[0] / energy.window_s[0]
    assert energy.idle_power_w < power_w < 2000
