"""Annotations of a GitHub workflow's run: what failed as errors, what a reader should see as warnings and notices."""

from __future__ import annotations

from collections.abc import Sequence

from vilt_bench.judge.comparison import Comparison
from vilt_bench.report import clean
from vilt_bench.report.verdicts import words
from vilt_bench.report.verdicts.decision import PASSED, Undecided, exit_code


def render(comparisons: Sequence[Comparison], inconclusive: Undecided = "fail") -> str:
    """Returns a line for each comparison that failed, improved, or has a stage that regressed; empty if none."""
    return "".join(_annotation(comparison, inconclusive) for comparison in comparisons)


def _annotation(comparison: Comparison, inconclusive: Undecided) -> str:
    worse = words.notable(comparison)
    if exit_code([comparison], inconclusive) != PASSED:
        level = "error"
    elif comparison.verdict == "inconclusive" or worse:
        level = "warning"
    elif comparison.verdict == "improved":
        level = "notice"
    else:
        return ""
    stages = [f"{words.stage_title(stage.name)}: {stage.verdict}, {words.size(stage)}" for stage in worse]
    where = [words.size_line(comparison), words.machine(comparison)]
    lines = [words.outcome(comparison), words.where(comparison), *stages, *where]
    title = f"vilt-bench: {words.name(comparison)} {comparison.verdict}"
    return clean.annotation(level, title, filter(None, lines))
