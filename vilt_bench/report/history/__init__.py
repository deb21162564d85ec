"""Histories as text or a picture: one file a text format, each with `render(history)`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from vilt_bench.judge.history import History

FORMATS = {"table": "table", "csv": "tidy_csv", "json": "summary_json", "markdown": "markdown", "html": "page"}
"""By name: the module here that writes it; imported when asked for."""
PICTURES = ("svg", "png", "pdf")
"""Formats of `picture.render`."""
DATA = ("xlsx", "parquet")
"""Formats of `report.data_files`, with the rows of CSV."""


def render(history: History, format: str) -> str:
    """Returns the histories as text that ends in a newline.

    Args:
        history: of any cases.
        format: one of `FORMATS`.

    Raises:
        ConfigError: there is no such format.
    """
    if format not in FORMATS:
        raise ConfigError(f"`format` must be one of {', '.join([*FORMATS, *PICTURES, *DATA])}; got {format!r}")
    text: str = import_module(f"{__name__}.{FORMATS[format]}").render(history)
    return text
