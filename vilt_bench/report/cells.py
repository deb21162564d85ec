"""What a notebook shows beneath a cell: small tables as HTML, all names escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vilt_bench.ask.axes import Sweep
from vilt_bench.judge.comparison import Comparison
from vilt_bench.judge.history import History
from vilt_bench.judge.summary import Summary, summaries
from vilt_bench.record.run import Run
from vilt_bench.report import tables
from vilt_bench.report.columns import Quantity
from vilt_bench.report.tables import Table, lines, text_column
from vilt_bench.words import counted

MOST_CASES = 30
"""Of a sweep, that are listed."""


def of_run(run: Run) -> str:
    """Returns a run by stage."""
    return of_runs(summaries([run]))


def of_runs(runs: Sequence[Summary], quantities: Sequence[Quantity] = ()) -> str:
    """Returns the runs side by side where there are several, and each by stage."""
    from vilt_bench.report.lines import names
    from vilt_bench.report.remarks import sentences
    from vilt_bench.report.runs.tables import by_stage, side_by_side

    found = [side_by_side(runs, quantities)] if len(runs) > 1 else []
    for name, run in zip(names(runs), runs, strict=True):
        notes = list(sentences(run.remarks))
        found.append(replace(by_stage(run, quantities), title=name, notes=notes))
    return "\n".join(map(tables.html, found))


def of_comparison(comparison: Comparison) -> str:
    """Returns a comparison by stage, below its outcome."""
    from vilt_bench.report.verdicts import words
    from vilt_bench.report.verdicts.tables import by_stage

    title = f"{words.name(comparison)} {words.outcome(comparison)}"
    return tables.html(replace(by_stage(comparison), title=title))


def of_history(history: History) -> str:
    """Returns the level of each case by stage, and where it changed."""
    from vilt_bench.report.history.tables import levels
    from vilt_bench.report.history.words import change_lines

    found = [replace(levels(case, history), title=case.name, notes=list(change_lines(case))) for case in history.cases]
    return "\n".join(map(tables.html, found))


def of_sweep(sweep: Sweep) -> str:
    """Returns the cases of a sweep, the first of many; nothing is measured."""
    from vilt_bench.ask.case import case_name

    cases = sweep.cases()
    rows = [[case_name(case)] for case in cases[:MOST_CASES]]
    left = len(cases) - len(rows)
    return tables.html(
        Table([text_column(counted(len(cases), "case"))], lines(rows), caption=f"and {left} more" if left else "")
    )
