"""Names, origins and `vilt-bench rerun`, as a user meets them."""

import hashlib
import json
import shlex
from pathlib import Path

import pytest

from vilt_bench import load, load_all
from vilt_bench.cli import main
from vilt_bench.record import store
from vilt_bench.record.run import Fitness, Origin, PlanFile

TINY = ["--hidden-size=32", "--layers=1", "--heads=2", "--mlp-size=64", "--resolution=64x64", "--text-length=8"]
QUICK = [*TINY, "--device=cpu", "--threads=1", "--trials=1", "--max-time=0.01", "--quiet"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


def complaint(capsys, *arguments):
    try:
        code = main([*map(str, arguments)])
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
    return captured.err


def test_a_run_is_named_keeps_its_command_and_is_measured_again(capsys):
    asked = ["run", "patch32", "--image", "synthetic", *QUICK, "--name", "before a fix", "--output", "out of the way"]
    assert main(asked) == 0
    (old,) = load_all(["out of the way"])
    assert old.name == "before a fix"
    assert shlex.split(old.origin.command) == ["vilt-bench", *asked]
    assert old.origin.plan is None
    capsys.readouterr()

    code = main(["rerun", "before a fix", "--results", "out of the way", "--name", "after", "--format", "json"])
    captured = capsys.readouterr()
    assert code in (0, 1, 3), captured.err  # as of compare: two runs of one process each tell little
    again, new = load_all(["out of the way"])
    assert again.run_id == old.run_id
    assert (new.case, new.sampling, new.name) == (old.case, old.sampling, "after")
    assert new.origin.repeats == (old.run_id,)
    assert "saved out of the way" in captured.err
    (told,) = json.loads(captured.out)["comparisons"]
    assert (told["baseline"]["name"], told["candidate"]["name"]) == ("before a fix", "after")


def test_a_plan_is_kept_by_its_path_and_hash(capsys):
    text = 'embedders = ["patch32"]\n[axes]\nresolution = "64x64"\n[sampling]\ntrials = 1\nmax-time = 0.01\n'
    Path("plan.toml").write_text(text)
    assert main(["run", "--plan", "plan.toml", *QUICK]) == 0
    (run,) = load_all(["results"])
    assert run.origin.plan == PlanFile("plan.toml", hashlib.sha256(text.encode()).hexdigest())
    assert run.name is None


@pytest.mark.parametrize("name", ["", "a/b", "latest", "\x1b[31m"])
def test_a_bad_name_is_refused_before_anything_is_measured(capsys, name):
    assert "--name" in complaint(capsys, "run", "patch32", "--name", name)
    assert not Path("results").exists()


@pytest.mark.parametrize("command", ["report", "compare", "rerun"])
def test_what_no_record_is_meant_by_is_refused_alike(capsys, command):
    assert "no record latest" in complaint(capsys, command, "latest", *(["latest"] if command == "compare" else []))


def test_rerun_needs_a_record(capsys):
    assert "give a record" in complaint(capsys, "rerun")


def test_rerun_refuses_a_backend_that_is_not_installed(capsys, make_run):
    run = make_run(trials=1)
    store.save(make_run(trials=1, case=type(run.case)("patch32", backend="acme")), "results")
    assert "acme" in complaint(capsys, "rerun", "latest")


def test_report_and_compare_take_names_and_beginnings_of_ids(capsys, make_run):
    for second, name in enumerate(("before-fix", "after-fix")):
        run_id = ("0123abcd" if second else "fade0123") * 4
        start = f"2026-11-24T03:55:0{second}+00:00"
        store.save(make_run(run_id=run_id, group=run_id, name=name, started_at=start), "results")
    assert main(["compare", "before-fix", "latest", "--format", "json"]) in (0, 3)
    (told,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert told["baseline"]["runs"] == ["fade0123" * 4]
    assert told["candidate"]["runs"] == ["0123abcd" * 4]
    assert main(["report", "0123", "before-fix", "--format", "json"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)] == ["after-fix", "before-fix"]


def test_reports_tell_name_command_plan_commit_and_what_the_doctor_says(capsys, make_run):
    origin = Origin("vilt-bench run --plan 'my plan.toml'", PlanFile("my plan.toml", "f" * 64))
    run = make_run(run_id="0123abcd" * 4, name="before-fix", origin=origin, doctor=("2 threads for 1 cores",))
    path = store.save(run, "results")
    for format in ("table", "markdown", "html"):
        assert main(["report", str(path), "--format", format, "--output", f"report.{format}"]) == 0
        text = " ".join(Path(f"report.{format}").read_text().split()).replace("&#x27;", "'").replace("&#39;", "'")
        for said in ("before-fix: patch32", "my plan.toml", "SHA-256 ffffffffffff", "doctor: 2 threads for 1 cores"):
            assert said in text, (format, said)
    main(["report", str(path), "--format", "json"])
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["name"], told["command"], told["plan"]) == ("before-fix", origin.command, "my plan.toml")
    assert told["doctor"] == "2 threads for 1 cores"


def test_a_name_that_all_have_and_a_command_that_asked_for_all_are_told_once(capsys, make_run):
    for index, embedder in enumerate(("patch32", "patch16")):
        origin = Origin("vilt-bench run patch32 patch16")
        store.save(make_run(embedder, run_id=f"abcd{index}", name="night", origin=origin, trials=1), "results")
    assert main(["report", "night", "--format", "markdown"]) == 0
    side_by_side, _, each = capsys.readouterr().out.partition("night: patch16")
    assert side_by_side.count("vilt-bench run patch32 patch16") == side_by_side.count("night") == 1
    assert "vilt-bench run" not in each


def test_runs_of_other_names_are_not_joined(make_run, capsys):
    for index, name in enumerate(("before", "after")):
        store.save(make_run(run_id=f"abcd{index}", name=name, trials=1), "results")
    assert main(["report", "results", "--join", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_the_doctor_objects_to_what_disturbed_the_passes_and_says_nothing_unasked(make_run):
    from vilt_bench.judge.objections import objections

    where = make_run(trials=1).environment
    calm = make_run(trials=1).trials[0].conditions
    assert objections(where, [calm]) is None
    quiet = [type(calm)(fitness=Fitness(others_share=0.01, steal_share=0.0))]
    assert objections(where, quiet) == ()
    busy = [*quiet, type(calm)(fitness=Fitness(others_share=0.25, steal_share=0.5, thermal_throttles=2))]
    assert objections(where, busy) == (
        "other processes took 25% of the processors",
        "the hypervisor gave 50% of the processors to other machines",
        "the processor slowed down 2 times against heat",
    )


def test_a_function_that_python_calls_is_told_apart_from_records_that_do_not_say(make_run, tmp_path):
    from vilt_bench.record.run import FROM_PYTHON

    path = store.save(make_run(origin=FROM_PYTHON), tmp_path)
    assert load(path).origin == FROM_PYTHON
    assert FROM_PYTHON.command is None
    assert load(store.save(make_run(run_id="ffff"), tmp_path)).origin is None


def test_records_are_measured_again_as_a_sweep_is(monkeypatch, make_run):
    from vilt_bench.director import rerun

    asked = []
    monkeypatch.setattr(rerun, "check_repeatable", lambda runs: None)
    monkeypatch.setattr(rerun, "measure_sweep", lambda cases, sampling, **_: asked.append((cases, sampling)) or [])
    runs = [make_run("patch32"), make_run("grid-r50")]
    assert rerun.rerun(runs) == []
    assert asked == [([run.case for run in runs], runs[0].sampling)]
