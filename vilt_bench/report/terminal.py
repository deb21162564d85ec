"""A terminal, by rich, that shows text of others and never obeys it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from vilt_bench.report import clean


class Terminal(Console):
    """A console on which each text is one line or, where it is long, several; all texts are cleaned when drawn.

    Texts of our own that hold line breaks, such as the titles of columns, are given as `str`, all others as `Text`.
    """

    def __init__(self, **options: Any) -> None:
        """Make a console that takes no markup: names may hold brackets."""
        super().__init__(**({"markup": False, "emoji": False} | options))

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns the text, of each line what `clean.printed` leaves."""
        return super().render_str("\n".join(map(clean.printed, text.split("\n"))), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Returns the segments of what is printed, of texts what `clean.printed` leaves."""
        if isinstance(renderable, Text):
            cleaned = clean.printed(renderable.plain)
            if cleaned != renderable.plain:
                renderable = renderable.copy()
                renderable.plain = cleaned  # as long as before: its styles stay in place
        return super().render(renderable, options)


def text(show: Callable[[Console], None], width: int) -> str:
    """Returns what a terminal of that width would show, without colour, trailing blanks left out."""
    file = io.StringIO()
    show(Terminal(file=file, width=width, color_system=None))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
