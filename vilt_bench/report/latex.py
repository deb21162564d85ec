r"""A table as LaTeX has it, with the packages booktabs and siunitx: no preamble, no command of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vilt_bench.report import clean
from vilt_bench.report.numbers import ABSENT
from vilt_bench.report.tables import Cell, Column, Line, Table, cell_of, narrow_title

NEEDS = r"\usepackage{booktabs,siunitx}"
_NUMBER = r"[+−-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_UNKNOWN = clean.latex(ABSENT)
_CELL = re.compile(rf"({_NUMBER})(%?)(?: (\[.*\]))?", re.ASCII)
"""A number, whether it is in percent, and what stands behind it in square brackets, such as its interval."""


def table(told: Table) -> str:
    """Returns the table; notes stand beneath in small print.

    Titles are those of a terminal, as a column of a paper has no more room. Numbers stand in `S` columns, which set
    them by their points and group them as the paper does; what is behind them in square brackets has a column of its
    own.
    """
    columns = [_column(told, index) for index in range(len(told.columns))]
    height = max(len(column.head) for column in columns)
    heads = zip(*([*[""] * (height - len(column.head)), *column.head] for column in columns), strict=True)
    body = []
    for number, line in enumerate(told.lines):
        if line.apart and number:
            body.append(r"\midrule")
        body.append(_row(column.cells[number] for column in columns))
    beneath = [clean.latex(sentence) for sentence in [*([told.caption] if told.caption else []), *told.notes]]
    return "\n".join([
        r"\begin{table}[htbp]",
        r"  \centering",
        *([rf"  \caption{{{clean.latex(told.title)}}}"] if told.title else []),
        rf"  \begin{{tabular}}{{@{{}}{''.join(column.letters for column in columns)}@{{}}}}",
        r"    \toprule",
        *(f"    {_row(head)}" for head in heads),
        r"    \midrule",
        *(f"    {each}" for each in body),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(rf"  \par\smallskip {{\footnotesize {sentence}}}" for sentence in beneath),
        r"\end{table}",
    ])  # fmt: skip


@dataclass(frozen=True)
class _Set:
    """A column of a table as it is set: one of LaTeX's, or two."""

    letters: str
    head: Sequence[str]
    cells: Sequence[str]


def _column(told: Table, index: int) -> _Set:
    column = told.columns[index]
    cells = [cell_of(line, index) for line in told.lines]
    found = [_CELL.fullmatch(cell.text) if index and not (cell.code or cell.after) else None for cell in cells]
    numbers = [each for each in found if each is not None]
    in_percent = bool(numbers) and all(each[2] for each in numbers)
    if column.align == "left" or not numbers or any(each[2] for each in numbers) != in_percent:
        return _Set(
            "l" if column.align == "left" else "r",
            list(map(clean.latex, _head(column))),
            [_cell(cell, line, first=not index) for cell, line in zip(cells, told.lines, strict=True)],
        )
    behind = any(each[3] for each in numbers)
    head = _head(column)
    if in_percent:
        head = [*head[:-1], f"{head[-1]} (%)"]
    written = []
    for cell, each in zip(cells, found, strict=True):
        value = _plain(each[1]) if each is not None else _in_braces(clean.latex(cell.text))
        written.append(f"{value} & {_behind(each[3] if each is not None else None)}" if behind else value)
    span = r"\multicolumn{2}{c}" if behind else ""
    return _Set(
        f"S[table-format={_format([_plain(each[1]) for each in numbers])}]{'l' * behind}",
        [f"{span}{_in_braces(clean.latex(part))}" if part else " &" * behind for part in head],
        written,
    )


def _head(column: Column) -> list[str]:
    return [part for said in column.heading(narrow_title(column)) for part in said.split("\n")]


def _cell(cell: Cell, line: Line, *, first: bool) -> str:
    text = _behind(cell.text) if re.fullmatch(r"\[.*\]", cell.text) else clean.latex(cell.text)
    if cell.code and text:
        text = rf"\texttt{{{text}}}"
    if cell.after:
        text += f" {clean.latex(cell.after)}"
    if not first:
        return text
    return rf"\textbf{{{text}}}" if line.strong and text else r"\quad " * line.depth + text


def _behind(text: str | None) -> str:
    """Returns what stands in square brackets, its numbers as siunitx writes them."""
    parts = re.split(rf"({_NUMBER})", text or "", flags=re.ASCII)
    return "".join(
        rf"\num{{{_plain(part)}}}" if place % 2 else clean.latex(part) + " " * part.endswith(" ")
        for place, part in enumerate(parts)
    )


def _plain(number: str) -> str:
    return number.replace(",", "").replace("−", "-")


def _format(numbers: Sequence[str]) -> str:
    """Returns how many digits stand before and behind the point, at most, with room for a sign.

    Source: siunitx's manual, `table-format`.
    """
    parts = [number.lstrip("+-").partition(".") for number in numbers]
    signed = "-" if any(number[0] in "+-" for number in numbers) else ""
    digits = max(len(behind) for _, _, behind in parts)
    return f"{signed}{max(len(before) for before, _, _ in parts)}{f'.{digits}' if digits else ''}"


def _in_braces(text: str) -> str:
    """Returns a text that siunitx takes for no number."""
    return f"{{{text}}}" if text not in ("", _UNKNOWN) else text


def _row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"
