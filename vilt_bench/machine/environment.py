"""Tells where a measurement is made: device, threads, machine, software, and what goes on during the passes."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from vilt_bench.machine.device import HOST_MEMORY, usable_cores
from vilt_bench.machine.gpu import open_gpu
from vilt_bench.machine.memory import free_host_bytes
from vilt_bench.machine.system_files import ROOT, field_of, read_text
from vilt_bench.record.run import Environment

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
)


# Environment variables that change speed. By these beginnings only: others may hold secrets.
_VARIABLES = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|ONEDNN|DNNL|MALLOC|NCCL|CUBLAS|CUDNN)_\w+|NVIDIA_TF32_OVERRIDE"
    r"|CUDA_(VISIBLE_DEVICES|LAUNCH_BLOCKING|MODULE_LOADING|DEVICE_MAX_CONNECTIONS)"
    r"|PYTORCH_\w*ALLOC_CONF|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
)


# Of a processor's or GPU's trade name, what a short name leaves out.
_TRADE_NOISE = re.compile(r"\((R|TM|C)\)|\bCPU\b|\b\d+-Core\b|\bProcessor\b|@.*", re.IGNORECASE)


def available_memory_bytes(device: torch.device, root: Path = ROOT) -> int | None:
    """Returns how much memory a process may take on a device at most, in bytes; `None`: that is not known.

    Of the host what is free or can be freed, within the limits of control groups; of a GPU all that it has.
    """
    if device.type != "cpu":
        return _accelerator_memory_bytes(device)
    return free_host_bytes(root)


def free_device_bytes(device: torch.device) -> int | None:
    """Returns how much memory of a GPU is free, in bytes; `None`: it has none of its own, or that is not told."""
    if device.type in HOST_MEMORY:
        return None
    # Some drivers, and older versions, do not tell; a device's own module may know what torch's generic one does not.
    with suppress(AttributeError, RuntimeError, ValueError):
        return int(torch.get_device_module(device).mem_get_info(device)[0])
    with suppress(AttributeError, RuntimeError, ValueError):
        return int(torch.accelerator.get_memory_info(device)[0])
    return available_memory_bytes(device)


def collect(device: torch.device, *, threads: int, root: Path = ROOT) -> Environment:
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
    elif device.type not in HOST_MEMORY:  # MPS has no name but the processor's
        properties = _properties(device)
        device_name = device.type if properties is None else str(properties.name)
        hardware |= _told({"gpu": device_name, "gpu_memory_bytes": _accelerator_memory_bytes(device)})
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


def _properties(device: torch.device) -> Any:
    """Returns what the device's own module says of it; `None` where it says nothing."""
    ask = getattr(torch.get_device_module(device), "get_device_properties", None)
    return None if ask is None else ask(device)


def _accelerator_memory_bytes(device: torch.device) -> int | None:
    """Returns all the memory that a device has of its own, in bytes; `None`: none, or it does not say."""
    if device.type in HOST_MEMORY:
        return None
    if (properties := _properties(device)) is not None:
        return int(properties.total_memory)
    # Not known to older versions of torch, or to the device.
    with suppress(AttributeError, RuntimeError, ValueError):
        return int(torch.accelerator.get_memory_info(device)[1])
    return None


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


def _told(facts: Mapping[str, object]) -> dict[str, str]:
    """Returns the facts that are known, as text."""
    return {key: str(value) for key, value in facts.items() if value is not None}


def _processor_facts(root: Path) -> dict[str, object]:
    info = read_text(root / "proc/cpuinfo")

    def field(key: str) -> str | None:
        return field_of(info, key)

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
        level, kind, size = (read_text(index / part) for part in ("level", "type", "size"))
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
    no_turbo = {"0": "on", "1": "off"}.get(read_text(processors / "intel_pstate/no_turbo") or "")
    huge_pages = re.search(r"\[(\w+)\]", read_text(root / "sys/kernel/mm/transparent_hugepage/enabled") or "")
    return settings | _told(
        {
            "governor": read_text(processors / "cpu0/cpufreq/scaling_governor"),
            "turbo": no_turbo or switches.get(read_text(processors / "cpufreq/boost") or ""),
            "smt": switches.get(read_text(processors / "smt/active") or ""),
            "transparent_huge_pages": huge_pages[1] if huge_pages else None,
            "container": _container(root),
            "clock_source": read_text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        }
    )
