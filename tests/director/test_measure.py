"""Directing the measuring: with scripted workers for the rules, with real ones for the rest."""

import errno
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace

import msgspec
import pytest

from vilt_bench import measure, protocol
from vilt_bench.ask import clips
from vilt_bench.ask.case import Case, Sampling, ViltConfig
from vilt_bench.director import measure as directing
from vilt_bench.director.measure import measure_together
from vilt_bench.director.process import Worker, WorkerFailedError, WorkerHungError, WorkerNotStartedError
from vilt_bench.errors import EmbedderError, InputError, MeasurementError
from vilt_bench.judge.latency import latency
from vilt_bench.judge.summary import summarise
from vilt_bench.record import codec, journal
from vilt_bench.record.join import join_blocks
from vilt_bench.record.peak import Peak
from vilt_bench.record.run import Conditions, Environment, Failure, Model, Pipelined, Series, Stage, Times
from vilt_bench.record.thin import MOST_PASSES
from vilt_bench.wire import Patience

TINY = ViltConfig(hidden_size=32, layers=1, heads=2, mlp_size=64)
ENVIRONMENT = Environment("machine", "f", "cpu", "cpu", 1, None, {}, {}, {})
MODEL = Model("linear", 768, 12, 12, (384, 640), 240, 40, "random", "random", "torch", ("synthetic",), "synthetic")


@dataclass
class Script:
    """A scripted machine: its clock, what was asked of whom, and how long passes take."""

    now_s: float = 0.0
    log: list[tuple[str, str]] = field(default_factory=list)
    pass_s: dict[str, float] = field(default_factory=lambda: {"patch32": 0.1})
    first_call_s: float = 0.1
    noise: list[float] = field(default_factory=lambda: [0.0])
    trial_s: list[float] = field(default_factory=list)
    """How long a pass takes by the process, in turn, where processes differ."""
    break_at: dict[tuple[str, str, int], BaseException] = field(default_factory=dict)
    workers: int = 0
    remarks: tuple[str, ...] = ()
    peaks: list[Peak] = field(default_factory=list)
    """Of the machine, one each time it is asked for."""
    peak_times_s: list[float | None] = field(default_factory=list)
    """How long each measurement of it was to take, by the workers that were asked to finish."""

    def start(self):
        if self.trial_s:
            self.pass_s = dict.fromkeys(self.pass_s, self.trial_s[self.workers % len(self.trial_s)])
        self.workers += 1
        return ScriptedWorker(self)


@dataclass
class ScriptedWorker:
    script: Script
    name: str = ""
    passes: int = 0
    closed: bool = False

    def ask(self, request, expected):
        script = self.script
        if isinstance(request, protocol.Prepare):
            self.name = request.case.embedder
        kind = type(request).__name__
        script.log.append((self.name, kind))
        count = script.log.count((self.name, kind))
        if (error := script.break_at.get((self.name, kind, count))) is not None:
            raise error
        match request:
            case protocol.Prepare():
                return protocol.Prepared("2026-01-01T00:00:00+00:00", 0.5, script.first_call_s, ENVIRONMENT, MODEL)
            case protocol.Count():
                return protocol.Counted((Stage("visual_embedder.projection", "visual_embedder", "[]", 1),), None, ())
            case protocol.Measure(seconds):
                return protocol.Measured(self._block(seconds))
            case protocol.MeasurePipeline(seconds):
                script.now_s += 3 * seconds
                return protocol.PipelineMeasured(Pipelined(1, False, (0.3,), (0.2,), (float(count),), (3,), "scripted"))
            case protocol.MeasureEnergy():
                return protocol.EnergyMeasured(None)
            case protocol.Finish(peak_time_s):
                script.peak_times_s.append(peak_time_s)
                peak = None if peak_time_s is None or not script.peaks else script.peaks.pop(0)
                return protocol.Finished(Conditions(), script.remarks, peak)

    def _block(self, seconds):
        samples = []
        begin = self.script.now_s
        while not samples or self.script.now_s - begin < seconds:
            noise = self.script.noise[self.passes % len(self.script.noise)]
            samples.append(self.script.pass_s[self.name] * (1 + noise))
            self.script.now_s += 2 * samples[-1]
            self.passes += 1
        times = Times(wall_time_s=tuple(samples))
        return Series(times, {"visual_embedder.projection": times}, times, (len(samples),))

    def close(self):
        self.closed = True

    def kill(self):
        self.closed = True


def run_script(script, *names, **sampling):
    script.pass_s = {name: script.pass_s.get(name, 0.1) for name in names}
    return measure_together(
        [Case(name) for name in names],
        Sampling(**sampling),
        start_worker=script.start,
        clock=lambda: script.now_s,
    )


@pytest.mark.parametrize(
    ("cases", "names"),
    [
        ([Case("patch32", resolution=(64, 64), threads=1)], ["patch32"]),
        (
            [Case("patch32", resolution=(side, side), threads=1) for side in (64, 96)],
            ["patch32 (64×64)", "patch32 (96×96)"],
        ),
        ([Case("patch32"), Case("patch32", batch_size=2)], ["patch32", "patch32 (batch_size 2)"]),
    ],
)
def test_cases_that_are_measured_together_are_told_apart_by_what_differs(cases, names):
    script, told = Script(), []
    measure_together(
        cases, Sampling(trials=1), report=told.append, start_worker=script.start, clock=lambda: script.now_s
    )
    assert list(dict.fromkeys(progress.name for progress in told)) == names


def samples(run):
    return [len(trial.samples.whole.wall_time_s) for trial in run.trials]


def test_what_processes_say_of_their_passes_stands_once_in_the_record():
    (run,) = run_script(Script(remarks=("tokens changed",)), "patch32", trials=2)
    assert run.warnings.count("tokens changed") == 1


def test_each_trial_has_a_process_of_its_own():
    script = Script()
    (run,) = run_script(script, "patch32", trials=4)
    assert script.workers == 4
    assert [trial.index for trial in run.trials] == [0, 1, 2, 3]


def test_steady_times_end_a_trial_once_there_are_enough_samples():
    (run,) = run_script(Script(), "patch32", trials=3, max_time_s=600)
    assert all(30 <= count < 90 for count in samples(run))
    assert all(len(trial.samples.blocks) >= 6 for trial in run.trials)


def test_trials_that_differ_are_followed_by_more_while_there_is_time():
    def differing(max_time_s):
        script = Script(trial_s=[0.1, 0.104, 0.096, 0.1])
        (run,) = run_script(script, "patch32", trials=3, max_time_s=max_time_s)
        return script, run

    script, run = differing(120)
    assert 3 < len(run.trials) <= 12
    assert script.now_s < 120 * 1.1
    assert len(differing(20)[1].trials) == 3


def test_trials_that_agree_are_not_followed_by_more():
    (run,) = run_script(Script(), "patch32", trials=3, max_time_s=600)
    assert len(run.trials) == 3


def test_one_trial_that_was_asked_for_stays_one():
    (run,) = run_script(Script(noise=[-0.3, 0.25, 0.4]), "patch32", trials=1, max_time_s=10)
    assert len(run.trials) == 1


def test_noise_goes_on_being_sampled_until_the_time_is_over():
    script = Script(noise=[-0.3, 0.25, 0.4, -0.1, 0.0, 0.35, -0.2])
    run_script(script, "patch32", trials=2, max_time_s=60, precision=0.001)
    assert script.now_s == pytest.approx(60, rel=0.1)


def test_the_time_is_that_of_an_embedder_over_all_its_trials():
    script = Script(noise=[-0.3, 0.25, 0.4, -0.1, 0.0, 0.35, -0.2])
    run_script(script, "patch32", "patch16", trials=3, max_time_s=30, precision=0.001)
    assert script.now_s == pytest.approx(60, rel=0.15)


def test_embedders_take_turns_block_by_block():
    script = Script()
    run_script(script, "patch32", "patch16", trials=1)
    turns = [name for name, kind in script.log if kind == "Measure"]
    assert turns[:6] == ["patch32", "patch16"] * 3


def test_a_slow_embedder_gets_one_pass_of_each_kind_and_no_second_trial_when_its_time_is_over():
    script = Script(pass_s={"region-r101-c4": 25.0}, first_call_s=25.0)
    (run,) = run_script(script, "region-r101-c4", trials=3, max_time_s=60)
    assert samples(run) == [1]
    assert run.trials[0].warmup.blocks == ()
    assert script.workers == 1


def test_a_first_call_that_took_the_time_of_a_trial_tells_how_much_is_enough():
    def measured(max_time_s):
        # A call of 2.4 s, passes of 0.33 s: an instrumented one and one more take 0.66 s, thirty of both 19.8 s.
        script = Script(pass_s={"patch32": 0.33}, first_call_s=2.4)
        return run_script(script, "patch32", trials=3, max_time_s=max_time_s)[0]

    run = measured(8)
    assert samples(run) == [1, 1, 1]
    (told,) = run.warnings
    assert "which left 1 pass; --max-time 82 is enough for 30 in each of 3 trials" in told  # 3 × (2.4 + 19.8 / 0.8)
    enough = measured(82)
    assert min(samples(enough)) >= 30
    assert not enough.warnings


def test_warmup_is_kept_apart_and_ends_when_times_settle():
    script = Script(noise=[1.0, 0.5, 0.2] + [0.0] * 1000)
    (run,) = run_script(script, "patch32", trials=1)
    (trial,) = run.trials
    assert trial.settled is True
    assert max(trial.warmup.whole.wall_time_s) == pytest.approx(0.2)
    assert max(trial.samples.whole.wall_time_s) == pytest.approx(0.1)


def test_warmup_that_never_settles_ends_with_its_share_of_the_time():
    growing = [0.05 * step for step in range(10_000)]
    (run,) = run_script(Script(noise=growing), "patch32", trials=1, max_time_s=20)
    (trial,) = run.trials
    assert trial.settled is False
    assert trial.samples.blocks


def test_an_embedder_that_fails_is_a_run_with_a_failure_and_the_others_go_on():
    out_of_memory = Failure("out-of-memory", "no more", "visual_embedder.roi_align")
    script = Script(break_at={("grid-r50", "Measure", 2): WorkerFailedError(out_of_memory)})
    patch, grid = run_script(script, "patch32", "grid-r50", trials=2)
    assert grid.failure == out_of_memory
    assert patch.failure is None
    assert len(patch.trials) == 2


def test_what_the_user_can_mend_is_raised_before_anything_is_timed():
    script = Script(break_at={("grid-r50", "Prepare", 1): InputError("no such image")})
    with pytest.raises(InputError, match="no such image"):
        run_script(script, "patch32", "grid-r50")
    assert "Measure" not in {kind for _, kind in script.log}


def test_images_and_names_of_many_cases_are_checked_once_each(monkeypatch):
    checked = []
    monkeypatch.setattr(clips, "check_images", checked.append)
    directing.check_cases(Case("patch32", batch_size=size, images=("synthetic",)) for size in range(1, 100))
    assert checked == [("synthetic",)]


def test_what_is_refused_is_left_out_of_a_sweep_and_the_others_go_on():
    def run(script, left_out):
        return measure_together(
            [Case("patch32"), Case("grid-r50"), Case("patch16")],
            Sampling(trials=2),
            leave_out=lambda case, error: left_out.append((case.embedder, str(error))),
            start_worker=script.start,
            clock=lambda: script.now_s,
        )

    refusals = {(name, "Prepare", 1): EmbedderError(f"{name} is of one size") for name in ("grid-r50", "patch32")}
    script, left_out = Script(pass_s={"patch16": 0.1}, break_at=refusals), []
    (alone,) = run(script, left_out)
    assert (alone.case.embedder, len(alone.trials), alone.failure) == ("patch16", 2, None)
    assert left_out == [("patch32", "patch32 is of one size"), ("grid-r50", "grid-r50 is of one size")]
    assert script.log.count(("grid-r50", "Prepare")) == 1
    none = Script(break_at={**refusals, ("patch16", "Prepare", 1): EmbedderError("nor is patch16")})
    with pytest.raises(EmbedderError, match="nor is patch16"):
        run(none, [])


def test_a_trial_of_many_passes_keeps_a_bounded_number_and_says_how_many_there_were():
    rng = random.Random(5)
    script = Script(pass_s={"patch32": 0.001}, noise=[abs(rng.gauss(0, 0.3)) for _ in range(9973)])
    (run,) = run_script(script, "patch32", trials=1, max_time_s=60, precision=1e-4)
    (trial,) = run.trials
    assert trial.samples.passes > 4 * MOST_PASSES
    assert MOST_PASSES / 2 <= sum(trial.samples.blocks) == len(trial.samples.whole.wall_time_s) <= MOST_PASSES
    assert latency(run).samples == trial.samples.passes
    # A minute by the scripted clock: a pair takes 2 × 1.24 ms, as the mean of |N(0, 0.3)| is 0.24.
    assert trial.samples.passes + trial.warmup.passes == pytest.approx(60 / (2 * 0.00124), rel=0.05)
    assert len(codec.encode(run)) < 2_000_000


def test_ctrl_c_keeps_what_was_measured():
    script = Script(break_at={("patch32", "Measure", 6): KeyboardInterrupt()})
    (run,) = run_script(script, "patch32", trials=3)
    assert run.interrupted
    assert run.failure is None
    assert len(run.trials) == 1
    assert samples(run)[0] > 0
    assert run.stages


def test_a_case_is_handed_out_as_soon_as_it_is_final_while_others_go_on():
    out_of_memory = Failure("out-of-memory", "no more")
    script = Script(
        pass_s={"patch32": 0.1, "grid-r50": 0.1},
        break_at={("grid-r50", "Measure", 2): WorkerFailedError(out_of_memory)},
    )
    told = []
    runs = measure_together(
        [Case("patch32"), Case("grid-r50")],
        Sampling(trials=2),
        finished=lambda run: told.append((run, script.workers)),
        start_worker=script.start,
        clock=lambda: script.now_s,
    )
    assert [(run.case.embedder, workers) for run, workers in told] == [("grid-r50", 2), ("patch32", 3)]
    assert {run.run_id for run, _ in told} == {run.run_id for run in runs}
    assert all(any(run is each for each in runs) for run, _ in told)


def replayed(script, names, **sampling):
    """Returns the runs, and what a journal of each would be read as."""
    happened = {}
    runs = measure_together(
        [Case(name) for name in names],
        Sampling(**sampling),
        note=lambda run_id, event: happened.setdefault(run_id, []).append(event),
        start_worker=script.start,
        clock=lambda: script.now_s,
    )
    data = [b"".join(map(journal.line, happened[run.run_id])) for run in runs]
    return runs, [journal.replay(journal.read_lines(each), name="journal") for each in data]


def test_a_journal_holds_all_that_the_record_does():
    out_of_memory = Failure("out-of-memory", "no more")
    script = Script(
        pass_s={"patch32": 0.1, "grid-r50": 0.1},
        noise=[0.3, 0.0, 0.01],
        break_at={("grid-r50", "Measure", 9): WorkerFailedError(out_of_memory)},
        remarks=("tokens changed",),
    )
    runs, read = replayed(script, ["patch32", "grid-r50"], trials=2)
    assert runs[1].failure == out_of_memory
    assert [replace(run, interrupted=False) for run in read] == runs


def test_each_block_is_noted_before_the_next_one_begins():
    script, order = Script(), []

    def note(run_id, event):
        if isinstance(event, journal.Block):
            order.append(len([kind for _, kind in script.log if kind == "Measure"]))

    measure_together(
        [Case("patch32")], Sampling(trials=1), note=note, start_worker=script.start, clock=lambda: script.now_s
    )
    assert order == list(range(1, len(order) + 1))


def cut_and_resumed(break_at, *, trials=3, max_time_s=60.0):
    """Returns a run that was interrupted, the one that it went on as, and what was asked for then."""
    sampling = Sampling(trials=trials, max_time_s=max_time_s, precision=1e-6)
    noise = [-0.3, 0.25, 0.4, -0.1, 0.0, 0.35, -0.2]
    first = Script(noise=noise, break_at={("patch32", "Measure", break_at): KeyboardInterrupt()})
    (cut,) = measure_together([Case("patch32")], sampling, start_worker=first.start, clock=lambda: first.now_s)
    second = Script(noise=noise)
    (run,) = measure_together(
        [Case("patch32")],
        sampling,
        begun=lambda _: cut,
        start_worker=second.start,
        clock=lambda: second.now_s,
    )
    return cut, run, first, second


def test_a_case_that_was_cut_short_goes_on_with_what_was_measured_and_the_time_that_is_left():
    cut, run, first, second = cut_and_resumed(22)
    assert cut.interrupted
    assert not run.interrupted
    assert (run.run_id, run.started_at, run.group) == (cut.run_id, cut.started_at, cut.group)
    assert run.trials[: len(cut.trials)] == cut.trials
    assert len(run.trials) == 3
    assert run.stages == cut.stages
    assert ("patch32", "Count") not in second.log
    assert first.now_s + second.now_s == pytest.approx(60, rel=0.1)


def test_a_trial_that_was_cut_too_early_to_count_is_kept_and_another_takes_its_place():
    cut, run, _, _ = cut_and_resumed(16)
    assert 0 < len(cut.trials[0].samples.blocks) < 6
    assert run.trials[0] == cut.trials[0]
    assert len(run.trials) == 4
    assert [trial.index for trial in run.trials] == [0, 1, 2, 3]


def test_a_case_of_which_all_is_there_is_handed_out_without_a_process():
    script = Script()
    (whole,) = run_script(script, "patch32", trials=2)
    again, told, case = Script(), [], Case("patch32")
    (run,) = measure_together(
        [case], Sampling(trials=2), begun=lambda _: whole, finished=told.append, start_worker=again.start
    )
    assert again.workers == 0
    assert told == [run]
    assert run.case is case
    assert run.trials == whole.trials


def test_a_case_whose_time_was_over_before_a_sample_gets_one_trial():
    cut, run, _, second = cut_and_resumed(2, trials=1, max_time_s=0.5)
    assert not cut.trials[0].samples.blocks
    assert run.trials[-1].samples.blocks
    assert second.workers == 1


def test_a_case_that_failed_is_tried_again_with_what_it_has():
    failure = Failure("crashed", "gone")
    script = Script(break_at={("patch32", "Prepare", 2): WorkerFailedError(failure)})
    (failed,) = run_script(script, "patch32", trials=2)
    assert failed.failure == failure
    again = Script()
    (run,) = measure_together(
        [Case("patch32")],
        Sampling(trials=2),
        begun=lambda _: failed,
        start_worker=again.start,
        clock=lambda: again.now_s,
    )
    assert run.failure is None
    assert run.trials[0] == failed.trials[0]
    assert len(run.trials) == 2
    assert "Gone on with after a failure: crashed: gone." in run.warnings


def test_surroundings_that_changed_between_the_trials_are_said(monkeypatch):
    cut, run, _, _ = cut_and_resumed(22)
    assert not run.warnings
    monkeypatch.setitem(globals(), "ENVIRONMENT", replace(ENVIRONMENT, settings={"governor": "powersave"}))
    again = Script()
    (run,) = measure_together(
        [Case("patch32")], cut.sampling, begun=lambda _: cut, start_worker=again.start, clock=lambda: again.now_s
    )
    assert run.warnings == ("Its trials were not all measured in the same surroundings: governor – / powersave.",)


def test_runs_measured_together_say_so():
    patch, grid = run_script(Script(), "patch32", "grid-r50", trials=1)
    assert patch.group == grid.group
    assert patch.run_id != grid.run_id
    assert (patch.position, grid.position) == (0, 1)


def test_joining_series_keeps_blocks_and_order():
    def series(*values):
        times = Times(wall_time_s=values)
        return Series(times, {"stage": times}, times, (len(values),))

    joined = join_blocks([series(1.0, 2.0), series(3.0)])
    assert joined.whole.wall_time_s == joined.stages["stage"].wall_time_s == (1.0, 2.0, 3.0)
    assert joined.blocks == (2, 1)


def test_an_unknown_embedder_is_refused_before_a_process_starts():
    script = Script()
    with pytest.raises(EmbedderError, match="did you mean 'patch32'"):
        run_script(script, "patch3")
    assert script.workers == 0


def tiny_case(**changes):
    fields = {"embedder": "patch32", "vilt": TINY, "resolution": (64, 64), "text_length": 8, "device": "cpu"}
    return Case(**{**fields, "threads": 1, **changes})


def test_a_real_measurement_is_complete():
    run = measure(tiny_case(), Sampling(trials=1, max_time_s=2, precision=0.2))
    (trial,) = run.trials
    assert run.failure is None
    assert run.environment.threads == 1
    assert run.environment.versions["torch"]
    assert trial.first_call_s > 0
    assert trial.conditions.cpu_share > 0
    count = sum(trial.samples.blocks)
    assert count >= 30
    assert set(trial.samples.stages) == {stage.name for stage in run.stages}
    for times in [trial.samples.whole, *trial.samples.stages.values()]:
        assert len(times.wall_time_s) == len(times.cpu_time_s) == count
        assert times.device_time_s is None
    assert run.energy is None


def test_a_worker_that_dies_is_a_failure_with_its_last_words():
    worker = Worker.start()
    worker._child._process.send_signal(signal.SIGABRT)
    with pytest.raises(WorkerFailedError, match="signal 6") as caught:
        worker.ask(protocol.Prepare(tiny_case()), protocol.Prepared)
    worker.close()
    assert caught.value.failure.kind == "crashed"


def test_a_worker_that_is_killed_says_so_and_what_it_may_mean():
    worker = Worker.start()
    worker.kill()
    with pytest.raises(WorkerFailedError) as caught:
        worker.ask(protocol.Prepare(tiny_case()), protocol.Prepared)
    worker.close()
    assert caught.value.failure.kind == "crashed"
    assert "signal 9" in caught.value.failure.message
    assert "memory" in caught.value.failure.message


def test_a_worker_that_dies_in_the_middle_of_a_reply_is_a_failure(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nread request\nprintf \'{"type": "Prep\'\nkill -9 $$\n')
    python.chmod(0o755)
    worker = Worker.start(str(python), older=True)
    with pytest.raises(WorkerFailedError, match="signal 9"):
        worker.ask(protocol.Prepare(tiny_case()), protocol.Prepared)
    worker.close()


@pytest.fixture
def impostor(tmp_path):
    """Makes a worker out of a shell's script; `$request` is what it was asked, descriptor 3 the wire."""

    def make(script, **options):
        python = tmp_path / "python"
        python.write_text(f"#!/usr/bin/env bash\neval exec 3'>&'${{VILT_BENCH_WIRE%%:*}}-\nread -r request\n{script}\n")
        python.chmod(0o755)
        return Worker.start(str(python), **{"patience": Patience(30), **options})

    return make


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("""echo '{"type": "Counted", "stages": [], "memory_method": null, "warnings": []}' >&3""", "replied Counted"),
        ("echo 'hello' >&3", "replied what this version can't read"),
        ('echo \'{"type": "Refused"}\' >&3', "replied what this version can't read"),
        ('yes \'{"type": "Doing", "phase": "x"}\' >&3', "doing something else"),
        ("head -c 40000000 /dev/zero >&3", "a line of more than 32 MiB"),
        ("exec 3>&-; exec sleep 600", "closed the pipe"),
    ],
)
def test_what_is_no_reply_is_a_failure_and_ends_the_worker(impostor, script, said):
    worker = impostor(script)
    with pytest.raises(WorkerFailedError, match=said):
        worker.ask(protocol.Prepare(tiny_case()), protocol.Prepared)
    assert worker._child.code is not None
    worker.close()


def test_a_reply_too_many_is_a_failure(impostor, tmp_path):
    welcome = protocol.encode(protocol.Welcome(1, "0", "/")).decode()
    (tmp_path / "replies").write_text(f"{welcome}\n{welcome}\n")  # in one write
    worker = impostor(f"cat '{tmp_path}/replies' >&3; sleep 600")
    with pytest.raises(WorkerFailedError, match="more than it was asked"):
        worker.ask(protocol.Hello(), protocol.Welcome)
    worker.close()


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("exit 0", "the process ended with exit code 0: it left no message"),
        ("echo broken >&2; exit 3", "the process ended with exit code 3: broken"),
    ],
)
def test_what_was_printed_before_is_not_why_a_process_ended(impostor, end, said):
    welcome = protocol.encode(protocol.Welcome(1, "0", "/")).decode()
    worker = impostor(f"echo 'ERROR: no GPU' >&2; echo '{welcome}' >&3; read -r request; {end}")
    worker.ask(protocol.Hello(), protocol.Welcome)
    with pytest.raises(WorkerFailedError) as caught:
        worker.ask(protocol.Measure(1.0), protocol.Measured)
    worker.close()
    assert caught.value.failure == Failure("crashed", said)


def test_a_process_that_a_signal_ends_is_told_with_the_line_that_it_was_at(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(
        "import os, signal\n\ndef build(**_):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker.start()
    with pytest.raises(WorkerFailedError) as caught:
        worker.ask(protocol.Prepare(replace(tiny_case(), embedder="broken:build")), protocol.Prepared)
    worker.close()
    file = tmp_path / "broken.py"
    assert caught.value.failure.message == f"the process ended with signal 11 (at {file}, line 4, in build)"


@pytest.mark.parametrize(
    "samples",
    [
        Series(),
        Series(Times((0.1,)), {}, Times((0.1,)), (0,)),
        Series(Times((0.1, 0.1)), {}, Times((0.1,)), (2,)),
        Series(Times((0.1,)), {"stage": Times((0.1, 0.1))}, Times((0.1,)), (1,)),
    ],
)
def test_a_block_that_is_not_what_it_says_is_a_failure(impostor, samples):
    reply = protocol.encode(protocol.Measured(samples)).decode()
    worker = impostor(f"echo '{reply}' >&3; sleep 600")
    with pytest.raises(WorkerFailedError, match="do not fit its number of passes"):
        worker.ask(protocol.Measure(1.0), protocol.Measured)
    worker.close()


@pytest.mark.parametrize("error", ["Exception", "__doc__", "KeyboardInterrupt", "no such"])
def test_a_refusal_of_a_kind_that_is_not_known_is_an_error_of_measuring(impostor, error):
    worker = impostor(f"""echo '{{"type": "Refused", "error": "{error}", "message": "no"}}' >&3""")
    with pytest.raises(MeasurementError, match="no"):
        worker.ask(protocol.Hello(), protocol.Welcome)
    worker.close()


@pytest.mark.parametrize(
    ("script", "phase"),
    [("", "building"), ("""printf '\\n{"type": "Doing", "phase": "the first call"}\\n' >&3""", "the first call")],
)
def test_a_worker_that_is_silent_for_too_long_is_ended_and_its_phase_is_told(impostor, script, phase):
    worker = impostor(f"{script}\nsleep 600", patience=Patience(0.3))
    with pytest.raises(WorkerHungError, match=f"hung in {phase}: no answer for 0.3 s.*--patience") as caught:
        worker.ask(protocol.Prepare(tiny_case()), protocol.Prepared)
    assert caught.value.failure.kind == "error"
    assert worker._child.code is not None
    worker.close()


def test_what_a_worker_prints_is_told_when_it_has_ended(impostor):
    told = []
    worker = impostor("echo chatter; echo more >&2", overhear=told.append)
    with pytest.raises(WorkerFailedError, match="exit code 0: more"):
        worker.ask(protocol.Hello(), protocol.Welcome)
    worker.close()
    (printed,) = told
    assert sorted(printed.split()) == ["chatter", "more"]


def test_a_worker_that_can_not_be_started_is_a_failure_and_what_is_there_is_kept():
    script = Script()

    def start():
        if script.workers == 3:
            script.workers += 1
            raise WorkerNotStartedError(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        return script.start()

    script.pass_s = {"patch32": 0.1, "patch16": 0.1}
    cases = [Case("patch32"), Case("patch16")]
    first, second = measure_together(cases, Sampling(trials=3), start_worker=start, clock=lambda: script.now_s)
    assert second.failure.message.startswith("a measuring process could not be started: too many files are open")
    assert len(second.trials) == 1
    assert first.failure is None
    assert len(first.trials) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_too_few_descriptors_are_a_worker_that_can_not_be_started():
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, limits[1]))
    try:
        with pytest.raises(WorkerNotStartedError, match="too many files are open"):
            Worker.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(lowest)


def test_why_git_does_not_tell_the_commit_is_in_the_record(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (run,) = run_script(Script(), "patch32")
    assert run.source is None
    assert f"git config --global --add safe.directory {tmp_path}" in run.warnings[-1]


def test_the_machines_peak_is_measured_once_for_a_group_after_its_passes_and_every_run_has_the_best():
    script = Script(peaks=[Peak(100e9, ((2**26, 9e9),)), Peak(250e9, ((2**26, 8e9),), "onednn's")])
    script.pass_s = {"patch32": 0.1, "grid-r50": 0.2}
    cases = [Case("patch32"), Case("grid-r50"), Case("patch32", backend="onednn")]
    runs = measure_together(
        cases, Sampling(trials=2, max_time_s=20), start_worker=script.start, clock=lambda: script.now_s
    )
    assert [run.peak for run in runs] == 3 * [Peak(250e9, ((2**26, 9e9),), "onednn's")]
    # Once for each backend, whose own product may be the fastest; never in a later trial.
    assert [time_s is not None for time_s in script.peak_times_s] == [True, False, True, False, False, False]
    kinds = [kind for _, kind in script.log]
    first_trial = kinds[: kinds.index("Prepare", len(cases))]
    assert "Measure" not in first_trial[first_trial.index("Finish") :]


def test_looking_for_the_peak_takes_a_small_share_of_a_cases_time_and_none_of_a_case_without_any():
    for max_time_s, expected in ((60, 0.02), (10, 0.005), (0.5, None)):
        script = Script()
        (run,) = run_script(script, "patch32", trials=1, max_time_s=max_time_s)
        assert script.peak_times_s == [expected]
        assert run.peak is None  # as of a worker of an older version, or where it can't be measured


def test_groups_of_a_sweep_share_the_peak():
    from vilt_bench.director.sweep import measure_sweep

    script = Script(peaks=[Peak(100e9, ((2**26, 9e9),))], pass_s={"patch32": 0.1})
    cases = [Case("patch32", seed=seed) for seed in range(3)]
    runs = measure_sweep(
        cases, Sampling(trials=1, max_time_s=10), together=1, start_worker=script.start, clock=lambda: script.now_s
    )
    assert {run.peak for run in runs} == {Peak(100e9, ((2**26, 9e9),))}
    assert sum(time_s is not None for time_s in script.peak_times_s) == 1


def test_workers_and_directors_of_older_versions_understand_finishing():
    class Finish(msgspec.Struct, frozen=True, tag=True):
        """As it was before the peak."""

    asked = protocol.encode(protocol.Finish(0.02))
    assert msgspec.json.decode(asked, type=Finish) == Finish()
    assert protocol.decode_request(msgspec.json.encode(Finish())) == protocol.Finish(None)


def test_a_journal_keeps_the_peak_for_a_run_that_is_gone_on_with():
    peak = Peak(100e9, ((2**26, 9e9),))
    script, events = Script(peaks=[peak]), []
    measure_together(
        [Case("patch32")],
        Sampling(trials=1, max_time_s=10),
        start_worker=script.start,
        clock=lambda: script.now_s,
        note=lambda _, event: events.append(event),
    )
    kept = journal.replay(journal.read_lines(b"".join(map(journal.line, events))), name="a journal")
    assert kept.peak == peak


def test_a_measured_run_knows_the_machines_peak_and_shows_how_much_of_it_each_stage_reaches():
    case = Case("patch32", vilt=TINY, resolution=(32, 32), text_length=4, images=("synthetic",), threads=1)
    run = measure(case, Sampling(trials=1, max_time_s=1))
    assert run.peak is not None
    assert run.peak.dtype == "float32"
    assert 1e8 < run.peak.flops_per_s < 1e14
    rows = {row.name: row.limit for row in summarise(run).rows}
    assert all(found is not None and 0 <= found.least_s < 1 for found in rows.values())


def test_rounds_of_a_pipeline_follow_the_passes_in_turns_within_the_trials_time():
    script = Script(pass_s=dict.fromkeys(("patch32", "grid-r50", "patch16"), 0.01), noise=[0.1, -0.1, 0.0])
    kept = {}
    runs = measure_together(
        [Case("patch32", preprocessing_workers=1), Case("grid-r50", preprocessing_workers=1), Case("patch16")],
        Sampling(max_time_s=10, trials=2, precision=1e-9),
        start_worker=script.start,
        clock=lambda: script.now_s,
        note=lambda run_id, event: kept.setdefault(run_id, []).append(journal.line(event)),
    )
    asked = [each for each in script.log if each[1] == "MeasurePipeline"]
    assert asked == 2 * [("patch32", "MeasurePipeline"), ("grid-r50", "MeasurePipeline")] * directing.PIPELINE_ROUNDS
    first, _, without = runs
    assert [trial.pipelined.model_s for trial in first.trials] == [(1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)]
    assert first.trials[0].pipelined.batches == (3, 3, 3, 3)
    assert without.trials[0].pipelined is None
    # A share of the time is the pipeline's, and the passes have the rest.
    passes_s = 0.02 * (first.trials[0].samples.passes + first.trials[0].warmup.passes)
    assert passes_s <= 1.05 * 5 * (1 - directing.PIPELINE_SHARE)
    assert codec.decode(codec.encode(first), name="record") == first
    lines = journal.read_lines(b"".join(kept[first.run_id]))
    assert journal.replay(lines, name="journal").trials[1].pipelined == first.trials[1].pipelined


def test_a_pipeline_is_measured_beside_the_passes():
    case = Case(
        "patch32", resolution=(64, 64), vilt=TINY, threads=1, preprocessing_workers=1, preprocessor="torchvision"
    )
    (run,) = measure_together([case], Sampling(trials=1, max_time_s=0.5, least_samples=1))
    assert run.failure is None
    found = run.trials[0].pipelined
    assert min(found.pipelined_s + found.preprocessing_s + found.model_s) > 0
    assert len(found.pipelined_s) == directing.PIPELINE_ROUNDS
    assert run.model.preprocessing.startswith("torchvision")
    assert not any(stage.component == "preprocessing" for stage in run.stages)  # beside the pass, not in it
