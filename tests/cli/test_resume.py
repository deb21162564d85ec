"""`vilt-bench run` that was killed, and again with --resume: real processes for the kill, made runs for the rest."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.cli import main
from vilt_bench.cli.keeping import here, keeping
from vilt_bench.record import journal, live, load, store
from vilt_bench.record.run import Failure

TINY = [
    "patch32",
    "--interaction",
    "none",
    "--hidden-size",
    "32",
    "--resolution",
    "64x64",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--quiet",
]
WITHIN_S = 60.0


def until(condition):
    """Waits for something that happens within moments, however loaded the machine is."""
    deadline_s = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return found


def blocks_in(folder):
    """Returns the blocks of samples that the only journal of a folder has."""
    found = [event for path in folder.glob(".run-*") for event in journal.read_lines(path.read_bytes()).events]
    return [event.series for event in found if isinstance(event, journal.Block) and not event.is_warmup]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_run_that_is_killed_loses_no_finished_block_and_goes_on_where_it_was(tmp_path, capsys):
    asked = ["run", *TINY, "--trials", "1", "--max-time", "3", "--precision", "0.0001", "--output", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-m", "vilt_bench", *asked], stderr=subprocess.DEVNULL) as process:
        until(lambda: len(blocks_in(tmp_path)) >= 2)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = blocks_in(tmp_path)
    assert workers
    assert psutil.wait_procs(workers, timeout=WITHIN_S)[1] == []
    assert main(["report", str(tmp_path), "--format", "csv"]) == 0
    assert "interrupted" in capsys.readouterr().out
    (cut,) = load.load_all([tmp_path])
    assert main([*asked, "--resume"]) == 0
    (run,) = load.load_all([tmp_path])
    assert [path.name for path in tmp_path.iterdir()] == [store.file_name(run)]
    assert (run.run_id, run.interrupted, run.failure) == (cut.run_id, False, None)
    assert run.trials[: len(cut.trials)] == cut.trials
    (first, *_) = run.trials
    assert first.samples.whole.wall_time_s[: kept[0].blocks[0]] == kept[0].whole.wall_time_s
    assert first.samples.passes == sum(block.blocks[0] for block in kept)
    before = (tmp_path / store.file_name(run)).read_bytes()
    assert main([*asked, "--resume"]) == 0
    assert (tmp_path / store.file_name(run)).read_bytes() == before


@pytest.fixture
def plan(monkeypatch, make_run, tmp_path):
    """Lets `run` find runs made of what it goes on with; returns the command, what was measured, and a maker."""
    measured = []
    sampling, where = Sampling(max_time_s=5), here("auto", None)

    def measure(cases, sampling, *, begun, finished, note, **_):
        measured.append({case.embedder: begun(case) for case in cases})
        runs = [made(case, run_id=measured[-1][case.embedder].run_id) for case in cases]
        for run in runs:
            note(run.run_id, journal.BrokenOff(Failure("error", "no real one")))
            finished(run)
        return runs

    def made(case, **fields):
        name = case if isinstance(case, str) else case.embedder
        return make_run(name, **{"sampling": sampling, "environment": where, **fields})

    monkeypatch.setattr("vilt_bench.director.sweep.measure_sweep", measure)

    def command(*more):
        return main(["run", "patch32", "patch16", "--max-time", "5", "--output", str(tmp_path), *more])

    return command, measured, made


def test_what_is_complete_is_shown_and_not_measured_again(plan, tmp_path, capsys):
    command, measured, made = plan
    store.save(made("patch32", run_id="done"), tmp_path)
    assert command("--resume") == 0
    assert [list(each) for each in measured] == [["patch16"]]
    told = capsys.readouterr()
    assert "of 2 cases, 1 complete in" in told.err
    assert "patch32" in told.out
    assert command("--resume") == 0
    assert len(measured) == 1
    assert len(load.load_all([tmp_path])) == 2


def test_without_resume_all_is_measured_again_as_ever(plan, tmp_path):
    command, measured, made = plan
    store.save(made("patch32", run_id="done"), tmp_path)
    assert command() == 0
    assert [list(each) for each in measured] == [["patch32", "patch16"]]
    assert len(load.load_all([tmp_path])) == 3


def test_a_record_that_was_interrupted_becomes_a_complete_one_of_the_same_name(plan, tmp_path):
    command, measured, made = plan
    path = store.save(made("patch32", run_id="cut", interrupted=True, trials=1), tmp_path)
    assert command("--resume") == 0
    assert measured[0]["patch32"].run_id == "cut"
    assert len(measured[0]["patch32"].trials) == 1
    assert not load.load(path).interrupted
    assert len(list(tmp_path.iterdir())) == 2


def test_after_the_plan_changed_what_is_new_is_measured_and_what_is_left_over_is_said(plan, tmp_path, capsys):
    command, measured, made = plan
    other = store.save(made("grid-r50", run_id="old", interrupted=True), tmp_path)
    longer = store.save(made("patch16", run_id="long", sampling=Sampling(max_time_s=60)), tmp_path)
    before = other.read_bytes(), longer.read_bytes()
    assert command("--resume") == 0
    assert list(measured[0]) == ["patch32", "patch16"]
    told = capsys.readouterr().err
    assert "left over in" in told
    assert "1 run (grid-r50)" in told
    assert (
        "measured anew, as the run that is there differs in sampling precision 0.01, 60 s / precision 0.01, 5 s" in told
    )
    assert (other.read_bytes(), longer.read_bytes()) == before


def test_of_two_directors_the_second_leaves_to_the_first_what_that_measures(plan, tmp_path, capsys):
    command, measured, _ = plan
    first = live.Journals(tmp_path)
    first.claim([live.Claim("a", Case("patch32"))], Sampling(max_time_s=5))
    assert command("--resume") == 0
    assert list(measured[0]) == ["patch16"]
    assert f"left to process {os.getpid()} on" in capsys.readouterr().err
    first.close()
    assert command("--resume") == 0
    assert list(measured[1]) == ["patch32"]


def test_a_run_into_a_folder_with_what_was_cut_short_says_how_it_goes_on(plan, tmp_path, capsys):
    command, _, made = plan
    dead = live.Journals(tmp_path)
    dead.take_up(made("patch32", run_id="cut"), store.save(made("patch32", run_id="cut"), tmp_path))
    dead.close()
    assert command() == 0
    assert "1 run in" in (told := capsys.readouterr().err)
    assert "--resume goes on" in told


@pytest.mark.parametrize("is_killed_before", ["the record is gone", "a block"])
def test_a_resume_that_is_killed_itself_loses_nothing(plan, tmp_path, is_killed_before):
    command, _, made = plan
    run = made("patch32", run_id="cut", interrupted=True)
    path = store.save(run, tmp_path)
    first = live.Journals(tmp_path)
    first.take_up(run, path)
    first.close()
    if is_killed_before == "the record is gone":
        store.save(run, tmp_path)
    (found,) = load.load_all([tmp_path])
    assert found == replace(run, interrupted=True)
    assert command("--resume") == 0
    assert sorted(each.case.embedder for each in load.load_all([tmp_path])) == ["patch16", "patch32"]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_kill_loses_of_records_at_a_url_is_said_before_anything_is_measured(tmp_path):
    pytest.importorskip("fsspec")
    said = []
    with keeping([Case("patch32")], Sampling(), f"memory://{tmp_path.name}", resume=False, say=said.append) as kept:
        assert kept.journals is None
    assert said == [
        f"memory://{tmp_path.name} gets whole records alone: a kill loses the cases that are being measured"
    ]
