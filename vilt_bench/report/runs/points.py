"""Points of runs for dashboards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vilt_bench.ask.case import case_name
from vilt_bench.judge.summary import Summary
from vilt_bench.report.dashboards import Point
from vilt_bench.report.lines import environment_line, size_line


def run_points(runs: Iterable[Summary]) -> Iterator[Point]:
    """Yields the latency of the whole, then of each component and stage, of each run, as far as they were measured."""
    for run in runs:
        *parts, whole = run.rows
        for row in (whole, *parts):
            if (found := row.latency) is not None:
                yield Point(
                    name=f"{case_name(run.case)} / {row.name}",
                    value=found.value,
                    low=found.low,
                    high=found.high,
                    extra="\n".join(
                        line
                        for line in (
                            f"median of {found.samples} passes, {found.units} {found.unit}s",
                            size_line(run.model),
                            environment_line(run.environment),
                            f"run {run.run_id}",
                        )
                        if line
                    ),
                )
