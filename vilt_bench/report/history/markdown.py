"""Markdown: each history's levels, and its changes in words."""

from __future__ import annotations

from collections.abc import Iterator

from vilt_bench.judge.history import CaseHistory, History
from vilt_bench.report import clean
from vilt_bench.report.history.tables import levels
from vilt_bench.report.history.words import case_line, change_lines, machine_line, order_lines, span_line
from vilt_bench.report.tables import markdown, markdown_list


def render(history: History) -> str:
    """Returns a section a history, then what could not be read."""
    blocks = [block for case in history.cases for block in _section(case, history)]
    if history.unreadable:
        blocks.append(markdown_list(f"Left out: {line}" for line in history.unreadable))
    return "\n\n".join(blocks) + "\n"


def _section(case: CaseHistory, history: History) -> Iterator[str]:
    yield f"## {clean.markdown(case.name)}"
    yield clean.markdown(f"{case_line(case)} · {machine_line(case)} · {span_line(case, history)}")
    yield markdown(levels(case, history))
    yield markdown_list([*change_lines(case), *order_lines(case, history)])
