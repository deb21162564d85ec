"""Small multiples: panels with shared axes under a legend and above small print, and what lines look like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from vilt_bench.report.pictures.style import (
    COLUMN_IN,
    INK,
    MUTED,
    POINTS_PER_INCH,
    SHADE,
    SMALL_PT,
    Look,
    Sheet,
    text_width,
    wrap,
)

LINES: Sequence[tuple[str, str]] = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#000000", "v"),
    ("#56B4E9", "P"),
    ("#E69F00", "X"),
    ("#7a7200", "<"),
    ("#777777", ">"),
    ("#5e1f43", "p"),
    ("#0a4a70", "h"),
    ("#b08000", "*"),
)
"""Colour and marker of a line: colours of Okabe and Ito, then darker steps of theirs; in grey the marker tells."""
DASHES: Sequence[Any] = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (8, 2)), (0, (2, 1, 1, 1)))
"""Line styles of a second axis."""
MARKER_PT = 3.6

_MARGIN = 8.0
_LINE = 9.0
_SMALL_LINE = 7.5
_TICKS = 9.0
_GAP = 6.0
_LOG_SPREAD = {"x": 3.9, "y": 30.0}
"""From this ratio of the largest to the smallest value on, an axis is logarithmic unless it is said otherwise."""
_ASPECT = 0.6
_MOST_LINES = 2
"""Of a panel's title."""


@dataclass(frozen=True)
class Sample:
    """An entry of a legend: a line with its marker, a filled box, or a heading."""

    title: str
    colour: str = ""
    marker: str = ""
    dash: Any = "-"
    look: Look | None = None

    @property
    def width(self) -> float:
        """Of the sign before the title, in points."""
        return 9.0 if self.look is not None else 18.0 if self.colour and self.dash else 7.0 if self.colour else 0.0


@dataclass(frozen=True)
class Scale:
    """One axis of all panels: where it begins and ends, whether it is logarithmic, and its ticks."""

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Returns where a value lies, from 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def in_a_row(count: int, width_in: float) -> int:
    """Returns how many of so many panels stand side by side."""
    if width_in <= COLUMN_IN:
        return min(count, 2)
    return count if count <= 4 else 3


def is_log(values: Sequence[float], asked: str, which: str) -> bool:
    """Returns whether an axis is logarithmic.

    Args:
        values: that are drawn.
        asked: `auto`, or the letters of the logarithmic axes, `none` for none.
        which: `x` or `y`.
    """
    if not values or min(values) <= 0:
        return False
    return max(values) / min(values) >= _LOG_SPREAD[which] if asked == "auto" else which in asked.replace("none", "")


def scale(
    values: Sequence[float],
    *,
    log: bool,
    width: float,
    from_zero: bool,
    at: Sequence[tuple[float, str]] = (),
    upright: bool = False,
) -> Scale:
    """Returns a scale that holds the values.

    Args:
        values: that are drawn, ends of intervals included.
        log: whether it is logarithmic.
        width: of a panel along it, in points.
        from_zero: whether a linear scale begins at zero.
        at: ticks with their texts, in place of round numbers.
        upright: whether texts stand above each other, so that their height counts.
    """
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.06, 1.08)
        low, high = low / room, high * room
    else:
        spread = (high - low) or abs(high) or 1.0
        low, high = (0.0 if from_zero and low >= 0 else low - 0.06 * spread), high + 0.06 * spread
    if at:
        found = [(value, text) for value, text in at if low <= value <= high]
    else:
        found = [(value, f"{value:,.10g}") for value in _round(low, high, log=log, most=max(2, int(width // 22)))]
    bare = Scale(low, high, log, ())
    kept: list[tuple[float, str]] = []
    end = -math.inf
    for value, text in found:
        half = SMALL_PT / 2 if upright else text_width(text, SMALL_PT) / 2
        middle = bare.place(value) * width
        if middle - half >= end + 2:
            kept.append((value, text))
            end = middle + half
    return Scale(low, high, log, tuple(kept))


def within_reach(values: Sequence[float], ends: Sequence[float], *, log: bool) -> tuple[list[float], bool]:
    """Returns the values with the ends of intervals that an axis has room for, and whether some have none.

    An interval that is many times its value wide, as of few passes, would press all values together.
    """
    low, high = min(values), max(values)
    if log:
        low, high = low / _REACH, high * _REACH
    else:
        spread = max(high - low, abs(high))
        low, high = low - spread, high + spread
    kept = [end for end in ends if low <= end <= high]
    return [*values, *kept], len(kept) < len(ends)


def ends(low: float | None, high: float | None, along: Scale) -> tuple[float, float] | None:
    """Returns where an interval is drawn: an end that is not known, or that no axis has, is beyond the picture."""
    if low is None and high is None:
        return None
    bottom, top = along.low - (0 if along.log else along.high), along.high * 2
    return (bottom / 2 if along.log else bottom) if low is None or (along.log and low <= 0) else low, high or top


_REACH = 2.5
"""How many times below and above all values a logarithmic axis goes for the ends of intervals."""


def _round(low: float, high: float, *, log: bool, most: int) -> list[float]:
    if not log:
        return [float(value) for value in MaxNLocator(min(most, 5), steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
                if low <= value <= high]  # fmt: skip
    found: list[float] = []
    for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        found = [float(value) for value in LogLocator(subs=subs).tick_values(low, high) if low <= value <= high]
        if len(found) >= 3:
            break
    return found


def draw(
    titles: Sequence[str],
    x: Scale,
    ys: Sequence[Scale],
    *,
    labels: tuple[str, str],
    legend: Sequence[Sample],
    footer: Sequence[str],
    width_in: float,
    columns: int,
) -> tuple[Sheet, list[Axes]]:
    """Returns a sheet with empty panels, one a title, under a legend and above small print.

    Args:
        titles: of panels; one that is empty is left out.
        x: of all panels.
        ys: of each panel; if they are one, only the outermost panels have numbers.
        labels: of both axes.
        legend: entries in order.
        footer: sentences; each begins a line.
        width_in: of the figure, in inches.
        columns: panels in a row.
    """
    width = width_in * POINTS_PER_INCH - 2 * _MARGIN
    shared = len(set(ys)) == 1
    gutter, columns, panel = room(ys, width, len(titles), columns)
    height = panel_height(panel, columns)
    entries, top = lay_out(legend, width)
    top += _MARGIN
    heads = [wrap(title, panel, bold=True)[:_MOST_LINES] for title in titles]
    head = _LINE * max(map(len, heads))
    rows = math.ceil(len(titles) / columns)
    row = head + height + _TICKS + _GAP
    small = [line for sentence in footer for line in wrap(sentence, width, SMALL_PT)]
    body = top + _LINE
    below = body + rows * row - _GAP + _LINE
    sheet = Sheet(width_in, below + 4 + _SMALL_LINE * len(small) + _MARGIN)
    write_legend(sheet, entries)
    sheet.write(_MARGIN, top, labels[1], size=SMALL_PT)
    sheet.write(_MARGIN + width, below - _LINE + 1, labels[0], size=SMALL_PT, ha="right")
    for index, line in enumerate(small):
        sheet.write(_MARGIN, below + 4 + index * _SMALL_LINE, line, size=SMALL_PT, color=MUTED)
    found = []
    for index, lines in enumerate(heads):
        column = index % columns
        left = _MARGIN + gutter + column * (panel + _GAP + (0 if shared else gutter))
        upper = body + index // columns * row
        for number, line in enumerate(lines):
            sheet.write(left, upper + head - (len(lines) - number) * _LINE, line, weight="bold")
        axes = sheet.axes(left, upper + head, panel, height)
        _prepare(axes, x, ys[index], panel, numbers=not (shared and column), alone=columns == 1)
        found.append(axes)
    return sheet, found


def room(ys: Sequence[Scale], width: float, count: int, columns: int) -> tuple[float, int, float]:
    """Returns the room for an axis' numbers, panels in a row, and the width of one."""
    gutter = max((text_width(text, SMALL_PT) for y in ys for _, text in y.ticks), default=0.0) + 5
    columns = max(1, min(columns, count))
    gutters = 1 if len(set(ys)) == 1 else columns
    return gutter, columns, (width - gutters * gutter - (columns - 1) * _GAP) / columns


def panel_height(panel: float, columns: int) -> float:
    """Returns a panel's height; a panel that stands alone is flatter."""
    return panel * _ASPECT if columns > 1 else min(panel * _ASPECT, 170.0)


def _prepare(axes: Axes, x: Scale, y: Scale, width: float, *, numbers: bool, alone: bool) -> None:
    """Set scales and ticks; where panels stand side by side, texts under one keep out of the next."""
    for axis, own, limits in ((axes.xaxis, x, axes.set_xlim), (axes.yaxis, y, axes.set_ylim)):
        if own.log:
            (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
        limits(own.low, own.high)
        axis.set_major_locator(FixedLocator([value for value, _ in own.ticks]))
        axis.set_major_formatter(FixedFormatter([text for _, text in own.ticks]))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(pad=1.5)
    axes.tick_params(axis="y", labelleft=numbers)
    axes.grid(visible=True, linewidth=0.4, color=SHADE)
    axes.set_axisbelow(True)
    for tick, (value, text) in zip(axes.xaxis.get_major_ticks(), x.ticks, strict=False):
        tick.label1.set_parse_math(False)
        half, middle = text_width(text, SMALL_PT) / 2, x.place(value) * width
        if middle + half > width + (_MARGIN - 1 if alone else _GAP / 2):
            tick.label1.set_horizontalalignment("right")
        elif not alone and middle - half < -_GAP / 2:
            tick.label1.set_horizontalalignment("left")


Entries = Sequence[tuple[float, float, Sample]]


def lay_out(legend: Sequence[Sample], width: float) -> tuple[Entries, float]:
    """Returns (x, y, sample) of a legend's entries in lines, and the height of all; a heading begins a line."""
    entries: list[tuple[float, float, Sample]] = []
    x = y = 0.0
    for sample in legend:
        size = sample.width + text_width(sample.title, SMALL_PT)
        heading = not sample.width
        if x and (x + size > width or heading):
            x, y = 0.0, y + _LINE
        entries.append((x, y, sample))
        x += size + (4 if heading else 9)
    return entries, y + _LINE + 3 if legend else 0.0


def write_legend(sheet: Sheet, entries: Entries) -> None:
    """Draw a legend at the sheet's top."""
    for x, y, sample in entries:
        left, middle = _MARGIN + x, _MARGIN + y + 4
        if sample.look is not None:
            box = Rectangle(
                (left, middle - 3.5), 7, 6, facecolor=sample.look.colour, hatch=sample.look.hatch, linewidth=0
            )
            box.set_edgecolor(sample.look.hatch_colour)
            sheet.ground.add_patch(box)
        elif sample.colour:
            ends = [left, left + 7.5, left + 15] if sample.dash else [left + 2]
            line = Line2D(
                ends, [middle] * len(ends), color=sample.colour, linestyle=sample.dash or "none", linewidth=1.1,
                marker=sample.marker or None, markersize=MARKER_PT, markevery=[len(ends) // 2],
                markeredgecolor=INK, markeredgewidth=0.3,
            )  # fmt: skip
            sheet.ground.add_line(line)
        sheet.write(left + sample.width, _MARGIN + y, sample.title, size=SMALL_PT, color=INK if sample.width else MUTED)
