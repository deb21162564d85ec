"""Runs as text: one file a format, each with `render(runs, *, left_out)`, those of `CHOOSING` with `quantities` too."""

FORMATS = {
    "table": "table",
    "csv": "tidy_csv",
    "markdown": "markdown",
    "latex": "latex",
    "json": "summary_json",
    "github-action-benchmark": "github_action_benchmark",
    "bencher": "bencher",
}
"""By name: the module here that writes it; imported when asked for, as a terminal's table needs more than a CSV."""

CHOOSING = ("table", "csv", "markdown", "latex", "json")
"""Formats of which quantities can be chosen; dashboards get latencies."""
