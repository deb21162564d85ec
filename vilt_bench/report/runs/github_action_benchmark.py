"""JSON for the dashboard of github-action-benchmark (`tool: customSmallerIsBetter`)."""

from __future__ import annotations

from collections.abc import Sequence

from vilt_bench.judge.summary import Summary
from vilt_bench.report import dashboards
from vilt_bench.report.runs import points


def render(runs: Sequence[Summary], *, left_out: Sequence[str] = ()) -> str:
    """Returns the latencies of the runs in ms, the whole first; what was left out has no place here."""
    return dashboards.github_action_benchmark(points.run_points(runs))
