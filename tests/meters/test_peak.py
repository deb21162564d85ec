import pytest
import torch

from vilt_bench.meters.peak import Peak, measure_peak


def test_a_bound_is_the_larger_of_arithmetic_and_traffic() -> None:
    peak = Peak(flops_per_s=100e9, bytes_per_s=10e9)
    assert peak.bound_s(50 * 10**9, 10**9) == pytest.approx(0.5)
    assert peak.bound_s(10**9, 10**9) == pytest.approx(0.1)
    assert peak.bound_s(0, 0) == 0


def test_the_peak_of_this_machine_is_of_a_machines_size() -> None:
    peak = measure_peak(torch.device("cpu"), torch.float32, time_s=0.01)
    assert 1e8 < peak.flops_per_s < 1e14
    assert 1e7 < peak.bytes_per_s < 1e13


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_above_a_processors() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    peak = measure_peak(torch.device("cuda"), torch.bfloat16)
    assert peak.flops_per_s > 10e12
    assert peak.bytes_per_s > 100e9
