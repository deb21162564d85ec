"""Records in, text or pictures out: one module a text format, each with `render(runs)`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from vilt_bench.errors import ConfigError
from vilt_bench.records import Run

FORMATS = ("table", "csv", "markdown", "json")
"""Each the name of a module here; imported when asked for, as a terminal's table needs more than a CSV file."""
PICTURES = ("svg", "png", "pdf", "html")
"""Formats of `render_picture`; the only ones that need matplotlib."""
COLUMNS = (1, 2)
"""Of a two-column paper, how many a picture may span."""


def render(runs: Sequence[Run], format: str) -> str:
    """Returns the report of the runs, in their order, as text that ends in a newline.

    Raises:
        ConfigError: there is no such format.
    """
    if format not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}; got {format!r}")
    text: str = import_module(f"{__name__}.{format}").render(runs)
    return text


def render_picture(
    runs: Sequence[Run],
    format: str,
    *,
    with_paper: bool = False,
    allow_different: bool = False,
    columns: int = 1,
) -> bytes:
    """Returns the runs' Figure 1, or as `html` a page with Figures 1 and 2 and all tables, as a file's content.

    Args:
        runs: from top to bottom.
        format: one of `PICTURES`.
        with_paper: with the bars of the paper's Figure 1.
        allow_different: draw runs of different machines or settings, each labelled, instead of refusing them.
        columns: of a two-column paper that a picture spans: 3.25 or 6.75 inches.

    Raises:
        ConfigError: there is no such format, no run, or the runs can't be compared.
    """
    from vilt_bench.report import figure, html, style

    if columns not in COLUMNS:
        raise ConfigError(f"--columns must be 1 or 2, got {columns}")
    width_in = style.COLUMN_IN if columns == 1 else style.PAGE_IN
    caption = "Latency by stage: textual embedder, stages of the visual embedder, modality interaction"
    with style.styled():
        latencies = figure.figure1(runs, with_paper=with_paper, allow_different=allow_different, width_in=width_in)
        match format:
            case "svg" | "png" | "pdf":
                return style.write(latencies, format, title=caption)
            case "html":
                sizes = figure.figure2(runs, width_in=width_in)
                said = "Relative computational size: textual embedder, visual embedder, modality interaction"
                pictures = [(title, style.write(drawn, "svg", title=title))
                            for title, drawn in ((caption, latencies), (said, sizes))]  # fmt: skip
                return html.page(runs, pictures)
            case _:
                raise ConfigError(f"--format must be one of {', '.join(PICTURES)} for a picture; got {format!r}")
