"""Runs of a map in order: one run a case, what tells cases apart, what is missing, and the numbers that are drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vilt_bench.ask.case import ALL
from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import Row, Summary
from vilt_bench.judge.throughput import least_passes
from vilt_bench.record import alike
from vilt_bench.report import axes as known
from vilt_bench.report.axes import Axis, named, values, varying, written
from vilt_bench.report.columns import SHARE, Quantity, flag
from vilt_bench.report.lines import pixels
from vilt_bench.words import counted

if TYPE_CHECKING:
    from vilt_bench.report.labels import Labels

_SHOWN = 6
"""Cases that a sentence names."""


@dataclass(frozen=True)
class Point:
    """A number that is drawn, with its interval; in the unit of its quantity's column."""

    value: float
    low: float | None = None
    high: float | None = None


def point(quantity: Quantity, run: Summary, row: Row | None = None) -> Point | None:
    """Returns what a run has of a quantity, of the whole or the row; of shares that of the visual embedder.

    What comes of times is absent where the run failed or was interrupted: it is not what was asked for.
    """
    if quantity.timed and (run.failure is not None or run.verdict in ("failed", "interrupted")):
        return None
    found = quantity.of(row or (run.components["visual_embedder"] if quantity.name == SHARE.name else run.whole))
    if found is None:
        return None
    ends = [getattr(found, end, None) for end in ("value", "low", "high")]
    value = found if ends[0] is None else ends[0]
    low, high = (None if end is None else quantity.scale * end for end in ends[1:])
    return Point(quantity.scale * value, low, high)


def title(quantity: Quantity) -> str:
    """Returns the quantity's name without its unit."""
    if quantity.name == SHARE.name:
        return "Share of visual embedder"
    return quantity.name if quantity.name.startswith("p") and quantity.name[1:].isdigit() else quantity.column.title


def unit(quantity: Quantity) -> str:
    """Returns the unit of what is drawn; empty where the name has it."""
    return "%" if quantity.name == SHARE.name else quantity.column.unit


def cases(runs: Sequence[Summary]) -> tuple[list[Summary], list[str]]:
    """Returns one run a case and machine, and a sentence if others are left out: the last that has times."""
    apart = [each for each in (*known.AXES.values(), known.setup(runs)) if each and each.name not in known.DERIVED]
    found: dict[tuple[Hashable, ...], list[Summary]] = {}
    homeless: list[Summary] = []
    for run in runs:
        if run.environment is None:
            homeless.append(run)  # it failed before it told where: the case alone names it
        else:
            found.setdefault(tuple(each.of(run) for each in apart), []).append(run)
    by_case = {alike.key(some[0], "case"): some for some in found.values()}
    for run in homeless:
        by_case.setdefault(alike.key(run, "case"), []).append(run)
    every = {id(some): some for some in (*found.values(), *by_case.values())}
    chosen = {
        id(max(some, key=lambda run: (run.timed, run.verdict != "interrupted", run.started_at)))
        for some in every.values()
    }
    older = len(runs) - len(chosen)
    said = f"Of cases that were measured again the last is shown; {counted(older, 'run')} left out."
    return [run for run in runs if id(run) in chosen], [said] if older else []


def apart(
    runs: Sequence[Summary],
    along: Sequence[Axis],
    facets: Sequence[Axis] = (),
    *,
    allow_different: Collection[str] = (),
    most: int,
    what: str,
) -> list[Axis]:
    """Returns the axes that tell apart what stands at one place of a picture or a table: the embedder first.

    Args:
        runs: one a case.
        along: axes that the picture or table has.
        facets: axes of its panels.
        allow_different: facts that may differ, by name.
        most: how many axes there is room for.
        what: tells them apart, such as `lines`.

    Raises:
        ConfigError: the runs are of different machines or setups that may not differ, or more axes vary than there
            is room for.
    """
    alike.check_names(allow_different, runs, "draw")
    differing = varying(runs)
    taken = {each.name for each in (*along, *facets)} | {name for each in along for name in each.stands_for}
    if any(each.name in known.DERIVED for each in along) and "resolution" not in {each.name for each in differing}:
        taken |= {"tiles", "reduce"}
    _check_machines(runs, taken, allow_different)
    found: list[Axis] = []
    for each in (*differing, known.setup(runs)):
        if each is not None and each.name not in taken and not _told(runs, [*facets, *found], each):
            found.append(each)
    if len(found) <= most:
        return found
    last = found[-1]
    one = str(values(last, runs)[0]).replace(" ", "")
    facet = f"draw a panel for each with `facet` {last.name}, or " if what != "rows" and not facets else ""
    raise ConfigError(
        f"the runs vary in {named(found)}, and {what} tell {most or 'none'} of these apart; {facet}choose values, as "
        f"by `only` {last.name}={one}"
    )


_MATTERS = ("machine", "dtype", "threads", "batch-size", "backend", "quantize")
"""Axes that are told even where another tells as much, since times are not alike without them."""


def _told(runs: Sequence[Summary], others: Sequence[Axis], each: Axis) -> bool:
    """Returns whether runs that are alike in the others are alike in this axis, and it need not be told."""
    if each.name in _MATTERS:
        others = [other for other in others if other is known.MACHINE and each is not other]
    found: dict[tuple[Hashable, ...], Hashable] = {}
    for run in runs:
        value = each.of(run)
        if value is not None and found.setdefault(tuple(other.of(run) for other in others), value) != value:
            return False
    return True


def why_not(runs: Sequence[Summary], quantity: Quantity) -> str:
    """Returns in brackets why there is none of a quantity, as far as that is known."""
    failed = sum(run.failure is not None for run in runs)
    stopped = sum(run.failure is None and run.verdict == "interrupted" for run in runs)
    told = [text for count, text in ((failed, f"{failed} failed"), (stopped, f"{stopped} were interrupted")) if count]
    if (percentile := re.fullmatch(r"p(\d\d)", flag(quantity))) and failed + stopped < len(runs):
        most = max(run.whole.passes.count if run.whole.passes else 0 for run in runs if run.rows)
        return f" (a run needs {least_passes(int(percentile[1]) / 100):,} passes for it, and has {most:,} at most)"
    return f" ({', '.join(told)} of {len(runs)})" if told else ""


def _check_machines(runs: Sequence[Summary], taken: Collection[str], allow_different: Collection[str]) -> None:
    timed = [run for run in runs if run.timed]
    found = []
    for each in alike.differences(timed, "draw"):
        if not each.matters or {each.name, ALL} & set(allow_different):
            continue
        if each.name in taken or each.name in ("dtype", "batch-size", "threads", "backend", "quantize"):
            continue
        # Each machine has its own versions and settings.
        places = {(known.MACHINE.of(run), run.environment and run.environment.device, value)
                for run, value in zip(timed, each.values, strict=True)}  # fmt: skip
        if {"machine", "device"} & {*taken} and len(places) == len({place[:2] for place in places}):
            continue
        found.append(each)
    if not found:
        return
    told = [f"{each.name} ({', '.join(_short(value) for value in dict.fromkeys(each.values))})" for each in found[:3]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    machines = any(each.name == "machine" for each in found)
    advice = "draw each apart with `facet` machine, choose with `only` machine=NAME" if machines else "draw those alike"
    raise ConfigError(
        f"the runs differ in {', '.join(told)}{more}, and are not joined in one line; {advice}, or give "
        f"`allow_different` {','.join(each.name for each in found)} for lines of their own"
    )


def _short(value: str, most: int = 40) -> str:
    return value if len(value) <= most else f"{value[: most - 1]}…"


def absent(runs: Sequence[Summary], quantities: Sequence[Quantity], say: Callable[[Summary], str]) -> list[str]:
    """Returns sentences on runs that have nothing to draw, by why, each case named."""
    found: dict[str, list[str]] = {}
    for run in runs:
        lacking = [each for each in quantities if point(each, run) is None]
        if not lacking:
            continue
        if run.failure is not None:
            why = f"Failed ({run.failure.kind.replace('-', ' ')})"
        elif run.verdict == "interrupted":
            why = "Interrupted before it was measured as asked"
        else:
            why = f"Without {' and '.join(title(each).lower() for each in lacking)}"
        found.setdefault(why, []).append(say(run))
    return [f"{why}: {_some(which)}." for why, which in found.items()]


def missing(runs: Sequence[Summary], along: Axis, axes: Sequence[Axis]) -> list[tuple[Hashable, ...]]:
    """Returns what no run has: a line's other values, then a value along it that another line has.

    Args:
        runs: one a case.
        along: an axis that cases are asked by; none is missing of one that follows from others.
        axes: the others.
    """
    if along.name in known.DERIVED:
        return []
    there = {(*(each.of(run) for each in axes), along.of(run)) for run in runs}
    lines = dict.fromkeys(tuple(each.of(run) for each in axes) for run in runs)
    return [(*line, value) for line in lines for value in values(along, runs) if (*line, value) not in there]


def missing_line(found: Sequence[tuple[Hashable, ...]], axes: Sequence[Axis], labels: Labels) -> list[str]:
    """Returns a sentence on the combinations that were not measured; none if there are none."""
    told = [_place(dict(zip(axes, one, strict=True)), labels) for one in found]
    return [f"Not measured: {_some(told)}."] if told else []


def place(run: Summary, axes: Sequence[Axis], labels: Labels) -> str:
    """Returns a run's place on all axes: `patch32, 224×224, batch size 8`."""
    return _place({each: each.of(run) for each in axes}, labels)


def value(along: Axis, found: Hashable, labels: Labels) -> str:
    """Returns a value that stands alone: `batch size 8`."""
    return _place({along: found}, labels)


def _place(found: Mapping[Axis, Hashable], labels: Labels) -> str:
    """Returns values of axes, in the order in which axes are told."""
    order = [*known.AXES]
    told = sorted(found, key=lambda each: order.index(each.name) if each.name in order else len(order))
    return ", ".join(f"{_prefix(each)}{labels.of(each, found[each])}" for each in told)


def _prefix(along: Axis) -> str:
    bare = ("embedder", "machine", "resolution", "dtype", "tiles", "reduce", "setup", "device")
    return "" if along.name in bare else f"{along.title.lower()} "


def conditions(runs: Sequence[Summary], told: Sequence[Axis], labels: Labels) -> list[str]:
    """Returns where the runs were measured, what is the same for all, the weights and the images; a sentence each."""
    timed = [run for run in runs if run.timed] or list(runs)
    apart = {each.name for each in varying(runs)} | {each.name for each in told}
    lines = []
    for machine in dict.fromkeys(known.MACHINE.of(run) for run in timed):
        own = next(run for run in timed if known.MACHINE.of(run) == machine)
        if own.environment is not None:
            where = own.environment
            parts = [labels.of(known.MACHINE, machine)]
            if "device" not in apart or known.MACHINE in told:
                parts.append(
                    where.device if where.device_name in where.machine else f"{where.device} {where.device_name}"
                )
            if "threads" not in apart:
                parts.append(counted(where.threads, "thread"))
            parts += [f"torch {where.versions['torch']}"] if "torch" in where.versions else []
            lines.append(" · ".join(parts))
        else:
            lines.append("Unknown machine")
    same = [f"{_prefix(each)}{written(each, [each.of(runs[0])])[each.of(runs[0])]}"
            for each in known.AXES.values() if each.name in ("embedder", "resolution", "dtype", "batch-size",
                                                             "images-per-text", "frames", "interaction", "tiles",
                                                             "reduce")
            and each.name not in apart and not _usual(each, runs[0])]  # fmt: skip
    if same:
        lines.append(f"All: {', '.join(same)}.")
    weights = _by_embedder(runs, lambda run: None if run.model is None else run.model.visual_weights, labels)
    if list(weights) == ["random"] and {run.model.shared_weights for run in runs if run.model} <= {"random", "none"}:
        lines.append("Random weights.")
    elif weights:
        lines.append("Weights: " + "; ".join(f"{weight} ({_some(which)})" for weight, which in weights.items()) + ".")
    if any(run.model is not None and "synthetic" in run.model.images for run in runs):
        lines.append(f"Synthetic {'images' if any(run.case.frames is None for run in runs) else 'frames'}.")
    notes = dict.fromkeys(row.note.rstrip(".") for run in runs for row in run.rows if row.note)
    return [*lines, *(f"{note[:1].upper()}{note[1:]}." for note in list(notes)[:_SHOWN])]


def inputs(runs: Sequence[Summary], labels: Labels) -> list[str]:
    """Returns where embedders that were asked for one resolution saw different pixels; a sentence."""
    resolution, said = known.AXES["resolution"], []
    for asked in values(resolution, runs):
        here = [run for run in runs if resolution.of(run) == asked]
        seen = _by_embedder(here, lambda run: pixels(run.model) if run.model is not None else None, labels)
        if len(seen) > 1:
            told = ", ".join(f"{size} ({_some(which)})" for size, which in seen.items())
            said.append(f"{labels.of(resolution, asked)}: {told}")
    return [f"Not one input: {'; '.join(said[:_SHOWN])}."] if said else []


_GOES_WITHOUT_SAYING: Mapping[str, tuple[Hashable, ...]] = {
    "resolution": ("own",), "interaction": ("vilt",), "tiles": ("none",), "reduce": ("none",), "images-per-text": (1,),
    "frames": ("none",),
}  # fmt: skip
"""Values by axis."""


def _usual(along: Axis, run: Summary) -> bool:
    """Returns whether a value goes without saying."""
    return along.of(run) in _GOES_WITHOUT_SAYING.get(along.name, ())


def _by_embedder(runs: Iterable[Summary], of: Callable[[Summary], str | None], labels: Labels) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        if (value := of(run)) is not None:
            found.setdefault(value, {})[labels.of(known.EMBEDDER, known.EMBEDDER.of(run))] = None
    return {value: list(which) for value, which in found.items()}


def _some(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{'; '.join(names[:_SHOWN])}{more}"


def quantity(text: str, field: str) -> Quantity:
    """Returns the quantity of that name.

    Raises:
        ConfigError: there is none.
    """
    from vilt_bench.report.columns import QUANTITIES
    from vilt_bench.words import did_you_mean, nearest

    by_name = {flag(each): each for each in QUANTITIES if each.drawn}
    asked = text.strip().lower().replace("_", "-")
    if asked in by_name:
        return by_name[asked]
    if asked in known.AXES:
        raise ConfigError(f"{text!r} is an axis, not a quantity; known are {', '.join(by_name)}", field=field)
    also = {**by_name, **{name: by_name[one] for name, one in _ALSO.items()}}
    guess = nearest(asked, also)
    meant = None if guess is None else flag(also[guess])
    raise ConfigError(f"there is no quantity {text!r}{did_you_mean(meant)} known are {', '.join(by_name)}", field=field)


_ALSO = {
    "throughput": "images-per-second",
    "memory": "peak-bytes",
    "peak-memory": "peak-bytes",
    "ms-an-image": "time-per-image",
    "gflops": "flops",
    "time": "latency",
}
"""Words that others have for a quantity, to guess what was meant."""


def readable(found: Quantity) -> Quantity:
    """Returns the quantity as a table of any width shows it."""
    return replace(found, column=replace(found.column, least_width=0))
