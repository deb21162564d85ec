import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from vilt_bench.errors import DeviceError
from vilt_bench.machine.conditions import ConditionsProbe, own_peak_bytes, resident_peak_bytes
from vilt_bench.machine.device import prepare_threads, resolve_device, usable_cores
from vilt_bench.machine.environment import available_memory_bytes, collect, fingerprint, short_name
from vilt_bench.machine.memory import free_host_bytes
from vilt_bench.record.run import GpuState

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's proc and sys")
two_processors = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def siblings(of: dict[int, str]) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list": text for processor, text in of.items()
    }


@pytest.fixture
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("no_accelerator")
def test_without_an_accelerator_auto_is_the_cpu() -> None:
    assert resolve_device("auto") == resolve_device("cpu") == CPU


@pytest.mark.usefixtures("two_gpus")
def test_auto_prefers_cuda_and_names_the_device_in_full() -> None:
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.usefixtures("two_gpus")
def test_a_device_beyond_the_last_is_refused_with_what_there_is() -> None:
    with pytest.raises(DeviceError, match=r"`device` cuda:7: .*there is cuda:0 to cuda:1"):
        resolve_device("cuda:7")


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize("text", ["cuda", "cuda:3", "xpu", "mps"])
def test_an_absent_device_is_refused_in_one_line_with_advice(text: str) -> None:
    with pytest.raises(DeviceError, match=rf"`device` {text}: torch .* sees no .*; use `device` cpu") as caught:
        resolve_device(text)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_accelerator")
def test_hidden_gpus_are_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.version.cuda is None:
        pytest.skip("this build of torch is without CUDA")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES is '-1'"):
        resolve_device("cuda")


@pytest.mark.parametrize("text", ["quark", "cuda:x", "cuda:-1", "", "meta", "cpu:1"])
def test_what_is_no_device_to_measure_on_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match="`device`"):
        resolve_device(text)


@linux
@pytest.mark.usefixtures("four_processors")
def test_two_threads_of_a_core_count_once(tmp_path: Path) -> None:
    assert usable_cores(write(tmp_path, siblings({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}))) == 2
    assert usable_cores(write(tmp_path, siblings({0: "0", 1: "1", 2: "2", 3: "3"}))) == 4


@linux
@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": "250000 100000"}, 2),
        ({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        ({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": "max 100000"}, 4),
        ({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": "900000 100000"}, 4),
        (
            {
                "proc/self/cgroup": "9:cpu,cpuacct:/job",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        ({"proc/self/cgroup": "9:cpu:/", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, 4),
    ],
    ids=["own group", "parent group", "below one", "no limit", "above the machine", "version 1", "version 1, no limit"],
)
def test_a_control_groups_quota_bounds_the_cores(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    write(tmp_path, siblings({0: "0", 1: "1", 2: "2", 3: "3"}))
    assert usable_cores(write(tmp_path, files)) == expected


@linux
@two_processors
def test_a_pinned_process_has_one_core() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_number_of_threads_is_set_and_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        assert prepare_threads(3) == torch.get_num_threads() == 3
        assert prepare_threads(None) == torch.get_num_threads() == usable_cores()
    finally:
        torch.set_num_threads(before)


def test_threads_that_the_environment_variable_asks_for_are_kept() -> None:
    program = "from vilt_bench.machine.device import prepare_threads; print(prepare_threads(None))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "1", done.stderr


def test_the_environment_agrees_with_independent_sources() -> None:
    environment = collect(CPU, threads=2)
    assert (environment.device, environment.threads) == ("cpu", 2)
    assert environment.versions["torch"] == torch.__version__
    assert environment.versions["python"] == sys.version.split()[0]
    assert environment.hardware["memory_bytes"] == str(psutil.virtual_memory().total)
    assert environment.hardware["logical_cores"] == str(os.cpu_count())
    assert environment.device_name == environment.hardware["processor"]
    assert "gpu" not in environment.hardware


def test_what_the_system_does_not_tell_is_left_out(tmp_path: Path) -> None:
    environment = collect(CPU, threads=1, root=tmp_path)
    assert not {"caches", "processor_model", "virtual_machine"} & environment.hardware.keys()
    assert not {"governor", "turbo", "smt", "transparent_huge_pages"} & environment.settings.keys()
    assert environment.device_name


def test_facts_of_the_processor_are_read_from_the_system(tmp_path: Path) -> None:
    cpuinfo = "cpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz\nstepping\t: 4\n"
    processor = "sys/devices/system/cpu"
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": cpuinfo + "flags\t\t: fpu hypervisor avx2",
            f"{processor}/cpu0/cache/index0/level": "1",
            f"{processor}/cpu0/cache/index0/type": "Data",
            f"{processor}/cpu0/cache/index0/size": "32K",
            f"{processor}/cpu0/cpufreq/scaling_governor": "powersave",
            f"{processor}/intel_pstate/no_turbo": "0",
            f"{processor}/smt/active": "1",
            "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        },
    )
    environment = collect(CPU, threads=1, root=root)
    assert environment.machine == "Intel Xeon Gold 6130"
    assert environment.hardware["processor_model"] == "6/85/4"
    assert environment.hardware["virtual_machine"] == "yes"
    assert environment.hardware["caches"] == "L1d 32K"
    expected = {"governor": "powersave", "turbo": "on", "smt": "on", "transparent_huge_pages": "madvise"}
    assert environment.settings["clock_source"] == "tsc"
    assert expected.items() <= environment.settings.items()


def test_variables_that_change_speed_are_recorded_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("KMP_BLOCKTIME", "0")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("LD_PRELOAD", "/home/someone/libjemalloc.so.2:/opt/libtcmalloc.so")
    monkeypatch.setenv("API_TOKEN", "secret")
    environment = collect(CPU, threads=1)
    assert environment.omp_wait_policy == environment.settings["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment.settings["KMP_BLOCKTIME"] == "0"
    assert environment.settings["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert environment.settings["LD_PRELOAD"] == "libjemalloc.so.2 libtcmalloc.so"
    assert "API_TOKEN" not in environment.settings


def test_settings_of_torch_are_recorded_as_they_are() -> None:
    before = torch.backends.cudnn.benchmark
    try:
        for value in (True, False):
            torch.backends.cudnn.benchmark = value
            assert collect(CPU, threads=1).settings["cudnn_benchmark"] == str(value)
    finally:
        torch.backends.cudnn.benchmark = before


def test_a_fingerprint_ignores_order_and_some_memory_but_not_the_hardware() -> None:
    hardware = {"processor": "A", "memory_bytes": str(16 * 2**30)}
    same = {"memory_bytes": str(16 * 2**30 - 50 * 2**20), "processor": "A"}
    assert fingerprint(hardware) == fingerprint(same)
    assert fingerprint(hardware) != fingerprint(hardware | {"memory_bytes": str(8 * 2**30)})
    assert fingerprint(hardware) != fingerprint(hardware | {"processor": "B"})
    assert collect(CPU, threads=1).fingerprint == collect(CPU, threads=2).fingerprint


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AMD EPYC 7B13 64-Core Processor", "AMD EPYC 7B13"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel Xeon"),
        ("Apple M2 Pro", "Apple M2 Pro"),
        ("NVIDIA H200", "NVIDIA H200"),
    ],
)
def test_a_short_name_keeps_what_tells_machines_apart(name: str, expected: str) -> None:
    assert short_name(name) == expected


class FakeGpu:
    def __init__(self) -> None:
        self.states: Iterator[GpuState] = iter([GpuState(temperature_c=40.0), GpuState(temperature_c=70.0)])

    def state(self) -> GpuState:
        return next(self.states)


def test_the_share_of_the_cpu_counts_blocks_only_and_all_threads() -> None:
    wall = iter([0.0, 2.0, 100.0, 104.0])
    cpu = iter([0.0, 3.0, 50.0, 56.0])
    probe = ConditionsProbe(2, None, clock=lambda: next(wall), cpu_clock=lambda: next(cpu))
    probe.start()
    for _ in range(2):
        with probe.block():
            pass
    assert probe.stop().cpu_share == (3 + 6) / (2 * (2 + 4))


def test_a_block_that_fails_still_counts() -> None:
    wall, cpu = iter([0.0, 2.0]), iter([0.0, 1.0])
    probe = ConditionsProbe(1, None, clock=lambda: next(wall), cpu_clock=lambda: next(cpu))
    probe.start()
    with pytest.raises(KeyboardInterrupt), probe.block():
        raise KeyboardInterrupt
    assert probe.stop().cpu_share == 0.5


def test_without_a_block_shares_and_switches_are_unknown() -> None:
    probe = ConditionsProbe(1, None)
    probe.start()
    conditions = probe.stop()
    assert conditions.cpu_share is None
    assert conditions.involuntary_context_switches is None
    assert conditions.gpu_before is None


def test_a_busy_block_shows_more_of_the_cpu_than_an_idle_one() -> None:
    def share(work: str) -> float:
        probe = ConditionsProbe(1, None)
        probe.start()
        with probe.block():
            if work == "sleep":
                time.sleep(0.1)
            else:
                end = time.process_time() + 0.05
                while time.process_time() < end:
                    pass
        measured = probe.stop().cpu_share
        assert measured is not None
        return measured

    assert share("sleep") < share("spin") <= 1.1


@linux
def test_the_short_form_of_fitness_comes_with_the_conditions() -> None:
    probe = ConditionsProbe(1, None)
    probe.start()
    with probe.block():
        time.sleep(0.05)
    fitness = probe.stop().fitness
    assert fitness is not None
    assert fitness.steal_share is not None
    assert 0 <= fitness.steal_share <= 1
    assert fitness.timer_resolution_s is not None


def test_the_gpu_is_looked_at_before_and_after() -> None:
    probe = ConditionsProbe(1, FakeGpu())
    probe.start()
    conditions = probe.stop()
    assert (conditions.gpu_before, conditions.gpu_after) == (GpuState(temperature_c=40.0), GpuState(temperature_c=70.0))


def test_the_peak_of_resident_memory_is_in_bytes() -> None:
    peak = resident_peak_bytes()
    assert peak is not None
    assert psutil.Process().memory_info().rss <= peak < psutil.virtual_memory().total


@linux
def test_the_peak_is_in_bytes_where_only_getrusage_tells_it(tmp_path: Path) -> None:
    peak, precise = resident_peak_bytes(tmp_path), resident_peak_bytes()
    assert peak is not None
    assert precise is not None
    assert peak >= 0.9 * precise


@linux
@pytest.mark.slow
def test_a_worker_does_not_inherit_its_parents_peak() -> None:
    ballast = bytearray(os.urandom(1)) * (2**31)  # touched: resident
    code = "from vilt_bench.machine.environment import resident_peak_bytes; print(resident_peak_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout) < len(ballast)


def test_a_cuda_device_is_described_by_torch_where_nvml_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA X", total_memory=8 * 2**30, multi_processor_count=16, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    environment = collect(torch.device("cuda:0"), threads=1)
    assert (environment.machine, environment.device) == ("NVIDIA X", "cuda:0")
    assert environment.hardware["gpu_compute_capability"] == "9.0"
    assert not {"gpu_power_limit_w", "gpu_mig"} & environment.hardware.keys()
    assert environment.fingerprint != collect(CPU, threads=1).fingerprint


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_is_part_of_the_hardware() -> None:
    environment = collect(torch.device("cuda:0"), threads=1)
    assert environment.device_name == torch.cuda.get_device_name(0)
    assert environment.hardware["gpu_memory_bytes"] == str(torch.cuda.get_device_properties(0).total_memory)
    assert environment.fingerprint != collect(CPU, threads=1).fingerprint
    assert "driver" in environment.versions


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/memory.max": "1000000"}, 1_000_000),
        ({"proc/self/cgroup": "0::/job/step", "sys/fs/cgroup/job/memory.max": "2000000"}, 2_000_000),
        ({"proc/self/cgroup": "9:memory:/job", "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "3000000"}, 3_000_000),
        ({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/memory.max": "max"}, None),
        ({"proc/self/cgroup": "9:memory:/", "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096)}, None),
    ],
)
def test_memory_is_what_is_free_within_the_limits_of_control_groups(
    files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = available_memory_bytes(torch.device("cpu"), tmp_path)
    assert found is not None
    if limit is not None:
        assert found == limit
    else:
        assert 0 < found <= psutil.virtual_memory().total
    assert available_memory_bytes(torch.device("mps"), tmp_path) is None


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (
            {
                "proc/self/cgroup": "0::/job",
                "sys/fs/cgroup/job/memory.max": "1000000",
                "sys/fs/cgroup/job/memory.current": "700000",
                "sys/fs/cgroup/job/memory.stat": "anon 500000\nfile 200000\ninactive_file 150000\n",
            },
            1_000_000 - (700_000 - 150_000),
        ),
        (
            {
                "proc/self/cgroup": "9:memory:/job",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "3000000",
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "2500000",
                "sys/fs/cgroup/memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 500000\n",
            },
            1_000_000,
        ),
        (
            {
                "proc/self/cgroup": "0::/job",
                "sys/fs/cgroup/job/memory.max": "1000000",
                "sys/fs/cgroup/job/memory.current": "1200000",
            },
            0,
        ),
    ],
)
def test_what_others_in_a_control_group_use_is_not_free_but_for_caches(
    files: dict[str, str], free: int, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_host_bytes(tmp_path) == free


def test_own_memory_leaves_out_files_that_processes_share(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("VmHWM:\t  1000 kB\nVmRSS:\t  900 kB\nRssFile:\t  300 kB\n")
    assert own_peak_bytes(tmp_path) == 700 * 1024
