"""Tidy rows, those of CSV, as files that other programs open: a workbook of Excel, and Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib import import_module
from typing import Any

from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import Row, Summary
from vilt_bench.report import clean
from vilt_bench.report.columns import Quantity
from vilt_bench.report.runs.fields import run_fields, stage_fields

LIBRARIES = {"xlsx": ("openpyxl", "openpyxl>=3.1"), "parquet": ("pyarrow", "pyarrow>=15")}
"""By format: what writes it, and what pip installs for it."""
LONGEST_TEXT = 32_767
"""Characters of a cell. Source: Microsoft, Excel specifications and limits."""
MOST_ROWS = 1_048_576
"""Of a sheet. Source: likewise."""
_WIDEST = 40
"""Characters that a column of a workbook has room for when it is opened."""
_RUNS, _STAGES = "runs", "stages"
_UNITS = ("_s", "_j", "_w", "_bytes", "_percent")
"""How names of numbers end, which tells the type of a column without a value."""


def check(format: str) -> None:
    """Refuse a format whose library is missing, before anything is read.

    Raises:
        ConfigError: it is.
    """
    module, requirement = LIBRARIES[format]
    try:
        import_module(module)
    except ImportError:
        raise ConfigError(
            f"{format} is written by {module}; install it: python -m pip install '{requirement}'"
        ) from None


def render(runs: Sequence[Summary], format: str, *, quantities: Sequence[Quantity] = ()) -> bytes:
    """Returns a file's content.

    Args:
        runs: in order.
        format: `xlsx`: a sheet with a row a run, its whole, and one with a row a stage; numbers are numbers, and no
            text is a formula. `parquet`: a row a stage.
        quantities: as for CSV.

    Raises:
        ConfigError: its library is missing, or a sheet has no room for the rows.
    """
    check(format)
    return _workbook(runs, quantities) if format == "xlsx" else _parquet(runs, quantities)


def _rows(runs: Sequence[Summary], quantities: Sequence[Quantity], *, whole: bool = False) -> Iterator[dict[str, Any]]:
    """Yields the rows of all stages, or those of the wholes."""
    for run in runs:
        told = run_fields(run)
        for row in [run.whole] if whole else run.rows:
            yield {name: _value(value) for name, value in {**told, **_fields(row, quantities)}.items()}


def _fields(row: Row, quantities: Sequence[Quantity]) -> dict[str, Any]:
    counts = " ".join(f"{key}={count}" for key, count in row.counts.items())
    return {**stage_fields(row, quantities), "counts": counts or None}


def _value(value: Any) -> Any:
    """Returns a value as files have it: a number, a boolean, a line of text, or nothing."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean.line(value if isinstance(value, str) else str(value))


def _workbook(runs: Sequence[Summary], quantities: Sequence[Quantity]) -> bytes:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font
    from openpyxl.utils import get_column_letter

    book = Workbook(write_only=True)
    book.properties.creator = "vilt-bench"
    # The same file for the same runs.
    book.properties.created = book.properties.modified = datetime(2000, 1, 1)
    for title in (_RUNS, _STAGES):
        rows = list(_rows(runs, quantities, whole=title == _RUNS))
        if len(rows) >= MOST_ROWS:
            raise ConfigError(
                f"xlsx has room for {MOST_ROWS - 1} rows, and there are {len(rows)}; give `format` parquet"
            )
        sheet = book.create_sheet(title)
        sheet.freeze_panes = "A2"
        names = list(rows[0]) if rows else []
        for index, name in enumerate(names, 1):
            longest = max(len(name), *(len(str(row[name])) for row in rows if row[name] is not None), 1)
            sheet.column_dimensions[get_column_letter(index)].width = min(longest + 2, _WIDEST)

        def cell(value: Any, *, head: bool = False, sheet: Any = sheet) -> Any:
            if isinstance(value, str):
                made = WriteOnlyCell(sheet, value[:LONGEST_TEXT])
                made.data_type = "s"  # a text, whatever it begins with
                made.quotePrefix = not head
            else:
                made = WriteOnlyCell(sheet, value)
            if head:
                made.font = Font(bold=True)
            return made

        if names:
            sheet.append([cell(name, head=True) for name in names])
        for row in rows:
            sheet.append([cell(value) for value in row.values()])
        if names:
            sheet.auto_filter.ref = f"A1:{get_column_letter(len(names))}{len(rows) + 1}"
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _parquet(runs: Sequence[Summary], quantities: Sequence[Quantity]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    rows = list(_rows(runs, quantities))
    names = list(rows[0]) if rows else []
    columns = {name: [row[name] for row in rows] for name in names}
    made = pyarrow.table(
        {name: pyarrow.array(_alike(values), _type(pyarrow, name, values)) for name, values in columns.items()}
    )
    file = io.BytesIO()
    parquet.write_table(made.replace_schema_metadata({"made_by": "vilt-bench"}), file)
    return file.getvalue()


def _alike(values: Sequence[Any]) -> list[Any]:
    """Returns the values of a column in one type: whole numbers and others are numbers, others and texts are texts."""
    kinds = {type(value) for value in values} - {type(None)}
    if len(kinds) <= 1:
        return list(values)
    convert = float if kinds <= {int, float} else str
    return [None if value is None else convert(value) for value in values]


def _type(pyarrow: Any, name: str, values: Sequence[Any]) -> Any:
    """Returns a column's type: the same whether or not this file has a value of it."""
    kinds = {type(value) for value in _alike(values)} - {type(None)}
    types = {str: pyarrow.string(), bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
    if kinds:
        return types[kinds.pop()]
    return pyarrow.float64() if name.endswith(_UNITS) else pyarrow.string()
