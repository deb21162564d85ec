"""Time, on scripted clocks and devices."""

import pytest
import torch

from vilt_bench.worker.meters.fake import FakeDevice, FakeTime, scripted_forward
from vilt_bench.worker.meters.latency import DeviceTimer, HostTimer, SynchronizingTimer, timer_for

COSTS_S = {"backbone": 0.060, "class_nms": 0.300, "projection": 0.0004}


def host_timer(time):
    return HostTimer(clock_ns=time.clock_ns, cpu_clock_ns=lambda: 2 * time.now_ns)


def test_host_times_of_stages_are_what_the_stages_cost():
    time = FakeTime()
    timed = host_timer(time).by_stage(scripted_forward(COSTS_S, time.advance))
    assert {name: each.wall_time_s for name, each in timed.stages.items()} == pytest.approx(COSTS_S)
    assert {name: each.cpu_time_s for name, each in timed.stages.items()} == pytest.approx(
        {name: 2 * cost for name, cost in COSTS_S.items()}
    )
    assert timed.whole.wall_time_s == pytest.approx(sum(COSTS_S.values()))


def test_the_whole_is_timed_without_marks():
    time = FakeTime()
    seen = []

    def forward(mark):
        seen.append(mark)
        time.advance(0.25)

    assert host_timer(time).whole(forward).wall_time_s == pytest.approx(0.25)
    assert seen == [None]


def test_what_the_host_clock_measured_is_not_claimed_for_a_device():
    time = FakeTime()
    timed = host_timer(time).whole(scripted_forward(COSTS_S, time.advance))
    assert timed.device_time_s is None
    assert timed.host_time_s is None


def test_device_times_come_from_events_and_host_times_stand_beside():
    device = FakeDevice()
    timer = DeviceTimer(device.new_event, device.synchronize, device.host.clock_ns, device.host.clock_ns)
    forward = scripted_forward(COSTS_S, lambda cost_s: device.enqueue(cost_s, host_s=0.001))
    timer.by_stage(forward)
    timed = timer.by_stage(forward)
    assert {name: each.device_time_s for name, each in timed.stages.items()} == pytest.approx(COSTS_S)
    assert all(each.host_time_s == pytest.approx(0.001) for each in timed.stages.values())
    assert all(each.wall_time_s is None for each in timed.stages.values())
    assert timed.whole.wall_time_s == pytest.approx(sum(COSTS_S.values()))


def test_a_pass_synchronises_before_its_first_event_and_after_its_last_only():
    device = FakeDevice()
    timer = DeviceTimer(device.new_event, device.synchronize, device.host.clock_ns, device.host.clock_ns)
    timer.by_stage(scripted_forward(COSTS_S, device.enqueue))
    calls = [call for call in device.log if call != "elapsed_time"]
    assert calls == ["synchronize", "record", "record", "record", "record", "synchronize"]
    assert device.log.index("elapsed_time") > len(calls) - 1


def test_events_are_made_once_and_used_again():
    device = FakeDevice()
    made = []

    def new_event():
        made.append(device.new_event())
        return made[-1]

    timer = DeviceTimer(new_event, device.synchronize, device.host.clock_ns, device.host.clock_ns)
    for _ in range(5):
        timer.by_stage(scripted_forward(COSTS_S, device.enqueue))
        timer.whole(scripted_forward(COSTS_S, device.enqueue))
    assert len(made) == len(COSTS_S) + 1


def test_a_launch_bound_stage_shows_as_host_time_above_device_time():
    device = FakeDevice()
    timer = DeviceTimer(device.new_event, device.synchronize, device.host.clock_ns, device.host.clock_ns)
    timed = timer.whole(scripted_forward({"pooler": 0.0001}, lambda cost_s: device.enqueue(cost_s, host_s=0.004)))
    assert timed.host_time_s == pytest.approx(0.004)
    assert timed.wall_time_s == pytest.approx(0.004)


def test_a_device_without_timed_events_gives_the_whole_and_no_stages():
    device = FakeDevice()
    timer = SynchronizingTimer(device.synchronize, host_timer(device.host))
    forward = scripted_forward(COSTS_S, device.enqueue)
    assert timer.whole(forward).wall_time_s == pytest.approx(sum(COSTS_S.values()))
    assert timer.by_stage(forward) is None


def test_the_cpu_is_timed_by_the_host_clock():
    assert isinstance(timer_for(torch.device("cpu")), HostTimer)


def test_a_device_that_nothing_has_run_on_yet_is_timed_by_its_events():
    device = FakeDevice(initialised=False)
    timer = timer_for(torch.device("xpu"), device)
    assert isinstance(timer, DeviceTimer)
    forward = scripted_forward(COSTS_S, device.enqueue)
    timer.by_stage(forward)
    timed = timer.by_stage(forward)
    assert {name: each.device_time_s for name, each in timed.stages.items()} == pytest.approx(COSTS_S)


def test_a_device_whose_events_are_not_timed_is_synchronised():
    device = FakeDevice(initialised=False, has_timed_events=False)
    timer = timer_for(torch.device("mps"), device)
    assert isinstance(timer, SynchronizingTimer)
    assert timer.by_stage(scripted_forward(COSTS_S, device.enqueue)) is None


@pytest.mark.gpu
def test_cuda_stage_times_add_up_to_the_pass():
    device = torch.device("cuda:0")
    matrix = torch.randn(4096, 4096, device=device)

    def forward(mark):
        for name, repeats in (("small", 1), ("large", 8)):
            for _ in range(repeats):
                matrix @ matrix
            if mark is not None:
                mark(name, None)

    timer = timer_for(device)
    assert isinstance(timer, DeviceTimer)
    for _ in range(5):
        timer.by_stage(forward)
    timed = timer.by_stage(forward)
    small, large = (timed.stages[name].device_time_s for name in ("small", "large"))
    assert small + large == pytest.approx(timed.whole.device_time_s, rel=1e-3)
    assert large / small == pytest.approx(8, rel=0.3)
