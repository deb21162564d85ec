"""A table for a terminal, by rich: each comparison by stage and in total, then all of them in a line each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from vilt_bench.judge.comparison import Comparison
from vilt_bench.report import tables, terminal
from vilt_bench.report.verdicts import words
from vilt_bench.report.verdicts.decision import Undecided
from vilt_bench.report.verdicts.tables import STYLES, by_case, by_stage

WIDTH = 100
"""Columns of a report that goes to a file."""


def render(comparisons: Sequence[Comparison], inconclusive: Undecided = "fail") -> str:
    """Returns what a terminal would show, without colour."""
    return terminal.text(lambda console: show(comparisons, console), WIDTH)


def show(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print each comparison by stage, with what a reader must know; then all in a table if there are several."""
    for comparison in comparisons:
        _show_one(comparison, console)
    if len(comparisons) > 1:
        tables.show(by_case(comparisons), console)
        console.print()
    for rule in dict.fromkeys(map(words.rule, comparisons)):
        console.print(Text(rule, style="dim"))
    if len(comparisons) != 1:
        console.print(Text(f"{words.tally(comparisons)[0].upper()}{words.tally(comparisons)[1:]}", style="bold"))


def _show_one(comparison: Comparison, console: Console) -> None:
    verdict = comparison.verdict
    console.print(Text.assemble((words.name(comparison), "bold"), " – ", (words.outcome(comparison), STYLES[verdict])))
    for text in (
        words.case_line(comparison),
        words.machine(comparison),
        f"baseline: {words.side(comparison.baseline)} · candidate: {words.side(comparison.candidate)}",
        words.method(comparison),
    ):
        console.print(Text(text, style="dim"))
    console.print()
    tables.show(by_stage(comparison), console)
    for verdict, reason in words.reasons(comparison):
        console.print(Text(f"• {reason}", style=STYLES[verdict]))
    if where := words.where(comparison):
        console.print(Text(f"• {where}"))
    for change in comparison.counts:
        console.print(Text(f"• {words.stage_title(change.stage)}: {words.count(change)}"))
    if throughput := words.throughput(comparison):
        console.print(Text(f"• {throughput}"))
    notes = [words.different(comparison), *comparison.notes, words.clocks(comparison), words.detectable(comparison)]
    for note in filter(None, notes):
        console.print(Text(f"• {note}"))
    console.print()
