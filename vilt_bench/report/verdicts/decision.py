"""What follows from comparisons: which of their verdicts the gate looks at, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vilt_bench.judge.comparison import Comparison, StageVerdict, Verdict

Undecided = Literal["pass", "fail"]
"""What becomes of an inconclusive verdict."""

PASSED, FAILED, ERROR, UNDECIDED, NO_BASELINE, INTERRUPTED = 0, 1, 2, 3, 4, 130
_WORST_FIRST = (INTERRUPTED, FAILED, ERROR, UNDECIDED, NO_BASELINE, PASSED)
SEVERITY: tuple[Verdict, ...] = ("regressed", "missing", "inconclusive", "improved", "unchanged")
"""The verdicts, worst first."""


def exit_code(comparisons: Iterable[Comparison], inconclusive: Undecided = "fail", otherwise: int = PASSED) -> int:
    """Returns the worst exit code.

    0 passed, 1 regressed or lost by the candidate, 2 a case could not be measured, 3 inconclusive, 4 nothing to
    compare with.

    Args:
        comparisons: if there is none, there is no baseline.
        inconclusive: `pass` makes 0 of 3.
        otherwise: code of what is no comparison: 130 for an interruption.
    """
    found = {stage_code(stage, inconclusive) for each in comparisons for stage in decisive(each)} or {NO_BASELINE}
    return next(code for code in _WORST_FIRST if code in {*found, otherwise})


def stage_code(stage: StageVerdict, inconclusive: Undecided = "fail") -> int:
    """Returns the exit code of one verdict that decides, alone."""
    match stage.verdict:
        case "regressed":
            return FAILED
        case "missing":
            return {"baseline": NO_BASELINE, "both": ERROR}.get(stage.missing_from or "", FAILED)
        case "inconclusive":
            # What was never measured passes by no option.
            return PASSED if inconclusive == "pass" and stage.ratio is not None else UNDECIDED
        case _:
            return PASSED


def decisive(comparison: Comparison) -> Iterator[StageVerdict]:
    """Yields the verdicts that decide: of the whole, and of the stages where they do."""
    yield comparison.total
    if comparison.gate == "stages":
        yield from comparison.stages


def overall(comparisons: Iterable[Comparison]) -> Verdict:
    """Returns the worst verdict; `missing` where nothing was compared."""
    found = {each.verdict for each in comparisons}
    return next((verdict for verdict in SEVERITY if verdict in found), "missing")
