"""`vilt-bench compare` and `vilt-bench gate` as a user runs them."""

import dataclasses
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile

import pytest

from vilt_bench.ask.case import Case
from vilt_bench.cli import main
from vilt_bench.director.gate import Outcome
from vilt_bench.judge.compare import compare_all
from vilt_bench.record import load, store
from vilt_bench.record.run import Series, Times, Trial

TINY = ["--hidden-size=32", "--layers=1", "--heads=2", "--mlp-size=64"]
TINY += ["--resolution=64x64", "--text-length=8", "--device=cpu"]


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


@pytest.fixture
def make_record(make_run, tmp_path):
    """Returns a factory of saved runs of ten processes; returns the path."""

    def make(name, *, slowdown=0.0, day=20, folder="records", **fields):
        rng = random.Random(name)

        def times():
            samples = tuple(0.2 * (1 + slowdown) * math.exp(rng.gauss(0, 0.002)) for _ in range(10))
            return Times(wall_time_s=samples, cpu_time_s=samples)

        trials = tuple(
            Trial(
                index,
                "2026-11-24T03:55:01+00:00",
                samples=Series(times(), {"visual_embedder": times()}, times(), (10,)),
            )
            for index in range(10)
        )
        run = make_run(trials=1, run_id=name, group=name, started_at=f"2026-11-{day}T03:55:00+00:00", **fields)
        return str(store.save(dataclasses.replace(run, trials=trials), tmp_path / folder))

    return make


def test_a_slower_candidate_fails(make_record, capsys):
    baseline, candidate = make_record("old"), make_record("new", slowdown=9.0)
    assert main(["compare", baseline, candidate]) == 1
    assert "regressed" in capsys.readouterr().out


def test_what_drift_may_hide_is_undecided_unless_that_shall_pass(make_record):
    paths = [make_record("old"), make_record("new", slowdown=0.05)]
    assert main(["compare", *paths]) == 3
    assert main(["compare", *paths, "--inconclusive", "pass"]) == 0


def test_of_a_folder_the_newest_is_compared_and_the_rest_is_history(make_record, tmp_path, capsys):
    for day in range(10, 18):
        make_record(f"day-{day}", day=day)
    make_record("slow", day=18, slowdown=0.01)
    newest = make_record("newest", folder="candidate", slowdown=0.2)
    assert main(["compare", str(tmp_path / "records"), newest, "--format", "json"]) == 1
    (seen,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert seen["baseline"]["runs"] == ["slow"]
    assert any("9 sessions" in note for note in seen["notes"])


def test_several_records_are_one_side(make_record, capsys):
    old = [make_record("old"), make_record("older")]
    assert main(["compare", "--baseline", *old, "--", make_record("new")]) == 3
    assert "20" in capsys.readouterr().out


def test_a_case_that_a_folder_lacks_fails_and_one_that_a_file_lacks_was_not_asked_for(make_record, tmp_path, capsys):
    make_record("old-32", folder="old")
    make_record("old-16", folder="old", case=Case("patch16"))
    candidate = make_record("new-32", folder="new")
    folders = [str(tmp_path / "old"), str(tmp_path / "new")]
    assert main(["compare", *folders, "--inconclusive", "pass"]) == 1
    assert "the candidate has no run of it" in capsys.readouterr().out
    assert main(["compare", folders[0], candidate, "--inconclusive", "pass"]) == 0


def test_a_case_that_the_baseline_lacks_has_no_baseline_and_the_others_are_compared(make_record, tmp_path, capsys):
    make_record("old-32", folder="old")
    make_record("new-32", folder="new")
    make_record("new-16", folder="new", case=Case("patch16"))
    folders = [str(tmp_path / "old"), str(tmp_path / "new")]
    assert main(["compare", *folders, "--inconclusive", "pass", "--format", "json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 4
    assert {each["name"]: each["verdict"] for each in told["comparisons"]} == {
        "patch32": "inconclusive",
        "patch16": "missing",
    }


def test_an_empty_baseline_has_its_own_exit_code(make_record, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(tmp_path / "empty"), make_record("new")]) == 4
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["gate", "--embedder", "patch32"],
        ["gate", "--embedder", "patch32", "--baseline-python", "python", "--baseline-ref", "main"],
        ["gate", "--embedder", "patch32", "--baseline-python", "/nowhere/python"],
        ["gate", "--embedder", "patch32", "--baseline-python", "python", "--tolerance", "0"],
        ["gate", "--embedder", "patch32", "--baseline-python", sys.executable, "--max-time", "nan"],
        ["compare", "one"],
        ["compare", "one", "two"],
        ["compare", "one", "two", "--tolerance", "much"],
        ["compare", "--baseline", "one", "--baseline-ref", "main", "--", "two"],
    ],
)
def test_what_the_user_can_mend_is_told_in_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as refused:
        code = refused.code
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_gate_prints_its_verdict_and_saves_both_sides(tmp_path, capsys):
    folder = tmp_path / "records"
    arguments = ["--baseline-python", sys.executable, "--output", str(folder), "--max-time", "60", "--threads", "1"]
    assert main(["gate", "--embedder", "patch32", *TINY, *arguments]) in (0, 1, 3)
    assert "measured together" in capsys.readouterr().out
    assert len(load.load_folder(folder)) == 2


@pytest.mark.parametrize(("flag", "value"), [("--max-time", "-1"), ("--patience", "0"), ("--output", "/dev/null/x")])
def test_what_no_gate_can_be_asked_for_is_refused_before_a_baseline_is_built(flag, value, monkeypatch, capsys):
    monkeypatch.setattr("vilt_bench.director.checkout.installation_at", lambda *_, **__: pytest.fail("it is built"))
    assert main(["gate", "--baseline-ref", "HEAD", "--embedder", "patch32", flag, value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{flag} " in line
    assert "must be" in line or "can't be written to" in line


@pytest.mark.parametrize(("slowdown", "code"), [(-0.9, 2), (9.0, 1)])
def test_a_folder_that_is_lost_while_a_gate_measures_loses_no_verdict_and_no_record(
    slowdown, code, make_record, tmp_path, monkeypatch, capsys
):
    output, rescue = tmp_path / "output", tmp_path / "rescue"
    rescue.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rescue))
    runs = [load.load(make_record(name, slowdown=share)) for name, share in (("old", 0.0), ("new", slowdown))]
    measured = []

    def measure(case, *_, tolerance, **__):
        measured.append(case.embedder)
        if output.is_dir():  # as if its disk were gone
            shutil.rmtree(output)
            output.touch()
        both = [dataclasses.replace(run, case=case, run_id=f"{run.run_id}-{case.embedder}") for run in runs]
        (comparison,) = compare_all(both[:1], both[1:], tolerance=tolerance)
        return Outcome(comparison, tuple(both), interrupted=False)

    monkeypatch.setattr("vilt_bench.director.gate.gate", measure)
    arguments = ["--embedder", "patch16", "--embedder", "patch32", "--baseline-python", sys.executable]
    arguments += ["--output", str(output), "--format", "json"]
    assert main(["gate", *arguments]) == code
    told = capsys.readouterr()
    assert measured == ["patch16", "patch32"]
    assert [each["name"] for each in json.loads(told.out)["comparisons"]] == measured
    assert told.err.count(f"kept as {rescue}") == 4
    assert len(load.load_folder(rescue)) == 4


def test_two_baselines_are_one_too_many(capsys):
    assert main(["gate", "--embedder", "patch32", "--baseline-python", "python", "--baseline-ref", "main"]) == 2
    assert "--baseline-python and --baseline-ref both name the baseline; give one of them" in capsys.readouterr().err


@pytest.mark.slow
def test_a_gate_whose_baseline_has_the_candidates_embedder_ends_with_both_paths(tmp_path, monkeypatch, capsys):
    site, root = tmp_path / "site-packages", tmp_path / "repository"
    site.mkdir()
    (site / "acme.py").write_text("from embedders.patch import patch as build\n")
    (root / "docs").mkdir(parents=True)
    (root / "docs" / "index.md").touch()
    git = [
        "git",
        "-C",
        str(root),
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@example.org",
        "-c",
        "init.defaultBranch=main",
    ]
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    assert main(["gate", "--embedder", "acme:build", "--baseline-ref", "main", *TINY, "--max-time=120"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.count(str(site / "acme.py")) == 2
    assert str(tmp_path / "cache") in told
