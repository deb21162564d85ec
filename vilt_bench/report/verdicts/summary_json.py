"""JSON for programs: the comparisons as they are, under one overall verdict; SI units, `null` where unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from vilt_bench.judge.comparison import Comparison
from vilt_bench.record.run import whole_texts
from vilt_bench.report import clean
from vilt_bench.report.verdicts import words
from vilt_bench.report.verdicts.decision import Undecided, exit_code, overall

SCHEMA_VERSION = 1
"""History: 1 (0.1.0) the first. Fields may be added within a version; none is renamed or removed."""


def render(comparisons: Sequence[Comparison], inconclusive: Undecided = "fail", otherwise: int = 0) -> str:
    """Returns an object with the verdict, the exit code, and the comparisons in order."""
    found = {
        "schema_version": SCHEMA_VERSION,
        "verdict": overall(comparisons),
        "exit_code": exit_code(comparisons, inconclusive, otherwise),
        "comparisons": [summary(comparison) for comparison in comparisons],
    }
    text = msgspec.json.format(msgspec.json.encode(whole_texts(found)), indent=2).decode()
    return clean.json_text(text) + "\n"


def summary(comparison: Comparison) -> dict[str, Any]:
    """Returns a comparison with its name, its verdict and the outcome in words; no number that is not finite."""
    before, after = words.images_per_second(comparison)
    said = {
        "name": words.name(comparison),
        "verdict": comparison.verdict,
        "outcome": words.outcome(comparison),
        "images_per_second": {"baseline": before, "candidate": after},
    }
    return said | msgspec.to_builtins(comparison)  # type: ignore[no-any-return]
