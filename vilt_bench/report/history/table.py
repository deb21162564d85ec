"""Tables for a terminal: levels and sparklines, what changed, the newest runs."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from vilt_bench.judge.history import History
from vilt_bench.report import tables, terminal
from vilt_bench.report.history.tables import levels, newest
from vilt_bench.report.history.words import SPARK_CELLS, case_line, change_lines, machine_line, order_lines, span_line

WIDTH = 100
"""Columns of a table that goes to a file, and from which sparklines have all their cells."""


def render(history: History) -> str:
    """Returns what a terminal would show, without colour."""
    return terminal.text(lambda console: show(history, console), WIDTH)


def show(history: History, console: Console) -> None:
    """Print each history: its levels and sparklines by stage, its changes, its newest runs."""
    cells = SPARK_CELLS if console.width >= WIDTH else SPARK_CELLS // 2
    for case in history.cases:
        console.print()
        console.print(Text.assemble((case.name, "bold"), f" – {case_line(case)}"))
        console.print(Text(f"{machine_line(case)} · {span_line(case, history)}", style="dim"))
        console.print()
        tables.show(levels(case, history, cells=cells, plain=console.options.ascii_only), console)
        for line in (*change_lines(case), *order_lines(case, history)):
            console.print(Text(f"• {line}"))
        console.print()
        tables.show(newest(case, history), console)
    for line in history.unreadable:
        console.print(Text(f"• Left out: {line}"))
