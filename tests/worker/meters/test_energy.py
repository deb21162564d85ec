import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vilt_bench.machine.gpu import open_gpu
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
