"""Runs of a sweep as a table: a line a case but for one axis, whose values are the columns."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vilt_bench.ask.case import ALL
from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import Summary
from vilt_bench.report import axes as known
from vilt_bench.report import clean, maps, tables, terminal
from vilt_bench.report.axes import Axis, named, values, varying
from vilt_bench.report.columns import SHARE, Quantity, flag
from vilt_bench.report.labels import Labels
from vilt_bench.report.lines import pixels, tokens
from vilt_bench.report.numbers import ABSENT
from vilt_bench.report.runs import latex, markdown
from vilt_bench.report.runs.document import Block, Heading, Items
from vilt_bench.report.tables import Column, Line, Table, text_column

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ("table", "csv", "markdown", "latex", "json", "html")
WIDTH = 100
"""Columns of a terminal's table that goes to a file."""
_NOT_VALUES = ("samples", "interval_units", "interval_unit")
"""Fields of a quantity that a column a value has no room for; `report --format csv` has them."""


@dataclass(frozen=True)
class Pivot:
    """Which runs stand where."""

    along: Axis
    values: Sequence[Hashable]
    rows: Sequence[Axis]
    """Axes that tell the lines apart."""
    lines: Mapping[tuple[Hashable, ...], Mapping[Hashable, Summary]]
    """By their values: the runs by their value along the axis."""
    quantities: Sequence[Quantity]
    labels: Labels
    notes: Sequence[str]


def pivot(
    runs: Sequence[Summary],
    along: Axis,
    quantities: Sequence[Quantity],
    *,
    labels: Labels,
    left_out: Sequence[str] = (),
) -> Pivot:
    """Returns the runs by an axis.

    Args:
        runs: in order; of several machines, each has lines of its own.
        along: whose values are the columns.
        quantities: that cells tell, a table each.
        labels: of the user's own.
        left_out: sentences on records that could not be read.

    Raises:
        ConfigError: there is no run, or the axis does not vary.
    """
    found = [value for value in values(along, runs) if value is not None]
    if len(found) < 2:
        varied = [each for each in varying(runs) if each is not along]
        also = f"; what varies: {named(varied)}" if varied else ""
        only = f" (all are {along.write(found[0])})" if found else ""
        raise ConfigError(f"{along.name} does not vary{only}{also}", field="pivot")
    runs, again = maps.cases(runs)
    rows = maps.apart(runs, [along], allow_different=[ALL], most=len(known.AXES) + 1, what="rows")
    rows = [known.EMBEDDER, *(each for each in rows if each is not known.EMBEDDER)]
    lines: dict[tuple[Hashable, ...], dict[Hashable, Summary]] = {}
    for run in runs:
        lines.setdefault(tuple(each.of(run) for each in rows), {}).setdefault(along.of(run), run)
    orders = [labels.ordered(each, values(each, runs)) for each in rows]
    keys = sorted(lines, key=lambda key: [order.index(value) for order, value in zip(orders, key, strict=True)])
    return Pivot(
        along,
        labels.ordered(along, found),
        rows,
        {key: lines[key] for key in keys},
        quantities,
        labels,
        [*maps.conditions(runs, [*rows, along], labels), *maps.inputs(runs, labels), *again, *left_out],
    )


def document(found: Pivot) -> Iterator[Block]:
    """Yields a table a quantity, each under its heading, then what must be known."""
    for quantity in found.quantities:
        yield Heading(title(found, quantity))
        yield table(found, quantity)
    if notes := _notes(found):
        yield Items(notes)


def title(found: Pivot, quantity: Quantity) -> str:
    """Returns what a table is of: `Latency (ms) [95% interval] by batch size`."""
    column = quantity.column
    told = found.labels.title(flag(quantity), maps.title(quantity))
    unit = f" ({column.unit})" if column.unit else ""
    aside = f" [{column.aside}]" if column.aside else ""
    return f"{told}{unit}{aside} by {found.labels.title(found.along.name, found.along.title).lower()}"


def table(found: Pivot, quantity: Quantity, *, joined: bool = False) -> Table:
    """Returns the table of a quantity.

    Args:
        found: the runs.
        quantity: that cells tell.
        joined: whether what tells lines apart stands in one column, as where there is little room.
    """
    heads = ["Case"] if joined else [found.labels.title(each.name, each.title) for each in found.rows]
    sized = not joined and _sizes(found)
    columns = [
        *(text_column(head, long="fold") for head in heads),
        *([Column("Pixels"), Column("Visual tokens", screen="Visual\ntokens")] if sized else []),
        *(Column(found.labels.of(found.along, value)) for value in found.values),
    ]
    lines = []
    for key, runs in found.lines.items():
        told = [found.labels.of(each, value) for each, value in zip(found.rows, key, strict=True)]
        model = next((run.model for run in runs.values() if run.model is not None), None)
        size = [pixels(model), tokens(model)] if sized else []
        cells = [_text(runs.get(value), quantity) for value in found.values]
        lines.append(Line([*([", ".join(told)] if joined else told), *size, *cells]))
    return Table(columns, lines)


def _sizes(found: Pivot) -> bool:
    """Returns whether each line saw one size."""
    seen = [
        {(run.model.resolution, run.model.visual_tokens) for run in runs.values() if run.model is not None}
        for runs in found.lines.values()
    ]
    return all(len(each) < 2 for each in seen) and any(seen)


def _text(run: Summary | None, quantity: Quantity) -> str:
    """Returns a cell: the value with its interval, or in a word why there is none."""
    if run is None:
        return ABSENT
    if quantity.timed and run.failure is not None:
        return run.failure.kind.replace("-", " ")
    if quantity.timed and run.verdict == "interrupted":
        return "interrupted"
    return quantity.text(run.components["visual_embedder"] if quantity.name == SHARE.name else run.whole)


def _notes(found: Pivot) -> list[str]:
    notes = list(found.notes)
    if any(value not in runs for runs in found.lines.values() for value in found.values):
        notes.insert(0, f"{ABSENT}: not measured.")
    noisy = [run for runs in found.lines.values() for run in runs.values() if run.verdict == "noisy"]
    if noisy and any(quantity.timed for quantity in found.quantities):
        told = [maps.place(run, [*found.rows, found.along], found.labels) for run in noisy]
        most = f"{'; '.join(told[:_SHOWN])}{f'; and {len(told) - _SHOWN} more' if len(told) > _SHOWN else ''}"
        notes.append(f"Noisy, as their intervals are wider than was asked for: {most}.")
    return notes


_SHOWN = 4


# Formats


def show(found: Pivot, console: Console) -> None:
    """Print a table a quantity, in parts where its columns have no room, and what must be known."""
    for number, quantity in enumerate(found.quantities):
        if number:
            console.print()
        console.print(terminal.Lines([[(title(found, quantity), "bold")]]))
        whole = table(found, quantity)
        parts = tables.in_parts(whole, console.width)
        if len(parts) > 1 or _wide(whole) > console.width:
            parts = tables.in_parts(table(found, quantity, joined=True), console.width)
        for index, part in enumerate(parts):
            if index:
                console.print()
            console.print(tables.drawn(part, console.width))
    console.print()
    console.print(terminal.Lines([(f"• {note}", "")] for note in _notes(found)))


def _wide(whole: Table) -> int:
    cells = [[tables.cell_of(line, index).text for line in whole.lines] for index in range(len(whole.columns))]
    heads = [max(map(len, (column.screen or column.title).split("\n"))) for column in whole.columns]
    return sum(max(head, *map(len, texts)) + whole.gap for head, texts in zip(heads, cells, strict=True))


def render(found: Pivot, format: str) -> str:
    """Returns the tables as text that ends in a newline.

    Args:
        found: the runs.
        format: one of `FORMATS` but `html`.
    """
    match format:
        case "csv":
            return _csv(found)
        case "json":
            return f"{clean.json_of(list(_items(found)))}\n"
        case "markdown":
            return markdown.written(document(found))
        case "latex":
            return latex.written(document(found))
        case _:
            return terminal.text(lambda console: show(found, console), WIDTH)


def _data(run: Summary | None, quantity: Quantity) -> dict[str, Any]:
    """Returns the fields of data; `None` where there is no value."""
    if run is None:
        return {}
    row = run.components["visual_embedder"] if quantity.name == SHARE.name else run.whole
    told = {name: value for name, value in quantity.data(row).items() if name not in _NOT_VALUES}
    absent = quantity.timed and maps.point(quantity, run) is None and quantity.drawn
    return {name: None if absent else value for name, value in told.items()}


def _row(found: Pivot, key: tuple[Hashable, ...]) -> dict[str, str | int | float]:
    return {each.key: _plain(found, each, value) for each, value in zip(found.rows, key, strict=True)}


def _plain(found: Pivot, along: Axis, value: Hashable) -> str | int | float:
    """Returns a value as data has it: without the user's labels."""
    return value if isinstance(value, int | float) else Labels(alike=found.labels.alike).of(along, value)


def _csv(found: Pivot) -> str:
    """Returns a row a line, and for each value and field a column `latency_median_s[batch_size=4]`."""
    one = next(run for runs in found.lines.values() for run in runs.values())
    fields = [(quantity, name) for quantity in found.quantities for name in _data(one, quantity)]
    rows = []
    for key, runs in found.lines.items():
        row: dict[str, Any] = dict(_row(found, key))
        for value in found.values:
            for quantity, name in fields:
                row[f"{name}[{found.along.key}={_plain(found, found.along, value)}]"] = _data(
                    runs.get(value), quantity
                ).get(name)
        rows.append(row)
    return tables.csv(rows)


def _items(found: Pivot) -> Iterator[dict[str, Any]]:
    """Yields a line each, with its cells; a value that was not measured has none."""
    for key, runs in found.lines.items():
        cells = [
            {
                found.along.key: _plain(found, found.along, value),
                "run_id": run.run_id,
                "verdict": run.verdict,
                "failure": None if run.failure is None else run.failure.kind,
                **{name: told for quantity in found.quantities for name, told in _data(run, quantity).items()},
            }
            for value in found.values
            if (run := runs.get(value)) is not None
        ]
        yield {**_row(found, key), "cells": cells, "notes": list(found.notes)}
