"""Tidy rows, those of CSV, as files that other programs open: a workbook of Excel, and Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import Any

from vilt_bench.ask.case import case_name
from vilt_bench.errors import ConfigError
from vilt_bench.judge.comparison import Comparison
from vilt_bench.judge.history import History, rows
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
_NUMBERS = ("_s", "_j", "_w", "_bytes", "_percent", "ratio", "_low", "_high", "_units", "change")
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


def of_runs(runs: Sequence[Summary], format: str, *, quantities: Sequence[Quantity] = ()) -> bytes:
    """Returns a file of runs: a sheet with a row a run, its whole, and one, the table of Parquet, with a row a stage.

    Args:
        runs: in order.
        format: `xlsx` or `parquet`.
        quantities: as for CSV.

    Raises:
        ConfigError: as `written`.
    """
    return written({each: _of_runs(runs, quantities, whole=each == "runs") for each in ("runs", "stages")}, format)


def of_history(history: History, format: str) -> bytes:
    """Returns a file of histories, a row a run and stage, as CSV has them.

    Raises:
        ConfigError: as `written`.
    """
    return written({"history": rows(history)}, format)


def of_comparisons(comparisons: Iterable[Comparison], format: str) -> bytes:
    """Returns a file of comparisons: a row a stage, the whole first.

    Raises:
        ConfigError: as `written`.
    """
    return written({"stages": (row for each in comparisons for row in _of_comparison(each))}, format)


def written(sheets: Mapping[str, Iterable[Mapping[str, Any]]], format: str) -> bytes:
    """Returns a file's content.

    Args:
        sheets: rows by the sheet's title, each by its columns' names, which all have alike.
        format: `xlsx`: all sheets; numbers are numbers, and no text is a formula. `parquet`: the last.

    Raises:
        ConfigError: its library is missing, or a sheet has no room for the rows.
    """
    check(format)
    plain = {
        title: [{name: _value(value) for name, value in row.items()} for row in found]
        for title, found in sheets.items()
    }
    return _workbook(plain) if format == "xlsx" else _parquet(list(plain.values())[-1])


def _of_runs(runs: Sequence[Summary], quantities: Sequence[Quantity], *, whole: bool) -> Iterator[dict[str, Any]]:
    """Yields the rows of all stages, or those of the wholes."""
    for run in runs:
        told = run_fields(run)
        for row in [run.whole] if whole else run.rows:
            yield {**told, **_fields(row, quantities)}


def _fields(row: Row, quantities: Sequence[Quantity]) -> dict[str, Any]:
    counts = " ".join(f"{key}={count}" for key, count in row.counts.items())
    return {**stage_fields(row, quantities), "counts": counts or None}


def _of_comparison(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for stage in (comparison.total, *comparison.stages):
        ratio = stage.ratio
        yield {
            "case": case_name(comparison.case),
            "verdict": comparison.verdict,
            "method": comparison.method,
            "baseline": comparison.baseline.name,
            "candidate": comparison.candidate.name,
            "stage": stage.name,
            "stage_verdict": stage.verdict,
            "reason": stage.reason,
            "baseline_s": stage.baseline_s,
            "candidate_s": stage.candidate_s,
            "ratio": None if ratio is None else ratio.value,
            "ratio_low": None if ratio is None else ratio.low,
            "ratio_high": None if ratio is None else ratio.high,
            "ratio_units": None if ratio is None else ratio.units,
            "clock": stage.channel or None,
            "tolerance": comparison.tolerance,
        }


def _value(value: Any) -> Any:
    """Returns a value as files have it: a number, a boolean, a line of text, or nothing."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean.line(value if isinstance(value, str) else str(value))


def _workbook(sheets: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font
    from openpyxl.utils import get_column_letter

    book = Workbook(write_only=True)
    book.properties.creator = "vilt-bench"
    # The same file for the same runs.
    book.properties.created = book.properties.modified = datetime(2000, 1, 1)
    for title, found in sheets.items():
        if len(found) >= MOST_ROWS:
            raise ConfigError(
                f"xlsx has room for {MOST_ROWS - 1} rows, and there are {len(found)}; give `format` parquet"
            )
        sheet = book.create_sheet(title)
        sheet.freeze_panes = "A2"
        names = list(found[0]) if found else []
        for index, name in enumerate(names, 1):
            longest = max(len(name), *(len(str(row[name])) for row in found if row[name] is not None), 1)
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
        for row in found:
            sheet.append([cell(value) for value in row.values()])
        if names:
            sheet.auto_filter.ref = f"A1:{get_column_letter(len(names))}{len(found) + 1}"
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _parquet(found: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    names = list(found[0]) if found else []
    columns = {name: [row[name] for row in found] for name in names}
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
    return pyarrow.float64() if name.endswith(_NUMBERS) else pyarrow.string()
