"""A table as data, and the small languages that it is written in: a terminal's, Markdown, HTML; rows as CSV.

What a table says is said once, by `Table`; a format only chooses the language (LaTeX: `report.latex`). All texts pass
through `report.clean`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from vilt_bench.report import clean

if TYPE_CHECKING:
    import rich.console
    import rich.table
    from rich.console import Console

_NO_BREAK = "\u00a0"
_EM = "\u2003"
"""As wide as a letter is high."""


@dataclass(frozen=True)
class Column:
    """What a column is of, and how it stands."""

    title: str
    unit: str = ""
    """Told in round brackets behind the title."""
    aside: str = ""
    """Told in square brackets behind title and unit, such as `95% interval`."""
    screen: str | None = None
    """The title where there is little room, as on a terminal, if it is another; may hold line breaks."""
    align: Literal["left", "right"] = "right"
    long: Literal["whole", "fold", "cut"] = "whole"
    """What becomes on a terminal of a text that has no room: it gets its room, is folded, or is cut."""
    least_width: int = 0
    """Columns that a terminal has where this one is shown."""
    is_first: bool = False
    """Whether it is what is first asked: of a table in parts it stands in the first, however narrow the terminal."""

    def heading(self, title: str) -> list[str]:
        """Returns the heading in lines: the unit, or what stands in square brackets, is beneath."""
        unit, aside = (f"({self.unit})" if self.unit else ""), (f"[{self.aside}]" if self.aside else "")
        first, beneath = (f"{title} {unit}".strip(), aside) if aside else (title, unit)
        return [first, beneath] if beneath else [first]


@dataclass(frozen=True)
class Cell:
    """A text with its look, as far as a language has one."""

    text: str
    style: str = ""
    """On a terminal, such as `bold red`."""
    mark: str = ""
    """A sign of our own before the text, in languages without colours; with what parts it from the text."""
    code: bool = False
    """A name, as code has it."""
    after: str = ""
    """Follows a name, and is none."""
    whole: bool = False
    """Whether all of it stands in one line."""
    under: tuple[str, ...] = ()
    """Sentences in small print beneath, where a language has room."""


@dataclass(frozen=True)
class Line:
    """A line of a table; cells that are left out are empty."""

    cells: Sequence[Cell | str]
    depth: int = 0
    """How far the first cell stands to the right: the line is a part of what stands above it."""
    strong: bool = False
    apart: bool = False
    """Whether the line is set apart from those above it, such as a sum."""


@dataclass(frozen=True)
class Table:
    """Columns and lines, with what must be known to read them."""

    columns: Sequence[Column]
    lines: Sequence[Line]
    title: str = ""
    """Of languages without headings of their own: Markdown has none here, a page gives it a heading."""
    caption: str = ""
    """Directly beneath, such as what was left out."""
    notes: Sequence[str] = ()
    gap: int = 2
    """Blanks between a terminal's columns."""
    names: int = 1
    """First columns, which name a line; a table that is shown in parts has them in each."""


def lines(rows: Iterable[Sequence[Cell | str]]) -> list[Line]:
    """Returns a line for each row of cells, all alike."""
    return [Line(row) for row in rows]


def text_column(title: str, *, long: Literal["whole", "fold", "cut"] = "whole", screen: str | None = None) -> Column:
    """Returns a column of text, which stands to the left."""
    return Column(title, align="left", long=long, screen=screen)


# A terminal's


def show(table: Table, console: Console) -> None:
    """Print the title, the table, and the notes after a blank line."""
    from rich.text import Text

    if table.title:
        console.print(Text(table.title, style="bold"))
    for number, part in enumerate(in_parts(table, console.width)):
        if number:
            console.print()
        console.print(drawn(part, console.width))
    if table.notes:
        console.print()
    for note in table.notes:
        console.print(Text(f"• {note}"))


def drawn(table: Table, width: int) -> rich.console.RenderableType:
    """Returns the table as rich draws it on a terminal of that width.

    Where a text behind the first column may be folded, lines are read from their top, else from their bottom.
    """
    if table.caption:
        return drawn_by_rich(table, width)
    from vilt_bench.report.quick_table import QuickTable

    return QuickTable(table, width)


def in_parts(table: Table, width: int) -> list[Table]:
    """Returns the table as several, where its columns have no room beside each other; each has the names.

    A table that fits, names folded where they may be, is one. What stands beneath it stands beneath the last.

    Args:
        table: any.
        width: of a terminal, in columns.
    """
    shown = shown_columns(table, width)
    names, others = shown[: table.names], shown[table.names :]
    if len(_parts(table, names, others, width)) == 1:
        return [table]
    first = [index for index, column in enumerate(table.columns) if column.is_first and index not in names]
    parts = _parts(table, names, [*first, *(index for index in others if index not in first)], width)
    *before, last = (_part(table, [*names, *part]) for part in parts)
    return [*(replace(part, caption="") for part in before), last]


def _parts(table: Table, names: Sequence[int], others: Sequence[int], width: int) -> list[list[int]]:
    """Returns the columns behind the names that have room beside each other, part by part."""
    room = width - sum(_least_width(table, index) + table.gap for index in names)
    parts: list[list[int]] = [[]]
    taken = -table.gap
    for index in others:
        taken += _least_width(table, index) + table.gap
        if parts[-1] and taken > room:
            parts.append([])
            taken = _least_width(table, index)
        parts[-1].append(index)
    return parts


_LEAST_NAME, _LEAST_TEXT = 16, 12
"""Columns that a terminal has for a name, and for another text, that is folded or cut, whatever stands beside it."""


def _least_width(table: Table, index: int) -> int:
    """Returns how many columns of a terminal a table's column takes at least."""
    from rich.cells import cell_len

    column = table.columns[index]
    head = max(cell_len(part) for said in column.heading(narrow_title(column)) for part in said.split("\n"))
    cells = ((cell_of(line, index), line.depth) for line in table.lines)
    body = max(
        (cell_len(f"{cell.text} {cell.after}".strip()) + 2 * depth * (not index) for cell, depth in cells), default=0
    )
    return max(head, body if column.long == "whole" else min(body, _LEAST_NAME if index < table.names else _LEAST_TEXT))


def _part(table: Table, indices: Sequence[int]) -> Table:
    part = [replace(line, cells=[cell_of(line, index) for index in indices]) for line in table.lines]
    # Chosen by now, whatever the width.
    columns = [replace(table.columns[index], least_width=0) for index in indices]
    return replace(table, columns=columns, lines=part)


def drawn_by_rich(table: Table, width: int) -> rich.table.Table:
    """Returns what `drawn` does, at rich's pace."""
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    shown = shown_columns(table, width)
    own = Drawn(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, table.gap - 1, 0, 0), collapse_padding=True
    )
    folded = any(table.columns[index].long == "fold" for index in shown if index)
    for column in (table.columns[index] for index in shown):
        title = narrow_title(column)
        own.add_column(
            "\n".join(column.heading(title)),
            justify=column.align,
            no_wrap=column.long == "whole",
            overflow="fold" if column.long == "fold" else "ellipsis",
            vertical="top" if folded else "bottom",
        )
    for line in table.lines:
        if line.apart:
            own.add_section()
        cells = [cell_of(line, index) for index in shown]
        texts = [Text(f"{cell.text} {cell.after}".strip(), style=cell.style) for cell in cells]
        own.add_row(Text("  " * line.depth) + texts[0], *texts[1:], style="bold" if line.strong else "")
    own.caption, own.caption_justify = table.caption or None, "left"
    return own


# Markdown


def markdown(table: Table, *, broken: bool = False) -> str:
    """Returns the table, caption and notes as GitHub shows them, without the title.

    Args:
        table: any.
        broken: whether headings take two lines, for tables that stand in little room.
    """
    head = [_markdown_heading(column, broken=broken) for column in table.columns]
    rule = ["---" if column.align == "left" else "---:" for column in table.columns]
    body = [[_markdown_cell(line, index) for index in range(len(table.columns))] for line in table.lines]
    blocks = ["\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *body])]
    if table.caption:
        blocks.append(clean.markdown(table.caption))
    if table.notes:
        blocks.append(markdown_list(table.notes))
    return "\n\n".join(blocks)


def markdown_list(sentences: Iterable[str]) -> str:
    """Returns an item a sentence."""
    return "\n".join(f"- {clean.markdown(sentence)}" for sentence in sentences)


def _markdown_heading(column: Column, *, broken: bool) -> str:
    said = column.heading(clean.markdown(column.title))
    return "<br>".join(line.replace(" ", "&nbsp;") for line in said) if broken else " ".join(said)


def _markdown_cell(line: Line, index: int) -> str:
    cell = line.cells[index] if index < len(line.cells) else ""
    if index and isinstance(cell, str):
        return clean.markdown(cell)
    cell = cell_of(line, index)
    text = clean.code(cell.text, cell=True) if cell.code else clean.markdown(cell.text)
    if cell.after:
        text += f" {clean.markdown(cell.after)}"
    if cell.whole:
        text = text.replace(" ", "&nbsp;")
    text = f"{cell.mark.replace(_NO_BREAK, '&nbsp;')}{text}"
    if cell.under:
        text += f"<br><sub>{'<br>'.join(map(clean.markdown, cell.under))}</sub>"
    if index:
        return text
    return f"**{text}**" if line.strong and text else "&emsp;" * line.depth + text


# HTML


def html(table: Table) -> str:
    """Returns the table in an element that can be scrolled, then caption and notes; well-formed XML as well.

    Columns of text but the first have the class `text`: figures stand to the right.
    """

    def element(name: str, index: int, inner: str) -> str:
        text = ' class="text"' if index and table.columns[index].align == "left" else ""
        scope = ' scope="col"' if name == "th" else ""
        return f"<{name}{scope}{text}>{inner}</{name}>"

    titles = [" ".join(column.heading(clean.html(column.title))) for column in table.columns]
    head = "".join(element("th", index, title) for index, title in enumerate(titles))
    body = "\n".join(
        f"<tr>{''.join(element('td', index, _html_cell(line, index)) for index in range(len(titles)))}</tr>"
        for line in table.lines
    )
    title = f"<caption>{clean.html(table.title)}</caption>\n" if table.title else ""
    blocks = [
        f'<div class="table"><table>\n{title}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
    ]
    if table.caption:
        blocks.append(f"<p>{clean.html(table.caption)}</p>")
    if table.notes:
        blocks.append(html_list(table.notes))
    return "\n".join(blocks)


def html_list(sentences: Iterable[str]) -> str:
    """Returns an item a sentence."""
    items = "\n".join(f"<li>{clean.html(sentence)}</li>" for sentence in sentences)
    return f"<ul>\n{items}\n</ul>"


def _html_cell(line: Line, index: int) -> str:
    cell = cell_of(line, index)
    text = clean.html(cell.text)
    if cell.code:
        text = f"<code>{text}</code>"
    if cell.after:
        text += f" {clean.html(cell.after)}"
    text = f"{cell.mark}{text}"
    if cell.under:
        text += f"<br/><small>{'<br/>'.join(map(clean.html, cell.under))}</small>"
    if index:
        return text
    return f"<strong>{text}</strong>" if line.strong and text else _EM * line.depth + text


# CSV


def csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Returns tidy rows as CSV, empty where a value is unknown.

    Args:
        rows: each by its columns' names, units in them.
        columns: in order; if left out, those of the first row.
    """
    return clean.csv_text(columns or (list(rows[0]) if rows else []), rows)


def shown_columns(table: Table, width: int) -> list[int]:
    """Returns the columns that a terminal of that width has room for, by index."""
    return [index for index, column in enumerate(table.columns) if column.least_width <= width]


def cell_of(line: Line, index: int) -> Cell:
    """Returns the cell of a column; one that is left out is empty."""
    found = line.cells[index] if index < len(line.cells) else ""
    return Cell(found) if isinstance(found, str) else found


def narrow_title(column: Column) -> str:
    """Returns the title where there is little room."""
    return clean.line(column.title) if column.screen is None else column.screen
