"""A quantity by two axes, as shaded cells with their numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import Summary
from vilt_bench.report import axes as known
from vilt_bench.report import maps
from vilt_bench.report.axes import Axis, named, values
from vilt_bench.report.columns import Quantity, flag
from vilt_bench.report.labels import Labels
from vilt_bench.report.maps import Point
from vilt_bench.report.numbers import digits
from vilt_bench.report.pictures import style
from vilt_bench.report.pictures.latency import three_digits
from vilt_bench.report.pictures.style import MUTED, POINTS_PER_INCH, SMALL_PT, Look, Sheet, text_width, wrap

_MARGIN = 8.0
_LINE = 9.0
_SMALL_LINE = 7.5
_CELL = 15.0
_GAP = 6.0
_NARROWEST, _WIDEST = 17.0, 100.0
_MAP = "cividis"
"""Its lightness rises evenly, in grey and for any colour vision. Source: Nuñez, Anderton and Renslow (2018)."""
_SPREAD = 10.0
"""From this ratio of the largest to the smallest value on, shades are logarithmic."""


def heatmap(
    runs: Sequence[Summary],
    x: Axis,
    y: Axis,
    z: Quantity,
    *,
    facet: Axis | None = None,
    labels: Labels,
    allow_different: Collection[str] = (),
    width_in: float = style.COLUMN_IN,
    notes: Sequence[str] = (),
) -> Figure:
    """Returns the quantity by two axes; call it under `style.styled`.

    Where neither axis is the embedder and several vary, each embedder has a panel.

    Args:
        runs: in order.
        x: from left to right.
        y: from top to bottom.
        z: of the whole.
        facet: an axis of which each value has a panel.
        labels: of the user's own.
        allow_different: facts that may differ, by name.
        width_in: of the figure, in inches.
        notes: what else must be known, one sentence each.

    Raises:
        ConfigError: an axis does not vary, both are one, there is nothing to draw, or more axes vary.
    """
    if not runs:
        raise ConfigError("a picture needs at least one run; give records or folders that hold them")
    if x is y:
        raise ConfigError(f"a heatmap needs two axes, and both are {x.name}", field="y")
    for field, along in (("x", x), ("y", y)):
        if len(values(along, runs)) < 2:
            varied = [each for each in known.varying(runs) if each not in (x, y)]
            also = f"; what varies: {named(varied)}" if varied else ""
            raise ConfigError(
                f"{along.name} does not vary (all are {along.write(values(along, runs)[0])}){also}", field=field
            )
    runs, again = maps.cases(runs)
    if facet is None and x is not known.EMBEDDER and y is not known.EMBEDDER and len(values(known.EMBEDDER, runs)) > 1:
        facet = known.EMBEDDER
    facets = [facet] if facet is not None else []
    maps.apart(runs, [x, y], facets, allow_different=allow_different, most=0, what="cells")
    found = {(tuple(each.of(run) for each in facets), y.of(run), x.of(run)): run for run in runs}
    points = {key: point for key, run in found.items() if (point := maps.point(z, run)) is not None}
    if not points:
        raise ConfigError(f"no run has {flag(z)} to draw{maps.why_not(runs, z)}")
    panel_values = [()] if facet is None else [(value,) for value in labels.ordered(facet, values(facet, runs))]
    columns, rows = labels.ordered(x, values(x, runs)), labels.ordered(y, values(y, runs))
    width = width_in * POINTS_PER_INCH - 2 * _MARGIN
    row_names = [wrap(labels.of(y, value), 0.36 * width, SMALL_PT)[:2] for value in rows]
    gutter = max(text_width(line, SMALL_PT) for lines in row_names for line in lines) + 5
    cell = (width - gutter) / len(columns)
    if cell < _NARROWEST:
        raise ConfigError(
            f"{len(columns)} values of {x.name} have no room side by side; exchange `x` and `y`, or choose some with "
            f"`only` {x.name}=…",
        )
    cell = min(cell, _WIDEST)
    numbers = [point.value for point in points.values()]
    log = min(numbers) > 0 and max(numbers) / min(numbers) >= _SPREAD
    footer = [
        *maps.conditions(runs, [*facets, y, x], labels),
        *maps.inputs(runs, labels),
        *maps.absent(runs, [z], lambda run: maps.place(run, [*facets, y, x], labels)),
        *again,
        *notes,
    ]
    empty = len(panel_values) * len(rows) * len(columns) - len(found)
    if empty:
        footer.insert(0, "–: not measured.")
    small = [line for sentence in footer for line in wrap(sentence, width, SMALL_PT)]
    panel = (_LINE if facet is not None else 0) + len(rows) * _CELL + _SMALL_LINE + 2
    top = _MARGIN + 2 * _LINE + 2
    below = top + len(panel_values) * (panel + _GAP) + _LINE
    sheet = Sheet(width_in, below + _SMALL_LINE * len(small) + _MARGIN)
    own = maps.unit(z)
    sheet.write(_MARGIN, _MARGIN, labels.title(flag(z), maps.title(z)) + (f" ({own})" if own else ""), weight="bold")
    _key(sheet, _MARGIN + gutter + cell * len(columns), _MARGIN + _LINE, min(numbers), max(numbers), log=log)
    left = _MARGIN + gutter
    for number, place in enumerate(panel_values):
        upper = top + number * (panel + _GAP)
        if facet is not None:
            sheet.write(_MARGIN, upper, maps.value(facet, place[0], labels), weight="bold")
            upper += _LINE
        for row, value in enumerate(rows):
            lines = row_names[row]
            middle = upper + row * _CELL + _CELL / 2 - len(lines) * 3.6
            for index, line in enumerate(lines):
                sheet.write(left - 4, middle + index * 7, line, size=SMALL_PT, ha="right")
            for column, other in enumerate(columns):
                key = (place, value, other)
                at = (left + column * cell, upper + row * _CELL)
                _cell(sheet, at, cell, points.get(key), found.get(key), _shade(points.get(key), numbers, log=log), z)
        for column, other in enumerate(columns):
            _write_under(sheet, left + (column + 0.5) * cell, upper + len(rows) * _CELL + 1, labels.of(x, other), cell)
    sheet.write(
        left + cell * len(columns), below - _LINE - _GAP, labels.title(x.name, x.title), size=SMALL_PT, ha="right"
    )
    for index, line in enumerate(small):
        sheet.write(_MARGIN, below + index * _SMALL_LINE, line, size=SMALL_PT, color=MUTED)
    return sheet.figure


def _shade(point: Point | None, numbers: Sequence[float], *, log: bool) -> str | None:
    if point is None:
        return None
    low, high = min(numbers), max(numbers)
    if low == high:
        share = 0.5
    elif log:
        share = math.log(point.value / low) / math.log(high / low)
    else:
        share = (point.value - low) / (high - low)
    return _colour(share)


def _colour(share: float) -> str:
    return to_hex(colormaps[_MAP](0.08 + 0.9 * share))


def _cell(
    sheet: Sheet, at: tuple[float, float], width: float, point: Point | None, run: Summary | None, shade: str | None,
    z: Quantity,
) -> None:  # fmt: skip
    left, top = at
    box = Rectangle((left, top), width, _CELL, facecolor=shade or "white", edgecolor="white", linewidth=0.8)
    if shade is None and run is not None:
        box.set_hatch("/////")
        box.set_edgecolor("#bbbbbb")
        box.set_linewidth(0.0)
    box.set_gid("cell")
    sheet.ground.add_patch(box)
    text, colour = ("–", MUTED) if run is None else (_why(run, width), MUTED)
    if point is not None and shade is not None:
        text, colour = _number(point.value, width), Look(shade).text_colour
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.8} if shade is None and run is not None else None
    sheet.write(left + width / 2, top + _CELL / 2 - 0.5, text, size=SMALL_PT, color=colour, ha="center", va="center",
                bbox=ground)  # fmt: skip


def _number(value: float, width: float) -> str:
    """Returns the value with as many digits as are told of it, and as there is room for."""
    for text in (three_digits(value), digits(value), f"{value:.2g}"):
        if text_width(text, SMALL_PT) + 2 <= width:
            return text
    return f"{value:.0e}"


def _why(run: Summary, width: float) -> str:
    """Returns in a word why a run has no number."""
    said = run.failure.kind.replace("-", " ") if run.failure is not None else run.verdict
    for text in (said, "failed" if run.failure is not None else "stopped", "×"):
        if text_width(text, SMALL_PT) + 2 <= width:
            return text
    return ""


def _write_under(sheet: Sheet, middle: float, top: float, text: str, width: float) -> None:
    shown = text
    while text_width(shown, SMALL_PT) > width - 1 and len(shown) > 1:
        shown = f"{shown[:-2]}…" if shown.endswith("…") else f"{shown[:-1]}…"
    sheet.write(middle, top, shown, size=SMALL_PT, ha="center")


def _key(sheet: Sheet, right: float, top: float, low: float, high: float, *, log: bool) -> None:
    """Draw what the shades mean."""
    first, last = three_digits(low), f"{three_digits(high)}{', log shades' if log else ''}"
    steps, step = 24, 2.5
    end = right - text_width(last, SMALL_PT) - 3
    for index in range(steps):
        sheet.ground.add_patch(
            Rectangle(
                (end - (steps - index) * step, top), step + 0.2, 6, facecolor=_colour(index / (steps - 1)), linewidth=0
            )
        )
    sheet.write(end - steps * step - 3, top - 0.5, first, size=SMALL_PT, ha="right")
    sheet.write(right, top - 0.5, last, size=SMALL_PT, ha="right")
