import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from vilt_bench.machine.gpu import open_gpu, throttle_reasons


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
