"""What a page of runs holds as data: columns of the table of cases, and of each case its stages, passes and origin.

All is judged and written before: the page's script sorts, filters and draws, and computes no estimate of its own but
the ratio of two cases that its reader chooses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from vilt_bench.ask.case import ALONE, LANGUAGE_MODEL, Case
from vilt_bench.judge.estimate import Estimate
from vilt_bench.judge.summary import COMPONENTS, TITLES, Row, Summary, shown_components
from vilt_bench.judge.trace import MOST
from vilt_bench.report import axes, clean
from vilt_bench.report.axes import AXES, Axis
from vilt_bench.report.columns import LATENCY, PREFILL, QUANTITIES, RANK, SHARE, Quantity, usual
from vilt_bench.report.lines import (
    OTHER_OUTPUT,
    has_other_output,
    machine_line,
    model_line,
    names,
    pipeline_line,
    pixels,
    text_words,
    throughput_line,
    verdict_words,
)
from vilt_bench.report.numbers import ABSENT, milliseconds, milliseconds_interval
from vilt_bench.report.remarks import sentences
from vilt_bench.report.runs.tables import usual_side_by_side
from vilt_bench.report.tables import Column

SIGNS = {"precise": "✔", "noisy": "≈", "interrupted": "◼", "failed": "✖"}
"""Before a verdict, so that it is told by more than a colour."""
MANY = 200
"""From so many runs on, a page leaves out what only a single run's reader asks for."""
MOST_SAMPLES = 30_000
"""Passes that a page holds of all its runs together."""
LEAST_SAMPLES = 12
"""Of a run."""
FIRST = ("whole", SHARE.name.replace("_", "-"), "verdict")
"""Columns that stand before the others: how long, what share of it is seeing, how sure."""
ALWAYS = ("machine", "interaction", "text-length", "dtype", "backend", "device", "threads", "batch-size")
"""Axes that the table of cases has as columns, whether runs differ in them or not."""


@dataclass(frozen=True)
class Told:
    """A column of the table of cases."""

    key: str
    title: str
    texts: Sequence[str]
    values: Sequence[Any]
    """What is sorted by and drawn: a number, or value, low and high; a text; `None` where unknown."""
    kind: str
    """`axis`: what was asked for or given; `quantity`: what was measured or counted; `text`."""
    shown: bool = False
    """Unless its reader chooses otherwise."""
    more_is_better: bool = False
    number: bool = True


def columns(runs: Sequence[Summary], quantities: Sequence[Quantity] = ()) -> list[Told]:
    """Returns the columns behind the name, without those in which no run has anything.

    Args:
        runs: in order.
        quantities: that are shown at first, in their order; none: those of tables.
    """
    found = [*_axes(runs), *_quantities(runs, quantities)]
    if not quantities:  # what is first asked is first seen, on a telephone too
        found.sort(key=lambda each: FIRST.index(each.key) if each.key in FIRST else len(FIRST))
    return [each for each in found if any(text not in (ABSENT, "") for text in each.texts)]


def _axes(runs: Sequence[Summary]) -> Iterator[Told]:
    models = [run.model for run in runs]
    sizes: list[Any] = [None if model is None else model.resolution[0] * model.resolution[1] for model in models]
    kinds = [ABSENT if model is None else model.kind for model in models]
    yield Told("pixels", "Pixels", [pixels(model) for model in models], sizes, "axis", shown=True)
    yield _axis(AXES["visual-tokens"], runs, shown=True)
    yield Told("kind", "Kind", kinds, kinds, "axis", number=False)
    varying = {each.name for each in axes.varying(runs)}
    for name, each in AXES.items():
        if name in ALWAYS or (name in varying and name != "resolution"):
            yield _axis(each, runs)
    dates = [run.started_at[:16].replace("T", " ") for run in runs]
    yield Told("measured", "Measured (UTC)", dates, [run.started_at for run in runs], "text", number=False)


def _axis(along: Axis, runs: Sequence[Summary], *, shown: bool = False) -> Told:
    values = [along.of(run) for run in runs]
    texts = axes.written(along, dict.fromkeys(value for value in values if value is not None))
    told = [ABSENT if value is None else texts[value] for value in values]
    numbers: list[Any] = list(map(along.number, runs)) if along.number is not None else list(told)
    return Told(along.name, along.title, told, numbers, "axis", shown=shown, number=along.number is not None)


def _quantities(runs: Sequence[Summary], chosen: Sequence[Quantity]) -> Iterator[Told]:
    first = list(chosen or usual_side_by_side(runs))
    at_first = {each.name for each in first}
    for quantity in [*first, *(each for each in QUANTITIES if each.name not in at_first)]:
        shown = quantity.name in at_first
        if quantity.name == LATENCY.name:
            for component in shown_components(runs):
                title = Column(TITLES[component].capitalize(), "ms")
                short = replace(quantity, write=milliseconds)
                yield _of_rows(short, title, component, [run.components[component] for run in runs], shown=not chosen)
            told = _of_rows(quantity, Column("Whole", "ms", "95% interval"), "whole", [run.whole for run in runs])
            texts = [_failed(run) or text for run, text in zip(runs, told.texts, strict=True)]
            yield Told("whole", told.title, texts, told.values, "quantity", shown=shown)
            prefills = [(run, row) for run in runs for row in run.rows if row.name == PREFILL]
            if prefills:
                nothing = replace(runs[0].whole, latency=None)
                own = {id(run): row for run, row in prefills}
                rows = [own.get(id(run), nothing) for run in runs]
                yield _of_rows(replace(quantity, write=milliseconds), Column("Prefill", "ms"), "prefill", rows)
            verdicts = [f"{SIGNS[run.verdict]} {verdict_words(run)}" for run in runs]
            yield Told("verdict", "Verdict", verdicts, verdicts, "axis", shown=True, number=False)
        elif quantity.name == SHARE.name:
            title = Column("Visual share", "%")
            rows = [run.components["visual_embedder"] for run in runs]
            yield _of_rows(quantity, title, quantity.name, rows, shown=shown)
        else:
            yield _of_rows(quantity, quantity.column, quantity.name, [run.whole for run in runs], shown=shown)


def _failed(run: Summary) -> str:
    return run.failure.kind if run.failure is not None and run.whole.latency is None else ""


def _of_rows(quantity: Quantity, title: Column, key: str, rows: Sequence[Row], *, shown: bool = False) -> Told:
    aside = " ".join(title.heading(title.title))
    values = [_value(quantity, row) for row in rows]
    return Told(
        key.replace("_", "-"),
        aside,
        [quantity.text(row) for row in rows],
        values,
        "quantity" if quantity.drawn else "text",
        shown=shown,
        more_is_better=quantity.more_is_better,
        number=quantity.drawn or quantity.name == RANK.name,
    )


def _value(quantity: Quantity, row: Row) -> Any:
    found = quantity.of(row)
    if found is None:
        return None
    if isinstance(found, Estimate):
        return [_few(quantity.scale, each) for each in (found.value, found.low, found.high)]
    if isinstance(found, int | float):
        return _few(quantity.scale, found)
    return getattr(found, "rank", None) if quantity.name == RANK.name else str(found)


def _few(scale: float, value: float | None) -> float | int | None:
    """Returns the value in its column's unit, with the digits that a picture needs."""
    if value is None:
        return None
    few = float(f"{scale * value:.5g}")
    return int(few) if few == int(few) and abs(few) < 1e15 else few


class Shared:
    """Values of which each is kept once, by its place: most runs of a page have most of them alike."""

    def __init__(self) -> None:
        """Begin without any."""
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def add(self, value: Any) -> int:
        """Returns the place of a value."""
        key = repr(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def data(runs: Sequence[Summary], told: Sequence[Told]) -> dict[str, Any]:
    """Returns all that the page's script needs, as plain data.

    Args:
        runs: in order.
        told: the columns of the table of cases.
    """
    shared = Shared()
    inner = [
        each
        for each in usual()
        if any(each.text(row) != ABSENT for run in runs for row in run.rows)
    ]  # fmt: skip
    kinds = _stages(runs)
    most = min(MOST, max(LEAST_SAMPLES, MOST_SAMPLES // max(1, len(runs))))
    ids = _ids(runs)
    cases = []
    for index, (run, named) in enumerate(zip(runs, names(runs), strict=True)):
        cases.append(
            {
                "id": ids[index],
                "name": named,
                "rows": [
                    [
                        kinds.index(row.name),
                        "cws".index(row.level[0]),
                        _estimate(row.latency),
                        [q.text(row) for q in inner],
                    ]
                    for row in run.rows
                ],
                "remarks": [shared.add(each) for each in sentences(run.remarks)],
                "lines": [
                    shared.add(each)
                    for each in (model_line(run), machine_line(run), throughput_line(run), pipeline_line(run))
                    if each
                ],
                "origin": shared.add(_origin(run)),
                "at": shared.add(run.started_at),
                "group": shared.add(run.group),
                "trials": _trials(run, most, shared),
                "raw": {key: shared.add(value) for key, value in _raw(run, lean=len(runs) > MANY).items()},
                "record": "" if run.trace is None else run.trace.record,
            }
        )
    return {
        "columns": list(map(_column, told)),
        "inner": [" ".join(each.column.heading(each.column.title)) for each in inner],
        "stages": [_stage(name, kinds) for name in kinds],
        "cases": cases,
        "shared": shared.values,
        "waits": _waits(runs),
        "plots": [],
    }


def _column(told: Told) -> dict[str, Any]:
    """Returns a column, each of its texts and values once, and by case which of them it has."""
    distinct = Shared()
    at = [distinct.add(pair) for pair in zip(told.texts, told.values, strict=True)]
    return {
        "key": told.key,
        "title": told.title,
        "kind": told.kind,
        "shown": told.shown,
        "more": told.more_is_better,
        "number": told.number,
        "texts": [text for text, _ in distinct.values],
        "values": [value for _, value in distinct.values],
        "at": at,
    }


def cleaned(value: Any) -> Any:
    """Returns plain data whose texts hold nothing that can't be shown; what has no end is unknown."""
    match value:
        case str():
            return clean.line(value)
        case dict():
            return {clean.line(key): cleaned(each) for key, each in value.items()}
        case list() | tuple():
            return [cleaned(each) for each in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def _ids(runs: Sequence[Summary]) -> list[str]:
    """Returns what names each run in the address: the beginning of its id, and a number where that is not its own."""
    found: dict[str, None] = {}
    for run in runs:
        short = re.sub(r"[^0-9A-Za-z-]", "", run.run_id)[:12] or "run"
        number = 2
        named = short
        while named in found:
            named, number = f"{short}-{number}", number + 1
        found[named] = None
    return list(found)


def _estimate(found: Estimate | None) -> list[Any] | None:
    if found is None:
        return None
    return [*(_few(1e3, each) for each in (found.value, found.low, found.high)), found.units, found.samples]


def _stages(runs: Sequence[Summary]) -> list[str]:
    """Returns the names of all stages in the order in which they run: what only some runs have, where they have it."""
    found: list[str] = []
    for run in runs:
        at = 0
        for row in run.rows:
            if row.name not in found:
                found.insert(at, row.name)
            at = found.index(row.name) + 1
    return sorted(found, key=_place)


def _place(name: str) -> int:
    """Returns where a stage stands: by its component, the whole last; sorting keeps the rest as it comes."""
    found = [index for index, component in enumerate(COMPONENTS) if component == name.partition(".")[0]]
    return found[0] if found else len(COMPONENTS)


def _stage(name: str, kinds: Sequence[str]) -> dict[str, Any]:
    from vilt_bench.report.pictures.latency import stage_title
    from vilt_bench.report.pictures.style import looks

    short = {each: each if each in TITLES else each.partition(".")[2] or each for each in kinds}
    component = name.partition(".")[0]
    look = looks(short.values())[short[name]]
    return {
        "name": name,
        "title": stage_title(short[name]),
        "component": component,
        "fill": look.colour,
        "hatch": look.hatch[0] if look.hatch else "",
        "line": look.hatch_colour,
        "ink": look.text_colour,
    }


def _origin(run: Summary) -> dict[str, Any]:
    source, origin, where = run.source, run.origin, run.environment
    return {
        "command": None if origin is None else origin.command or "a call from Python",
        "plan": None if origin is None or origin.plan is None else f"{origin.plan.path} (SHA-256 {origin.plan.sha256})",
        "commit": None if source is None else source.commit + (" (changed)" if source.dirty else ""),
        "machine": None if where is None else f"{where.machine} ({where.fingerprint})",
        "versions": None if where is None else ", ".join(f"{name} {it}" for name, it in where.versions.items()),
        "settings": None if where is None else ", ".join(f"{name} {it}" for name, it in where.settings.items()),
        "doctor": None if run.doctor is None else "; ".join(run.doctor) or "no objection",
    }


def _trials(run: Summary, most: int, shared: Shared) -> list[list[Any]]:
    if run.trace is None:
        return []
    found = []
    for trial in run.trace.thinned(most).trials:
        around = trial.conditions
        told = [
            shared.add(trial.started_at),
            trial.passes,
            _few(1e3, trial.first_call_s),
            trial.settled,
            _few(100, around.cpu_share),
            around.involuntary_context_switches,
            _few(1, around.load_average_after),
            [[_few(1e3, each) for each in block] for block in trial.blocks],
        ]
        found.append(told)
    return found


def _raw(run: Summary, *, lean: bool) -> dict[str, Any]:
    """Returns the record's parts but its samples; of many runs, without what the page tells otherwise."""
    parts: dict[str, Any] = {
        "case": plain(run.case, Case(run.case.embedder)),
        "sampling": plain(run.sampling),
        "environment": plain(run.environment),
        "failure": plain(run.failure),
    }
    if not lean:
        parts |= {"model": plain(run.model), "source": plain(run.source), "energy": plain(run.energy)}
        parts |= {"stages": [plain(stage) for row in run.rows[-1:] for stage in row.stages]}
    return {key: value for key, value in parts.items() if value is not None}


def plain(value: Any, usual: object = None) -> Any:
    """Returns data of the records as JSON has it.

    Args:
        value: any.
        usual: another of its kind, whose fields are left out where they are alike.
    """
    if is_dataclass(value):
        told = {each.name: getattr(value, each.name) for each in fields(value)}
        return {
            name: plain(it)
            for name, it in told.items()
            if it is not None and (usual is None or name == "embedder" or it != getattr(usual, name))
        }
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def _waits(runs: Sequence[Summary]) -> list[dict[str, Any]]:
    """Returns for each shared model, as it was run, its time against visual tokens, and the towers in front of it.

    What must agree is what makes times comparable: machine, device, threads, precision, backend and batch.
    """
    same = ("machine", "device", "threads", "dtype", "backend", "batch-size")
    own = ("interaction", "text-length", "images-per-text", "frames", "sizes")

    def key(run: Summary, of: Sequence[str]) -> tuple[Any, ...]:
        return tuple(AXES[name].of(run) for name in of)

    timed = [(index, run) for index, run in enumerate(runs) if run.timed and run.model is not None]
    groups: dict[tuple[Any, ...], list[tuple[int, Summary]]] = {}
    for index, run in timed:
        if run.components["modality_interaction"].latency is not None:
            groups.setdefault((key(run, same), key(run, own)), []).append((index, run))
    found = []
    for (where, _), members in groups.items():
        points: dict[int, list[int]] = {}
        for index, run in members:
            points.setdefault(run.model.visual_tokens if run.model is not None else 0, []).append(index)
        if len(points) < 2:
            continue
        first = members[0][1]
        language = first.case.interaction.startswith(LANGUAGE_MODEL)
        told = [first.case.interaction, *text_words(first.case), f"batch {first.case.batch_size}"]
        told += [first.case.dtype, first.case.backend, AXES["machine"].write(AXES["machine"].of(first))]
        towers = [
            index
            for index, run in timed
            if key(run, same) == where and run.components["visual_embedder"].latency is not None
        ]
        found.append(
            {
                "name": ", ".join(told),
                "title": "Time to first token" if language else "A pass",
                "tokens": sorted(points),
                "cases": [points[each] for each in sorted(points)],
                "towers": towers,
            }
        )
    return found


Part = tuple[str, bool]
"""A text, and whether it is what a reader looks for."""


def lead(runs: Sequence[Summary]) -> list[Part]:
    """Returns the answer in a sentence: which embedder, how long, what share of it is seeing."""
    timed = [(run.whole.latency, run, named) for run, named in zip(runs, names(runs), strict=True) if run.whole.latency]
    if not runs:
        return [("There is no run on this page.", False)]
    if not timed:
        return [("No run was timed: ", False), (f"{len(runs)} failed or ended early", True), (".", False)]
    timed.sort(key=lambda each: each[0].value)

    def told(at: int) -> list[Part]:
        latency, run, named = timed[at]
        share = run.components["visual_embedder"].share
        seen = [] if share is None else [(", ", False), (f"{100 * share:.1f}%", True), (" of it seeing", False)]
        return [
            (named if len(named) <= _LONGEST_NAME else f"{named[: _LONGEST_NAME - 1]}…", True),
            (" takes ", False),
            (f"{milliseconds_interval(latency)} ms", True),
            (" a pass", False),
            *seen,
        ]

    if len(timed) == 1:
        return [*told(0), (".", False)]
    least, most = timed[0], timed[-1]
    # How many times as long says something where both do the same work: as many images, the same after them.
    is_one_question = all(
        getattr(least[1].case, each) == getattr(most[1].case, each)
        for each in ("batch_size", "interaction", "text_length", "images_per_text", "frames")
    )
    times = most[0].value / least[0].value if least[0].value and is_one_question else None
    more = [] if times is None else [(": ", False), (f"{times:,.1f} times as long", True)]
    return [(f"Of {len(timed):,} runs, ", False), *told(0), ("; ", False), *told(-1), *more, (".", False)]


def facts(runs: Sequence[Summary], told: Sequence[Told]) -> list[tuple[str, str]]:
    """Returns how sure the answer is, on what it was measured, of what, and when: terms and what is told of them.

    Args:
        runs: in order.
        told: the columns of the table of cases.
    """
    if not runs:
        return []
    tally = {verdict: sum(run.verdict == verdict for run in runs) for verdict in SIGNS}
    sure = " · ".join(f"{SIGNS[verdict]} {count:,} {verdict}" for verdict, count in tally.items() if count)
    sure += f" · {others:,} {OTHER_OUTPUT}" if (others := sum(map(has_other_output, runs))) else ""
    machines = list(dict.fromkeys(filter(None, map(machine_line, runs))))
    more = f" – and {len(machines) - _FEW:,} more" if len(machines) > _FEW else ""
    has_text = any(run.case.interaction != ALONE for run in runs)
    asked = [each for each in told if _is_asked(each) and (has_text or each.key != "text-length")]
    of = model_line(runs[0]) if len(runs) == 1 else " · ".join(map(_values, asked))
    dates = sorted(run.started_at[:10] for run in runs if run.started_at)
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""
    found = [("How sure", sure), ("On", " – ".join(machines[:_FEW]) + more), ("Of", of), ("When", when)]
    return [(term, text) for term, text in found if text]


_FEW = 4
_LONGEST_NAME = 90
"""Characters that a sentence has room for."""


def _is_asked(told: Told) -> bool:
    return told.kind == "axis" and told.key not in ("verdict", "machine", "device", "threads", "sizes", "side")


def _values(told: Told) -> str:
    """Returns a column's values in few words: `batch size 1, 2, 4, 8`, or how many there are."""
    known = dict.fromkeys(text for text in told.texts if text != ABSENT)
    if len(known) <= _FEW:
        return f"{told.title.lower()} {', '.join(known)}"
    if told.number and told.key != "pixels":
        found = [value for value in told.values if value is not None]
        return f"{told.title.lower()} {min(found):,} to {max(found):,}"
    return f"{told.title.lower()}: {len(known):,} values"
