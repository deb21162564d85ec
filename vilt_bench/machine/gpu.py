"""Asks NVML about the GPU that torch uses: clocks, temperature, power, throttling, energy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pynvml

from vilt_bench.record.examination import GpuFacts
from vilt_bench.record.run import GpuState

if TYPE_CHECKING:
    import torch


# NVML's bits for why clocks are lower than they could be.
_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}


class Gpu:
    """One NVIDIA GPU, or MIG instance, by NVML; what NVML does not say is `None`."""

    def __init__(self, handle: Any) -> None:
        """Take NVML's handle of the GPU; NVML is open until `close`."""
        self._handle = handle

    @classmethod
    def open(cls, uuid: str) -> Gpu:
        """Open NVML and find the GPU.

        Args:
            uuid: as NVML writes it, `GPU-…` or `MIG-…`.

        Raises:
            pynvml.NVMLError: there is no NVML, or no such GPU.
        """
        pynvml.nvmlInit()
        try:
            return cls(pynvml.nvmlDeviceGetHandleByUUID(uuid))
        except pynvml.NVMLError:
            pynvml.nvmlShutdown()
            raise

    def state(self) -> GpuState:
        """Returns what the GPU is doing right now."""
        sm_clock_mhz = self._ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM)
        memory_clock_mhz = self._ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM)
        # Each by its old name, which old drivers know, then by the one that is to replace it.
        temperature_c = self._ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU)
        if temperature_c is None:
            temperature_c = self._ask("nvmlDeviceGetTemperatureV", pynvml.NVML_TEMPERATURE_GPU)
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        if reasons is None:
            reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        return GpuState(
            sm_clock_hz=_scaled(sm_clock_mhz, 1e6),
            memory_clock_hz=_scaled(memory_clock_mhz, 1e6),
            temperature_c=_scaled(temperature_c, 1.0),
            power_w=_scaled(self._ask("nvmlDeviceGetPowerUsage"), 1e-3),
            throttle_reasons=None if reasons is None else throttle_reasons(reasons),
        )

    def facts(self) -> GpuFacts:
        """Returns name, state and settings."""
        persistence = self._ask("nvmlDeviceGetPersistenceMode")
        use = self._ask("nvmlDeviceGetUtilizationRates")
        return GpuFacts(
            name=str(self._ask("nvmlDeviceGetName") or "unknown GPU"),
            state=self.state(),
            persistence=None if persistence is None else bool(persistence),
            highest_sm_clock_hz=_scaled(self._ask("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM), 1e6),
            busy_share=None if use is None else use.gpu / 100,
            mig=self.mig(),
        )

    def energy_j(self) -> float | None:
        """Returns the energy that the GPU has used since the driver was loaded, in joules.

        `None` also for a partitioned GPU, whose counter adds up the work of all its users.
        """
        if self.mig():
            return None
        return _scaled(self._ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def power_limit_w(self) -> float | None:
        """Returns the power cap in force, in watts."""
        return _scaled(self._ask("nvmlDeviceGetEnforcedPowerLimit"), 1e-3)

    def mig(self) -> bool | None:
        """Returns whether the GPU is partitioned (MIG)."""
        modes = self._ask("nvmlDeviceGetMigMode")
        return None if modes is None else bool(modes[0])

    def driver(self) -> str | None:
        """Returns the driver's version."""
        try:
            return str(pynvml.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError:
            return None

    def close(self) -> None:
        """Close NVML; the GPU can't be asked any more."""
        pynvml.nvmlShutdown()

    def _ask(self, query: str, *arguments: int) -> Any:
        try:
            return getattr(pynvml, query)(self._handle, *arguments)
        except (AttributeError, pynvml.NVMLError):  # unknown to this binding, driver or GPU, or not permitted
            return None


def look_at_gpus() -> tuple[GpuFacts, ...]:
    """Returns all GPUs that NVML knows; none where there is no NVML. Nothing is set."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    gpus = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            gpu = Gpu.open(str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))))
            gpus.append(gpu.facts())
            gpu.close()
    except pynvml.NVMLError:  # a GPU that is lost, or not permitted
        pass
    finally:
        pynvml.nvmlShutdown()
    return tuple(gpus)


def open_gpu(device: torch.device) -> Gpu | None:
    """Returns the GPU behind a torch device; `None` where NVML does not know it.

    The match is by UUID: torch counts only the GPUs that CUDA_VISIBLE_DEVICES shows, NVML counts all.
    """
    import torch

    if device.type != "cuda" or torch.version.cuda is None or not torch.cuda.is_available():
        return None
    uuid = torch.cuda.get_device_properties(device).uuid
    for prefix in ("GPU-", "MIG-"):  # torch leaves the prefix out
        try:
            return Gpu.open(f"{prefix}{uuid}")
        except pynvml.NVMLError:
            continue
    return None


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """Returns the names of the reasons in NVML's bit mask; a bit without a name by its number."""
    return tuple(
        _REASONS.get(1 << place, f"reason_{1 << place:#x}") for place in range(bits.bit_length()) if bits >> place & 1
    )


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else float(value * factor)
