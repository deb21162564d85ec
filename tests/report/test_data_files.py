"""Excel and Parquet have what CSV has, read back by the libraries of others."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import openpyxl
import pyarrow.parquet
import pytest

from vilt_bench.cli import main
from vilt_bench.judge.summary import summarise
from vilt_bench.record.load import load_all
from vilt_bench.report import data_files, render, render_data

SITTING = Path(__file__).parents[1] / "golden" / "records" / "sitting"


@pytest.fixture(scope="module")
def runs():
    return [summarise(run) for run in load_all([SITTING])]


def from_workbook(data, sheet):
    head, *rows = openpyxl.load_workbook(io.BytesIO(data))[sheet].values
    return [dict(zip(head, row, strict=True)) for row in rows]


def from_csv(runs):
    return list(csv.DictReader(io.StringIO(render(runs, "csv"))))


@pytest.mark.parametrize("format", ["xlsx", "parquet"])
def test_a_file_of_data_has_the_rows_of_csv_with_numbers_as_numbers(runs, format):
    data = render_data(runs, format)
    found = (
        from_workbook(data, "stages") if format == "xlsx" else pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    )
    expected = from_csv(runs)
    assert list(found[0]) == list(expected[0])
    for row, plain in zip(found, expected, strict=True):
        for name, value in row.items():
            assert value is None or isinstance(value, str | bool) or float(plain[name]) == pytest.approx(value), name
            if isinstance(value, str):
                assert plain[name].removeprefix("'") == value
        assert isinstance(row["latency_median_s"], float)


def test_a_workbook_has_a_row_a_run_as_well(runs):
    found = from_workbook(render_data(runs, "xlsx"), "runs")
    assert [row["run_id"] for row in found] == [run.run_id for run in runs]
    assert {row["level"] for row in found} == {"whole"}


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)", "-2+3", "\x1b[31mred\x00", "x" * 40_000])
def test_a_name_is_a_text_in_excel_whatever_it_begins_with(runs, name):
    hostile = [replace(runs[0], name=name)]
    sheet = openpyxl.load_workbook(io.BytesIO(render_data(hostile, "xlsx")))["runs"]
    (cell,) = (row[list(next(sheet.values)).index("name")] for row in sheet.iter_rows(min_row=2))
    assert cell.data_type == "s"
    assert cell.quotePrefix
    assert len(cell.value) == min(len(name), 32_767)


def test_a_column_has_one_type_whether_or_not_a_file_has_a_value_of_it(runs):
    without = [replace(run, energy=None, name=None) for run in runs]
    table = pyarrow.parquet.read_table(io.BytesIO(render_data(without, "parquet")))
    assert str(table.schema.field("energy_per_pass_j").type) == "double"
    assert str(table.schema.field("name").type) == "string"


@pytest.mark.parametrize("format", ["xlsx", "parquet"])
def test_no_run_is_a_file_without_rows(format):
    assert len(render_data([], format)) > 0


def test_the_name_of_a_file_says_the_format_and_none_is_printed_or_contradicted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(SITTING), "--output", "table.xlsx"]) == 0
    assert (tmp_path / "table.xlsx").read_bytes().startswith(b"PK")
    assert main(["report", str(SITTING), "--output", "table.parquet"]) == 0
    assert (tmp_path / "table.parquet").read_bytes().startswith(b"PAR1")
    assert main(["report", str(SITTING), "--format", "xlsx", "--output", "table.csv"]) == 2
    assert main(["report", str(SITTING), "--format", "csv", "--output", "table.xlsx"]) == 2
    assert main(["report", str(SITTING), "--format", "xlsx", "--output", "table.txt"]) == 2
    assert main(["report", str(SITTING), "--output", "table.docx"]) == 2
    assert "no format is known by the ending .docx" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.parquet", "table.xlsx"]


def test_a_missing_library_is_told_with_what_installs_it(monkeypatch, capsys):
    monkeypatch.setitem(data_files.LIBRARIES, "xlsx", ("no_such_openpyxl", "openpyxl>=3.1"))
    assert main(["report", str(SITTING), "--format", "xlsx"]) == 2
    assert "xlsx is written by no_such_openpyxl; install it: python -m pip install" in capsys.readouterr().err
