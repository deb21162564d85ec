"""JSON for the dashboard Bencher (`--adapter json`): Bencher Metric Format."""

from __future__ import annotations

from collections.abc import Sequence

from vilt_bench.judge.summary import Summary
from vilt_bench.report import dashboards
from vilt_bench.report.runs import points


def render(runs: Sequence[Summary], *, left_out: Sequence[str] = ()) -> str:
    """Returns the latencies of the runs in ns, the whole first; what was left out has no place here."""
    return dashboards.bencher(points.run_points(runs))
