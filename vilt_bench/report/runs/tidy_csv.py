"""Tidy CSV: one row a component, stage and whole of each run; units in the columns' names, empty where unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vilt_bench.judge.summary import Row, Summary
from vilt_bench.report import clean
from vilt_bench.report.columns import Quantity
from vilt_bench.report.runs.fields import run_fields, stage_fields


def render(runs: Sequence[Summary], *, left_out: Sequence[str] = (), quantities: Sequence[Quantity] = ()) -> str:
    """Returns the rows, the columns of the run before those of the stage; what a stage found as `NAME=COUNT`.

    What was left out has no place here.
    """
    head = [*run_fields(runs[0]), *stage_fields(runs[0].whole, quantities)] if runs else []
    return "".join([clean.csv_lines([head]), *(_lines(run, quantities) for run in runs)])


def _lines(run: Summary, quantities: Sequence[Quantity]) -> str:
    of_run = [*run_fields(run).values()]
    return clean.csv_lines([*of_run, *_stage_cells(row, quantities)] for row in run.rows)


def _stage_cells(row: Row, quantities: Sequence[Quantity]) -> Iterator[object]:
    for name, value in stage_fields(row, quantities).items():
        yield " ".join(f"{key}={count}" for key, count in row.counts.items()) if name == "counts" else value
