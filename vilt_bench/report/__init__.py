"""Records in, text or pictures out: one module a text format, each with `render(runs)`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast

from vilt_bench.errors import ConfigError
from vilt_bench.report.runs import CHOOSING, FORMATS

if TYPE_CHECKING:
    from vilt_bench.judge.summary import Summary
    from vilt_bench.record.run import Run
    from vilt_bench.report.pictures.latency import Beside
    from vilt_bench.report.runs.pivot import Pivot

PICTURES = ("svg", "png", "pdf", "html")
"""Formats of `render_picture`; the only ones that need matplotlib."""
DATA_FILES = ("xlsx", "parquet")
"""Formats of `render_data`; each needs a library that comes with an extra of its name."""
MAPS = ("curve", "pareto", "heatmap", "tokens")
"""Pictures of a sweep."""
FIGURES = ("latency", "size", *MAPS)
"""What a picture shows: the paper's Figure 1 or its Figure 2, or a map."""
SPANS = (1, 2)
"""Of a two-column paper, how many a picture may span."""

NEWEST = 100
"""Runs that a picture shows, unless more are asked for: thousands of bars are no picture."""
NEWEST_ON_PAGES = 1000
"""Likewise of a page, which sorts and filters them."""
DRAWN_ON_PAGES = 12
"""Runs in the pictures that a page has without scripts."""

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


def render_data(runs: Iterable[Run | Summary], format: str, *, quantities: Sequence[str] = ()) -> bytes:
    """Returns the tidy rows of the runs, those of CSV, as the content of a file that is no text.

    Args:
        runs: in order; each is judged once, unless it is judged already.
        format: one of `DATA_FILES`.
        quantities: as for `render`.

    Raises:
        ConfigError: there is no such format or quantity, or the library that writes it is missing.
    """
    if format not in DATA_FILES:
        raise ConfigError(f"must be one of {', '.join(DATA_FILES)} for a file of data; got {format!r}", field="format")
    from vilt_bench.judge.summary import summaries
    from vilt_bench.report import data_files
    from vilt_bench.report.columns import chosen

    return data_files.of_runs(summaries(runs), format, quantities=chosen(quantities) if quantities else ())


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
    newest: int | Literal["usual"] | None = "usual",
    left_out: Sequence[str] = (),
    quantities: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> bytes:
    """Returns the runs' Figure 1 or 2, or as `html` a page that is searched, sorted and drawn, as a file's content.

    Args:
        runs: from top to bottom; each is judged once, unless it is judged already.
        format: one of `PICTURES`.
        figure: one of `FIGURES`; a page has both.
        beside: bars from elsewhere below those of latency, such as the paper's.
        allow_different: names of what may differ, such as `torch`, or whether anything may; each bar is then labelled.
        span: columns of a two-column paper that a picture spans: 3.25 or 6.75 inches.
        newest: how many of the runs, those that started last; the picture says how many were left out. `None`: all;
            `usual`: `NEWEST`, on a page `NEWEST_ON_PAGES`.
        left_out: sentences on records that could not be read, for a page.
        quantities: as for `render`, for a page's tables.
        labels: TOML files of labels and an order; and labels as `NAME=LABEL`. Colours are of stages here.

    Raises:
        ConfigError: there is no such format, figure or quantity; or in a picture no run, or the runs can't be compared.
    """
    from matplotlib.colors import is_color_like

    from vilt_bench.judge.summary import placed, summaries
    from vilt_bench.report.columns import chosen
    from vilt_bench.report.labels import read
    from vilt_bench.report.lines import alike
    from vilt_bench.report.pictures import latency as figures
    from vilt_bench.report.pictures import style

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
    if labels and format == "html":
        raise ConfigError("`labels` are for pictures and tables by an axis; a page has its own names")
    if newest == "usual":
        newest = NEWEST_ON_PAGES if format == "html" else NEWEST
    read_all = _traced(runs) if format == "html" else summaries(runs)
    own = read(labels, read_all, is_colour=is_color_like)
    judged, older = newest_of(read_all, newest)
    judged = own.in_order(placed(judged))  # among those that are shown
    titles = own.names(judged) if labels else None
    width_in = style.COLUMN_IN if span == 1 else style.PAGE_IN
    if format == "html":
        from vilt_bench.report import page

        pictures = _pictures(judged, beside=beside, width_in=width_in)
        return page.page(judged, pictures, left_out=[*older, *left_out], quantities=told)
    if titles and (shared := alike(judged)):
        older = [*older, f"{shared}."]  # which names of one's own leave out as well
    with style.styled():
        if figure == "latency":
            drawn = figures.figure1(
                judged,
                beside=beside,
                allow_different=allow_different,
                titles=titles,
                axis=own.title("latency", "Latency"),
                width_in=width_in,
                notes=older,
            )
        else:
            drawn = figures.figure2(judged, titles=titles, width_in=width_in, notes=older)
        title = CAPTIONS["latency" if figure == "latency" else "size"]
        return style.write(drawn, cast("style.Format", format), title=title)


def _traced(runs: Iterable[Run | Summary]) -> list[Summary]:
    """Returns the runs judged, with passes to draw where they have samples."""
    from vilt_bench.judge.summary import Summary
    from vilt_bench.judge.trace import traced

    return [run if isinstance(run, Summary) else traced(run) for run in runs]


def _pictures(runs: Sequence[Summary], *, beside: Beside | None, width_in: float) -> list[tuple[str, bytes]]:
    """Returns what a page shows without scripts: captions and SVG files of the first runs; none where there are none.

    Bars of several machines say which, as with everything allowed: on a page their reader chooses among them.
    """
    from vilt_bench.report.pictures import latency as figures
    from vilt_bench.report.pictures import style

    first = list(runs[:DRAWN_ON_PAGES])
    notes = [f"The first {len(first)} of {len(runs):,} runs."] if len(first) < len(runs) else []
    if not first:
        return []
    with style.styled():
        latencies = figures.figure1(first, beside=beside, allow_different=True, width_in=width_in, notes=notes)
        sizes = figures.figure2(first, width_in=width_in, notes=notes)
        return [
            (CAPTIONS[name], style.write(drawn, "svg", title=CAPTIONS[name]))
            for name, drawn in (("latency", latencies), ("size", sizes))
        ]


def render_map(
    runs: Iterable[Run | Summary],
    format: str,
    *,
    figure: str = "curve",
    x: str | None = None,
    y: str | None = None,
    z: str | None = None,
    facet: str | None = None,
    stacked: bool = False,
    log: str = "auto",
    only: Sequence[str] = (),
    labels: Sequence[str] = (),
    allow_different: bool | Collection[str] = False,
    span: int = 1,
    left_out: Sequence[str] = (),
    quantities: Sequence[str] = (),
) -> bytes:
    """Returns a picture of a sweep, or as `html` a page with it and all tables, as a file's content.

    Args:
        runs: in order; each is judged once, unless it is judged already.
        format: one of `PICTURES`.
        figure: one of `MAPS`: a quantity `y` along an axis `x`; runs by two quantities, with their frontier; or a
            quantity `z` by two axes; or `tokens`: what visual tokens cost in front of a language model.
        x: an axis of `report.axes`, such as `batch-size`; of a frontier a quantity, such as `latency`.
        y: a quantity of `report.columns`, such as `images-per-second`; of a heatmap an axis.
        z: the quantity of a heatmap.
        facet: an axis of which each value has a panel.
        stacked: areas by stage instead of lines.
        log: which axes are logarithmic: `x`, `y`, `xy` or `none`; `auto`: those whose values lie far apart.
        only: which runs, such as `dtype=float32`.
        labels: TOML files of labels, colours and an order; and labels as `NAME=LABEL`.
        allow_different: names of what may differ between lines that is no axis of the picture, or whether anything may.
        span: columns of a two-column paper that a picture spans: 3.25 or 6.75 inches.
        left_out: sentences on records that could not be read, for a page.
        quantities: as for `render`, for a page's tables.

    Raises:
        ConfigError: there is no such format, figure, axis or quantity; nothing can be drawn; or more varies than the
            picture has room for.
    """
    from matplotlib.colors import is_color_like

    from vilt_bench.ask.case import ALL
    from vilt_bench.judge.summary import summaries
    from vilt_bench.report import axes, maps
    from vilt_bench.report.columns import chosen
    from vilt_bench.report.labels import read
    from vilt_bench.report.pictures import curves, heatmap, pareto, style, tokens

    for name, value, choices in (
        ("format", format, PICTURES),
        ("figure", figure, MAPS),
        ("span", span, SPANS),
        ("log", log, LOGS),
    ):
        if value not in choices:
            raise ConfigError(f"must be one of {', '.join(map(str, choices))} for a map; got {value!r}", field=name)
    if quantities and format != "html":
        raise ConfigError("`quantities` are for tables: a picture has none; a page has, with `format` html")
    for name, given, figures in (
        ("stacked", stacked, ("curve",)),
        ("z", z, ("heatmap",)),
        *((name, given, ("curve", "pareto", "heatmap")) for name, given in (("x", x), ("y", y), ("facet", facet))),
    ):
        if given and figure not in figures:
            raise ConfigError(f"is for `figure` {figures[0]}; leave it out for {figure}", field=name)
    read_all = summaries(_traced(runs) if format == "html" else runs)
    own = read(labels, read_all, is_colour=is_color_like)
    judged = axes.only(read_all, only)
    common: dict[str, Any] = {
        "facet": axes.axis(facet, "facet") if facet is not None else None,
        "labels": own,
        "allow_different": ((ALL,) if allow_different else ())
        if isinstance(allow_different, bool)
        else allow_different,
        "width_in": style.COLUMN_IN if span == 1 else style.PAGE_IN,
        "notes": [] if format == "html" else left_out,
    }
    with style.styled():
        if figure == "curve":
            along = axes.axis(x or _first_number(judged), "x")
            what = maps.quantity(y or "latency", "y")
            drawn = curves.curve(judged, along, what, stacked=stacked, log=log, **common)
            title = f"{maps.title(what)} by {along.title.lower()}"
        elif figure == "tokens":
            del common["facet"]
            drawn, title = tokens.tokens(judged, log=log, **common), "What visual tokens cost"
        elif figure == "pareto":
            first, second = pareto.measure(x or "latency", "x"), pareto.measure(y or "flops", "y")
            drawn = pareto.pareto(judged, first, second, log=log, **common)
            title = f"{second.title} and {first.title.lower()}: the frontier"
        else:
            along, what = axes.axis(x or _first_number(judged), "x"), maps.quantity(z or "latency", "z")
            others = [each for each in axes.varying(judged) if each is not along]
            rows = axes.axis(y or (others[0].name if others else "embedder"), "y")
            drawn = heatmap.heatmap(judged, along, rows, what, **common)
            title = f"{maps.title(what)} by {rows.title.lower()} and {along.title.lower()}"
        if format != "html":
            return style.write(drawn, cast("style.Format", format), title=title)
        from vilt_bench.report import page

        picture = style.write(drawn, "svg", title=title)
        return page.page(
            judged, [(title, picture)], left_out=left_out, quantities=chosen(quantities) if quantities else []
        )


def render_pivot(
    runs: Iterable[Run | Summary],
    format: str,
    along: str,
    *,
    quantities: Sequence[str] = (),
    only: Sequence[str] = (),
    labels: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> str:
    """Returns runs of a sweep as tables whose columns are the values of an axis, as text that ends in a newline.

    Args:
        runs: in order; each is judged once, unless it is judged already.
        format: `table`, `csv`, `markdown`, `latex`, `json` or `html`.
        along: an axis of `report.axes`, such as `batch-size`.
        quantities: that cells tell, a table each, by the names of `report.columns`; none: the latency.
        only: which runs, such as `dtype=float32`.
        labels: as for `render_map`.
        left_out: sentences on records that could not be read.

    Raises:
        ConfigError: there is no such format, axis or quantity, or the axis does not vary.
    """
    from vilt_bench.report.runs import pivot

    if format not in pivot.FORMATS:
        raise ConfigError(f"`pivot` makes {', '.join(pivot.FORMATS)}; leave it out for {format}")
    found = pivoted(runs, along, quantities=quantities, only=only, labels=labels, left_out=left_out)
    if format == "html":
        from vilt_bench.report import page

        return page.plain(page.TITLE, pivot.document(found)).decode()
    return pivot.render(found, format)


def pivoted(
    runs: Iterable[Run | Summary],
    along: str,
    *,
    quantities: Sequence[str] = (),
    only: Sequence[str] = (),
    labels: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> Pivot:
    """Returns the runs by an axis, to be shown or written; arguments and errors as `render_pivot`."""
    from vilt_bench.judge.summary import summaries
    from vilt_bench.report import axes
    from vilt_bench.report.columns import LATENCY, chosen
    from vilt_bench.report.labels import read
    from vilt_bench.report.runs import pivot

    found = axes.axis(along, "pivot")
    read_all = summaries(runs)
    # A table has no colours; whether they are any is for pictures to say.
    own = read(labels, read_all, is_colour=lambda _: True)
    told = chosen(quantities) if quantities else [LATENCY]
    return pivot.pivot(axes.only(read_all, only), found, told, labels=own, left_out=left_out)


LOGS = ("auto", "x", "y", "xy", "none")
"""Which axes of a map are logarithmic."""


def _first_number(runs: Sequence[Summary]) -> str:
    """Returns the first axis that varies and has numbers: batch size before others."""
    from vilt_bench.report.axes import AXES, varying

    found = [each.name for each in varying(runs) if each.number is not None]
    return next((name for name in ("batch-size", *AXES) if name in found), "batch-size")
