"""JSON: a list with one summary a run; the raw samples are in the records themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vilt_bench.judge.summary import Summary
from vilt_bench.report import clean
from vilt_bench.report import lines as shown
from vilt_bench.report.columns import Quantity
from vilt_bench.report.rankings import ranking_remarks
from vilt_bench.report.remarks import sentences
from vilt_bench.report.runs.fields import run_fields, stage_fields


def render(runs: Sequence[Summary], *, left_out: Sequence[str] = (), quantities: Sequence[Quantity] = ()) -> str:
    """Returns the summaries of the runs, each with what must be known before they are compared; `null` is unknown."""
    beside = [*ranking_remarks(runs), *shown.comparison_remarks(runs), *left_out]
    # A run at a time: what is made of all of them at once takes ten times the memory.
    items = ",\n".join(f"  {_item(summary(run, quantities) | {'comparison_remarks': beside})}" for run in runs)
    return f"[\n{items}\n]\n" if items else "[]\n"


def _item(found: dict[str, Any]) -> str:
    return clean.json_of(found).replace("\n", "\n  ")


def summary(run: Summary, quantities: Sequence[Quantity] = ()) -> dict[str, Any]:
    """Returns what tables show of a run: its fields as in the CSV, `remarks`, and `stages` with the whole last."""
    stages = [stage_fields(row, quantities) for row in run.rows]
    return run_fields(run) | {"remarks": sentences(run.remarks), "stages": stages}
