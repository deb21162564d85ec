"""Horizontal stacked bars on linear axes, magnified step by step where the short ones would vanish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import MaxNLocator

from vilt_bench.report.pictures.style import INK, MUTED, POINTS_PER_INCH, SHADE, SMALL_PT, Look, Sheet, text_width, wrap

MAGNIFY = 4.0
"""Bars this many times shorter than the longest are shown once more, on an axis of their own."""
MOST_PANELS = 3

_MARGIN = 8.0
_ROOM = 1.02
_LINE = 9.0
_SMALL_LINE = 7.5
_BAR = 11.0
_GAP = 5.0
_AXIS = 20.0
"""Below a panel: ticks and the axis' label; then what joins it to its magnification."""
_JOIN = 7.0


@dataclass(frozen=True)
class Part:
    """One segment of a bar."""

    name: str
    """A stage or component, as `style.LOOKS` knows it."""
    title: str
    length: float
    text: str
    """The value as written on it."""


@dataclass(frozen=True)
class Bar:
    """One bar with its title line above."""

    title: str
    value: str
    """At the end of the title line."""
    parts: tuple[Part, ...]
    interval: tuple[float, float] | None = None
    """Of the sum of the parts."""
    notes: tuple[str, ...] = ()
    """Small lines below the title."""

    @property
    def extent(self) -> float:
        """Where the bar or its interval ends."""
        return max(sum(part.length for part in self.parts), self.interval[1] if self.interval else 0.0)


@dataclass(frozen=True)
class Chart:
    """Bars on one axis, with its magnifications below."""

    bars: tuple[Bar, ...]
    axis: str
    heading: str = ""
    limit: float | None = None
    """Where the axis ends; `None`: at the longest bar, and short bars are magnified."""


def draw(
    charts: Sequence[Chart],
    looks: Mapping[str, Look],
    legend: Sequence[tuple[str, str]],
    footer: Sequence[str],
    *,
    width_in: float,
) -> Sheet:
    """Returns the charts one below the other, under a legend and above small print.

    Args:
        charts: in order.
        looks: by the name of the parts.
        legend: names and titles of the parts, in order; an empty name gives a heading within the legend.
        footer: sentences; each begins a line.
        width_in: of the figure, in inches.
    """
    width = width_in * POINTS_PER_INCH - 2 * _MARGIN
    entries, legend_height = _legend(legend, width)
    panels = [panel for chart in charts for panel in _panels(chart, width)]
    small = [line for sentence in footer for line in wrap(sentence, width, SMALL_PT)]
    height = 2 * _MARGIN + legend_height + sum(panel.height for panel in panels) + _SMALL_LINE * len(small)
    sheet = Sheet(width_in, height)
    for x, y, name, title in entries:
        _entry(sheet, _MARGIN + x, _MARGIN + y, title, looks.get(name))
    top = _MARGIN + legend_height
    for index, panel in enumerate(panels):
        panel.draw(sheet, top, looks)
        following = panels[index + 1] if index + 1 < len(panels) else None
        if following is not None and following.factor > 1:
            _join(sheet, panel, following, top)
        top += panel.height
    for index, line in enumerate(small):
        sheet.write(_MARGIN, top + index * _SMALL_LINE, line, size=SMALL_PT, color=MUTED)
    return sheet


@dataclass(frozen=True)
class _Row:
    bar: Bar
    titles: tuple[str, ...]
    notes: tuple[str, ...]
    outside: tuple[str, ...]
    """Lines with the values of the segments that are too narrow to write on."""

    @property
    def bar_top(self) -> float:
        return _LINE * len(self.titles) + _SMALL_LINE * len(self.notes)

    @property
    def height(self) -> float:
        drawn = _BAR + 1 if self.bar.parts else 0
        return self.bar_top + drawn + _SMALL_LINE * len(self.outside) + _GAP


@dataclass(frozen=True)
class _Panel:
    rows: tuple[_Row, ...]
    heading: tuple[str, ...]
    axis: str
    limit: float
    factor: float
    """How much longer a bar is than in the chart's first panel."""
    width: float
    joined: bool
    """Whether a magnification follows."""

    @property
    def body(self) -> float:
        return _LINE * len(self.heading) + sum(row.height for row in self.rows)

    @property
    def height(self) -> float:
        return self.body + _AXIS + (_JOIN if self.joined else _GAP)

    def _keep_within(self, axes: Axes) -> None:
        """Write a tick's number before it where it would be cut at the picture's edge."""
        for tick, value in zip(axes.xaxis.get_major_ticks(), axes.get_xticks(), strict=True):
            end = self.width * value / self.limit + text_width(f"{value:,.10g}", SMALL_PT) / 2
            if end > self.width + _MARGIN - 1:
                tick.label1.set_horizontalalignment("right")

    def draw(self, sheet: Sheet, top: float, looks: Mapping[str, Look]) -> None:
        for index, line in enumerate(self.heading):
            sheet.write(_MARGIN, top + index * _LINE, line, weight="bold")
        y = _LINE * len(self.heading)
        axes = sheet.axes(_MARGIN, top, self.width, self.body)
        axes.set(xlim=(0, self.limit), ylim=(self.body, 0))
        axes.patch.set_visible(False)
        axes.spines["left"].set_bounds(self.body, y)
        axes.yaxis.set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.tick_params(axis="x", pad=1.5)
        self._keep_within(axes)
        for row in self.rows:
            for index, title in enumerate(row.titles):
                sheet.write(_MARGIN + 2, top + y + index * _LINE, title, weight="bold")
            sheet.write(_MARGIN + self.width, top + y + _LINE * (len(row.titles) - 1), row.bar.value, ha="right")
            for index, note in enumerate(row.notes):
                at = top + y + _LINE * len(row.titles) + index * _SMALL_LINE
                sheet.write(_MARGIN + 2, at, note, size=SMALL_PT, color=MUTED)
            _stack(axes, row.bar, y + row.bar_top, self.width / self.limit, looks)
            for index, line in enumerate(row.outside):
                at = top + y + row.bar_top + _BAR + 1 + index * _SMALL_LINE
                sheet.write(_MARGIN + 2, at, line, size=SMALL_PT)
            y += row.height
        sheet.write(_MARGIN + self.width, top + self.body + 10, self.axis, size=SMALL_PT, ha="right")


def _panels(chart: Chart, width: float) -> list[_Panel]:
    """Returns the chart's panel and its magnifications."""
    longest = max((bar.extent for bar in chart.bars), default=0.0)
    groups = [(chart.bars, chart.limit or longest * _ROOM or 1.0)]
    while chart.limit is None and len(groups) < MOST_PANELS:
        bars, limit = groups[-1]
        short = tuple(bar for bar in bars if 0 < bar.extent <= limit / MAGNIFY)
        if not short:
            break
        groups.append((short, max(bar.extent for bar in short) * _ROOM))
    panels = []
    for index, (bars, limit) in enumerate(groups):
        later = groups[index + 1][0] if index + 1 < len(groups) else ()
        factor = groups[0][1] / limit
        panels.append(
            _Panel(
                rows=tuple(_row(bar, width, width / limit, again=bar in later) for bar in bars),
                heading=tuple(wrap(chart.heading, width, bold=True)) if not index else (),
                axis=f"{chart.axis}, magnified ×{_factor(factor)}" if index else chart.axis,
                limit=limit,
                factor=factor if index else 1.0,
                width=width,
                joined=bool(later),
            )
        )
    return panels


def _factor(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _row(bar: Bar, width: float, scale: float, *, again: bool) -> _Row:
    """Returns the bar's row; one that comes again, magnified, has the narrow segments' values there only."""
    small = (
        []
        if again
        else [part for part, (_, room) in zip(bar.parts, _rooms(bar), strict=True) if not _fits(part, room * scale)]
    )
    titles = wrap(bar.title, width - 2, bold=True)
    if text_width(titles[-1], bold=True) + text_width(bar.value) + 8 > width:
        titles.append("")
    return _Row(
        bar=bar,
        titles=tuple(titles),
        notes=tuple(line for note in bar.notes for line in wrap(note, width - 2, SMALL_PT)),
        outside=tuple(_flow([f"{part.title} {part.text}" for part in small], width - 2)),
    )


def _flow(items: Sequence[str], width: float) -> list[str]:
    """Returns the items in lines; none is broken."""
    lines: list[str] = []
    for item in items:
        longer = f"{lines[-1]} · {item}" if lines else item
        if lines and text_width(longer, SMALL_PT) <= width:
            lines[-1] = longer
        else:
            lines.append(item)
    return lines


def _rooms(bar: Bar) -> list[tuple[float, float]]:
    """Returns for each segment where it begins, and its length to write on: as far as the whisker."""
    rooms, left = [], 0.0
    for part in bar.parts:
        right = left + part.length
        clear = right if bar.interval is None else min(right, bar.interval[0])
        rooms.append((left, max(0.0, clear - left)))
        left = right
    return rooms


def _fits(part: Part, room_pt: float) -> bool:
    return text_width(part.text, SMALL_PT) + 4 <= room_pt


def _stack(axes: Axes, bar: Bar, top: float, scale: float, looks: Mapping[str, Look]) -> None:
    """Draw the segments; `scale` is in points a unit."""
    middle = top + _BAR / 2
    for part, (left, room) in zip(bar.parts, _rooms(bar), strict=True):
        look = looks[part.name]
        box = Rectangle((left, top), part.length, _BAR, facecolor=look.colour, hatch=look.hatch, linewidth=0)
        box.set_edgecolor(look.hatch_colour)  # the hatch has the edge's colour
        box.set_gid(part.name)
        axes.add_patch(box)
        if left and part.length * scale > 2:
            axes.vlines(left, top, top + _BAR, color="white", linewidth=0.5)
        if _fits(part, room * scale):
            # On a hatch, digits need a ground.
            ground = {"facecolor": look.colour, "edgecolor": "none", "pad": 2} if look.hatch else None
            axes.text(
                left + room / 2, middle, part.text,
                size=SMALL_PT, color=look.text_colour, ha="center", va="center_baseline", bbox=ground,
            )  # fmt: skip
    if bar.interval is not None:
        for colour, width in (("white", 2.2), (INK, 0.8)):
            axes.hlines(middle, *bar.interval, color=colour, linewidth=width, clip_on=False, zorder=4)
            axes.vlines(bar.interval, middle - 2, middle + 2, color=colour, linewidth=width, clip_on=False, zorder=4)


def _join(sheet: Sheet, panel: _Panel, following: _Panel, top: float) -> None:
    """Shade what becomes of the panel's beginning in its magnification."""
    upper, lower = top + panel.body, top + panel.height
    end = _MARGIN + panel.width * following.limit / panel.limit
    corners = [(_MARGIN, upper), (end, upper), (_MARGIN + panel.width, lower), (_MARGIN, lower)]
    sheet.ground.add_patch(Polygon(corners, facecolor=SHADE, linewidth=0, zorder=0))


def _legend(legend: Sequence[tuple[str, str]], width: float) -> tuple[list[tuple[float, float, str, str]], float]:
    """Returns (x, y, name, title) of the entries in lines, and the height of all."""
    entries, x, y = [], 0.0, 0.0
    for name, title in legend:
        size = (9 if name else 0) + text_width(title, SMALL_PT)
        if x and x + size > width:
            x, y = 0.0, y + _LINE
        entries.append((x, y, name, title))
        x += size + (8 if name else 4)
    return entries, y + _LINE + _GAP if legend else 0.0


def _entry(sheet: Sheet, x: float, y: float, title: str, look: Look | None) -> None:
    if look is not None:
        box = Rectangle((x, y + 0.5), 7, 6, facecolor=look.colour, hatch=look.hatch, linewidth=0)
        box.set_edgecolor(look.hatch_colour)
        sheet.ground.add_patch(box)
    sheet.write(x + (9 if look else 0), y, title, size=SMALL_PT, color=INK if look else MUTED)
