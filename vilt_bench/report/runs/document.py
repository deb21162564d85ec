"""A report of runs as what it consists of, for all languages that have headings, paragraphs, lists and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vilt_bench.judge.summary import Summary
from vilt_bench.report.columns import Quantity
from vilt_bench.report.lines import (
    alike,
    commands,
    comparison_remarks,
    machine_line,
    model_line,
    name,
    origin_line,
    pipeline_line,
    throughput_line,
)
from vilt_bench.report.rankings import ranking_remarks
from vilt_bench.report.remarks import sentences
from vilt_bench.report.runs.tables import by_stage, side_by_side
from vilt_bench.report.tables import Table


@dataclass(frozen=True)
class Heading:
    """Begins a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A text that stands alone."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences; at least one."""

    sentences: Sequence[str]


Block = Heading | Paragraph | Items | Table


def document(
    runs: Sequence[Summary], left_out: Sequence[str] = (), quantities: Sequence[Quantity] = ()
) -> Iterator[Block]:
    """Yields the comparison if there are several runs, then each run's stages and remarks, then what was left out."""
    if len(runs) > 1:
        yield Heading("Side by side")
        yield side_by_side(runs, quantities)
        yield from _items(
            [*filter(None, [alike(runs)]), *ranking_remarks(runs), *commands(runs), *comparison_remarks(runs)]
        )
    for run in runs:
        yield Heading(name(run))
        yield Paragraph(model_line(run))
        if machine := machine_line(run):
            yield Paragraph(machine)
        if origin := origin_line(run, without_command=bool(commands(runs))):
            yield Paragraph(origin)
        yield by_stage(run, quantities)
        if throughput := throughput_line(run):
            yield Paragraph(throughput)
        if overlapped := pipeline_line(run):
            yield Paragraph(overlapped)
        yield from _items(sentences(run.remarks))
    yield from _items(left_out)


def _items(said: Sequence[str]) -> Iterator[Items]:
    if said:
        yield Items(said)
