"""The tables of runs: one run by stage, and several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vilt_bench.judge.summary import TITLES, Summary, shown_components
from vilt_bench.record.run import Component
from vilt_bench.report import columns as known
from vilt_bench.report.columns import SHARE, WIDE, built
from vilt_bench.report.lines import names, pixels, tokens
from vilt_bench.report.numbers import milliseconds
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


def by_stage(run: Summary) -> Table:
    """Returns a line a stage, under their components, and the whole, with all quantities."""
    inner = {row.component for row in run.rows if row.level == "component"}
    found = []
    for row in run.rows:
        depth = int(row.level == "stage" and row.component in inner)
        cells = [row.title, *(quantity.text(row) for quantity in known.QUANTITIES)]
        found.append(Line(cells, depth, strong=not depth, apart=row.level == "whole"))
    return Table([text_column("Stage", long="fold"), *(quantity.column for quantity in known.QUANTITIES)], found)


def side_by_side(runs: Sequence[Summary], *, narrow: bool = False) -> Table:
    """Returns a line a run: what it saw, its components' latencies, and what of the whole is known before it is run.

    Args:
        runs: in order.
        narrow: say that a run failed, not how.
    """
    components = shown_components(runs)
    rows = []
    for name, run in zip(names(runs), runs, strict=True):
        whole = run.whole
        failed = run.failure if whole.latency is None else None
        rows.append([
            name,
            pixels(run.model),
            tokens(run.model),
            *(milliseconds(run.components[component].latency) for component in components),
            milliseconds(whole.latency) if failed is None else "failed" if narrow else failed.kind,
            SHARE.text(run.components["visual_embedder"]),
            *(quantity.text(whole) for quantity in built()),
        ])  # fmt: skip
    columns = (
        text_column("Embedder", long="fold"),
        Column("Pixels"),
        Column("Visual tokens", screen="Visual\ntokens"),
        *(Column(TITLES[name].capitalize(), "ms", screen=_SHORT[name]) for name in components),
        Column("Whole", "ms"),
        Column("Share of visual embedder", screen="Visual\nshare", least_width=WIDE),
        *(replace(each.column, least_width=_WIDEST if each.column.least_width else WIDE) for each in built()),
    )
    return Table(columns, lines(rows))
