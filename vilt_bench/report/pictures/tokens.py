"""Time to first token, prefill, keys and values, and the visual embedder's share along the number of visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from matplotlib.figure import Figure

from vilt_bench.ask.case import LANGUAGE_MODEL
from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import Summary
from vilt_bench.report import axes as known
from vilt_bench.report import maps
from vilt_bench.report.columns import KEYS_AND_VALUES, LATENCY, PREFILL, SHARE
from vilt_bench.report.labels import Labels
from vilt_bench.report.maps import Point
from vilt_bench.report.pictures import curves, panels, style
from vilt_bench.words import counted


def prefill(run: Summary) -> Point | None:
    """Returns the latency of the stage that fills the cache of keys and values."""
    row = next((row for row in run.rows if row.name == PREFILL), None)
    return None if row is None else maps.point(LATENCY, run, row)


_PANELS: Sequence[tuple[str, str, Callable[[Summary], Point | None]]] = (
    ("Time to first token", "ms", partial(maps.point, LATENCY)),
    ("Prefill", "ms", prefill),
    ("Keys and values", "MiB", partial(maps.point, KEYS_AND_VALUES)),
    ("Share of visual embedder", "%", partial(maps.point, SHARE)),
)
"""Title, unit and number of each."""
_COLUMNS = 2
"""Of the panels: four scales need room for their numbers."""


def tokens(
    runs: Sequence[Summary],
    *,
    log: str = "auto",
    labels: Labels,
    allow_different: Collection[str] = (),
    width_in: float = style.COLUMN_IN,
    notes: Sequence[str] = (),
) -> Figure:
    """Returns four panels along the number of visual tokens a text; call it under `style.styled`.

    A line has what makes tokens alike, such as the reduction; along it the resolution grows.

    Args:
        runs: in order.
        log: `auto`, or the letters of the logarithmic axes; `none`.
        labels: of the user's own.
        allow_different: facts that may differ between lines, by name.
        width_in: of the figure, in inches.
        notes: what else must be known, one sentence each.

    Raises:
        ConfigError: no run is timed in front of a language model, the number of tokens does not vary, more axes vary
            than lines can tell apart, or the runs are of machines that may not stand side by side.
    """
    x = known.AXES["visual-tokens"]
    behind = [run for run in runs if run.case.language_model is not None]
    others = len(runs) - len(behind)
    runs, again = maps.cases(behind)
    timed = [run for run in runs if maps.point(LATENCY, run) is not None]
    if not timed:
        raise ConfigError(
            f"tokens draws the time to first token, and no run has one{maps.why_not(runs, LATENCY)}; measure with "
            f"`interaction` {LANGUAGE_MODEL}NAME, as 'vilt-bench run --preset tokens-curve' does",
            field="figure",
        )
    if len({x.of(run) for run in timed}) < 2:
        raise ConfigError("tokens goes along the number of visual tokens, which does not vary", field="figure")
    apart = maps.apart(runs, [x], allow_different=allow_different, most=2, what="lines")
    lines = curves.lines_of(runs, x, apart, labels)
    looks = curves.looks_of(lines, apart, labels)
    width = curves.panel_width(width_in, _COLUMNS)
    pieces = [{line: curves.pieces_of(line, x, point) for line in lines} for _, _, point in _PANELS]
    points = [[each for _, found in own.values() for each in found if each is not None] for own in pieces]
    shown = [index for index, found in enumerate(points) if found]  # a backend that joins stages has no prefill
    numbers = [float(x.number(run) or 0) for run in timed] if x.number is not None else []
    along = curves.scale_x(numbers, x, lines, log, width)
    scales = [curves.scale_y(points[index], log, width) for index in shown]
    sheet, axes = panels.draw(
        [
            f"{_PANELS[index][0]} ({_PANELS[index][1]}{', log' if scale.log else ''})"
            for index, scale in zip(shown, scales, strict=True)
        ],
        along,
        scales,
        labels=(curves.title_x(x, labels, along), ""),
        legend=curves.legend(apart, looks, labels),
        footer=[
            *maps.conditions(runs, apart, labels),
            *maps.absent(runs, [LATENCY], lambda run: maps.place(run, [*apart, x], labels)),
            *(["Bands: 95% intervals."] if any(each.low is not None for each in points[0]) else []),
            *curves.open_bands(points[0]),
            *again,
            *([f"Left out, as no language model is behind them: {counted(others, 'run')}."] if others else []),
            *notes,
        ],
        width_in=width_in,
        columns=min(len(shown), _COLUMNS),
    )
    for panel, index, scale in zip(axes, shown, scales, strict=True):
        for line, (at, found) in pieces[index].items():
            curves.trace(panel, line, at, found, scale, looks, apart, labels)
    return sheet.figure
