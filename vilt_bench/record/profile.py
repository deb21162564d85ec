"""Where within stages the time goes: what a profile found, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Channel = Literal["wall_time", "device_time"]
"""The host's clock, or the device's."""


@dataclass(frozen=True)
class ProfiledBlock:
    """A module of a stage; the stage itself is the first one, with an empty name."""

    name: str
    """As the module is found in the stage, such as `blocks.0.attention`."""
    depth: int
    """0 of the stage, and one more for each module around it that is called; lists and dictionaries are not."""
    calls: float
    """In a pass; 0: none."""
    inclusive_s: float
    """With all that it calls, scaled to the time of the stage as it is without the profiler."""
    exclusive_s: float
    """Without the blocks within it; those of all blocks of a stage add up to the stage's time."""
    parameters: int
    """With all within it."""
    flops: int | None
    """Likewise, of a pass; `None`: not known."""


@dataclass(frozen=True)
class Operator:
    """All calls of one of torch's operators in a stage."""

    name: str
    """Such as `aten::addmm`."""
    calls: float
    """In a pass."""
    self_s: float
    """Without operators that it calls, scaled as blocks are."""


@dataclass(frozen=True)
class ProfiledStage:
    """One stage."""

    name: str
    """In full."""
    time_s: float
    """Median of passes without the profiler."""
    profiled_s: float
    """Median of passes with it."""
    blocks: tuple[ProfiledBlock, ...]
    """In the order of the modules, each before those within it."""
    operators: tuple[Operator, ...]
    """The one that takes most first; what is left of the stage's time is Python's, and launches."""

    @property
    def outside_s(self) -> float:
        """Seconds in no operator."""
        return self.time_s - sum(each.self_s for each in self.operators)


@dataclass(frozen=True)
class Profile:
    """All stages of a case."""

    stages: tuple[ProfiledStage, ...]
    passes: int
    """With the profiler; as many without."""
    channel: Channel

    @property
    def time_s(self) -> float:
        """Sum of the stages' times, without the profiler."""
        return sum(stage.time_s for stage in self.stages)

    @property
    def overhead(self) -> float:
        """What the profiler adds to the stages, as a share of their time."""
        return sum(stage.profiled_s for stage in self.stages) / self.time_s - 1
