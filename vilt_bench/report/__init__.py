"""Records in, text or pictures out: one module a text format, each with `render(runs)`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from vilt_bench.errors import ConfigError
from vilt_bench.report.runs import CHOOSING, FORMATS

if TYPE_CHECKING:
    from vilt_bench.judge.summary import Summary
    from vilt_bench.record.run import Run
    from vilt_bench.report.pictures.latency import Beside

PICTURES = ("svg", "png", "pdf", "html")
"""Formats of `render_picture`; the only ones that need matplotlib."""
FIGURES = ("latency", "size")
"""What a picture shows: the paper's Figure 1 or its Figure 2."""
SPANS = (1, 2)
"""Of a two-column paper, how many a picture may span."""

NEWEST = 100
"""Runs that a picture or a page shows, unless more are asked for: thousands of bars are no picture."""

CAPTIONS = {
    "latency": "Latency by stage: textual embedder, stages of the visual embedder, modality interaction",
    "size": "Relative computational size: textual embedder, visual embedder, modality interaction",
}


def render(
    runs: Iterable[Run | Summary], format: str, *, left_out: Sequence[str] = (), quantities: Sequence[str] = ()
) -> str:
    """Returns the report of the runs, in their order, as text that ends in a newline.

    Args:
        runs: in order; each is judged once, unless it is judged already.
        format: one of `FORMATS`.
        left_out: sentences on records that could not be read, where the format has a place for them.
        quantities: that are told of stages and wholes, by the names of `report.columns`, in their order; none: the
            usual ones.

    Raises:
        ConfigError: there is no such format or quantity, the format has no choice of quantities, or two runs would
            have one name on a dashboard.
    """
    if format not in FORMATS:
        raise ConfigError(f"`format` must be one of {', '.join(FORMATS)}; got {format!r}")
    from vilt_bench.judge.summary import summaries

    options: dict[str, Any] = {"left_out": left_out}
    if quantities:
        from vilt_bench.report.columns import chosen

        if format not in CHOOSING:
            raise ConfigError(f"`quantities` can be chosen in {', '.join(CHOOSING)} and html; {format} has latencies")
        options["quantities"] = chosen(quantities)
    text: str = import_module(f"{__name__}.runs.{FORMATS[format]}").render(summaries(runs), **options)
    return text


def newest_of(runs: Iterable[Run | Summary], count: int | None) -> tuple[list[Summary], list[str]]:
    """Returns the runs that started last, judged and in the order given; and a sentence if others were left out.

    Args:
        runs: in order.
        count: how many; `None`: all.

    Raises:
        ConfigError: the count is not at least 1.
    """
    from vilt_bench.judge.summary import summaries
    from vilt_bench.record.run import parse_time

    if count is not None and count < 1:
        raise ConfigError(f"must be at least 1, got {count}", field="newest")
    judged = summaries(runs)
    if count is None or len(judged) <= count:
        return judged, []
    started = [parse_time(run.started_at) or _LONG_AGO for run in judged]
    chosen = sorted(sorted(range(len(judged)), key=started.__getitem__)[-count:])
    said = f"Of {len(judged):,} runs the {count:,} newest are shown; --newest {len(judged)} shows all."
    return [judged[index] for index in chosen], [said]


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def render_picture(
    runs: Iterable[Run | Summary],
    format: str,
    *,
    figure: str = "latency",
    beside: Beside | None = None,
    allow_different: bool | Collection[str] = False,
    span: int = 1,
    newest: int | None = NEWEST,
    left_out: Sequence[str] = (),
    quantities: Sequence[str] = (),
) -> bytes:
    """Returns the runs' Figure 1 or 2, or as `html` a page with both and all tables, as a file's content.

    Args:
        runs: from top to bottom; each is judged once, unless it is judged already.
        format: one of `PICTURES`.
        figure: one of `FIGURES`; a page has both.
        beside: bars from elsewhere below those of latency, such as the paper's.
        allow_different: names of what may differ, such as `torch`, or whether anything may; each bar is then labelled.
        span: columns of a two-column paper that a picture spans: 3.25 or 6.75 inches.
        newest: how many of the runs, those that started last; the picture says how many were left out. `None`: all.
        left_out: sentences on records that could not be read, for a page.
        quantities: as for `render`, for a page's tables.

    Raises:
        ConfigError: there is no such format, figure or quantity, no run, or the runs can't be compared.
    """
    from vilt_bench.judge.summary import placed
    from vilt_bench.report.columns import chosen
    from vilt_bench.report.pictures import latency as figures
    from vilt_bench.report.pictures import style
    from vilt_bench.report.runs import page

    for name, value, choices in (
        ("format", format, PICTURES),
        ("figure", figure, FIGURES),
        ("span", span, SPANS),
    ):
        if value not in choices:
            raise ConfigError(f"must be one of {', '.join(map(str, choices))} for a picture; got {value!r}", field=name)
    if beside is not None and figure == "size" and format != "html":
        raise ConfigError("`beside` adds the bars of the paper's Figure 1; leave out `figure` size")
    if quantities and format != "html":
        raise ConfigError("`quantities` are for tables: a picture has none; a page has, with `format` html")
    told = chosen(quantities) if quantities else []
    judged, older = newest_of(runs, newest)
    judged = placed(judged)  # among those that are shown
    width_in = style.COLUMN_IN if span == 1 else style.PAGE_IN

    def latencies() -> bytes:
        drawn = figures.figure1(judged, beside=beside, allow_different=allow_different, width_in=width_in, notes=said)
        return style.write(drawn, picture, title=CAPTIONS["latency"])

    def sizes() -> bytes:
        return style.write(figures.figure2(judged, width_in=width_in, notes=said), picture, title=CAPTIONS["size"])

    said = [] if format == "html" else older  # a page says it once
    picture = cast("style.Format", "svg" if format == "html" else format)
    with style.styled():
        if format == "html":
            return page.page(
                judged,
                [(CAPTIONS["latency"], latencies()), (CAPTIONS["size"], sizes())],
                left_out=[*older, *left_out],
                quantities=told,
            )
        return latencies() if figure == "latency" else sizes()
