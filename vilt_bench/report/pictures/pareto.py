"""Runs by two quantities, and those of them that no other beats in both: the Pareto frontier."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vilt_bench.errors import ConfigError
from vilt_bench.judge.frontier import frontier
from vilt_bench.judge.summary import Summary
from vilt_bench.report import axes as known
from vilt_bench.report import maps
from vilt_bench.report.axes import Axis, values
from vilt_bench.report.columns import flag
from vilt_bench.report.labels import Labels
from vilt_bench.report.maps import Point
from vilt_bench.report.pictures import panels, style
from vilt_bench.report.pictures.panels import LINES, Sample, Scale

_LONGEST = 0.42
"""Of a panel's width, how long a name beside a point may be; else points are numbered."""
_MOST_NAMED = 6


@dataclass(frozen=True)
class Measure:
    """What one axis of the picture is of."""

    name: str
    title: str
    unit: str
    of: Callable[[Summary], Point | None]
    more_is_better: bool


def measure(text: str, field: str) -> Measure:
    """Returns the quantity of that name; or the axis, where more of it is better, such as `visual-tokens`.

    Raises:
        ConfigError: there is neither, or neither more nor less of it is better.
    """
    asked = text.strip().lower().replace("_", "-")
    if asked not in known.AXES:
        found = maps.quantity(text, field)
        return Measure(
            flag(found), maps.title(found), maps.unit(found), lambda run: maps.point(found, run), found.more_is_better
        )
    along = known.AXES[asked]
    number = along.number
    if number is None or along.more_is_better is None:
        good = [each.name for each in known.AXES.values() if each.more_is_better is not None]
        raise ConfigError(
            f"neither more nor less of {along.name} is better, so there is no frontier; give a quantity such as "
            f"latency, flops or peak-bytes, or {' or '.join(good)}",
            field=field,
        )

    def of(run: Summary) -> Point | None:
        return None if (value := number(run)) is None else Point(float(value))

    return Measure(along.name, along.number_title or along.title, "", of, along.more_is_better)


def pareto(
    runs: Sequence[Summary],
    x: Measure,
    y: Measure,
    *,
    facet: Axis | None = None,
    log: str = "auto",
    labels: Labels,
    allow_different: Collection[str] = (),
    width_in: float = style.COLUMN_IN,
    notes: Sequence[str] = (),
) -> Figure:
    """Returns the runs as points, with the frontier drawn and its runs named; call it under `style.styled`.

    Args:
        runs: in order.
        x: from left to right.
        y: from bottom to top.
        facet: an axis of which each value has a panel, and a frontier.
        log: as for a curve.
        labels: of the user's own.
        allow_different: facts that may differ, by name.
        width_in: of the figure, in inches.
        notes: what else must be known, one sentence each.

    Raises:
        ConfigError: both are one, there is nothing to draw, or the runs can't stand side by side.
    """
    if not runs:
        raise ConfigError("a picture needs at least one run; give records or folders that hold them")
    if x.name == y.name:
        raise ConfigError(f"a frontier needs two quantities, and both are {x.name}", field="y")
    runs, again = maps.cases(runs)
    facets = [facet] if facet is not None else []
    apart = maps.apart(runs, [], facets, allow_different=allow_different, most=len(known.AXES), what="names")
    found = [(run, at, up) for run in runs if (at := x.of(run)) is not None and (up := y.of(run)) is not None]
    if len(found) < 2:
        raise ConfigError(
            f"a frontier needs two runs at least that have {x.name} and {y.name}; of {len(runs)} there "
            f"{'is one' if found else 'is none'}"
        )
    colour_by: Axis | None = apart[0] if apart else known.EMBEDDER
    coloured: list[Hashable] = [None]
    if colour_by is not None:
        coloured = labels.ordered(colour_by, values(colour_by, [run for run, _, _ in found]))
    if len(coloured) > len(LINES):
        colour_by, coloured = None, [None]
    looks = {
        value: (_colour(colour_by, value, labels) or LINES[index][0], LINES[index][1])
        for index, value in enumerate(coloured)
    }
    panel_values: list[Hashable] = (
        [None] if facet is None else labels.ordered(facet, values(facet, [run for run, _, _ in found]))
    )
    here = [[each for each in found if facet is None or facet.of(each[0]) == value] for value in panel_values]
    best = [
        [own[index] for index in frontier([(at.value, up.value) for _, at, up in own],
                                          more_is_better=(x.more_is_better, y.more_is_better))]
        for own in here
    ]  # fmt: skip
    columns = panels.in_a_row(len(panel_values), width_in)
    width = (width_in * style.POINTS_PER_INCH - 16 - 28) / columns
    scales = [_scale(index, found, log, width) for index in (1, 2)]
    names = {run.run_id: maps.place(run, apart, labels) for each in best for run, _, _ in each}
    longest = max(style.text_width(name, style.SMALL_PT) for name in names.values())
    places = [(round(8 * scales[0].place(at.value)), round(8 * scales[1].place(up.value)), index)
              for index, each in enumerate(best) for _, at, up in each]  # fmt: skip
    close = len(set(places)) < len(places)
    numbered = close or longest > _LONGEST * width or max(map(len, best)) > _MOST_NAMED
    numbers = {run.run_id: str(index) for each in best for index, (run, _, _) in enumerate(each, 1)}
    legend = [] if colour_by is None else [
        Sample(labels.of(colour_by, value), colour, marker, dash=None) for value, (colour, marker) in looks.items()
    ]  # fmt: skip
    legend.append(Sample("frontier", style.INK, dash=_DASH))
    footer = [
        *(_told(each, names, numbers, facet, value, labels, numbered=numbered)
          for each, value in zip(best, panel_values, strict=True)),
        "Filled: on the frontier; hollow: another is at least as good in both.",
        *(["Bars: 95% intervals."] if any(up.high is not None or at.high is not None for _, at, up in found) else []),
        *maps.conditions(runs, [*facets, *apart], labels),
        *maps.inputs(runs, labels),
        *_absent(runs, found, [*facets, *apart], labels),
        *again,
        *notes,
    ]  # fmt: skip
    sheet, drawn = panels.draw(
        ["" if facet is None else maps.value(facet, value, labels) for value in panel_values],
        scales[0],
        [scales[1]] * len(panel_values),
        labels=(_title(x, labels, scales[0]), _title(y, labels, scales[1])),
        legend=legend,
        footer=footer,
        width_in=width_in,
        columns=columns,
    )
    for axes, own, on in zip(drawn, here, best, strict=True):
        chosen = {run.run_id for run, _, _ in on}
        _steps(axes, on, x, y)
        for run, at, up in own:
            colour, marker = looks[colour_by.of(run) if colour_by is not None else None]
            _mark(axes, at, up, colour, marker, scales, filled=run.run_id in chosen)
        told = numbers if numbered else names
        across = [(panels.ends(at.low, at.high, scales[0]), up.value) for _, at, up in own]
        bars = [(max(end[0], scales[0].low), min(end[1], scales[0].high), height) for end, height in across if end]
        others = [(at.value, up.value) for run, at, up in own if run.run_id not in chosen]
        named = [(at.value, up.value, told[run.run_id]) for run, at, up in on]
        style.label_points(axes, named, bars, others=others, ground=True)
    return sheet.figure


def _colour(along: Axis | None, value: Hashable, labels: Labels) -> str | None:
    return None if along is None else labels.colour(along, value)


_DASH = (0, (3, 1.2))


def _scale(index: int, found: Sequence[tuple[Summary, Point, Point]], log: str, width: float) -> Scale:
    points: list[Point] = [each[index] for each in found]  # type: ignore[misc]
    is_log = panels.is_log([point.value for point in points], log, ("x", "y")[index - 1])
    ends = [end for point in points for end in (point.low, point.high) if end is not None]
    shown, _ = panels.within_reach([point.value for point in points], ends, log=is_log)
    upright = index == 2
    return panels.scale(shown, log=is_log, width=width * (0.6 if upright else 1), from_zero=False, upright=upright)


def _title(of: Measure, labels: Labels, scale: Scale) -> str:
    unit = f" ({of.unit})" if of.unit else ""
    better = "more is better" if of.more_is_better else "less is better"
    return f"{labels.title(of.name, of.title)}{unit}{', log scale' if scale.log else ''}; {better}"


def _told(
    best: Sequence[tuple[Summary, Point, Point]], names: dict[str, str], numbers: dict[str, str], facet: Axis | None,
    value: object, labels: Labels, *, numbered: bool,
) -> str:  # fmt: skip
    where = "" if facet is None else f" of {labels.of(facet, value)}"
    told = [f"{numbers[run.run_id]} {names[run.run_id]}" if numbered else names[run.run_id] for run, _, _ in best]
    return f"Frontier{where}: {'; '.join(told)}."


def _absent(
    runs: Sequence[Summary], found: Sequence[tuple[Summary, Point, Point]], apart: Sequence[Axis], labels: Labels
) -> list[str]:
    there = {run.run_id for run, _, _ in found}
    lacking = [run for run in runs if run.run_id not in there]
    from vilt_bench.report.columns import LATENCY

    said = maps.absent(lacking, [LATENCY], lambda run: maps.place(run, apart, labels))
    others = [maps.place(run, apart, labels) for run in lacking if maps.point(LATENCY, run) is not None]
    return [*said, *([f"Without one of the two quantities: {'; '.join(others)}."] if others else [])]


def _steps(axes: Axes, best: Sequence[tuple[Summary, Point, Point]], x: Measure, y: Measure) -> None:
    """Draw the frontier as steps: along each, nothing better was measured."""
    points = sorted((at.value, up.value) for _, at, up in best)
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    # Between two points the worse of what both reach is known to be reached.
    where: Literal["pre", "post"] = "pre" if x.more_is_better else "post"
    (path,) = axes.step(xs, ys, where=where, color=style.INK, linewidth=0.8, linestyle=_DASH, zorder=2)
    path.set_gid("frontier")


def _mark(axes: Axes, at: Point, up: Point, colour: str, marker: str, scales: Sequence[Scale], *, filled: bool) -> None:
    for point, other, along, draw in ((at, up, scales[0], axes.hlines), (up, at, scales[1], axes.vlines)):
        if (end := panels.ends(point.low, point.high, along)) is not None:
            draw(other.value, *end, color=colour, linewidth=0.7, alpha=0.6, zorder=1)
    axes.plot(
        [at.value], [up.value], linestyle="none", marker=marker, markersize=4.4 if filled else 3.8, color=colour,
        markerfacecolor=colour if filled else "white", markeredgecolor=style.INK if filled else colour,
        markeredgewidth=0.4 if filled else 0.8, zorder=3, clip_on=False,
    )  # fmt: skip
