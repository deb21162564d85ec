"""Comparisons of baseline and candidate in; a table, text of some format, or an exit code out: one module a format."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from vilt_bench.errors import ConfigError
from vilt_bench.report.verdicts.decision import Undecided, exit_code, overall

if TYPE_CHECKING:
    from rich.console import Console

    from vilt_bench.judge.comparison import Comparison

__all__ = ["DATA", "FORMATS", "Format", "Undecided", "exit_code", "overall", "render", "show"]


class Format(NamedTuple):
    """How comparisons can be written."""

    module: str
    """Here, with `render(comparisons, inconclusive)`; imported when asked for."""
    file: str = ""
    """What a file of it is for; empty: no file has a flag of its own."""


FORMATS = {
    "table": Format("table"),
    "markdown": Format("markdown", "a table for a pull request's comment or a wiki"),
    "json": Format("summary_json", "for programs"),
    "junit": Format("junit", "JUnit XML, for GitLab, Jenkins and others"),
    "github": Format("github"),
    "github-action-benchmark": Format(
        "github_action_benchmark", "JSON for that dashboard (tool: customSmallerIsBetter)"
    ),
    "html": Format("page", "a page that loads nothing, for people"),
    "bencher": Format("bencher", "Bencher Metric Format, for that dashboard"),
}
"""By name; `github` is the annotations of a workflow's run."""
DATA = {"xlsx": "a workbook of a row a stage", "parquet": "Parquet of a row a stage"}
"""Formats of `report.data_files`, by name: what a file of it is for."""


def show(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print the comparisons for a terminal: by stage and in total, with all that was found and how sure it is."""
    from vilt_bench.report.verdicts import table

    table.show(comparisons, console)


def render(
    comparisons: Sequence[Comparison], format: str, *, inconclusive: Undecided = "fail", otherwise: int = 0
) -> str:
    """Returns the comparisons as text that ends in a newline, or is empty where there is nothing to say.

    Args:
        comparisons: in order.
        format: one of `FORMATS`.
        inconclusive: what becomes of what could not be decided; for formats that tell passed from failed.
        otherwise: exit code of what is no comparison; for JSON, which tells it.

    Raises:
        ConfigError: there is no such format, or two comparisons would have one name on a chart.
    """
    if format not in FORMATS:
        raise ConfigError(f"`format` must be one of {', '.join(FORMATS)}; got {format!r}")
    module = import_module(f"{__name__}.{FORMATS[format].module}")
    told = {"otherwise": otherwise} if format == "json" else {}
    text: str = module.render(comparisons, inconclusive, **told)
    return text
