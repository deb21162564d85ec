"""Tells where a measurement is made: device, threads, machine, software, and what goes on during the passes."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Protocol

import psutil
import torch

from vilt_bench.errors import DeviceError
from vilt_bench.fitness import FitnessProbe
from vilt_bench.meters.gpu import open_gpu
from vilt_bench.records import SLOWDOWNS, Conditions, Environment, GpuState

_PACKAGES = (
    "vilt-bench",
    "torchvision",
    "timm",
    "transformers",
    "detectron2",
    "msgspec",
    "numpy",
    "nvidia-ml-py",
    "pillow",
    "psutil",
    "safetensors",
    "scikit-learn",
)

# Environment variables that change speed. By these beginnings only: others may hold secrets.
_VARIABLES = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|ONEDNN|DNNL|MALLOC|NCCL|CUBLAS|CUDNN)_\w+|NVIDIA_TF32_OVERRIDE"
    r"|CUDA_(VISIBLE_DEVICES|LAUNCH_BLOCKING|MODULE_LOADING|DEVICE_MAX_CONNECTIONS)"
    r"|PYTORCH_\w*ALLOC_CONF|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
)

# Of a processor's or GPU's trade name, what a short name leaves out.
_TRADE_NOISE = re.compile(r"\((R|TM|C)\)|\bCPU\b|\b\d+-Core\b|\bProcessor\b|@.*", re.IGNORECASE)

_ROOT = Path("/")


def resolve_device(text: str) -> torch.device:
    """Returns the device that a text like `auto`, `cpu`, `cuda:1` or `mps` names; `auto`: the fastest kind there is.

    Raises:
        DeviceError: the device is unknown, or is not there.
    """
    counts = _device_counts()
    if text == "auto":
        text = next(kind for kind, count in counts.items() if count)
    try:
        device = torch.device(text)
    except RuntimeError:
        raise DeviceError(f"--device {text!r} is no device; expected auto, cpu, cuda, cuda:N, mps or xpu") from None
    there = [kind if count == 1 else f"{kind}:0 to {kind}:{count - 1}" for kind, count in counts.items() if count]
    count = counts.get(device.type, 0)
    if not count:
        raise DeviceError(
            f"--device {text}: torch {torch.__version__} sees no {device.type} device ({_why_not(device.type)}); "
            f"use --device {there[0]}"
        )
    if (device.index or 0) >= count:
        raise DeviceError(f"--device {text}: there is no such {device.type} device; there is {', '.join(there)}")
    return torch.device(device.type, device.index or 0) if device.type in ("cuda", "xpu") else torch.device(device.type)


def prepare_threads(threads: int | None) -> int:
    """Sets how many threads torch computes with, and returns the number in force.

    Args:
        threads: how many; `None`: what the environment variable OMP_NUM_THREADS says, as torch has read it, else one
            for each physical core that this process may use, see `usable_cores`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    return torch.get_num_threads()


def usable_cores(root: Path = _ROOT) -> int:
    """Returns how many physical cores this process may use: by its affinity and its control group's quota.

    Args:
        root: of the file system that holds `proc` and `sys`.
    """
    logical = _usable_processors()
    cores = {
        _read(root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list") for processor in logical
    }
    # Where the topology is not told (macOS, Windows), all physical cores, as affinity is not told either.
    count = len(cores) if None not in cores else psutil.cpu_count(logical=False) or len(logical)
    quota = _processor_quota(root)
    return max(1, min(count, len(logical), count if quota is None else int(quota)))


def available_memory_bytes(device: torch.device, root: Path = _ROOT) -> int | None:
    """Returns how much memory a process may take on a device at most, in bytes; `None`: that is not known.

    Of the host what is free or can be freed, within the limits of control groups; of a GPU all that it has.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "xpu":
        return int(torch.xpu.get_device_properties(device).total_memory)
    if device.type != "cpu":
        return None
    limits = [
        int(text)
        for folder in _control_groups(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := _read(folder / name)) is not None and text.isdigit()
    ]
    return min([psutil.virtual_memory().available, *limits])


def collect(device: torch.device, *, threads: int, root: Path = _ROOT) -> Environment:
    """Returns the machine, its software, and the settings that change speed; what is not told is left out.

    Args:
        device: that is measured on.
        threads: that torch computes with.
        root: of the file system that holds `proc` and `sys`.
    """
    hardware = _told(_processor_facts(root))
    versions = _versions()
    device_name = hardware["processor"]
    if device.type == "cuda":
        gpu_hardware, gpu_versions = _cuda_facts(device)
        hardware, versions = hardware | gpu_hardware, versions | gpu_versions
        device_name = hardware["gpu"]
    elif device.type == "xpu":
        properties = torch.xpu.get_device_properties(device)
        hardware |= {"gpu": properties.name, "gpu_memory_bytes": str(properties.total_memory)}
        device_name = hardware["gpu"]
    return Environment(
        machine=short_name(device_name),
        fingerprint=fingerprint(hardware),
        device=str(device),
        device_name=device_name,
        threads=threads,
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY"),
        versions=versions,
        settings=_settings(root),
        hardware=hardware,
    )


def short_name(name: str) -> str:
    """Returns a processor's or GPU's name without trademarks and clock, such as `Intel Xeon Gold 6130`."""
    return " ".join(_TRADE_NOISE.sub(" ", name).split()) or name


def fingerprint(hardware: Mapping[str, str]) -> str:
    """Returns a digest of the hardware: 12 hexadecimal digits, equal for machines that may be compared.

    Memory counts in whole GiB, since kernels keep a varying share of it to themselves.
    """
    facts = dict(hardware)
    for key in facts.keys() & {"memory_bytes", "gpu_memory_bytes"}:
        facts[key] = str(round(int(facts[key]) / 2**30))
    return hashlib.sha256("\n".join(f"{key}={facts[key]}" for key in sorted(facts)).encode()).hexdigest()[:12]


class GpuProbe(Protocol):
    """A GPU that tells its state."""

    def state(self) -> GpuState:
        """Returns what the GPU is doing right now."""


class ConditionsProbe:
    """Watches what goes on around the samples of this process.

    The process rests between its blocks while others take their turn; only blocks count for shares and switches.
    """

    def __init__(
        self,
        threads: int | None,
        gpu: GpuProbe | None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        """Prepare, without looking yet.

        Args:
            threads: that torch computes with; `None`: the work is a device's, and the host's share tells nothing.
            gpu: that is measured on, if NVML knows it.
            clock: seconds.
            cpu_clock: seconds of CPU time of this process.
        """
        self._threads = threads
        self._gpu = gpu
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._wall_s = 0.0
        self._cpu_s = 0.0
        self._switches: int | None = 0
        self._load_before: float | None = None
        self._gpu_before: GpuState | None = None
        self._throttled: dict[str, None] = {}
        self.slowed_down = False
        """Whether heat or the power supply slowed the GPU down in the last block."""
        self._fitness = FitnessProbe()

    def start(self) -> None:
        """Look at the machine before the first block."""
        self._load_before = _load_average()
        self._gpu_before = None if self._gpu is None else self._gpu.state()

    @contextmanager
    def block(self) -> Iterator[None]:
        """Returns a context whose time and context switches are added up."""
        self._fitness.begin()
        switches, wall_s, cpu_s = _involuntary_switches(), self._clock(), self._cpu_clock()
        try:
            yield
        finally:
            self._cpu_s += self._cpu_clock() - cpu_s
            self._wall_s += self._clock() - wall_s
            self._look()
            after = _involuntary_switches()
            if switches is None or after is None:
                self._switches = None
            elif self._switches is not None:
                self._switches += after - switches
            self._fitness.end()

    def _look(self) -> None:
        """Look at the GPU while it is still warm from the block."""
        state = None if self._gpu is None else self._gpu.state()
        reasons = () if state is None else state.throttle_reasons or ()
        self._throttled |= dict.fromkeys(reasons)
        self.slowed_down = any(reason in SLOWDOWNS for reason in reasons)

    def stop(self) -> Conditions:
        """Returns what went on, after a last look at the machine."""
        watched = self._wall_s > 0
        return Conditions(
            cpu_share=self._cpu_s / (self._threads * self._wall_s) if watched and self._threads else None,
            watched_s=self._wall_s if watched else None,
            involuntary_context_switches=self._switches if watched else None,
            load_average_before=self._load_before,
            load_average_after=_load_average(),
            resident_peak_bytes=resident_peak_bytes(),
            gpu_before=self._gpu_before,
            gpu_after=None if self._gpu is None else self._gpu.state(),
            throttle_reasons=None if self._gpu is None else tuple(self._throttled),
            fitness=self._fitness.fitness(),
        )


def resident_peak_bytes(root: Path = _ROOT) -> int | None:
    """Returns the highest resident memory of this process so far, in bytes.

    Args:
        root: of the file system that holds `proc`.
    """
    # Not getrusage on Linux: its maximum outlives exec, so a worker would inherit its parent's.
    if match := re.search(r"^VmHWM:\s*(\d+) kB", _read(root / "proc/self/status") or "", re.MULTILINE):
        return int(match[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _device_counts() -> dict[str, int]:
    """Returns how many devices there are of each kind, fastest kind first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a missing or old driver; `_why_not` says it in one line
        return {
            "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
            "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
            "mps": int(torch.backends.mps.is_available()),
            "cpu": 1,
        }


def _why_not(kind: str) -> str:
    if kind == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            return "this build of torch is without CUDA"
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            return f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
        return "no GPU, or no driver that fits"
    if kind == "mps":
        return "it takes a Mac with Apple silicon"
    return "no device, no driver, or a build of torch without it"


def _read(path: Path) -> str | None:
    """Returns a small system file's text; `None` where it is not there or not to be read."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _told(facts: Mapping[str, object]) -> dict[str, str]:
    """Returns the facts that are known, as text."""
    return {key: str(value) for key, value in facts.items() if value is not None}


def _usable_processors() -> list[int]:
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders of the control groups (version 1 or 2) whose limits hold for this process."""
    for controllers, group in re.findall(r"^\d+:([^:]*):(.*)$", _read(root / "proc/self/cgroup") or "", re.MULTILINE):
        base = root / "sys/fs/cgroup" if not controllers else root / "sys/fs/cgroup" / controller
        if controllers and controller not in controllers.split(","):
            continue
        # A limit of any parent holds as well; inside a container the path may be the host's and not be there.
        folder = Path(group.strip("/"))
        yield from {base / place for place in (folder, *folder.parents)}


def _processor_quota(root: Path) -> float | None:
    """Returns how many processors' worth of time the control groups allow; `None`: no limit."""
    quotas = []
    for folder in _control_groups(root, "cpu"):
        text = _read(folder / "cpu.max")
        if text is None:
            parts = [_read(folder / f"cpu.cfs_{part}_us") for part in ("quota", "period")]
            text = " ".join(part or "" for part in parts)
        if match := re.fullmatch(r"(\d+) (\d+)", text):
            quotas.append(int(match[1]) / int(match[2]))
    return min(quotas, default=None)


def _processor_facts(root: Path) -> dict[str, object]:
    info = _read(root / "proc/cpuinfo") or ""

    def field(key: str) -> str | None:
        match = re.search(rf"^{key}\s*:\s*(.+)$", info, re.MULTILINE)
        return match[1].strip() if match else None

    model = [field(key) for key in ("cpu family", "model", "stepping")]
    arm = [field(key) for key in ("CPU implementer", "CPU part")]
    hypervisor = "yes" if "hypervisor" in (field("flags") or "").split() else None
    return {
        "architecture": platform.machine(),
        "processor": field("model name") or _processor_name() or platform.machine() or "unknown processor",
        "processor_model": "/".join(filter(None, model)) or "/".join(filter(None, arm)) or None,
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(logical=True),
        "usable_cores": usable_cores(root),
        "memory_bytes": psutil.virtual_memory().total,
        "caches": _caches(root),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "virtual_machine": hypervisor,
    }


def _processor_name() -> str | None:
    """Returns the processor's trade name where it is in no file: on macOS and Windows."""
    if sys.platform == "darwin":
        size = ctypes.c_size_t(256)
        name = ctypes.create_string_buffer(size.value)
        library = ctypes.CDLL(ctypes.util.find_library("c"))
        if library.sysctlbyname(b"machdep.cpu.brand_string", name, ctypes.byref(size), None, 0) == 0:
            return name.value.decode()
    if sys.platform == "win32":
        return os.environ.get("PROCESSOR_IDENTIFIER")
    return None


def _caches(root: Path) -> str | None:
    kinds = {"Data": "d", "Instruction": "i"}
    caches = []
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(index / part) for part in ("level", "type", "size"))
        if level and size:
            caches.append(f"L{level}{kinds.get(kind or '', '')} {size}")
    return ", ".join(caches) or None


def _container(root: Path) -> str | None:
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    return "kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None


def _versions() -> dict[str, str]:
    versions = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "torch": str(torch.__version__),
    }
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions | _told({"cuda": torch.version.cuda, "hip": torch.version.hip})


def _cuda_facts(device: torch.device) -> tuple[dict[str, str], dict[str, str]]:
    """Returns hardware and versions of a CUDA device."""
    properties = torch.cuda.get_device_properties(device)
    gpu = open_gpu(device)
    mig = gpu.mig() if gpu else None
    hardware = {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "gpu_multiprocessors": properties.multi_processor_count,
        "gpu_compute_capability": f"{properties.major}.{properties.minor}",
        "gpu_power_limit_w": gpu.power_limit_w() if gpu else None,
        "gpu_mig": None if mig is None else "on" if mig else "off",
    }
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    versions = {"cudnn": cudnn, "driver": gpu.driver() if gpu else None}
    if gpu:
        gpu.close()
    return _told(hardware), _told(versions)


def torch_state() -> dict[str, str]:
    """Returns what of torch any code of this process can change for all other code of it."""
    return {
        "threads": str(torch.get_num_threads()),
        "default_dtype": str(torch.get_default_dtype()),
        "default_device": str(torch.get_default_device()),
        "grad_mode": str(torch.is_grad_enabled()),
        **torch_settings(),
    }


def torch_settings() -> dict[str, str]:
    """Returns torch's settings that change speed; what torch refuses to say is left out."""
    asked: dict[str, Callable[[], object]] = {
        "float32_matmul_precision": torch.get_float32_matmul_precision,
        "tf32_matmul": lambda: torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": lambda: torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": lambda: torch.backends.cudnn.benchmark,
        "cudnn_deterministic": lambda: torch.backends.cudnn.deterministic,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
        "onednn": lambda: torch.backends.mkldnn.enabled,
        "interop_threads": torch.get_num_interop_threads,
    }
    settings = {}
    for key, ask in asked.items():
        # torch refuses to say where a program has used both its old and its new interface to TF32.
        with suppress(RuntimeError, AttributeError):
            settings[key] = str(ask())
    return settings


def _settings(root: Path) -> dict[str, str]:
    """Returns what changes speed: of torch, of the environment, of the processor."""
    settings = torch_settings()
    settings |= {key: value for key, value in os.environ.items() if _VARIABLES.fullmatch(key)}
    if preload := os.environ.get("LD_PRELOAD"):
        settings["LD_PRELOAD"] = " ".join(Path(library).name for library in re.split(r"[ :]+", preload) if library)
    processors = root / "sys/devices/system/cpu"
    switches = {"0": "off", "1": "on"}
    no_turbo = {"0": "on", "1": "off"}.get(_read(processors / "intel_pstate/no_turbo") or "")
    huge_pages = re.search(r"\[(\w+)\]", _read(root / "sys/kernel/mm/transparent_hugepage/enabled") or "")
    return settings | _told(
        {
            "governor": _read(processors / "cpu0/cpufreq/scaling_governor"),
            "turbo": no_turbo or switches.get(_read(processors / "cpufreq/boost") or ""),
            "smt": switches.get(_read(processors / "smt/active") or ""),
            "transparent_huge_pages": huge_pages[1] if huge_pages else None,
            "container": _container(root),
            "clock_source": _read(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        }
    )


def _load_average() -> float | None:
    """Returns how many processes ran or waited to, averaged over a minute."""
    if sys.platform == "win32":  # psutil's emulation there starts a thread
        return None
    with suppress(OSError):
        return os.getloadavg()[0]
    return None


def _involuntary_switches() -> int | None:
    """Returns how often a thread of this process was taken off its core."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
