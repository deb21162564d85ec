"""How far a run's stages are from the least times that the machine's peak allows: estimates, computed on read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vilt_bench.judge.estimate import Estimate
from vilt_bench.judge.latency import Latencies
from vilt_bench.record.peak import Peak
from vilt_bench.record.run import WHOLE, Run, Stage

_NOT_COUNTED = "preprocessing"
"""Pillow's work, of which there is no count."""
_SAME_PROCESS = "tf32"
"""A precision of products in float32 that is a setting of the process, and so the measured peak's too."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The least time of a stage, a component or the whole, beside the measured."""

    least_s: float
    """An estimate: no measurement of the stage."""
    share: float | None
    """Least over measured time, 0 to 1: how much of the limit is reached; `None`: it was not timed, or takes less than
    it should take at least, so that the bound is wrong."""
    beaten: bool = False
    """Whether it, or a stage within, takes less than its least time."""


def least_times(peak: Peak, stages: Iterable[Stage]) -> dict[str, float]:
    """Returns the seconds that each stage takes at least; one without counts is left out."""
    return {
        stage.name: peak.bound_s(stage.flops, stage.moved_bytes)
        for stage in stages
        if stage.flops is not None and stage.moved_bytes is not None
    }


def limits(run: Run, found: Latencies) -> dict[str, Limit]:
    """Returns the limits of a run's stages, of its components of several stages, and of the whole, by name.

    A sum with an unknown part is unknown. Left out is as well what was computed in another precision than the peak's,
    such as int8: its bytes and its peak are others.
    """
    if run.peak is None or run.peak.dtype != run.case.dtype:
        return {}
    others = _of_other_precision(run)
    least = least_times(
        run.peak, [stage for stage in run.stages if stage.component != _NOT_COUNTED and stage.name not in others]
    )
    made = {name: _limit(seconds, found.stages.get(name)) for name, seconds in least.items()}
    for component in dict.fromkeys(stage.component for stage in run.stages):
        inner = [stage.name for stage in run.stages if stage.component == component]
        if component not in made and all(name in made for name in inner):
            made[component] = _sum([made[name] for name in inner], found.stages.get(component))
    if run.stages and all(stage.name in least for stage in run.stages):
        made[WHOLE] = _sum([made[stage.name] for stage in run.stages], found.whole)
    return made


def beaten(run: Run, found: Latencies) -> dict[str, tuple[float, float]]:
    """Returns the stages that take less than their least time, each with measured and least time in seconds."""
    known: Mapping[str, Limit] = limits(run, found)
    return {
        stage.name: (measured.value, limit.least_s)
        for stage in run.stages
        if (limit := known.get(stage.name)) is not None
        and limit.beaten
        and (measured := found.stages.get(stage.name)) is not None
    }


def _limit(least_s: float, measured: Estimate | None, *, beaten: bool = False) -> Limit:
    beaten = beaten or (measured is not None and measured.value < least_s)
    known = measured is not None and measured.value > 0 and not beaten
    return Limit(least_s, least_s / measured.value if measured is not None and known else None, beaten)


def _sum(parts: Iterable[Limit], measured: Estimate | None) -> Limit:
    several = list(parts)
    return _limit(sum(part.least_s for part in several), measured, beaten=any(part.beaten for part in several))


def _of_other_precision(run: Run) -> set[str]:
    made = run.model.computation if run.model is not None else None
    return {
        stage.name
        for stage in (made.stages if made is not None else ())
        if stage.precision != _SAME_PROCESS
        and not all(each.startswith(run.case.dtype) for each in stage.precision.split(" and "))
    }
