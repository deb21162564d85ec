"""Meters against a device whose times and memory are scripted: time, memory, what a run says of both."""

import dataclasses
import time
from statistics import median

import pytest
import torch

from vilt_bench.ask.case import Case
from vilt_bench.errors import DeviceError
from vilt_bench.judge.remarks import LaunchBound, SumOfStages, WorkUnseen, remarks
from vilt_bench.machine.device import device_peak_bytes, resolve_device
from vilt_bench.machine.environment import collect, free_device_bytes
from vilt_bench.machine.gpu import open_gpu
from vilt_bench.record.run import Trial
from vilt_bench.worker.failures import StageError, failure_of
from vilt_bench.worker.meters.energy import measure_energy
from vilt_bench.worker.meters.latency import DeviceTimer, SynchronizingTimer, timer_for
from vilt_bench.worker.meters.memory import measure_memory
from vilt_bench.worker.meters.peak import measure_peak
from vilt_bench.worker.runner import prepare, time_block

pytestmark = pytest.mark.alone

MEBIBYTE = 2**20
PASSES = 7


def close(scripted_s):
    return pytest.approx(scripted_s, rel=0.01, abs=30e-6)


def lagging():
    return torch.device("lagging:0")


def spend(seconds):
    torch.ops.lagging.spend(seconds)


def passes_of(**stages):
    """Returns the samples of passes of stages, each a function that enqueues its work."""

    def forward(mark):
        for name, work in stages.items():
            work()
            if mark is not None:
                mark(name, None)

    timer = timer_for(lagging())
    series = [time_block(lambda _: forward, timer, seconds=0.0) for _ in range(PASSES)]
    return {
        name: {
            clock: median(values)
            for clock in ("device_time_s", "host_time_s", "wall_time_s")
            if (values := [value for each in series for value in getattr(times(each), clock) or ()])
        }
        for name, times in {
            "whole": lambda each: each.whole,
            "instrumented": lambda each: each.instrumented,
            **{name: lambda each, name=name: each.stages[name] for name in stages},
        }.items()
    }, series


def said(make_run, series, kind):
    trials = tuple(Trial(index, "2026-11-24T03:55:01+00:00", samples=each) for index, each in enumerate(series))
    run = dataclasses.replace(make_run(), trials=trials, stages=())
    return [remark for remark in remarks(run) if isinstance(remark, kind)]


def scripted_stages():
    return passes_of(backbone=lambda: spend(0.010), class_nms=lambda: spend(0.030), projection=lambda: spend(0.005))


def test_stage_times_are_the_scripted_ones_and_the_hosts_stand_beside(on_device, make_run):
    found, series = on_device(scripted_stages)
    assert found["backbone"]["device_time_s"] == close(0.010)
    assert found["class_nms"]["device_time_s"] == close(0.030)
    assert found["projection"]["device_time_s"] == close(0.005)
    assert found["whole"]["device_time_s"] == close(0.045)
    assert found["instrumented"]["device_time_s"] == close(0.045)
    assert found["whole"]["wall_time_s"] >= found["whole"]["device_time_s"]
    assert all(found[name]["host_time_s"] < 0.005 for name in found)
    assert all("wall_time_s" not in found[name] for name in ("backbone", "class_nms", "projection"))
    (beside,) = said(make_run, series, SumOfStages)
    assert beside.found == "small"
    assert not said(make_run, series, LaunchBound | WorkUnseen)


def operators():
    matrix = torch.ones(8, 8, device=lagging())
    torch.ops.lagging.set_cost("aten::mm", 0.004)
    torch.ops.lagging.set_cost("aten::relu", 0.007)
    try:
        with torch.inference_mode():
            return passes_of(
                products=lambda: [matrix @ matrix for _ in range(5)], activation=lambda: torch.relu(matrix)
            )[0]
    finally:
        torch.ops.lagging.set_cost("aten::mm", 0.0)
        torch.ops.lagging.set_cost("aten::relu", 0.0)


def test_stages_take_what_their_operators_take(on_device):
    found = on_device(operators)
    # The device waits for the host only before the first product.
    assert 0.020 <= found["products"]["device_time_s"] < 0.024
    assert found["activation"]["device_time_s"] == close(0.007)


def waiting_stages():
    value = torch.ones(1, device=lagging())

    def look():
        spend(0.005)
        value.item()

    def sleep():
        spend(0.001)
        time.sleep(0.008)

    return passes_of(backbone=lambda: spend(0.020), class_nms=look, host=sleep, projection=lambda: spend(0.010))


def test_stages_that_wait_for_the_host_or_the_device_are_told(on_device, make_run):
    found, series = on_device(waiting_stages)
    assert found["class_nms"]["device_time_s"] >= 0.005
    assert found["class_nms"]["host_time_s"] >= 0.024  # it has waited for the backbone too
    assert found["host"]["device_time_s"] >= 0.008  # of which it was idle for 7 ms
    assert found["projection"]["device_time_s"] == close(0.010)
    (bound,) = said(make_run, series, LaunchBound)
    assert bound.stages == ("class_nms", "host")


def launches():
    return passes_of(many=lambda: [spend(1e-7) for _ in range(500)], one=lambda: spend(0.010))


def test_a_stage_of_many_small_operators_is_launch_bound(on_device, make_run):
    found, series = on_device(launches)
    assert found["many"]["device_time_s"] > 500e-7  # which is all that it has to do
    assert found["many"]["host_time_s"] == pytest.approx(found["many"]["device_time_s"], rel=0.2)
    (bound,) = said(make_run, series, LaunchBound)
    assert bound.stages == ("many",)


def on_side_stream(joined):
    side = torch.Stream(lagging())

    def work():
        with side:
            spend(0.020)
        if joined:
            torch.accelerator.current_stream().wait_stream(side)

    return passes_of(backbone=work, projection=lambda: spend(0.001))


def test_work_on_a_side_stream_that_device_times_do_not_show_is_told(on_device, make_run):
    found, series = on_device(on_side_stream, False)
    assert found["whole"]["device_time_s"] < 0.005
    assert found["whole"]["wall_time_s"] >= 0.020
    (unseen,) = said(make_run, series, WorkUnseen)
    assert unseen.beyond_s == pytest.approx(0.019, rel=0.1)


def test_work_on_a_side_stream_that_the_pass_waits_for_is_in_its_times(on_device, make_run):
    found, series = on_device(on_side_stream, True)
    assert found["backbone"]["device_time_s"] == pytest.approx(0.020, rel=0.05)
    assert found["projection"]["device_time_s"] == close(0.001)
    assert not said(make_run, series, WorkUnseen)


def synchronisations():
    timer = timer_for(lagging())
    before = torch.ops.lagging.synchronizations()

    def forward(mark):
        for name in ("one", "two", "three"):
            spend(0.001)
            if mark is not None:
                mark(name, None)

    timer.by_stage(forward)
    timer.whole(forward)
    return torch.ops.lagging.synchronizations() - before


def test_a_pass_synchronises_twice_whatever_stages_it_has(on_device):
    assert on_device(synchronisations) == 4  # before and after each of two passes


def untouched():
    device = lagging()
    first, last = (torch.Event(device, enable_timing=True) for _ in range(2))
    try:
        first.record()
        spend(0.010)
        last.record()
        torch.accelerator.synchronize(device)
        first.elapsed_time(last)
        alone = "timed"
    except RuntimeError as error:
        alone = str(error)
    return alone, type(timer_for(device)), passes_of(one=lambda: spend(0.010))[0]


def test_a_device_that_nothing_has_used_yet_is_timed_by_its_events(on_fresh_device):
    alone, timer, found = on_fresh_device(untouched)
    assert "must be completed" in alone  # torch synchronises only devices that it has seen used
    assert timer is DeviceTimer
    assert found["one"]["device_time_s"] == close(0.010)


def untimed():
    torch.ops.lagging.set_timed_events(False)
    try:
        timer = timer_for(lagging())
        runner = prepare(case(), lagging(), timer)
        runner.first_call()
        return type(timer), runner.block(0.0), runner.remarks()
    finally:
        torch.ops.lagging.set_timed_events(True)


def test_a_device_without_a_clock_between_stages_says_so(on_device):
    timer, series, told = on_device(untimed)
    assert timer is SynchronizingTimer
    assert min(series.whole.wall_time_s) >= 0.006
    assert not series.stages
    assert "lagging has no clock between stages" in told[0]


def memory_by_stage():
    device = lagging()

    def forward(mark):
        kept = torch.empty(MEBIBYTE, dtype=torch.uint8, device=device)
        mark("keeps one", kept)
        torch.empty(3 * MEBIBYTE, dtype=torch.uint8, device=device)
        mark("passes three", kept)
        mark("nothing", kept)

    before = torch.accelerator.memory_allocated(device)
    torch.accelerator.reset_peak_memory_stats(device)
    torch.empty(5 * MEBIBYTE, dtype=torch.uint8, device=device)
    peak = device_peak_bytes(device)
    reading = measure_memory(forward, [], device)
    return (
        (peak - before) / MEBIBYTE,
        reading.method,
        {
            name: [
                (size - before) / MEBIBYTE
                for size in (memory.live_before_bytes, memory.peak_bytes, memory.live_after_bytes)
            ]
            for name, memory in reading.stages.items()
        },
    )


def test_memory_by_stage_is_that_of_the_devices_allocator(on_device):
    peak, method, found = on_device(memory_by_stage)
    assert peak == 5
    assert method == "torch.lagging's allocator, peak reset at each stage"
    assert found == {"keeps one": [0, 1, 1], "passes three": [1, 4, 1], "nothing": [1, 1, 1]}


def case(**options):
    return Case(
        "lagging.embedder:scripted",
        options=options,
        interaction="none",
        images=("synthetic",),
        device="lagging",
        threads=1,
    )


def failure(**options):
    runner = prepare(case(**options), lagging(), timer_for(lagging()))
    try:
        runner.first_call()
        runner.block(0.0)
    except (StageError, RuntimeError) as error:
        return failure_of(error)


def out_of_memory():
    torch.ops.lagging.set_memory(torch.accelerator.memory_allocated(lagging()) + 4 * MEBIBYTE)
    try:
        return failure(passing_mib=8), free_device_bytes(lagging()) / MEBIBYTE
    finally:
        torch.ops.lagging.set_memory(2**50)


def test_a_device_out_of_memory_is_told_with_its_stage(on_device):
    found, free_mib = on_device(out_of_memory)
    assert (found.kind, found.stage) == ("out-of-memory", "visual_embedder.backbone")
    assert free_mib == pytest.approx(4, abs=1)


def in_first_call():
    return failure(fail_in=1, backbone_ms=30.0)


def in_a_block():
    return failure(fail_in=2)


def test_an_asynchronous_failure_is_told_of_its_own_stage_in_the_first_call(on_fresh_device):
    found = on_fresh_device(in_first_call)
    assert (found.kind, found.stage) == ("error", "visual_embedder.projection")
    assert found.message == (
        "AcceleratorError: the device is lost (an asynchronous failure of the device, by work of this stage)"
    )


def test_an_asynchronous_failure_of_a_timed_pass_is_told_of_no_stage(on_fresh_device):
    found = on_fresh_device(in_a_block)
    assert (found.kind, found.stage) == ("error", None)
    assert found.message.endswith("(an asynchronous failure of the device, by work of any stage until then)")


def lost_before_timing():
    torch.zeros(1, device=lagging())
    spend(0.3)
    torch.ops.lagging.fail("the device is lost")  # when that is over: while events are probed
    try:
        return type(timer_for(lagging()))
    except torch.AcceleratorError as error:
        return str(error)


def test_a_device_that_has_failed_is_not_taken_for_one_without_a_clock(on_fresh_device):
    assert on_fresh_device(lost_before_timing) == "the device is lost"


def what_is_there():
    device = resolve_device("auto")
    environment = collect(device, threads=1)
    try:
        resolve_device("lagging:3")
    except DeviceError as error:
        refused = str(error)
    gpu = open_gpu(device)
    return (
        [str(device), str(resolve_device("lagging")), str(resolve_device("cpu"))],
        (environment.device, environment.device_name, environment.hardware["gpu_memory_bytes"]),
        environment.fingerprint != collect(torch.device("cpu"), threads=1).fingerprint,
        refused,
        (gpu, measure_energy(lambda: None, lambda: None, gpu)),
    )


def test_a_device_that_another_package_brings_is_found_and_described(on_device):
    devices, described, differs, refused, (gpu, energy) = on_device(what_is_there)
    assert devices == ["lagging:0", "lagging:0", "cpu"]
    assert described == ("lagging:0", "lagging", str(2**50))
    assert differs
    assert refused == "`device` lagging:3: there is no such lagging device; there is lagging, cpu"
    assert gpu is energy is None


def peaks_largest_bytes():
    return measure_peak(lagging(), torch.float32, time_s=0.001).bandwidths[-1][0]


def test_a_slow_device_is_not_asked_for_the_work_of_a_fast_one(on_device):
    # 20 times a gibibyte takes a datacentre's GPU 10 ms, and this one, which computes on the host, seconds.
    assert on_device(peaks_largest_bytes) < 2**30
