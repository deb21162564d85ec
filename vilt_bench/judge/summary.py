"""A run judged once: a row a stage, with what was estimated and counted of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from vilt_bench.judge.estimate import Estimate
from vilt_bench.judge.latency import latency
from vilt_bench.record.run import WHOLE, Component, Run, Stage

COMPONENTS: tuple[Component, ...] = get_args(Component)


TITLES: Mapping[str, str] = {name: name.replace("_", " ") for name in COMPONENTS}


OPTIONAL: Component = "preprocessing"
"""Only in a pass where it was asked for."""


Level = Literal["component", "stage", "whole"]


@dataclass(frozen=True)
class Row:
    """One line of a table; SI units, `None` for what is unknown."""

    level: Level
    """A component that is one stage is a `stage`."""
    name: str
    """A stage's full name, a component, or `whole`."""
    component: str | None
    latency: Estimate | None
    share: float | None
    """Of the sum of all stages' latencies, 0 to 1: stages and sum are of the same passes, so that shares add up."""
    parameters: int | None
    flops: int | None
    peak_bytes: int | None
    counts: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def macs(self) -> int | None:
        """Multiply-adds: half the FLOPs."""
        return None if self.flops is None else self.flops // 2

    @property
    def title(self) -> str:
        """The name as tables show it: without its component, underscores of components as spaces."""
        return TITLES.get(self.name) or self.name.partition(".")[2] or self.name


def rows(run: Run) -> list[Row]:
    """Returns components, each followed by its stages, then the whole."""
    found = []
    for component in COMPONENTS:
        stages = [name for name in stage_names(run) if name.partition(".")[0] == component]
        if stages and stages != [component]:
            found.append(component_row(run, component))
        found += [_row(run, "stage", name, component, [s for s in run.stages if s.name == name]) for name in stages]
    return [*found, whole_row(run)]


def components(runs: Sequence[Run]) -> tuple[Component, ...]:
    """Returns the components that tables of the runs show."""
    seen = any(name.partition(".")[0] == OPTIONAL for run in runs for name in stage_names(run))
    return tuple(component for component in COMPONENTS if seen or component != OPTIONAL)


def component_row(run: Run, component: Component) -> Row:
    """Returns the component's row: its stages' latencies added up pass by pass, their counts added up."""
    return _row(run, "component", component, component, [s for s in run.stages if s.component == component])


def whole_row(run: Run) -> Row:
    """Returns the row of the uninstrumented passes, with all stages' counts added up."""
    return _row(run, "whole", WHOLE, None, run.stages)


def stage_names(run: Run) -> list[str]:
    """Returns the stages' full names in order; those of the samples where nothing was counted."""
    timed = (name for trial in run.trials for name in trial.samples.stages)
    return list(dict.fromkeys([*(stage.name for stage in run.stages), *timed]))


def _row(run: Run, level: Level, name: str, component: str | None, stages: Sequence[Stage]) -> Row:
    found = latency(run, name)
    if level == "whole":  # Pillow's work and memory are not counted: these are the model's
        stages = [stage for stage in stages if stage.component != OPTIONAL]
    flops = [stage.flops for stage in stages if stage.flops is not None]
    peaks = [stage.memory.peak_bytes for stage in stages if stage.memory is not None]
    one = stages[0] if level == "stage" and stages else None
    return Row(
        level=level,
        name=name,
        component=component,
        latency=found,
        share=1.0 if level == "whole" and found is not None else _share(run, found),
        parameters=sum(stage.parameters for stage in stages) if stages else None,
        # A sum with an unknown part is unknown.
        flops=sum(flops) if flops and len(flops) == len(stages) else None,
        peak_bytes=max(peaks) if peaks and len(peaks) == len(stages) else None,
        counts={} if one is None else one.counts,
        note="" if one is None else one.note,
    )


def _share(run: Run, part: Estimate | None) -> float | None:
    total = latency(run, "")
    return part.value / total.value if part is not None and total is not None and total.value else None
