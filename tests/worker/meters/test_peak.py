import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from vilt_bench.record.peak import Peak
from vilt_bench.record.peak import best as better
from vilt_bench.worker.backends.onednn import pack_linear
from vilt_bench.worker.meters.peak import measure_peak

pytestmark = pytest.mark.alone

CPU = torch.device("cpu")
PACKED = {"packed": pack_linear}
ROUNDS = 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads wait for each other where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_bound_is_the_larger_of_arithmetic_and_traffic() -> None:
    peak = Peak(flops_per_s=100e9, bandwidths=((2**28, 10e9),))
    assert peak.bound_s(50 * 10**9, 10**9) == pytest.approx(0.95 * 0.5)
    assert peak.bound_s(10**9, 10**9) == pytest.approx(0.95 * 0.1)
    assert peak.bound_s(0, 0) == 0


def test_what_a_cache_may_hold_moves_at_the_rate_of_the_cache() -> None:
    peak = Peak(flops_per_s=100e9, bandwidths=((2**16, 50e9), (2**20, 200e9), (2**24, 40e9), (2**28, 10e9)))
    assert peak.bytes_per_s == 10e9
    assert peak.bound_s(0, 2**30) == pytest.approx(0.95 * 2**30 / 10e9)
    assert peak.bound_s(0, 2**25) == pytest.approx(0.95 * 2**25 / 40e9)
    assert peak.bound_s(0, 2**21) == pytest.approx(0.95 * 2**21 / 200e9)
    assert peak.bound_s(0, 2**10) == pytest.approx(
        0.95 * 2**10 / 200e9
    )  # small ones are bound by calls, not by the cache


def test_the_peak_of_this_machine_is_of_a_machines_size() -> None:
    peak = measure_peak(CPU, torch.float32, time_s=0.001)
    assert 1e8 < peak.flops_per_s < 1e14
    assert 1e7 < peak.bytes_per_s < 1e13


def test_the_peak_is_the_best_kernels() -> None:
    def free(weight: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda rows: rows

    peak = measure_peak(CPU, torch.float32, packed={"nothing": free, "refused": lambda weight: None}, time_s=0.001)
    assert peak.kernel == "nothing"


def test_the_better_of_two_peaks_has_the_best_of_each_part() -> None:
    one = Peak(100e9, ((2**16, 50e9), (2**28, 10e9)), "one", 0.5)
    other = Peak(200e9, ((2**16, 40e9), (2**20, 90e9)), "other", 1.0)
    assert better(one, other) == better(other, one)
    assert better(one, other) == Peak(200e9, ((2**16, 50e9), (2**20, 90e9), (2**28, 10e9)), "other", 1.0)


def test_a_brief_look_leaves_out_what_takes_long_and_says_how_long_it_took() -> None:
    begin = time.perf_counter()
    peak = measure_peak(CPU, torch.float32, time_s=0.001, brief=True)
    assert peak.took_s is not None
    assert 0 < peak.took_s <= time.perf_counter() - begin
    assert max(span for span, _ in peak.bandwidths) == 64 * 2**20
    assert peak.dtype == "float32"


def works() -> dict[str, tuple[int, int, Callable[[], object]]]:
    """Returns FLOPs, bytes moved at least, and work, of linear layers and convolutions from tiny to small."""
    found: dict[str, tuple[int, int, Callable[[], object]]] = {}
    for rows, width, out in [
        (1, 16, 16),
        (1, 512, 2048),
        (8, 64, 64),
        (64, 256, 256),
        (384, 768, 768),
        (256, 256, 256),
    ]:
        inputs, weight = torch.rand(rows, width), torch.rand(out, width)
        flops, moved = 2 * rows * width * out, 4 * (rows * width + width * out + rows * out)
        named = f"{rows}×{width}×{out}"
        found[f"linear {named}"] = flops, moved, partial(linear, inputs, weight)
        if (packed := pack_linear(weight)) is not None:
            found[f"packed {named}"] = flops, moved, partial(packed, inputs)
    for channels, edge, kernel in [(8, 8, 1), (64, 28, 3), (256, 14, 1)]:
        pixels, weight = torch.rand(1, channels, edge, edge), torch.rand(channels, channels, kernel, kernel)
        flops = 2 * edge**2 * channels**2 * kernel**2
        moved = 4 * (2 * channels * edge**2 + weight.numel())
        found[f"convolution {channels}, {edge}, {kernel}"] = (
            flops,
            moved,
            partial(conv2d, pixels, weight, padding="same"),
        )
    return found


def test_no_work_takes_less_than_its_bound() -> None:
    best_s: dict[str, float] = {}
    best: Peak | None = None
    for _ in range(ROUNDS):  # a machine that is busy while the peak is measured shows too low a peak, so look again
        with torch.inference_mode():
            for name, (_, _, work) in works().items():
                for _ in range(20):
                    start = time.perf_counter()
                    work()
                    best_s[name] = min(best_s.get(name, 1.0), time.perf_counter() - start)
        peak = measure_peak(CPU, torch.float32, packed=PACKED, time_s=0.02)
        best = peak if best is None else better(best, peak)
        below = [
            f"{name}: {best_s[name]} s, at least {bound_s} s"
            for name, (flops, moved, _) in works().items()
            if best_s[name] < (bound_s := best.bound_s(flops, moved))
        ]
        if not below:
            return
    raise AssertionError("; ".join(below))


def test_a_packed_product_is_the_layers_and_none_is_offered_where_there_is_none() -> None:
    layer = nn.Linear(64, 32, bias=False).requires_grad_(False)
    rows = torch.rand(3, 64)
    if (packed := pack_linear(layer.weight)) is not None:
        torch.testing.assert_close(packed(rows), layer(rows), rtol=1e-5, atol=1e-5)
    assert pack_linear(layer.weight.half()) is None


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_above_a_processors() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    peak = measure_peak(torch.device("cuda"), torch.bfloat16)
    assert peak.flops_per_s > 10e12
    assert peak.bytes_per_s > 100e9
