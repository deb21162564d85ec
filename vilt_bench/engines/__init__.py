"""Engines measure a sweep's cases elsewhere than in this process's own director, which is `local`.

An engine is a module with `measure(order, tell)`, found by its name: one of `ENGINES`, or an entry point of the group
`vilt_bench.engines`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.errors import ConfigError
from vilt_bench.record.run import FROM_PYTHON, Origin, Run
from vilt_bench.words import did_you_mean, nearest

LOCAL = "local"
"""The director of this process, without any engine."""
ENGINES = {"ray": "vilt_bench.engines.ray"}
"""Modules by name."""
GROUP = "vilt_bench.engines"


@dataclass(frozen=True)
class Order:
    """What an engine is to measure, and where."""

    cases: Sequence[Case]
    sampling: Sampling
    folder: str
    """For the records: a path of this machine, or a URL that fsspec understands."""
    address: str | None = None
    """Where the engine's cluster is reached."""
    on: str | None = None
    """Which machines, as `KEY=TEXT,…` of what they tell of themselves; `None`: all."""
    anywhere: bool = False
    """Whether a case is measured on one machine only, not on each."""
    resume: bool = False
    """Whether what the folder has is left out."""
    name: str | None = None
    """What the runs are called."""
    origin: Origin = FROM_PYTHON
    """What asks for them."""
    arguments: Sequence[str] = ()
    """Of `vilt-bench run`, for each machine."""


@dataclass
class Outcome:
    """What an engine has measured."""

    runs: list[Run] = field(default_factory=list)
    saved: list[Path | str] = field(default_factory=list)
    kept: int = 0
    """Records that were there before, and were not measured again."""
    left_out: dict[tuple[str, str], tuple[Case, str]] = field(default_factory=dict)
    """By machine and the case's name: what can't be measured there as asked, and why."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each case that was lost on the way, or not saved."""
    interrupted: bool = False


Tell = Callable[[str], object]
"""Told a line on where the measuring stands."""


class Engine(Protocol):
    """A module that measures."""

    def measure(self, order: Order, tell: Tell) -> Outcome:
        """Measure all cases, and save each record as soon as it is there.

        Raises:
            ConfigError: nothing can be measured as ordered.
        """


def find_engine(name: str) -> Engine:
    """Returns an engine by its name.

    Raises:
        ConfigError: there is none, or it can't be imported.
    """
    offered = {each.name: each for each in entry_points(group=GROUP)}
    if name not in {*ENGINES, *offered}:
        known = [LOCAL, *ENGINES, *offered]
        guess = did_you_mean(nearest(name, known)) or ";"
        raise ConfigError(f"there is no engine {name!r}{guess} known: {', '.join(known)}", field="engine")
    try:
        return cast(Engine, import_module(ENGINES[name]) if name in ENGINES else offered[name].load())
    except ImportError as error:
        raise ConfigError(f"{name!r} can't be imported: {' '.join(str(error).split())}", field="engine") from None
