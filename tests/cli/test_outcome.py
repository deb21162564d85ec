import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from vilt_bench.ask.case import Case
from vilt_bench.cli import main, outcome
from vilt_bench.director.gate import Outcome
from vilt_bench.director.lockstep import GateProgress
from vilt_bench.errors import ConfigError, DeviceError
from vilt_bench.judge.comparison import Comparison
from vilt_bench.report import verdicts

Finish = Callable[..., int]
MakeComparison = Callable[..., Comparison]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may take the CI that runs it for its own."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def finish() -> Finish:
    """Returns what a command does: options from arguments, then the outcome."""

    def run(comparisons: list[Comparison], *arguments: object) -> int:
        parser = argparse.ArgumentParser()
        outcome.add_outputs(parser)
        return outcome.finish(comparisons, parser.parse_args([*map(str, arguments)]))

    return run


def test_table_is_printed_and_the_exit_code_follows(
    finish: Finish, regressed: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish([regressed]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("patch32 – regressed: 6.2% slower")
    assert captured.err == ""


@pytest.mark.parametrize("format", [name for name in verdicts.FORMATS if name != "table"])
def test_another_format_has_standard_output_for_itself(
    finish: Finish, inconclusive: Comparison, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish([inconclusive], "--format", format, "--inconclusive", "pass", "--annotations") == 0
    captured = capsys.readouterr()
    assert captured.out == verdicts.render([inconclusive], format, inconclusive="pass")
    assert captured.err.startswith("::warning ")


def test_each_file_asked_for_is_written(finish: Finish, all_kinds: list[Comparison], tmp_path: Path) -> None:
    flags = [part for format in outcome.FILES for part in (f"--{format}", tmp_path / format)]
    assert finish(all_kinds, *flags) == 1
    for format in outcome.FILES:
        if format not in verdicts.DATA:
            assert (tmp_path / format).read_text() == verdicts.render(all_kinds, format)
    # Each comparison's whole and stages.
    rows = sum(1 + len(comparison.stages) for comparison in all_kinds)
    assert len(pd.read_excel(tmp_path / "xlsx")) == len(pd.read_parquet(tmp_path / "parquet")) == rows


def test_in_a_github_workflow_the_summary_grows_and_annotations_are_told(
    finish: Finish,
    regressed: Comparison,
    improved: Comparison,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    finish([regressed])
    finish([improved], "--no-annotations")
    text = summary.read_text()
    assert text.startswith("before\n")
    assert text.index("`patch32` regressed") < text.index("`grid-r50` improved")
    assert capsys.readouterr().err.count("::") == 2  # of one annotation


def test_a_summary_that_can_not_be_written_does_not_hide_the_verdict(
    finish: Finish,
    regressed: Comparison,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    assert finish([regressed]) == 1
    assert "the summary is left out" in capsys.readouterr().err


def test_a_file_in_no_folder_is_refused_before_anything_is_measured(
    finish: Finish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "none" / "x.json", tmp_path):
        with pytest.raises(SystemExit):
            finish([], "--json", path)
        assert str(path) in capsys.readouterr().err


def test_one_file_that_can_not_be_written_does_not_keep_back_the_others(
    finish: Finish, regressed: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = argparse.ArgumentParser()
    outcome.add_outputs(parser)
    (tmp_path / "gone").mkdir()
    asked = parser.parse_args(["--json", str(tmp_path / "gone" / "x"), "--junit", str(tmp_path / "junit.xml")])
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match=r"^--json .* can't be written"):
        outcome.finish([regressed], asked)
    assert "<testsuites" in (tmp_path / "junit.xml").read_text()


def test_what_no_dashboard_can_show_does_not_keep_back_the_rest(
    finish: Finish, regressed: Comparison, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="2 results are named 'patch32 / whole'"):
        finish([regressed, regressed], "--format", "bencher", "--json", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["exit_code"] == 1


def test_nothing_to_compare_is_not_a_pass(finish: Finish, tmp_path: Path) -> None:
    assert finish([], "--json", tmp_path / "x.json") == 4
    assert json.loads((tmp_path / "x.json").read_text())["verdict"] == "missing"


def test_an_embedder_that_can_not_be_measured_does_not_take_the_others_with_it(
    monkeypatch: pytest.MonkeyPatch,
    make_comparison: MakeComparison,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def gate(case: Case, *_: object, report: Callable[[GateProgress], None], **__: object) -> Outcome:
        if case.embedder == "patch16":
            raise DeviceError("no such device")
        report(GateProgress(case, 0, "warming up", None, spent_s=3, budget_s=300))
        return Outcome(dataclasses.replace(make_comparison(), case=case), (), interrupted=False)

    monkeypatch.setattr("vilt_bench.director.gate.gate", gate)
    arguments = ["--embedder=patch16", "--embedder=patch32", "--format=json", f"--output={tmp_path}"]
    assert main(["gate", "--baseline-python", sys.executable, *arguments]) == 2
    seen = capsys.readouterr()
    assert "patch16: no such device" in seen.err
    assert "patch32: pair 1: warming up (3 of 300 s)" in seen.err
    told = {each["name"]: each["outcome"] for each in json.loads(seen.out)["comparisons"]}
    assert list(told) == ["patch16", "patch32"]
    assert told["patch16"] == "missing: it could not be measured: no such device"
