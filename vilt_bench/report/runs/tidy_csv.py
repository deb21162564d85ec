"""Tidy CSV: one row a component, stage and whole of each run; units in the columns' names, empty where unknown."""

from __future__ import annotations

from collections.abc import Sequence

from vilt_bench.judge.summary import Summary
from vilt_bench.report import clean
from vilt_bench.report.runs.fields import run_fields, stage_fields


def render(runs: Sequence[Summary]) -> str:
    """Returns the rows, the columns of the run before those of the stage; what a stage found as `NAME=COUNT`."""
    found = [
        run_fields(run) | stage_fields(row) | {"counts": " ".join(f"{key}={n}" for key, n in row.counts.items())}
        for run in runs
        for row in run.rows
    ]
    return clean.csv_text(list(found[0]) if found else [], found)
