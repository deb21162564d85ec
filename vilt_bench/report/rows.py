"""What all formats show of a run: one row a component, a stage and the whole; and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, get_args

from vilt_bench.config import LANGUAGE_MODEL, case_name, label, unusual
from vilt_bench.quality import UNACCOUNTED, verdict
from vilt_bench.records import Component, Environment, Model, Run, Stage
from vilt_bench.statistics import WHOLE, Estimate, latency

ABSENT = "–"
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


def name(run: Run, *, without: Collection[str] = ()) -> str:
    """Returns the case's name, and which side of a gate it was.

    Args:
        run: any.
        without: fields of the case that are told elsewhere.
    """
    named = case_name(run.case, without=without)
    return named if run.side is None else f"{named} ({run.side} of a gate)"


def names(runs: Sequence[Run]) -> list[str]:
    """Returns the runs' names side by side: what all cases have alike is left out, see `alike`."""
    return [name(run, without=_alike(runs)) for run in runs]


def alike(runs: Sequence[Run]) -> str:
    """Returns what all cases that stand side by side have alike and unusual: `All: 800×1333, fit exact`; or nothing."""
    shared = _alike(runs)
    return f"All: {', '.join(shared.values())}" if shared else ""


def _alike(runs: Sequence[Run]) -> dict[str, str]:
    if len(runs) < 2:
        return {}
    first, *others = (unusual(run.case) for run in runs)
    return {field: text for field, text in first.items() if all(other.get(field) == text for other in others)}


def pixels(model: Model | None) -> str:
    """Returns height and width of what the model saw, such as `384×640`."""
    return ABSENT if model is None else "×".join(map(str, model.resolution))


def tokens(model: Model | None) -> str:
    """Returns the number of visual tokens."""
    return ABSENT if model is None else f"{model.visual_tokens:,}"


def size_line(model: Model | None) -> str:
    """Returns what the model saw, in few words: `384×640 pixels, 240 visual tokens`; empty where it is not known."""
    return "" if model is None else f"{pixels(model)} pixels, {tokens(model)} visual tokens"


def comparison_remarks(runs: Sequence[Run], named: Sequence[str] | None = None, *, ranks: bool = True) -> list[str]:
    """Returns what must be known before runs are compared: where they saw different things, or rank two ways.

    Args:
        runs: that stand side by side.
        named: how the reader knows them; `None`: by `names`.
        ranks: whether bars of latencies are shown.
    """
    found = list(zip(named or names(runs), runs, strict=True))
    return [*_different_inputs(found), *(_different_ranks(found) if ranks else ())]


def _different_inputs(runs: Sequence[tuple[str, Run]]) -> Iterator[str]:
    """Yields where inputs differ, and what makes them equal."""
    built = [(named, run.model) for named, run in runs if run.model is not None]
    fitted = _by_value((_fitted(model), named) for named, model in built)
    if len({model.resolution for _, model in built}) > 1:
        yield (
            f"Not one input: {fitted}. --resolution HxW --fit exact gives all embedders that take any size the same "
            "pixels, --fit crop those whose strides divide HxW."
        )
    elif len({model.fit for _, model in built if model.fit}) > 1:
        yield f"Photographs were fitted differently: {fitted}. Give all the same --fit."
    if len({model.images for _, model in built}) > 1:
        images = _by_value((", ".join(model.images), named) for named, model in built)
        yield f"Not the same images: {images}. Give all the same --image."
    if len({model.visual_tokens for _, model in built}) > 1:
        counts = sorted(model.visual_tokens for _, model in built)
        yield (
            f"The modality interaction gets {counts[0]:,} to {counts[-1]:,} visual tokens: its times are of different "
            "work; equal pixels and patches, or --reduce, make them equal."
        )


def _different_ranks(runs: Sequence[tuple[str, Run]]) -> Iterator[str]:
    """Yields that the whole ranks otherwise than the sum of the stages, which bars show."""
    found = [
        (total.value, whole.value, named)
        for named, run in runs
        if (total := latency(run, "")) is not None and (whole := latency(run)) is not None
    ]
    if any(one[0] < other[0] and one[1] > (1 + UNACCOUNTED) * other[1] for one in found for other in found):
        order = [f"{named} {milliseconds_of(whole)} ms" for _, whole, named in sorted(found, key=lambda each: each[1])]
        yield f"Bars are sums of stages; the wholes, timed apart, rank otherwise: {', '.join(order)}."


def _by_value(pairs: Iterable[tuple[str, str]], most: int = 4) -> str:
    """Returns what has which value: `384×640 pixels (a, b), 224×320 pixels (c and 5 more)`."""
    found: dict[str, dict[str, None]] = {}
    for value, named in pairs:
        found.setdefault(value, {})[named] = None
    told = []
    for value, own in found.items():
        more = f" and {len(own) - most} more" if len(own) > most else ""
        told.append(f"{value} ({', '.join(list(own)[:most])}{more})")
    return ", ".join(told)


def _fitted(model: Model) -> str:
    return f"{pixels(model)} pixels" + (f" by --fit {model.fit}" if model.fit else "")


def model_line(run: Run) -> str:
    """Returns what was run, in one line."""
    model, case = run.model, run.case
    if model is None:
        return f"batch {case.batch_size}, {case.dtype}"
    weighed = f"{model.visual_weights} weights"
    if model.visual_weights != model.shared_weights:
        weighed = f"weights {model.visual_weights} (visual embedder), {model.shared_weights} (shared)"
    joined = "" if model.interaction == "vilt" else f" · interaction: {model.interaction}{_language_sizes(model)}"
    return (
        f"{model.kind}{joined} · {_fitted(model)} · "
        f"{model.visual_tokens} visual + {model.text_tokens} text tokens · "
        f"batch {case.batch_size} · {case.dtype} · {weighed} · images: {', '.join(model.images) or ABSENT} · "
        f"text: {model.text}"
    )


def _language_sizes(model: Model) -> str:
    """Returns the sizes of a language model, whose name says less than those of the paper's interactions."""
    if not model.interaction.startswith(LANGUAGE_MODEL):
        return ""
    vocabulary = "" if model.vocabulary is None else f", vocabulary {model.vocabulary:,}"
    return f" ({model.layers} layers of width {model.hidden_size}{vocabulary})"


def machine_line(run: Run) -> str:
    """Returns where it was run, in one line; empty where it is not known."""
    return environment_line(run.environment, linear=f"linear layers: {run.model.linear}" if run.model else "")


def environment_line(where: Environment | None, *, linear: str = "") -> str:
    """Returns the machine and its software in one line, with who computed the linear layers; empty where unknown."""
    if where is None:
        return ""
    threads = f"{where.threads} thread{'s' if where.threads != 1 else ''}"
    versions = ", ".join(f"{part} {where.versions[part]}" for part in ("torch", "python") if part in where.versions)
    device = where.device if where.device_name in where.machine else f"{where.device} {where.device_name}"
    return " · ".join(part for part in (where.machine, device, threads, linear, versions) if part)


def run_fields(run: Run) -> dict[str, str | int | float | None]:
    """Returns the run's columns of a tidy table: what, how and where; `None` where unknown."""
    model, where, energy = run.model, run.environment, run.energy
    height, width = model.resolution if model is not None else (None, None)
    return {
        "run_id": run.run_id,
        "started_at": run.started_at,
        "group": run.group,
        "case": case_name(run.case),
        "embedder": label(run.case),
        "kind": model.kind if model is not None else None,
        "verdict": verdict(run),
        "failure": f"{run.failure.kind}: {run.failure.message}" if run.failure is not None else None,
        "machine": where.machine if where is not None else None,
        "fingerprint": where.fingerprint if where is not None else None,
        "device": where.device if where is not None else None,
        "threads": where.threads if where is not None else None,
        "dtype": run.case.dtype,
        "linear": model.linear if model is not None else None,
        "batch_size": run.case.batch_size,
        "height": height,
        "width": width,
        "fit": model.fit if model is not None else None,
        "visual_tokens": model.visual_tokens if model is not None else None,
        "text_tokens": model.text_tokens if model is not None else None,
        "visual_weights": model.visual_weights if model is not None else None,
        "shared_weights": model.shared_weights if model is not None else None,
        "energy_per_pass_j": median(energy.joules_per_pass) if energy is not None else None,
        "idle_power_w": energy.idle_power_w if energy is not None else None,
    }


def stage_fields(row: Row) -> dict[str, Any]:
    """Returns the stage's columns of a tidy table; `None` where unknown."""
    found = row.latency
    return {
        "level": row.level,
        "component": row.component,
        "stage": row.name,
        "latency_median_s": found.value if found is not None else None,
        "latency_low_s": found.low if found is not None else None,
        "latency_high_s": found.high if found is not None else None,
        "samples": found.samples if found is not None else None,
        "interval_units": found.units if found is not None else None,
        "interval_unit": found.unit if found is not None else None,
        "share": row.share,
        "parameters": row.parameters,
        "flops": row.flops,
        "macs": row.macs,
        "memory_peak_bytes": row.peak_bytes,
        "counts": dict(row.counts),
        "note": row.note or None,
    }


def milliseconds(estimate: Estimate | None) -> str:
    """Returns the latency in ms, such as `12.31`."""
    return ABSENT if estimate is None else number(1000 * estimate.value)


def milliseconds_of(seconds: float | None) -> str:
    """Returns seconds in ms."""
    return ABSENT if seconds is None else number(1000 * seconds)


def milliseconds_interval(estimate: Estimate | None) -> str:
    """Returns the latency in ms with its 95% interval, such as `12.31 [12.10, 12.60]`; no digits that it leaves open.

    An interval that reaches zero has no lower end that says anything: `12.31 [–, 30.02]`.
    """
    if estimate is None:
        return ABSENT
    value = 1000 * estimate.value
    if estimate.low is None or estimate.high is None:
        return f"{number(value)} [{ABSENT}]"
    half = 1000 * (estimate.high - estimate.value)
    places = min(decimals(value), max(0, 1 - math.floor(math.log10(half)))) if half > 0 else decimals(value)
    low = f"{1000 * estimate.low:,.{places}f}" if estimate.low > 0 else ABSENT
    return f"{value:,.{places}f} [{low}, {1000 * estimate.high:,.{places}f}]"


def percent(share: float | None) -> str:
    """Returns a share as `12.3%`."""
    return ABSENT if share is None else f"{100 * share:.1f}%"


def millions(count: int | None) -> str:
    """Returns a count in millions."""
    return ABSENT if count is None else number(count / 1e6)


def giga(count: int | None) -> str:
    """Returns a count in thousands of millions, as for GFLOPs."""
    return ABSENT if count is None else number(count / 1e9)


def mebibytes(size: int | None) -> str:
    """Returns bytes in MiB."""
    return ABSENT if size is None else number(size / 2**20)


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


def number(value: float) -> str:
    """Returns the value with about four digits, thousands set apart."""
    return f"{value:,.{decimals(value)}f}"


def decimals(value: float) -> int:
    """Returns the decimals that leave about four digits, two at least for values of 1 to 1000."""
    size = abs(value)
    return 0 if size == 0 else 4 if size < 0.1 else 3 if size < 1 else 2 if size < 100 else 1
