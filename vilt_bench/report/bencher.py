"""JSON for the dashboard Bencher (`--adapter json`): Bencher Metric Format."""

from __future__ import annotations

from collections.abc import Sequence

from vilt_bench.records import Run
from vilt_bench.report import dashboards


def render(runs: Sequence[Run]) -> str:
    """Returns the latencies of the runs in ns, the whole first."""
    return dashboards.bencher(dashboards.run_points(runs))
