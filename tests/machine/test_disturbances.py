import sys
from itertools import chain, repeat
from pathlib import Path

import pytest

from vilt_bench.machine.disturbances import FitnessProbe, timer_resolution_s
from vilt_bench.record.run import Fitness

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="reads Linux's proc and sys")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


def watched(root: Path, before: dict[str, str], after: dict[str, str], own_s: float) -> Fitness:
    write(root, before)
    clock = iter([0.0, own_s])
    probe = FitnessProbe(root=root, cpu_clock=lambda: next(clock))
    probe.begin()
    write(root, after)
    probe.end()
    return probe.fitness()


def test_steal_and_others_are_shares_of_all_processors_time(tmp_path: Path) -> None:
    # user nice system idle iowait irq softirq steal guest guest_nice, in hundredths of a second
    seen = watched(
        tmp_path,
        {"proc/stat": "cpu  1000 0 0 5000 0 0 0 100 0 0\ncpu0 1 2 3"},
        {"proc/stat": "cpu  1300 0 50 5500 50 0 0 200 300 0\ncpu0 1 2 3"},
        own_s=1.5,
    )
    assert seen.steal_share == pytest.approx(1.0 / 10.0)
    assert seen.others_share == pytest.approx((3.5 - 1.5) / 10.0)


@pytest.mark.parametrize(
    ("group", "stat", "texts"),
    [
        ("0::/job", "sys/fs/cgroup/job/cpu.stat", ["nr_throttled 1\nthrottled_usec 100000", "throttled_usec 600000"]),
        ("0::/job", "sys/fs/cgroup/cpu.stat", ["throttled_usec 100000", "throttled_usec 600000"]),
        (
            "5:cpu,cpuacct:/job",
            "sys/fs/cgroup/cpu/job/cpu.stat",
            ["throttled_time 100000000", "nr_throttled 9\nthrottled_time 600000000"],
        ),
    ],
    ids=["version 2", "container", "version 1"],
)
def test_time_that_a_quota_held_the_process_up_is_told(tmp_path: Path, group: str, stat: str, texts: list[str]) -> None:
    before = {"proc/self/cgroup": group, stat: texts[0]}
    assert watched(tmp_path, before, {stat: texts[1]}, own_s=0).quota_held_s == pytest.approx(0.5)


def test_a_parents_quota_counts_and_time_that_two_take_at_once_counts_once(tmp_path: Path) -> None:
    files = [f"sys/fs/cgroup/{group}cpu.stat" for group in ("job/step/", "job/", "")]
    before = {"proc/self/cgroup": "0::/job/step"} | dict.fromkeys(files, "throttled_usec 100000")
    after = dict(zip(files, ["throttled_usec 200000", "throttled_usec 600000", "throttled_usec 100000"], strict=True))
    assert watched(tmp_path, before, after, own_s=0).quota_held_s == pytest.approx(0.5)


def test_throttling_against_heat_adds_up_over_processors(tmp_path: Path) -> None:
    files = [f"sys/devices/system/cpu/cpu{index}/thermal_throttle/core_throttle_count" for index in (0, 1)]
    seen = watched(tmp_path, dict.fromkeys(files, "5"), dict.fromkeys(files, "7"), own_s=0)
    assert seen.thermal_throttles == 4


def test_swap_is_told_in_bytes(tmp_path: Path) -> None:
    seen = watched(tmp_path, {"proc/meminfo": "SwapTotal:  2048 kB\nSwapFree:   1024 kB"}, {}, own_s=0)
    assert seen.swap_used_bytes == 2**20


def test_what_the_system_does_not_tell_is_unknown_not_zero(tmp_path: Path) -> None:
    seen = watched(tmp_path, {}, {}, own_s=0)
    assert (seen.steal_share, seen.others_share, seen.quota_held_s) == (None, None, None)
    assert (seen.thermal_throttles, seen.swap_used_bytes) == (None, None)


def test_the_resolution_of_a_clock_is_its_smallest_step() -> None:
    ticks = chain.from_iterable(repeat(tick, 3) for tick in (0, 100, 250, 320))
    assert timer_resolution_s(lambda: next(ticks), reads=12) == pytest.approx(70e-9)
    assert timer_resolution_s(lambda: 5) is None
    resolution = timer_resolution_s()
    assert resolution is not None
    assert 0 < resolution < 0.1
