"""JSON for the dashboard Bencher (`--adapter json`): Bencher Metric Format."""

from __future__ import annotations

from collections.abc import Sequence

from vilt_bench.judge.comparison import Comparison
from vilt_bench.report import dashboards
from vilt_bench.report.verdicts.decision import Undecided
from vilt_bench.report.verdicts.points import points


def render(comparisons: Sequence[Comparison], inconclusive: Undecided = "fail") -> str:
    """Returns the candidates' latencies in ns, each with its ratio to the baseline."""
    return dashboards.bencher(points(comparisons))
