"""The tables of runs: one run by stage, and several runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vilt_bench.judge.summary import TITLES, Summary, shown_components
from vilt_bench.record.run import Component
from vilt_bench.report import columns as known
from vilt_bench.report.columns import (
    FRAMES_PER_SECOND,
    IMAGES_PER_SECOND,
    LATENCY,
    OF_PIPELINES,
    PACES_ALONE,
    RANK,
    RELATIVE_TIME,
    SHARE,
    WIDE,
    Quantity,
    built,
)
from vilt_bench.report.lines import names, pixels, tokens, verdict_words
from vilt_bench.report.numbers import ABSENT, milliseconds, milliseconds_interval, number
from vilt_bench.report.tables import Column, Line, Table, lines, text_column

_SHORT: Mapping[Component, str] = {
    "preprocessing": "Preproc.",
    "textual_embedder": "Textual",
    "visual_embedder": "Visual",
    "modality_interaction": "Interact.",
}
"""Titles of components on a terminal."""
_WIDEST = 140
"""Columns from which a terminal has room for all."""
_WIDE_RANKED, _WIDEST_RANKED = 130, 160
"""In place of `WIDE` and `_WIDEST`, beside ranks."""


def by_stage(run: Summary, quantities: Sequence[Quantity] = ()) -> Table:
    """Returns a line a stage, under their components, and the whole, with the quantities chosen, else the usual."""
    quantities = quantities or [
        *known.usual(),
        *_where_known([run], known.LIMIT),
        *_where_known([run], known.PREPARING, known.DIFFERENCE),
    ]
    inner = {row.component for row in run.rows if row.level == "component"}
    found = []
    for row in run.rows:
        depth = int(row.level == "stage" and row.component in inner)
        cells = [row.title, *(quantity.text(row) for quantity in quantities)]
        found.append(Line(cells, depth, strong=not depth, apart=row.level == "whole"))
    return Table([text_column("Stage", long="fold"), *(quantity.column for quantity in quantities)], found)


def side_by_side(runs: Sequence[Summary], quantities: Sequence[Quantity] = (), *, narrow: bool = False) -> Table:
    """Returns a line a run: what it saw, its latencies, its place, and what of the whole is known before it is run.

    Args:
        runs: in order.
        quantities: of the whole, to be told instead; of the latency the components' too.
        narrow: say that a run failed, not how.
    """
    columns = [
        text_column("Embedder", long="fold"),
        Column("Pixels"),
        Column("Visual tokens", screen="Visual\ntokens"),
    ]
    cells = [[name, pixels(run.model), tokens(run.model)] for name, run in zip(names(runs), runs, strict=True)]
    for column, texts in _compared(runs, quantities or usual_side_by_side(runs), narrow=narrow):
        columns.append(column)
        for line, text in zip(cells, texts, strict=True):
            line.append(text)
    return Table(columns, lines(cells))


def usual_side_by_side(runs: Sequence[Summary]) -> list[Quantity]:
    """Returns what is compared unless it is chosen, with the widths from which a terminal has room for it."""
    ranked = any(run.whole.place is not None for run in runs)
    # A place among the others needs room that is then not there for what is known without a run.
    wide, widest = (_WIDE_RANKED, _WIDEST_RANKED) if ranked else (WIDE, _WIDEST)
    # Those of clips have frames in the images' place.
    asked = dict.fromkeys(IMAGES_PER_SECOND if run.case.frames is None else FRAMES_PER_SECOND for run in runs)
    rates = [
        replace(
            each,
            column=replace(each.column, aside="", least_width=widest),
            write=lambda found: ABSENT if found is None else number(found.value),
        )
        for each in asked or [IMAGES_PER_SECOND]
    ]
    place = [RANK, replace(RELATIVE_TIME, column=replace(RELATIVE_TIME.column, least_width=WIDE))] if ranked else []
    share = replace(SHARE, column=replace(SHARE.column, least_width=wide))
    counted = [
        replace(each, column=replace(each.column, least_width=widest if each.column.least_width else wide))
        for each in built()
    ]
    # A terminal has intervals in the runs' own tables: these come last. The latency itself it always has.
    latency = replace(LATENCY, column=replace(LATENCY.column, least_width=_WIDEST_RANKED + 30))
    return [latency, *place, *_pipelines(runs), *_where_known(runs, known.DIFFERENCE), *rates, share, *counted]


def _pipelines(runs: Sequence[Summary]) -> Iterator[Quantity]:
    """Yields what is told of preprocessing and model at the same time; what each does alone, on wide terminals."""
    for each in OF_PIPELINES:
        if any(each.of(run.whole) is not None for run in runs):
            wide = _WIDEST_RANKED + 30 if each in PACES_ALONE else 0
            yield replace(each, column=replace(each.column, least_width=wide))


def _where_known(runs: Sequence[Summary], *quantities: Quantity) -> list[Quantity]:
    """Returns quantities that are told where a run has them; but for the last, on wide terminals."""
    wide = [replace(each, column=replace(each.column, least_width=_WIDEST)) for each in quantities[:-1]]
    return [
        each for each in (*wide, quantities[-1]) if any(each.of(row) is not None for run in runs for row in run.rows)
    ]


def _compared(
    runs: Sequence[Summary], quantities: Sequence[Quantity], *, narrow: bool
) -> Iterator[tuple[Column, list[str]]]:
    """Yields columns, each with its text of each run."""
    for quantity in quantities:
        if quantity.name == LATENCY.name:
            for name in shown_components(runs):
                title = Column(TITLES[name].capitalize(), "ms", screen=_SHORT[name])
                yield title, [milliseconds(run.components[name].latency) for run in runs]
            yield Column("Whole", "ms", is_first=True), [_whole(run, narrow=narrow) for run in runs]
            ends = Column("95% interval", "ms", least_width=quantity.column.least_width)
            yield ends, [_interval(run) for run in runs]
            verdict = replace(text_column("Verdict"), least_width=ends.least_width, is_first=True)
            yield verdict, list(map(verdict_words, runs))
        elif quantity.name == SHARE.name:
            title = replace(quantity.column, title="Share of visual embedder", screen="Visual\nshare", is_first=True)
            yield title, [quantity.text(run.components["visual_embedder"]) for run in runs]
        else:
            yield quantity.column, [quantity.text(run.whole) for run in runs]


def _interval(run: Summary) -> str:
    """Returns low and high of the whole, as they stand behind its value elsewhere."""
    told = milliseconds_interval(run.whole.latency).partition(" ")[2]
    return told if told and told != f"[{ABSENT}]" else ABSENT


def _whole(run: Summary, *, narrow: bool) -> str:
    failed = run.failure if run.whole.latency is None else None
    return milliseconds(run.whole.latency) if failed is None else "failed" if narrow else failed.kind
