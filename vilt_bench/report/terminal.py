"""A terminal, by rich, that shows text of others and never obeys it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from vilt_bench.report import clean

HEIGHT = 25
"""Of what is no terminal; nothing depends on it."""


class Terminal(Console):
    """A console on which each text is one line or, where it is long, several; all texts are cleaned when drawn.

    Texts of our own that hold line breaks, such as the titles of columns, are given as `str`, all others as `Text`.
    """

    def __init__(self, **options: Any) -> None:
        """Make a console that takes no markup: names may hold brackets."""
        # In a notebook rich would show what it is to write into a text.
        super().__init__(**({"markup": False, "emoji": False, "force_jupyter": False} | options))

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


class Lines:
    """Lines that are drawn at once, each broken where it is too long; one by one, rich takes many times as long."""

    def __init__(self, lines: Iterable[Sequence[tuple[str, str]]]) -> None:
        """Take lines, each of texts with their styles."""
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Yield the segments, of texts what `clean.printed` leaves."""
        for line in self._lines:
            cleaned = [(clean.printed(text), style) for text, style in line]
            if sum(cell_len(text) for text, _ in cleaned) <= options.max_width:
                for text, style in cleaned:
                    yield Segment(text, console.get_style(style) if style else None)
                yield Segment.line()
            else:
                for part in Text.assemble(*cleaned).wrap(console, options.max_width):
                    yield from part.render(console, end="\n")


def text(show: Callable[[Console], None], width: int) -> str:
    """Returns what a terminal of that width would show, without colour, trailing blanks left out."""
    file = io.StringIO()
    # With a height, as else rich asks the system for it at each print.
    show(Terminal(file=file, width=width, height=HEIGHT, color_system=None))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
