"""What becomes of a command whose output can't be written, and of what nobody expected."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import junitparser
import pytest

from vilt_bench.cli import main
from vilt_bench.record import load, store
from vilt_bench.record.run import Run

SLOWER = {"textual_embedder": 0.0009, "visual_embedder.projection": 0.0126, "modality_interaction": 0.2865}
posix = pytest.mark.skipif(sys.platform == "win32", reason="descriptors as POSIX has them")


@pytest.fixture
def slower(make_run, tmp_path) -> list[str]:
    """Returns the arguments that compare records of which the newer takes three times as long, and write all files."""
    sides = [make_run(run_id="a", group="a"), make_run(run_id="b", group="b", latencies_s=SLOWER)]
    paths = [str(store.save(run, tmp_path)) for run in sides]
    files = [f"--{format}={tmp_path / format}" for format in ("markdown", "json", "junit")]
    return ["compare", *paths, *files, "--no-annotations"]


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {
        **{key: value for key, value in os.environ.items() if key not in ("PYTHONUNBUFFERED", "PYTHONIOENCODING")},
        **options.pop("env", {}),  # type: ignore[dict-item]
    }
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([sys.executable, "-m", "vilt_bench.cli", *arguments], env=environment, **given)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_encoding_lacks_is_replaced_and_files_are_utf_8(slower, tmp_path, encoding):
    done = command(*slower, env={"PYTHONIOENCODING": encoding, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")})
    assert (done.returncode, done.stderr) == (json.loads((tmp_path / "json").read_bytes())["exit_code"], b"")
    assert "patch32" in done.stdout.decode(encoding)
    assert "\x1b" not in done.stdout.decode(encoding)
    for name in ("markdown", "summary"):
        assert "·" in (tmp_path / name).read_text(encoding="utf-8")
    assert len(list(junitparser.JUnitXml.fromstring((tmp_path / "junit").read_bytes()))) == 1


@pytest.mark.parametrize("arguments", [["list", "--vlm"], ["list"], ["paper", "--rows", "ViLT-B/32"], ["--help"]])
def test_what_needs_no_record_is_shown_in_ascii_too(arguments):
    done = command(*arguments, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("ascii")


@posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_left_changes_no_exit_code(slower, tmp_path, make_run, unbuffered):
    store.save(make_run(), tmp_path / "results")
    for arguments in (slower, ["report", str(tmp_path / "results")], ["list"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = command(*arguments, stdout=writer, env={"PYTHONUNBUFFERED": unbuffered})
        os.close(writer)
        verdict = json.loads((tmp_path / "json").read_bytes())["exit_code"] if arguments is slower else 0
        assert (done.returncode, done.stderr) == (verdict, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("format", ["table", "json"])
def test_a_full_device_is_told_in_one_line_after_the_files_are_written(slower, tmp_path, format):
    with open("/dev/full", "wb") as full:
        done = command(*slower, "--format", format, stdout=full)
        helped = command("--help", stdout=full)
    for told in (done, helped):
        assert told.returncode == 2
        assert re.fullmatch(rb"vilt-bench: standard output can't be written: the device is full; [^\n]+\n", told.stderr)
    assert json.loads((tmp_path / "json").read_bytes())["comparisons"]
    assert (tmp_path / "junit").stat().st_size
    assert (tmp_path / "markdown").stat().st_size


@posix
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-", "2>&-"])
def test_streams_that_were_closed_at_the_start_hinder_nothing(make_run, tmp_path, closed):
    store.save(make_run(), tmp_path / "results")
    file = tmp_path / "table.csv"
    line = f"exec '{sys.executable}' -m vilt_bench.cli report '{tmp_path / 'results'}' {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    subprocess.run(["sh", "-c", f"{line} --format csv --output '{file}'"], check=True)
    assert file.read_text().startswith("run_id,")


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), SystemExit(1), OSError(5, "a\nb\x1b[31m")])
def test_what_nobody_expected_is_one_line_with_a_code_of_its_own(monkeypatch, tmp_path, capsys, error):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(*_: object, **options: object) -> list[Run]:
        raise error

    monkeypatch.setattr(load, "load_each", fail)
    assert main(["report", "."]) == 70
    told = capsys.readouterr().err
    (kept,) = tmp_path.iterdir()
    assert told.startswith(f"vilt-bench: unexpected {type(error).__name__}")
    assert told.count("\n") == 1
    assert str(kept) in told
    assert f"in fail\n    raise error\n{type(error).__name__}" in kept.read_text(encoding="utf-8")
    assert main(["report", ".", "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_a_traceback_that_can_not_be_kept_is_no_second_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr(load, "load_each", lambda *_, **options: 1 // 0)
    assert main(["report", "."]) == 70
    assert "--debug shows it" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_what_can_be_mended_and_keeps_its_code(tmp_path, capsys):
    assert main(["report", str(tmp_path / "gone.json"), "--debug"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.splitlines()[-1].startswith("vilt-bench: no record")
