"""What the doctor found: the raw readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vilt_bench.record.run import Environment, Fitness, GpuState

WARMUP_TURNS = 3
TURNS = 15
"""Each A B B A: 30 samples a process."""
LEAST_PAIRS = 3
"""That tell how far pairs differ."""


@dataclass(frozen=True)
class KernelPair:
    """Two fresh processes that ran the same kernel in turn, A B B A; seconds by sample."""

    first_s: tuple[float, ...]
    second_s: tuple[float, ...]
    cpu_share: float
    """CPU time / (threads × wall time) of both; see `run.LEAST_CPU_SHARE`."""
    start_s: float
    """Until both were ready; of forks: until the process was that they were forked from, as a gate starts none so."""


@dataclass(frozen=True)
class ClockFacts:
    """A clock of Python's."""

    name: str
    resolution_s: float | None
    """The smallest step seen."""
    read_s: float
    """What a read costs."""


@dataclass(frozen=True)
class Neighbour:
    """Another process that takes time."""

    name: str
    share: float
    """Of one processor."""


@dataclass(frozen=True)
class Examination:
    """What was found; `None` and absence: not told here."""

    environment: Environment
    fitness: Fitness
    clocks: tuple[ClockFacts, ...]
    pairs: tuple[KernelPair, ...]
    neighbours: tuple[Neighbour, ...]
    load_average: float | None
    frequency_hz: float | None
    highest_frequency_hz: float | None
    clock_source: str | None
    memory_bytes: int
    gpus: tuple[GpuFacts, ...]
    took_s: float
    forked: bool = False
    """Whether the kernel's processes were forked from one, instead of each started anew."""


def samples_of(pairs: Sequence[KernelPair]) -> list[tuple[float, ...]]:
    """Returns the samples of each process."""
    return [samples for pair in pairs for samples in (pair.first_s, pair.second_s)]


@dataclass(frozen=True)
class GpuFacts:
    """What NVML says of a GPU and its settings; `None` where it does not say."""

    name: str
    state: GpuState
    persistence: bool | None
    """Whether the driver keeps the GPU initialised between programs."""
    highest_sm_clock_hz: float | None
    busy_share: float | None
    """Of the last moments, during which a kernel of anybody ran."""
    mig: bool | None
