"""A quantity along an axis of a sweep: a line an embedder with its intervals, or areas by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import TITLES, Summary
from vilt_bench.report import axes as known
from vilt_bench.report import maps
from vilt_bench.report.axes import Axis, named, values
from vilt_bench.report.columns import Quantity, flag
from vilt_bench.report.labels import Labels
from vilt_bench.report.maps import Point
from vilt_bench.report.pictures import panels, style
from vilt_bench.report.pictures.latency import stage_title
from vilt_bench.report.pictures.panels import DASHES, LINES, MARKER_PT, Sample, Scale
from vilt_bench.words import counted

ADDITIVE = ("latency", "time-per-image", "flops", "macs", "parameters")
"""Quantities of which those of stages add up."""


@dataclass(frozen=True, eq=False)
class Line:
    """Runs in order along the axis."""

    key: tuple[Hashable, ...]
    """Values of the axes that tell lines apart."""
    runs: tuple[Summary | None, ...]
    """`None`: there is none at this value, where other lines have one."""


def curve(
    runs: Sequence[Summary],
    x: Axis,
    y: Quantity,
    *,
    facet: Axis | None = None,
    stacked: bool = False,
    log: str = "auto",
    labels: Labels,
    allow_different: Collection[str] = (),
    width_in: float = style.COLUMN_IN,
    notes: Sequence[str] = (),
) -> Figure:
    """Returns the quantity along the axis, a line an embedder; call it under `style.styled`.

    One further axis tells lines apart by their style. A line is broken where a run failed or was not measured.

    Args:
        runs: in order.
        x: along which lines go; it has numbers.
        y: of the whole.
        facet: an axis of which each value has a panel.
        stacked: areas of the stages, a panel a line.
        log: `auto`, or the letters of the logarithmic axes; `none`.
        labels: of the user's own.
        allow_different: facts that may differ between lines, by name.
        width_in: of the figure, in inches.
        notes: what else must be known, one sentence each.

    Raises:
        ConfigError: the axis has no numbers or does not vary, there is nothing to draw, more axes vary than lines can
            tell apart, or the runs are of machines that may not stand side by side.
    """
    _check_axis(runs, x)
    runs, again = maps.cases(runs)
    facets = [facet] if facet is not None else []
    apart = maps.apart(runs, [x], facets, allow_different=allow_different, most=2, what="lines")
    if stacked and flag(y) not in ADDITIVE:
        raise ConfigError(
            f"adds stages up, and {flag(y)} does not add up; give `y` one of {', '.join(ADDITIVE)}", field="stacked"
        )
    drawn = [run for run in runs if maps.point(y, run) is not None and x.number(run) is not None]  # type: ignore[misc]
    if not drawn:
        raise ConfigError(f"no run has {flag(y)} to draw{maps.why_not(runs, y)}")
    lines = lines_of(runs, x, [*facets, *apart], labels)
    if not any(sum(run in drawn for run in line.runs if run is not None) > 1 for line in lines):
        raise ConfigError(
            f"each line would have one point: {x.name} does not vary within a case that has {flag(y)}"
            f"{maps.why_not(runs, y)}; `figure` pareto draws points"
        )
    footer = [
        *maps.conditions(runs, [*facets, *apart], labels),
        *maps.inputs(runs, labels),
        *maps.absent(runs, [y], lambda run: maps.place(run, [*facets, *apart, x], labels)),
        *maps.missing_line(maps.missing(runs, x, [*facets, *apart]), [*facets, *apart, x], labels),
    ]
    if stacked:
        return _areas(lines, x, y, [*facets, *apart], labels, log, width_in, [*footer, *again, *notes])
    points = [point for run in drawn if (point := maps.point(y, run)) is not None]
    few = sum(point.high is None and point.low is None for point in points)
    if y.timed and few < len(points):
        footer.append(f"Bands: 95% intervals{f'; {few} points have too few passes to tell one' if few else ''}.")
        footer += open_bands(points)
    return _drawn(lines, x, y, facet, apart, labels, log, width_in, [*footer, *again, *notes])


def _check_axis(runs: Sequence[Summary], x: Axis) -> None:
    if not runs:
        raise ConfigError("a picture needs at least one run; give records or folders that hold them")
    varied = [each for each in known.varying(runs) if each.number is not None]
    if "resolution" in {each.name for each in varied} or len({known.AXES["visual-tokens"].of(run) for run in runs}) > 1:
        varied.append(known.AXES["visual-tokens"])
    also = f"; what varies: {named(varied)}" if varied else "; nothing does that has numbers"
    if x.number is None:
        numeric = ", ".join(each.name for each in known.AXES.values() if each.number is not None)
        raise ConfigError(f"{x.name} has no numbers, which a curve goes along; known that have: {numeric}", field="x")
    found = {x.of(run) for run in runs} - {None}
    if len(found) < 2:
        only = "".join(f" (all are {x.write(value)})" for value in found)
        raise ConfigError(f"{x.name} does not vary{only}{also}", field="x")


def lines_of(runs: Sequence[Summary], x: Axis, apart: Sequence[Axis], labels: Labels) -> list[Line]:
    """Returns the lines, in the order of their axes' values."""
    found: dict[tuple[Hashable, ...], list[Summary]] = {}
    for run in runs:
        found.setdefault(tuple(each.of(run) for each in apart), []).append(run)
    orders = [labels.ordered(each, values(each, runs)) for each in apart]
    keys = sorted(found, key=lambda key: [order.index(value) for order, value in zip(orders, key, strict=True)])
    along = values(x, runs)
    lines = []
    for key in keys:
        own = found[key]
        if x.name in known.DERIVED:
            line: list[Summary | None] = [*sorted(own, key=lambda run: x.number(run) or 0)]  # type: ignore[misc]
        else:
            by_value = {x.of(run): run for run in own}
            line = [by_value.get(value) for value in along]
        lines.append(Line(key, tuple(line)))
    return lines


def open_bands(points: Sequence[Point]) -> list[str]:
    """Returns that intervals are wider than the picture, if some are."""
    highest = max(point.value for point in points)
    wide = sum(point.high is None or point.high > 3 * highest for point in points if (point.low, point.high) != _NONE)
    return [f"{counted(wide, 'band')} beyond the picture: few or noisy passes."] if wide else []


_NONE = (None, None)


def pieces_of(line: Line, x: Axis, point: Callable[[Summary], Point | None]) -> tuple[list[float], list[Point | None]]:
    """Returns where a line goes; `None` breaks it."""
    at: list[float] = []
    found: list[Point | None] = []
    for run in line.runs:
        here = None if run is None else point(run)
        place = None if run is None or x.number is None else x.number(run)
        at.append(math.nan if here is None or place is None else float(place))
        found.append(None if place is None else here)
    return at, found


def _drawn(
    lines: Sequence[Line], x: Axis, y: Quantity, facet: Axis | None, apart: Sequence[Axis],
    labels: Labels, log: str, width_in: float, footer: Sequence[str],
) -> Figure:  # fmt: skip
    own = 0 if facet is None else 1
    looks = looks_of(lines, apart, labels, first=own)
    panel_values: list[Hashable]
    panel_values = [None] if facet is None else labels.ordered(facet, dict.fromkeys(line.key[0] for line in lines))
    pieces = {line: pieces_of(line, x, partial(maps.point, y)) for line in lines}
    along, up = _scales(pieces.values(), x, lines, log, width_in, len(panel_values))
    sheet, found_axes = panels.draw(
        ["" if facet is None else maps.value(facet, value, labels) for value in panel_values],
        along,
        [up] * len(panel_values),
        labels=(title_x(x, labels, along), _y_title(y, labels, up)),
        legend=legend(apart, looks, labels),
        footer=footer,
        width_in=width_in,
        columns=panels.in_a_row(len(panel_values), width_in),
    )
    for line, (at, points) in pieces.items():
        axes = found_axes[0 if facet is None else panel_values.index(line.key[0])]
        trace(axes, line, at, points, up, looks, apart, labels)
    return sheet.figure


@dataclass(frozen=True)
class Looks:
    """What lines look like, by their values of the axes that tell them apart."""

    first: Mapping[Hashable, tuple[str, str]]
    """Colour and marker."""
    second: Mapping[Hashable, object]
    """Dash."""
    place: int
    """Of the first axis within a line's key."""

    def of(self, line: Line) -> tuple[str, str, Any, bool]:
        """Returns a line's colour, marker, dash, and whether its markers are hollow."""
        own = line.key[self.place :]
        colour, marker = self.first[own[0] if own else None]
        dashed = own[1] if len(own) > 1 else None
        return colour, marker, self.second[dashed], [*self.second].index(dashed) % 2 == 1


def looks_of(lines: Sequence[Line], apart: Sequence[Axis], labels: Labels, *, first: int = 0) -> Looks:
    """Returns what lines look like.

    Args:
        lines: of a picture.
        apart: the axes that tell them apart, two at most.
        labels: of the user's own.
        first: where the first of these is in a line's key.

    Raises:
        ConfigError: an axis has more values than there are looks.
    """
    known_values: list[list[Hashable]] = [
        labels.ordered(axis, dict.fromkeys(line.key[first + place] for line in lines))
        for place, axis in enumerate(apart)
    ]
    for axis, found, most in zip(apart, known_values, (len(LINES), len(DASHES)), strict=False):
        if len(found) > most:
            raise ConfigError(
                f"{len(found)} values of {axis.name} can't be told apart in one picture, {most} can; choose some with "
                f"`only` {axis.name}=…, or draw a panel each with `facet` {axis.name}"
            )
    known_values += [[None]] * (2 - len(apart))
    one, other = known_values
    colours = {
        value: (labels.colour(apart[0], value) or LINES[index][0] if apart else LINES[0][0], LINES[index][1])
        for index, value in enumerate(one)
    }
    return Looks(colours, dict(zip(other, DASHES, strict=False)), first)


def trace(
    axes: Axes, line: Line, at: Sequence[float], points: Sequence[Point | None], scale_y: Scale, looks: Looks,
    apart: Sequence[Axis], labels: Labels,
) -> None:  # fmt: skip
    """Draw a line with its intervals; `None` breaks it."""
    colour, marker, dash, hollow = looks.of(line)
    drawn = [math.nan if point is None else point.value for point in points]
    ends = [panels.ends(point.low, point.high, scale_y) if point is not None else None for point in points]
    lows, highs = ([math.nan if end is None else end[index] for end in ends] for index in (0, 1))
    axes.fill_between(at, lows, highs, color=colour, alpha=0.18, linewidth=0)
    axes.vlines(at, lows, highs, color=colour, linewidth=0.8)
    (path,) = axes.plot(
        at, drawn, color=colour, linestyle=dash, linewidth=1.1, marker=marker, markersize=MARKER_PT,
        markeredgecolor=colour if hollow else style.INK, markeredgewidth=0.8 if hollow else 0.3,
        markerfacecolor="white" if hollow else colour, clip_on=False, zorder=3,
    )  # fmt: skip
    one = next(run for run in line.runs if run is not None)
    path.set_gid(maps.place(one, apart or [known.EMBEDDER], labels))


def _scales(
    pieces: Collection[tuple[list[float], list[Point | None]]], x: Axis, lines: Sequence[Line], log: str,
    width_in: float, count: int,
) -> tuple[Scale, Scale]:  # fmt: skip
    at = [place for places, _ in pieces for place in places if not math.isnan(place)]
    points = [each for _, found in pieces for each in found if each is not None]
    width = panel_width(width_in, count)
    return scale_x(at, x, lines, log, width), scale_y(points, log, width)


def scale_y(points: Sequence[Point], log: str, width: float) -> Scale:
    """Returns the scale that holds the points with their intervals, as far as there is room for these."""
    drawn = [each.value for each in points]
    is_log = panels.is_log(drawn, log, "y")
    ends = [end for each in points for end in (each.low, each.high) if end is not None]
    shown, _ = panels.within_reach(drawn, ends, log=is_log)
    return panels.scale(shown, log=is_log, width=width * 0.6, from_zero=True, upright=True)


def scale_x(at: Sequence[float], x: Axis, lines: Sequence[Line], log: str, width: float) -> Scale:
    """Returns the scale of the axis that lines go along."""
    distinct = sorted(set(at))
    ticks = [(value, _tick(value, x, lines)) for value in distinct] if len(distinct) <= _MOST_TICKS else []
    return panels.scale(at, log=panels.is_log(at, log, "x"), width=width, from_zero=False, at=ticks)


_MOST_TICKS = 9
"""Values of an axis that are all ticks."""


def _tick(value: float, x: Axis, lines: Sequence[Line]) -> str:
    """Returns a tick's text: of pixels height and width, where that many are of one shape."""
    if x.name == "resolution":
        models = [run.model for line in lines for run in line.runs if run is not None and run.model is not None]
        shapes = {model.resolution for model in models if model.resolution[0] * model.resolution[1] == value}
        if len(shapes) == 1:
            return "×".join(map(str, shapes.pop()))
    return f"{value:,.10g}"


def panel_width(width_in: float, count: int) -> float:
    """Returns about how wide one of so many panels is, in points."""
    columns = panels.in_a_row(count, width_in)
    return (width_in * style.POINTS_PER_INCH - 16 - 28 - 6 * (columns - 1)) / columns


def title_x(x: Axis, labels: Labels, scale: Scale) -> str:
    """Returns the title of the axis that lines go along."""
    return labels.title(x.name, x.number_title or x.title) + (", log scale" if scale.log else "")


def _y_title(y: Quantity, labels: Labels, scale: Scale) -> str:
    own = maps.unit(y)
    return labels.title(flag(y), maps.title(y)) + (f" ({own})" if own else "") + (", log scale" if scale.log else "")


def legend(apart: Sequence[Axis], looks: Looks, labels: Labels) -> list[Sample]:
    """Returns what tells lines apart; nothing where there is one."""
    found: list[Sample] = []
    if apart:
        if apart[0] is not known.EMBEDDER:
            found.append(Sample(f"{labels.title(apart[0].name, apart[0].title)}:"))
        found += [Sample(labels.of(apart[0], value), *look) for value, look in looks.first.items()]
    if len(apart) > 1:
        found.append(Sample(f"{labels.title(apart[1].name, apart[1].title)}:"))
        found += [Sample(labels.of(apart[1], value), style.INK, dash=dash) for value, dash in looks.second.items()]
    return found


# Areas by stage


def _areas(
    lines: Sequence[Line], x: Axis, y: Quantity, apart: Sequence[Axis], labels: Labels, log: str,
    width_in: float, footer: Sequence[str],
) -> Figure:  # fmt: skip
    lines = [line for line in lines if any(run is not None and maps.point(y, run) for run in line.runs)]
    pieces = {line: pieces_of(line, x, partial(maps.point, y)) for line in lines}
    parts = {line: _parts(line, y) for line in lines}
    tops = {
        line: max(*(point.value for point in points if point is not None), *_sums(parts[line]), 0.0)
        for line, (_, points) in pieces.items()
    }
    apart_scales = max(tops.values()) > _OWN_SCALES * min(tops.values())
    width = panel_width(width_in, len(lines))
    at = [place for places, _ in pieces.values() for place in places if not math.isnan(place)]
    along = scale_x(at, x, lines, log if log == "auto" else log.replace("y", ""), width)
    ys = [
        panels.scale([0.0, tops[line] if apart_scales else max(tops.values())], log=False, width=width * 0.6,
                     from_zero=True, upright=True)
        for line in lines
    ]  # fmt: skip
    names = list(dict.fromkeys(name for each in parts.values() for name in each))
    looks = style.looks(names)
    whole = f"Black: {maps.title(y).lower()} of the whole" + (", timed apart from the stages." if y.timed else ".")
    sheet, found = panels.draw(
        [maps.place(next(run for run in line.runs if run is not None), apart, labels) or "" for line in lines],
        along,
        ys,
        labels=(title_x(x, labels, along), _y_title(y, labels, ys[0])),
        legend=[Sample(stage_title(name) if name not in TITLES else TITLES[name], look=looks[name]) for name in names],
        footer=[*footer, whole, *(["Each panel has a scale of its own."] if apart_scales and len(lines) > 1 else [])],
        width_in=width_in,
        columns=panels.in_a_row(len(lines), width_in),
    )
    for axes, line in zip(found, lines, strict=True):
        _stack(axes, pieces[line][0], parts[line], looks)
        _whole(axes, *pieces[line])
    return sheet.figure


_OWN_SCALES = 4.0
"""From this ratio of the highest panels on, each has a scale of its own."""


def _parts(line: Line, y: Quantity) -> dict[str, list[float]]:
    """Returns by stage its value at each place; not a number where the line is broken."""
    found: dict[str, list[float]] = {}
    for index, run in enumerate(line.runs):
        if run is None or maps.point(y, run) is None:
            continue
        for component, row in run.components.items():
            # The visual embedder is what differs; the others are one part each.
            for part in run.stages(component) if component == "visual_embedder" else [row]:
                value = y.of(part)
                if value is not None:
                    short = part.name.rpartition(".")[2]
                    blank = [0.0 if each is not None and maps.point(y, each) else math.nan for each in line.runs]
                    found.setdefault(short, blank)[index] = y.scale * getattr(value, "value", value)
    return found


def _sums(parts: Mapping[str, Sequence[float]]) -> list[float]:
    """Returns the heights of the areas together, where there are any."""
    return [total for column in zip(*parts.values(), strict=True) if not math.isnan(total := sum(column))]


def _stack(axes: Axes, at: Sequence[float], parts: dict[str, list[float]], looks: dict[str, style.Look]) -> None:
    below = [0.0] * len(at)
    for name, own in parts.items():
        above = [low + value for low, value in zip(below, own, strict=True)]
        look = looks[name]
        area = axes.fill_between(at, below, above, facecolor=look.colour, hatch=look.hatch, linewidth=0)
        area.set_edgecolor(look.hatch_colour)
        area.set_gid(name)
        axes.plot(at, above, color="white", linewidth=0.5)
        below = above


def _whole(axes: Axes, at: Sequence[float], points: Sequence[Point | None]) -> None:
    drawn = [math.nan if point is None else point.value for point in points]
    (path,) = axes.plot(
        at, drawn, color=style.INK, linewidth=0.9, marker="o", markersize=2.6, markerfacecolor="white",
        markeredgewidth=0.7, clip_on=False, zorder=3,
    )  # fmt: skip
    path.set_gid("whole")
