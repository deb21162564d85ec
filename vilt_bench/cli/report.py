"""`vilt-bench report`: records in; a table, text of some format, a picture or a page out."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vilt_bench.cli import formats, options, screen, values
from vilt_bench.cli.options import RESULTS
from vilt_bench.errors import ConfigError
from vilt_bench.report import DATA_FILES, FIGURES, LOGS, MAPS, NEWEST, NEWEST_ON_PAGES, PICTURES, SPANS
from vilt_bench.report.runs import FORMATS as TEXTS

FOR_PEOPLE = ("table", "markdown", "latex", "html")
"""Formats in which a folder's runs stand by rank unless asked otherwise; data has ranks as columns, in any order."""

if TYPE_CHECKING:
    from vilt_bench.cli import Add
    from vilt_bench.judge.summary import Summary
    from vilt_bench.record.run import Run


def register(add: Add) -> None:
    """Add the command."""
    parser = add(
        "report", report, "show records as a table, CSV, Markdown, LaTeX, Excel, Parquet, JSON, a picture or a page"
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help=options.RUN)
    options.add_results(parser)
    options.add_format(parser, [*TEXTS, *DATA_FILES, *PICTURES])
    parser.add_argument("--output", metavar="FILE", help="write to this file instead of the terminal")
    parser.add_argument(
        "--join",
        action="store_true",
        help="show runs of the same case, machine, software and commit as one, with all trials",
    )
    parser.add_argument(
        "--newest",
        type=int,
        metavar="N",
        help="only the N runs that started last; default: all, "
        f"in pictures of bars {NEWEST}, on pages {NEWEST_ON_PAGES}",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=VALUE,…",
        help="only runs with these values, such as embedder=patch32,grid-r50,dtype=float32; axes: "
        "embedder, resolution, batch-size, dtype, text-length, reduce, threads, interaction, machine, …",
    )
    parser.add_argument(
        "--pivot",
        metavar="AXIS",
        help="tables of a sweep whose columns are the values of this axis, such as batch-size; a table for each of "
        "--columns (default: latency)",
    )
    options.add_columns(parser)
    options.add_notes(parser)
    options.add_sort(parser, default="rank in tables and pages of folders; else asked")
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--figure",
        choices=FIGURES,
        default=FIGURES[0],
        metavar="NAME",
        help="latency, by stage, as the ViLT paper's Figure 1; size, relative computational size, as its Figure 2 "
        "(default: latency; a page has both); of a sweep: curve, a quantity along an axis; pareto, two quantities "
        "with their frontier; heatmap, a quantity by two axes; tokens, what visual tokens cost a language model",
    )
    group.add_argument("--with-paper", action="store_true", help="with the bars of the ViLT paper's Figure 1")
    group.add_argument(
        "--allow-different",
        action=values.NamesOrAll,
        default=[],
        metavar="NAME,…",
        help="what may differ between runs that are drawn side by side, such as torch,driver; alone: everything; each "
        "is then labelled",
    )
    group.add_argument(
        "--x",
        metavar="NAME",
        help="of a curve or heatmap an axis of the sweep, such as batch-size, resolution, visual-tokens, text-length, "
        "threads; of pareto a quantity, as --columns has them (default: the first axis that varies; latency)",
    )
    group.add_argument(
        "--y",
        metavar="NAME",
        help="of a curve or pareto a quantity, such as images-per-second, share, peak-bytes, flops, parameters; of a "
        "heatmap an axis (default: latency; flops; embedder, or the next that varies)",
    )
    group.add_argument("--z", metavar="NAME", help="the quantity of a heatmap (default: latency)")
    group.add_argument("--facet", metavar="AXIS", help="a panel for each value of this axis")
    group.add_argument("--stacked", action="store_true", help="a curve as areas by stage, a panel a line")
    group.add_argument(
        "--log",
        choices=LOGS,
        default=LOGS[0],
        help="which axes are logarithmic (default: those whose values lie far apart)",
    )
    group.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="FILE.toml|NAME=LABEL",
        help="labels, colours and order of your own, as docs/pictures.md has them",
    )
    group.add_argument(
        "--span", type=int, choices=SPANS, default=SPANS[0], help="columns of a paper that it spans (default: 1)"
    )


def report(asked: argparse.Namespace) -> int:
    """Print records, or write them to a file, as a table, text of some format, a picture or a page."""
    from vilt_bench.judge.ranking import by_rank
    from vilt_bench.judge.summary import summarise
    from vilt_bench.judge.trace import traced
    from vilt_bench.record import find, load, store

    paths = [*asked.runs, *getattr(asked, "after", [])]
    if not paths:
        raise ConfigError(f"give records or folders of them, such as {RESULTS}; 'vilt-bench run' saves them there")
    asked.format = formats.chosen(asked.format, asked.output, [*TEXTS, *DATA_FILES, *PICTURES])
    if asked.format in DATA_FILES:
        from vilt_bench.report import data_files

        _refuse_terminal(asked)
        data_files.check(asked.format)
    paths = find.find_records(paths, asked.results)
    unreadable: list[str] = []

    def judge(run: Run, record: str) -> Summary:
        return traced(run, record) if asked.format == "html" else summarise(run)

    # Judged while they are read: samples are let go, of a page all but those that it draws.
    if asked.join:
        runs = load.load_joined(paths, lambda run: judge(run, ""), left_out=unreadable.append)
    else:
        runs = load.load_each(paths, judge, left_out=unreadable.append)
    gc.freeze()  # what was read stays to the end: no collection need go through it
    left_out = screen.leave_out(unreadable)
    for_people = asked.format in FOR_PEOPLE and any(map(load.is_folder, paths))
    by_place = for_people if asked.sort is None else asked.sort == "rank"
    if asked.pivot is not None:
        return _pivot(runs, asked, left_out)
    is_map = asked.figure in MAPS
    if not is_map and (
        given := [flag for flag in _OF_MAPS if getattr(asked, flag[2:]) not in (None, False, [], LOGS[0])]
    ):
        raise ConfigError(f"{given[0]} is of pictures of a sweep; add --figure {'|'.join(MAPS)}")
    if asked.format in PICTURES and is_map:
        return _map(runs, asked, left_out)
    if asked.only:
        from vilt_bench.report.axes import only

        runs = only(runs, asked.only)
    if asked.format in PICTURES:
        return _picture(by_rank(runs) if by_place else runs, asked, left_out)
    if asked.labels:
        raise ConfigError(f"--labels is for pictures and --pivot; add --format {', '.join(PICTURES)}, or --pivot AXIS")
    if asked.with_paper or asked.allow_different or asked.span != SPANS[0] or asked.figure != FIGURES[0]:
        raise ConfigError(
            f"--figure, --with-paper, --allow-different and --span are for pictures; add --format {', '.join(PICTURES)}"
        )
    from vilt_bench.report import newest_of, render, render_data

    runs, older = newest_of(runs, asked.newest)
    runs = by_rank(runs) if by_place else runs
    left_out = [*older, *left_out]
    if asked.format == "table" and asked.output is None:
        from vilt_bench.report.columns import chosen
        from vilt_bench.report.runs import table

        quantities = chosen(asked.columns) if asked.columns else ()
        table.show(runs, screen.console(), left_out=left_out, quantities=quantities, notes=asked.notes)
        return 0
    if asked.format in DATA_FILES:
        return _write(render_data(runs, asked.format, quantities=asked.columns), asked.output)
    text = render(runs, asked.format, left_out=left_out, quantities=asked.columns)
    if asked.output is None:
        sys.stdout.write(text)
    else:
        store.write_text(asked.output, text)
    return 0


def _pivot(runs: Sequence[Summary], asked: argparse.Namespace, left_out: Sequence[str]) -> int:
    from vilt_bench.record import store
    from vilt_bench.report import newest_of, pivoted, render_pivot

    pictured = ("--with-paper", "--allow-different", "--x", "--y", "--z", "--facet", "--stacked")
    given = [flag for flag in pictured if getattr(asked, flag[2:].replace("-", "_"))]
    if given or asked.figure != FIGURES[0]:
        raise ConfigError(f"--pivot makes tables, and {[*given, '--figure'][0]} is for pictures; leave one of them out")
    chosen, older = newest_of(runs, asked.newest)
    given_texts = {"only": asked.only, "labels": asked.labels, "quantities": asked.columns}
    left_out = [*older, *left_out]
    if asked.format == "table" and asked.output is None:
        from vilt_bench.report.runs import pivot

        pivot.show(pivoted(chosen, asked.pivot, left_out=left_out, **given_texts), screen.console())
        return 0
    text = render_pivot(chosen, asked.format, asked.pivot, left_out=left_out, **given_texts)
    if asked.output is None:
        sys.stdout.write(text)
    else:
        store.write_text(asked.output, text)
    return 0


_OF_MAPS = ("--x", "--y", "--z", "--facet", "--stacked", "--log")


def _map(runs: Sequence[Summary], asked: argparse.Namespace, left_out: Sequence[str]) -> int:
    from vilt_bench.report import newest_of, render_map

    if asked.with_paper:
        raise ConfigError("--with-paper adds the bars of the paper's Figure 1; leave it out for a picture of a sweep")
    _refuse_terminal(asked)
    chosen, older = newest_of(runs, asked.newest)
    return _write(
        render_map(
            chosen,
            asked.format,
            figure=asked.figure,
            **{name: getattr(asked, name) for name in ("x", "y", "z", "facet", "stacked", "log", "only", "labels")},
            allow_different=asked.allow_different,
            span=asked.span,
            left_out=[*older, *left_out],
            quantities=asked.columns,
        ),
        asked.output,
    )


def _refuse_terminal(asked: argparse.Namespace) -> None:
    if asked.output is None and sys.stdout.isatty():
        raise ConfigError(f"--format {asked.format} is not for a terminal; add --output FILE.{asked.format}")


def _write(data: bytes, output: str | None) -> int:
    from vilt_bench.record import store

    if output is None:
        sys.stdout.buffer.write(data)
    else:
        store.write_bytes(output, data)
    return 0


def _picture(runs: Sequence[Summary], asked: argparse.Namespace, left_out: Sequence[str]) -> int:
    from vilt_bench.report import render_picture

    beside = None
    if asked.with_paper:
        from vilt_bench.paper.pages.figures import paper_figure1

        beside = paper_figure1()

    _refuse_terminal(asked)
    data = render_picture(
        runs,
        asked.format,
        figure=asked.figure,
        beside=beside,
        allow_different=asked.allow_different,
        span=asked.span,
        newest="usual" if asked.newest is None else asked.newest,
        left_out=left_out,
        quantities=asked.columns,
        labels=asked.labels,
    )
    return _write(data, asked.output)
