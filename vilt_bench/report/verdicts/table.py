"""A table for a terminal, by rich: each comparison by stage and in total, then all of them in a line each."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vilt_bench.judge.comparison import Comparison, StageVerdict, Verdict
from vilt_bench.report import terminal
from vilt_bench.report.verdicts import words
from vilt_bench.report.verdicts.decision import Undecided

WIDTH = 100
"""Columns of a report that goes to a file."""
STYLES: dict[Verdict, str] = {
    "regressed": "bold red",
    "improved": "green",
    "unchanged": "",
    "inconclusive": "yellow",
    "missing": "magenta",
}


def render(comparisons: Sequence[Comparison], inconclusive: Undecided = "fail") -> str:
    """Returns what a terminal would show, without colour."""
    return terminal.text(lambda console: show(comparisons, console), WIDTH)


def show(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print each comparison by stage, with what a reader must know; then all in a table if there are several."""
    for comparison in comparisons:
        _show_one(comparison, console)
    if len(comparisons) > 1:
        console.print(_all(comparisons))
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
    console.print(_stages(comparison))
    for verdict, reason in words.reasons(comparison):
        console.print(Text(f"• {reason}", style=STYLES[verdict]))
    if where := words.where(comparison):
        console.print(Text(f"• {where}"))
    for change in comparison.counts:
        console.print(Text(f"• {words.stage_title(change.stage)}: {words.count(change)}"))
    notes = [words.different(comparison), *comparison.notes, words.clocks(comparison), words.detectable(comparison)]
    for note in filter(None, notes):
        console.print(Text(f"• {note}"))
    console.print()


def _stages(comparison: Comparison) -> Table:
    table = _table("Stage", "Baseline\n(ms)", "Candidate\n(ms)", "Candidate / baseline\n[95% interval]")
    for title, depth, stage in words.stage_rows(comparison):
        if stage is comparison.total:
            table.add_section()
        look = "" if depth else "bold"
        table.add_row(Text("  " * depth + title, style=look), *(_cells(stage) if stage is not None else ()))
    return table


def _all(comparisons: Sequence[Comparison]) -> Table:
    table = _table(
        "Whole, by embedder",
        "Pixels, visual\ntokens",
        "Baseline\n(ms)",
        "Candidate\n(ms)",
        "Candidate / baseline\n[95% interval]",
    )
    for comparison in comparisons:
        *numbers, _ = _cells(comparison.total)
        verdict = Text(comparison.verdict, style=STYLES[comparison.verdict])
        named = Text(words.name(comparison) + words.clock_mark(comparison.total))
        table.add_row(named, words.short_size(comparison), *numbers, verdict)
    return table


def _cells(stage: StageVerdict) -> tuple[str | Text, ...]:
    verdict = Text(stage.verdict, style=STYLES[stage.verdict] or "dim")
    return (*words.milliseconds(stage), words.ratio(stage.ratio), verdict)


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True)
    table.add_column(first, overflow="fold", vertical="bottom")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True, vertical="bottom")
    table.add_column("Verdict", no_wrap=True, vertical="bottom")
    return table
