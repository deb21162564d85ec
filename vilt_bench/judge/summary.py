"""A run judged once: what was estimated, counted and remarked of it; all that reports write, and no raw samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from vilt_bench.ask.case import ALONE, Case, Sampling
from vilt_bench.judge.estimate import Estimate, median
from vilt_bench.judge.latency import Latencies, latencies
from vilt_bench.judge.limit import Limit, limits
from vilt_bench.judge.pipeline import Pipeline, pipeline
from vilt_bench.judge.ranking import Place, rank
from vilt_bench.judge.remarks import Remark, Verdict, remarks, verdict
from vilt_bench.judge.throughput import Passes, frames_of, images_of, images_per_second, single_passes, time_per_image
from vilt_bench.judge.turns import Turns, turns_of
from vilt_bench.record.run import (
    WHOLE,
    Component,
    Deviation,
    Energy,
    Environment,
    Failure,
    Model,
    Origin,
    PreparedStage,
    Run,
    Source,
    Stage,
)

if TYPE_CHECKING:
    from vilt_bench.judge.trace import Trace

COMPONENTS: tuple[Component, ...] = get_args(Component)
TITLES: Mapping[str, str] = {name: name.replace("_", " ") for name in COMPONENTS}
OPTIONAL: Component = "preprocessing"
"""Only in a pass where it was asked for."""
Level = Literal["component", "stage", "whole"]


@dataclass(frozen=True, slots=True)
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
    stages: tuple[Stage, ...] = ()
    """What was counted, by stage; of a stage its own."""
    images_per_second: Estimate | None = None
    """As if no other stage took time."""
    time_per_image: Estimate | None = None
    """Seconds."""
    frames_per_second: Estimate | None = None
    """Likewise, of clips, which have no images."""
    time_per_frame: Estimate | None = None
    """Seconds."""
    passes: Passes | None = None
    """Of the whole only: its uninstrumented passes one by one."""
    place: Place | None = None
    """Of the whole only: among the runs that it was judged with and took turns with."""

    computed: PreparedStage | None = None
    """Who computed it, where that is known and it is one stage."""
    deviation: Deviation | None = None
    """From eager float32's output: of a stage, or of the whole."""
    pipeline: Pipeline | None = None
    """Of the whole only: preprocessing and model at the same time."""
    limit: Limit | None = None
    """The least time on this machine, and how much of it is reached; `None`: not known."""
    prepare_time_s: float | None = None
    """What the backend took to prepare it: of a stage in the first trial, of the whole the trials' median."""

    @property
    def macs(self) -> int | None:
        """Multiply-adds: half the FLOPs."""
        return None if self.flops is None else self.flops // 2

    @property
    def title(self) -> str:
        """The name as tables show it: without its component, underscores of components as spaces."""
        return TITLES.get(self.name) or self.name.partition(".")[2] or self.name


@dataclass(frozen=True, slots=True)
class Summary:
    """One run, judged; immutable."""

    run_id: str
    started_at: str
    """UTC, ISO 8601."""
    group: str
    position: int | None
    side: Literal["baseline", "candidate"] | None
    case: Case
    environment: Environment | None
    model: Model | None
    energy: Energy | None
    failure: Failure | None
    sampling: Sampling
    source: Source | None
    trials: int
    verdict: Verdict
    rows: tuple[Row, ...]
    """Components, each followed by its stages, then the whole."""
    components: Mapping[Component, Row]
    """All of them: their stages' latencies added up pass by pass, their counts added up; unknown where not in a run."""
    total: Estimate | None
    """Latency of the sum of all stages; seconds."""
    remarks: tuple[Remark, ...]
    """What a reader must know, the most important first."""
    name: str | None
    """What its user calls the run."""
    origin: Origin | None
    doctor: tuple[str, ...] | None
    """What is objected to in the conditions; `None`: not known."""
    pipeline: Pipeline | None = None
    """Preprocessing and model at the same time; `None`: not measured."""
    turns: tuple[Turns, ...] = ()
    """Of its processes, beside those of other runs of the group."""
    trace: Trace | None = None
    """Some of its passes, where a page is to draw them."""

    @property
    def whole(self) -> Row:
        """The row of the uninstrumented passes, with all stages' counts added up."""
        return self.rows[-1]

    @property
    def timed(self) -> bool:
        """Whether the whole was timed."""
        return self.whole.latency is not None

    def stages(self, component: Component) -> tuple[Row, ...]:
        """Returns the rows of a component's stages; of itself, where it is one stage."""
        return tuple(row for row in self.rows if row.level == "stage" and row.component == component)


def summarise(run: Run) -> Summary:
    """Returns the run judged: every estimate and remark is computed here, once."""
    found = latencies(run)
    names = _stage_names(run)
    case = run.case
    rows: list[Row] = []
    components: dict[Component, Row] = {}
    for component in COMPONENTS:
        inner = [name for name in names if name.partition(".")[0] == component]
        counted = [stage for stage in run.stages if stage.component == component]
        whole = components[component] = _row(found, case, "component", component, component, counted)
        if inner == [component]:
            rows.append(_row(found, case, "stage", component, component, counted))
            continue
        if inner:
            rows.append(whole)
        rows += [
            _row(found, case, "stage", name, component, [stage for stage in counted if stage.name == name])
            for name in inner
        ]
    # Pillow's work and memory are not counted: the whole's are the model's.
    model = [stage for stage in run.stages if stage.component != OPTIONAL]
    rows.append(_row(found, case, "whole", WHOLE, None, model, passes=single_passes(run)))
    at_once = pipeline(run)
    rows[-1] = replace(rows[-1], pipeline=at_once)
    known = limits(run, found)
    rows = [replace(row, limit=known.get(row.name)) for row in _with_computation(run, rows)]
    return Summary(
        run_id=run.run_id,
        started_at=run.started_at,
        group=run.group,
        position=run.position,
        side=run.side,
        case=run.case,
        environment=run.environment,
        model=run.model,
        energy=run.energy,
        failure=run.failure,
        trials=len(run.trials),
        sampling=run.sampling,
        source=run.source,
        name=run.name,
        origin=run.origin,
        doctor=run.doctor,
        verdict=verdict(run, found),
        rows=tuple(rows),
        components=components,
        total=found.total,
        remarks=remarks(run, found),
        pipeline=at_once,
        turns=turns_of(run),
    )


def summaries(runs: Iterable[Run | Summary]) -> list[Summary]:
    """Returns the runs judged, each with its place among them; those that are judged already keep all else."""
    return placed([run if isinstance(run, Summary) else summarise(run) for run in runs])


def placed(runs: Sequence[Summary]) -> list[Summary]:
    """Returns the runs with their places among each other, none where nothing can be said in pairs."""
    places = {id(run): place for ranking in rank(runs) for run, place in zip(ranking.runs, ranking.places, strict=True)}
    return [
        run if run.whole.place == place else replace(run, rows=(*run.rows[:-1], replace(run.whole, place=place)))
        for run in runs
        for place in [places.get(id(run))]
    ]


def shown_components(runs: Sequence[Summary]) -> tuple[Component, ...]:
    """Returns the components that tables of the runs show: those that any has, and those of every whole model."""
    alone = runs and all(run.case.interaction == ALONE for run in runs)
    usual = {"visual_embedder"} if alone else set(COMPONENTS) - {OPTIONAL}
    return tuple(
        component for component in COMPONENTS if component in usual or any(run.stages(component) for run in runs)
    )


def _with_computation(run: Run, rows: list[Row]) -> list[Row]:
    """Returns the rows with who computed them, where the record says so."""
    made = run.model.computation if run.model is not None else None
    if made is None:
        return rows
    stages = {stage.name: stage for stage in made.stages}
    times = [trial.prepare_time_s for trial in run.trials if trial.prepare_time_s is not None]
    whole = replace(rows[-1], deviation=made.deviation, prepare_time_s=median(times) if times else None)
    return [
        *(
            row
            if row.level != "stage" or (found := stages.get(row.name)) is None
            else replace(row, computed=found, deviation=found.deviation, prepare_time_s=found.prepare_time_s)
            for row in rows[:-1]
        ),
        whole,
    ]


def _stage_names(run: Run) -> list[str]:
    """Returns the stages' full names in order; those of the samples where nothing was counted."""
    timed = (name for trial in run.trials for name in trial.samples.stages)
    return list(dict.fromkeys([*(stage.name for stage in run.stages), *timed]))


def _row(
    found: Latencies,
    case: Case,
    level: Level,
    name: str,
    component: str | None,
    stages: Sequence[Stage],
    *,
    passes: Passes | None = None,
) -> Row:
    latency = found.whole if level == "whole" else found.stages.get(name)
    share = 1.0 if level == "whole" and latency is not None else _share(latency, found.total)
    return counted_row(level, name, component, stages, latency=latency, share=share, case=case, passes=passes)


def counted_row(
    level: Level,
    name: str,
    component: str | None,
    stages: Sequence[Stage],
    *,
    latency: Estimate | None = None,
    share: float | None = None,
    case: Case | None = None,
    passes: Passes | None = None,
) -> Row:
    """Returns the row of what was counted of stages; without what is named, of a model that was not run."""
    flops = [stage.flops for stage in stages if stage.flops is not None]
    peaks = [stage.memory.peak_bytes for stage in stages if stage.memory is not None]
    one = stages[0] if level == "stage" and stages else None
    images, frames = (None, None) if case is None else (images_of(case), frames_of(case))
    return Row(
        level=level,
        name=name,
        component=component,
        latency=latency,
        share=share,
        parameters=sum(stage.parameters for stage in stages) if stages else None,
        # A sum with an unknown part is unknown.
        flops=sum(flops) if flops and len(flops) == len(stages) else None,
        peak_bytes=max(peaks) if peaks and len(peaks) == len(stages) else None,
        counts={} if one is None else one.counts,
        note="" if one is None else one.note,
        stages=tuple(stages),
        images_per_second=images_per_second(latency, images),
        time_per_image=time_per_image(latency, images),
        frames_per_second=images_per_second(latency, frames),
        time_per_frame=time_per_image(latency, frames),
        passes=passes,
    )


def _share(part: Estimate | None, total: Estimate | None) -> float | None:
    return part.value / total.value if part is not None and total is not None and total.value else None
