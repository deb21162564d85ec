"""A terminal's table to the letter as rich draws it, in a tenth of the time: each of a thousand runs has one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from vilt_bench.report import clean
from vilt_bench.report.tables import Line, Table, cell_of, drawn_by_rich, shown_columns


class QuickTable:
    """A table that fits, but for texts of its first column, which are folded; any other is left to rich."""

    def __init__(self, table: Table, width: int) -> None:
        """Take a table, for a terminal of that width."""
        self._table, self._width = table, width
        self._columns = shown_columns(table, width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the segments of each line."""
        columns = [self._table.columns[index] for index in self._columns]
        heads = [
            column.heading(clean.printed(column.title) if column.screen is None else column.screen)
            for column in columns
        ]
        heads = [[text for part in head for text in part.split("\n")] for head in heads]
        lines = [self._texts(line) for line in self._table.lines]
        widths = [
            max([*map(_length, head), *(_length(line[index]) for line in lines)]) for index, head in enumerate(heads)
        ]
        free = options.max_width - sum(widths[1:]) - self._table.gap * (len(widths) - 1)
        folds = [index for index, column in enumerate(columns) if column.long != "whole"]
        if options.ascii_only or free < max(map(cell_len, heads[0])) or (widths[0] > free and folds != [0]):
            yield drawn_by_rich(self._table, self._width)
            return
        widths[0] = min(widths[0], free)
        height = max(map(len, heads))
        for row in zip(*([""] * (height - len(head)) + head for head in heads), strict=True):
            yield from self._whole_row(row, widths, console, "table.header")
        total = sum(widths) + self._table.gap * (len(widths) - 1)
        yield from (Segment("─" * total), Segment.line())
        for number, (line, texts) in enumerate(zip(self._table.lines, lines, strict=True)):
            if line.apart and number:
                yield from (Segment(" " * total), Segment.line())
            *above, first = self._folded(texts[0], widths[0], console)
            for part in above:
                yield from self._whole_row(
                    [part, *[""] * (len(texts) - 1)], widths, console, "bold" if line.strong else ""
                )
            yield from self._row(line, [first, *texts[1:]], widths, console)

    def _texts(self, line: Line) -> list[str]:
        cells = [line.cells[index] if index < len(line.cells) else "" for index in self._columns]
        texts = [
            clean.printed((cell if isinstance(cell, str) else f"{cell.text} {cell.after}").strip()) for cell in cells
        ]
        return ["  " * line.depth + texts[0], *texts[1:]]

    def _folded(self, text: str, width: int, console: Console) -> list[str]:
        if cell_len(text) <= width:
            return [text]
        return [part.plain for part in Text(text).wrap(console, width, overflow="fold")]

    def _row(self, line: Line, texts: Sequence[str], widths: Sequence[int], console: Console) -> Iterator[Segment]:
        look = "bold" if line.strong else ""
        if all(isinstance(cell, str) for cell in line.cells):
            yield from self._whole_row(texts, widths, console, look)
            return
        styles = [cell_of(line, index).style for index in self._columns]
        padded = self._padded(texts, widths)
        for number, (text, style) in enumerate(zip(padded, styles, strict=True)):
            yield Segment(text, console.get_style(f"{look} {style}".strip() or "none"))
            yield Segment(" " * self._table.gap) if number + 1 < len(padded) else Segment.line()

    def _whole_row(
        self, texts: Sequence[str], widths: Sequence[int], console: Console, style: str
    ) -> Iterator[Segment]:
        line = (" " * self._table.gap).join(self._padded(texts, widths))
        yield Segment(line, console.get_style(style) if style else None)
        yield Segment.line()

    def _padded(self, texts: Sequence[str], widths: Sequence[int]) -> list[str]:
        padded = []
        for index, text, width in zip(self._columns, texts, widths, strict=True):
            least = width - (0 if text.isascii() else cell_len(text) - len(text))
            padded.append(text.ljust(least) if self._table.columns[index].align == "left" else text.rjust(least))
        return padded


def _length(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
