"""The command line around measuring processes: signals, what is told meanwhile, what is kept when something fails."""

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace

import pytest

from vilt_bench.ask.case import Sampling
from vilt_bench.cli import main, progress, screen
from vilt_bench.director.measure import Progress
from vilt_bench.director.sweep import SweepProgress, TimeLeft
from vilt_bench.record import load
from vilt_bench.record.run import Failure

KILLED = Failure("crashed", "the process was killed (signal 9), as the system does when memory runs out")


@pytest.fixture
def measured(monkeypatch):
    """Lets commands find runs that are made instead of measured; returns where they are put, and what may happen."""
    found, meanwhile = [], []

    def measure(cases, sampling, **_):
        for happen in meanwhile:
            happen()
        return [run(case) if callable(run) else run for run, case in zip(found, cases, strict=True)]

    for place in ("measure.measure_together", "sweep.measure_sweep"):
        monkeypatch.setattr(f"vilt_bench.director.{place}", measure)
    return found, meanwhile


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_signal_that_is_ignored_stays_ignored_as_nohup_asks(monkeypatch):
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        screen.keep_on_termination()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        for number, handler in zip((signal.SIGHUP, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_ctrl_c_while_the_command_line_is_imported_is_quiet():
    program = """
import signal, sys
from vilt_bench.__main__ import main
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "vilt_bench.cli.verdicts":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.argv = ["vilt-bench", "list"]
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_command_is_a_module_too():
    done = subprocess.run([sys.executable, "-m", "vilt_bench", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("vilt-bench ")


def test_a_run_that_is_not_on_a_terminal_tells_each_case_once_when_it_is_over(capsys, make_run):
    first, second = make_run("patch32", noise=0, latencies_s={"visual_embedder.projection": 0.0123}), make_run("grid")
    stand = SweepProgress(1, 0, 3, group=1, groups=2, left=TimeLeft(60 * 14, 60 * 19), name="patch32")
    with progress.shown(quiet=False) as show:
        for phase in ("starting", "sampling", "sampling"):
            show(replace(stand, current=Progress("patch32", 0, 3, phase, spent_s=2.4, budget_s=60)))
        show(replace(stand, ended=first))
        failed = replace(second, failure=Failure("out-of-memory", "no more"))
        show(replace(stand, done=2, failed=1, ended=failed, name="grid", left=TimeLeft(None, 100)))
        show(replace(stand, done=3, ended=replace(first, interrupted=True), left=TimeLeft(0, 0)))
    assert capsys.readouterr().err.splitlines() == [
        "1 of 3: patch32: 12.30 [12.30, 12.30] ms; 14 to 19 min left",
        "2 of 3: grid: failed (out-of-memory): no more; at most 100 s of sampling left",
        "3 of 3: patch32: interrupted: 12.30 [12.30, 12.30] ms",
    ]


@pytest.mark.parametrize(
    ("low_s", "high_s", "said"),
    [
        (3.0, 9.5, "3 to 9.5 s left"),
        (60.0, 119.0, "60 to 119 s left"),
        (90.0, 1200.0, "1.5 to 20 min left"),
        (3600.0, 7 * 3600.0, "1 to 7 h left"),
        (600.0, 600.0, "about 10 min left"),
        (None, 7200.0, "at most 2 h of sampling left"),
    ],
)
def test_time_left_is_a_range_in_one_unit(low_s, high_s, said):
    assert progress.time_left(TimeLeft(low_s, high_s)) == said


def _read_whole(near):
    """Read what a closed terminal was told: the kernel hands it on in pieces of its own size, and fails at the end."""
    told = b""
    with open(near, "rb", buffering=0) as reader, contextlib.suppress(OSError):
        while piece := reader.read(10_000):
            told += piece
    return told.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_a_terminal_shows_the_whole_and_the_case_in_place(monkeypatch):
    import pty

    near, far = pty.openpty()
    with open(far, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "80")
        with progress.shown(quiet=False) as show:
            case = Progress("patch32 " + 100 * "x", 0, 3, "sampling", 12, 0.012, 3, 60)
            show(SweepProgress(12, 1, 48, group=3, groups=9, left=TimeLeft(60 * 14, 60 * 19), current=case))
    shown = _read_whole(near)
    assert "12 of 48 done, 1 failed; group 3 of 9; 14 to 19 min left" in shown
    assert "…" in shown
    assert not shown.rpartition("\x1b[1A")[2].strip("\x1b[2K")  # taken away at the end


def test_what_fails_is_named_by_what_tells_it_from_the_others(capsys, make_run, measured, tmp_path):
    found, _ = measured
    failure = Failure("error", "it broke", "visual_embedder")
    found += [
        lambda case: replace(make_run(run_id="a"), case=case),
        lambda case: replace(make_run(run_id="b"), case=case, failure=failure),
    ]
    names = ["patch32,resolution=64x64", "patch32,resolution=96x96"]
    assert main(["run", *names, "--quiet", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "vilt-bench: patch32 (96×96): error in visual_embedder: it broke\n"


def test_how_long_a_run_takes_is_told_before_it_begins(capsys, make_run, measured, tmp_path):
    found, _ = measured
    found += [make_run("patch32"), make_run("patch16", run_id="4567")]
    names = ["--embedder", "patch32", "--embedder", "patch16"]
    assert main(["run", *names, "--max-time", "90", "--output", str(tmp_path)]) == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("measuring 2 embedders in turns: 3 trials each in fresh processes, at most 3 min in all")


def test_every_place_that_runs_were_rescued_to_is_told(capsys, make_run, measured, tmp_path, monkeypatch):
    folder, rescue = tmp_path / "results", tmp_path / "rescue"
    rescue.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rescue))
    found, meanwhile = measured
    found += [make_run("patch32"), make_run("patch16", run_id="4567")]
    meanwhile.append(lambda: (shutil.rmtree(folder), folder.touch()))
    names = ["--embedder", "patch32", "--embedder", "patch16"]
    assert main(["run", *names, "--quiet", "--output", str(folder)]) == 2
    told = capsys.readouterr().err
    kept = list(rescue.glob(load.PATTERN))
    assert len(kept) == 2
    assert all(f"kept as {path}" in told for path in kept)


def test_every_embedder_that_failed_is_told(capsys, make_run, measured, tmp_path):
    found, _ = measured
    found += [make_run("patch32", failure=KILLED), make_run("patch16", run_id="4567", failure=KILLED)]
    names = ["--embedder", "patch32", "--embedder", "patch16"]
    assert main(["run", *names, "--quiet", "--output", str(tmp_path)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in told] == ["patch32", "patch16"]
    assert all("signal 9" in line for line in told)


def test_a_row_of_the_paper_whose_process_was_killed_is_no_success(capsys, make_run, measured, tmp_path, monkeypatch):
    # What is counted and published takes long, and is not what this is about.
    monkeypatch.setattr("vilt_bench.paper.counting.paper_table", lambda *_: None)
    monkeypatch.setattr("vilt_bench.paper.pages.counted.show", lambda *_: None)
    monkeypatch.setattr("vilt_bench.paper.pages.publish.publish", lambda *_, **__: [])
    found, _ = measured
    found.append(lambda case: make_run(case=case, sampling=Sampling(trials=1), trials=0, failure=KILLED))
    arguments = ["paper", "--measure", "--rows", "ViLT-B/32", "--trials", "1", "--device", "cpu", "--quiet"]
    assert main([*arguments, "--output", str(tmp_path)]) == 2
    assert "ViLT-B/32: crashed: the process was killed (signal 9)" in capsys.readouterr().err


def test_a_patience_that_is_no_time_is_refused(capsys, tmp_path):
    arguments = ["run", "--embedder", "patch32", "--quiet", "--output", str(tmp_path), "--patience", "0"]
    assert main(arguments) == 2
    assert "--patience must be between 0" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
def test_a_process_is_directed_though_standard_streams_are_closed():
    program = """
import sys
from vilt_bench.wire import Child
child = Child.start([sys.executable, "-c", '''
from vilt_bench import wire
owner = wire.attach()
for line in owner.requests:
    print("printed")
    owner.replies.write(b"answer\\\\n")
    owner.replies.flush()
'''])
child.send(b"go")
sys.exit(42 if child.receive(60) == b"answer" and child.close() is None else 1)
"""
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, program])
    assert done.returncode == 42


@pytest.mark.parametrize(
    ("loaded", "own", "expected"), [((), None, "PASSIVE"), ((), "ACTIVE", "ACTIVE"), (("torch",), None, None)]
)
def test_studies_wait_as_workers_do_unless_the_user_says_otherwise_or_torch_is_there(
    monkeypatch, loaded, own, expected
):
    from vilt_bench.cli.paper import wait_as_workers_do

    variables = {} if own is None else {"OMP_WAIT_POLICY": own}
    monkeypatch.setattr("vilt_bench.cli.paper.os.environ", variables)
    wait_as_workers_do(loaded)
    assert variables.get("OMP_WAIT_POLICY") == expected
