"""Files by their names, and folders in which not every record can be read."""

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import junitparser
import pytest
from PIL import Image

from vilt_bench.cli import main
from vilt_bench.errors import RecordError
from vilt_bench.record import store
from vilt_bench.record.codec import decode

BROKEN = {
    "empty": b"",
    "cut": b'{"schema_version": 1, "run_id"',
    "binary": b"\xff\xfe\x00",
    "deep": b'{"schema_version": 1, "a": ' + b"[" * 100_000,
    "impossible": b'{"schema_version": 1, "run_id": "a", "started_at": "x", "case": {"embedder": ""}, "sampling": {}, '
    b'"group": ""}',
}


@pytest.fixture
def folder(make_run, tmp_path) -> Path:
    """Returns a folder with one record, of the newest run, and one that can't be read for each reason."""
    whole = tmp_path / "records"
    store.save(make_run(started_at="2026-11-25T03:55:00+00:00"), whole)
    for index, content in enumerate(BROKEN.values()):
        (whole / f"2026-11-24T03550{index}Z-patch32-x.json").write_bytes(content)
    return whole


def of_format(path: Path, format: str) -> object:
    """Returns what another program makes of the file as one of that format."""
    match format:
        case "png":
            with Image.open(path) as image:
                return image.format == "PNG"
        case "pdf":
            return path.read_bytes().startswith(b"%PDF-") and path.read_bytes().rstrip().endswith(b"%%EOF")
        case "svg":
            return ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        case "html":
            return ET.fromstring(path.read_text("utf-8").partition("\n")[2]).tag == "{http://www.w3.org/1999/xhtml}html"
        case "json":
            return isinstance(json.loads(path.read_bytes()), list)
        case "csv":
            return len({len(row) for row in csv.reader(path.read_text("utf-8").splitlines())}) == 1
        case "markdown":
            return path.read_text("utf-8").startswith("## ")
        case _:
            return "whole" in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("x.pdf", "pdf"), ("x.png", "png"), ("x.SVG", "svg"), ("x.html", "html"), ("x.htm", "html"), ("x.json", "json"),
        ("x.csv", "csv"), ("x.md", "markdown"), ("x.txt", "table"), ("x", "table"),
    ],
)  # fmt: skip
def test_a_files_name_decides_its_format(make_run, tmp_path, name, format):
    record = store.save(make_run(), tmp_path / "records")
    for command in ("report", "history"):
        target = tmp_path / command / name
        target.parent.mkdir()
        code = main([command, str(record), "--output", str(target)])
        assert code == 0
        assert of_format(target, format)


@pytest.mark.parametrize("command", ["report", "history"])
@pytest.mark.parametrize(
    ("name", "format", "said"),
    [
        ("x.pdf", "table", "the name says pdf, and it would get table"),
        ("x.csv", "json", "the name says csv, and it would get json; give a name with .json"),
        ("x.json", "markdown", "the name says json"),
        ("x.txt", "png", "give a name with .png"),
        ("x.jpg", None, "no format is known by the ending .jpg; expected one of .txt"),
    ],
)
def test_a_name_that_contradicts_its_format_is_refused(make_run, tmp_path, capsys, command, name, format, said):
    record = store.save(make_run(), tmp_path / "records")
    asked = [] if format is None else ["--format", format]
    assert main([command, str(record), "--output", str(tmp_path / name), *asked]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_a_name_without_meaning_bears_what_is_asked_for(make_run, tmp_path):
    record = store.save(make_run(), tmp_path / "records")
    for name, format in (("x.dat", "csv"), ("x", "json"), ("x.txt", "markdown"), ("x.JSON", "json")):
        assert main(["report", str(record), "--output", str(tmp_path / name), "--format", format]) == 0
        assert of_format(tmp_path / name, format)
    assert main(["report", str(record), "--output", str(tmp_path / "y.json"), "--format", "bencher"]) == 0


@pytest.mark.parametrize(
    "command",
    [["run", "patch32"], ["gate", "patch32", "--baseline-ref", "HEAD"], ["paper"]],
    ids=["run", "gate", "paper"],
)
@pytest.mark.parametrize("name", ["x.json", "x.pdf", "x.SVG"])
def test_a_folder_is_not_made_by_a_name_that_says_a_format(tmp_path, capsys, command, name):
    assert main([*command, "--output", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert f"a folder is made, of several files, and the name is that of one ({name[1:].lower()})" in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_may_have_any_name(make_run, tmp_path, capsys):
    there = tmp_path / "records.json"
    there.mkdir()
    assert main(["run", "no-such-embedder", "--output", str(there)]) == 2
    assert "no embedder named 'no-such-embedder'" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "name"), [("--json", "x.xml"), ("--junit", "x.json"), ("--markdown", "x.html")])
def test_a_verdicts_file_of_another_formats_name_is_refused(make_run, tmp_path, capsys, flag, name):
    record = store.save(make_run(), tmp_path / "records")
    assert main(["compare", str(record), str(record), flag, str(tmp_path / name)]) == 2
    assert f"argument {flag}" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["table", "markdown", "json", "html", "csv", "bencher"])
def test_a_report_leaves_out_what_can_not_be_read_and_says_so(folder, tmp_path, capsys, format):
    target = tmp_path / "report"
    assert main(["report", str(folder), "--format", format, "--output", str(target)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line.startswith("vilt-bench: left out: ") for line in told] == [True] * 4
    assert "is empty" in told[0]
    assert "2 more" in told[-1]
    text = " ".join(target.read_text("utf-8").split())
    assert "patch32" in text
    assert ("Left out" in text) == (format not in ("csv", "bencher"))


def test_a_comparison_leaves_out_what_can_not_be_read_and_says_so(folder, make_run, tmp_path, capsys):
    new = store.save(make_run(run_id="new", group="new"), tmp_path / "new")
    files = [f"--{format}={tmp_path / f'x.{ending}'}" for format, ending in (("json", "json"), ("junit", "xml"))]
    code = main(["compare", str(folder), str(new), *files, f"--markdown={tmp_path / 'x.md'}"])
    captured = capsys.readouterr()
    found = json.loads((tmp_path / "x.json").read_bytes())
    assert code == found["exit_code"]
    assert captured.err.count("vilt-bench: left out: ") == 4
    assert "Left out: " in captured.out
    assert any("is empty" in note for note in found["comparisons"][0]["notes"])
    (suite,) = junitparser.JUnitXml.fromfile(str(tmp_path / "x.xml"))
    assert "Left out: " in suite._elem.findtext("system-out")
    assert "Left out: " in (tmp_path / "x.md").read_text("utf-8")


def test_a_history_says_in_its_report_what_it_left_out(folder, capsys):
    for format in ("table", "markdown"):
        assert main(["history", str(folder), "--format", format]) == 0
        captured = capsys.readouterr()
        assert captured.err.count("vilt-bench: left out: ") == 4
        assert captured.out.count("Left out: ") == len(BROKEN)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_file_that_is_named_itself_is_refused(folder, capsys, broken):
    (named,) = [path for path in folder.iterdir() if path.read_bytes() == BROKEN[broken]]
    (whole,) = [path for path in folder.iterdir() if path.read_bytes() not in BROKEN.values()]
    for arguments in (["report", whole, named], ["history", folder, named], ["compare", named, whole]):
        assert main([str(each) for each in arguments]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert named.name in told
    with pytest.raises(RecordError, match=named.name):
        decode(BROKEN[broken], name=named.name)


@pytest.mark.parametrize("command", ["report", "compare", "history"])
def test_a_folder_of_which_nothing_can_be_read_is_refused(folder, tmp_path, capsys, command):
    for path in folder.iterdir():
        if path.read_bytes() not in BROKEN.values():
            path.unlink()
    assert main([command, str(folder), *([str(folder)] if command == "compare" else [])]) == 2
    assert "is empty" in capsys.readouterr().err
