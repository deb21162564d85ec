"""Measuring both sides together: scripted processes for the rules, simulated noise for the verdicts, real ones."""

import dataclasses
import errno
import math
import os
import random
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vilt_bench import protocol
from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.director.gate import gate, gate_all
from vilt_bench.director.lockstep import Installation
from vilt_bench.director.process import WorkerFailedError, WorkerHungError, WorkerNotStartedError
from vilt_bench.errors import ConfigError, EmbedderError, MeasurementError, UnknownEmbedderError
from vilt_bench.judge.pairs import LOOKS, SAMPLE_TURNS, Pair, decide, judge_pairs, pairs_of
from vilt_bench.judge.significance import neighbour_logs
from vilt_bench.record import journal
from vilt_bench.record.run import Conditions, Environment, Failure, Model, Series, Stage, Times
from vilt_bench.report.verdicts import exit_code

TINY = ViltConfig(hidden_size=32, layers=1, heads=2, mlp_size=64)
ENVIRONMENT = Environment("machine", "f", "cpu", "cpu", 1, None, {}, {}, {})
MODEL = Model("linear", 768, 12, 12, (384, 640), 240, 40, "random", "random", "torch", ("synthetic",), "synthetic")
STAGE = "visual_embedder.projection"


@dataclass
class Script:
    """A scripted machine: its clock, who was asked for what, and how long a pass of each side takes."""

    pass_s: dict[str, float] = field(default_factory=lambda: {"baseline": 0.1, "candidate": 0.1})
    cold: int = 0
    """Passes of a process that take twice as long, the first ones."""
    start_s: float = 3.0
    noise: float = 0.001
    now_s: float = 0.0
    turns: list[str] = field(default_factory=list)
    started: dict[str, int] = field(default_factory=lambda: {"baseline": 0, "candidate": 0})
    break_at: dict[tuple[str, str, int], BaseException] = field(default_factory=dict)
    break_once: dict[tuple[str, str, int], BaseException] = field(default_factory=dict)
    stages: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: dict.fromkeys(("baseline", "candidate"), (STAGE,))
    )
    parameters: dict[str, int] = field(default_factory=lambda: {"baseline": 1, "candidate": 1})
    speaks: int = protocol.VERSION
    knows: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Newer fields of a case, of sides that know fewer than this version."""
    throttled: str | None = None
    origin: str | None = None
    origins: dict[str, str] = field(default_factory=dict)
    """Of sides that differ from `origin`."""
    modules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    location: str | None = None
    options: dict = field(default_factory=dict)
    images: dict = field(default_factory=dict)
    compares: list[bool] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(3))

    def play(self, **options):
        asked = {"case": Case("patch32"), "baseline": Installation("main"), "max_time_s": 600, **options}
        return gate(**asked, start=self._starts(), clock=lambda: self.now_s)

    def play_all(self, *cases, **options):
        asked = {"baseline": Installation("main"), "max_time_s": 600, **options}
        return gate_all(cases, **asked, start=self._starts(), clock=lambda: self.now_s)

    def _starts(self):
        return {side: lambda side=side: self._start(side) for side in self.pass_s}

    def _start(self, side):
        self.started[side] += 1
        return ScriptedProcess(self, side)


@dataclass
class ScriptedProcess:
    script: Script
    side: str
    asked: dict[str, int] = field(default_factory=dict)
    sent: object = None

    def ask(self, request, expected):
        self.send(request)
        return self.receive(expected)

    def send(self, request):
        self.sent = request

    def receive(self, expected):
        script, kind = self.script, type(self.sent).__name__
        self.asked[kind] = self.asked.get(kind, 0) + 1
        at = (self.side, kind, self.asked[kind])
        if (error := script.break_once.pop(at, script.break_at.get(at))) is not None:
            raise error
        match self.sent:
            case protocol.Hello():
                knows = script.knows.get(self.side, ("images_per_text",))
                return protocol.Welcome(script.speaks, "0.1.0", script.location or f"/{self.side}", knows)
            case protocol.Prepare():
                script.now_s += script.start_s / 2
                script.options = dict(self.sent.case.options)
                script.images[self.side] = self.sent.case.images
                script.compares.append(self.sent.compares)
                return protocol.Prepared(
                    "2026-01-01T00:00:00+00:00",
                    0.5,
                    0.1,
                    ENVIRONMENT,
                    MODEL,
                    script.origins.get(self.side, script.origin),
                    script.modules.get(self.side, ()),
                )
            case protocol.Count():
                stages = tuple(
                    Stage(name, "visual_embedder", "[]", script.parameters[self.side])
                    for name in script.stages[self.side]
                )
                return protocol.Counted(stages, None, ())
            case protocol.Sample(instrumented):
                script.turns.append(self.side[0])
                pass_s = script.pass_s[self.side] * (1 + script.rng.gauss(0, script.noise))
                pass_s *= 2 if self.asked[kind] <= script.cold else 1
                script.now_s += pass_s
                times = Times(wall_time_s=(pass_s,), cpu_time_s=(pass_s,))
                if not instrumented:
                    return protocol.Measured(Series(whole=times, blocks=(1,)))
                stages = dict.fromkeys(script.stages[self.side], times)
                return protocol.Measured(Series(stages=stages, instrumented=times, blocks=(1,)))
            case protocol.Finish():
                reasons = None if script.throttled is None else (script.throttled,)
                return protocol.Finished(Conditions(throttle_reasons=reasons), (f"tokens of the {self.side} changed",))

    def close(self, within_s=0):
        pass

    def kill(self):
        pass


PATCHES = Case("patch32"), Case("patch16"), Case("patch", options={"patch_size": 8})


def test_cases_that_are_gated_together_share_the_probability_of_a_false_alarm():
    outcomes = list(Script().play_all(*PATCHES, error=0.012))
    assert [outcome.comparison.case for outcome in outcomes] == list(PATCHES)
    # Bonferroni: alarms in any of three tests at a third of the error each are no more likely than the error.
    assert [outcome.comparison.error for outcome in outcomes] == pytest.approx([0.004] * 3)
    assert Script().play(error=0.012).comparison.error == 0.012


def test_a_case_that_cannot_be_measured_takes_no_other_with_it():
    script = Script(break_once={("baseline", "Prepare", 1): EmbedderError("broken")})
    broken, whole = script.play_all(*PATCHES[:2])
    assert "broken" in str(broken.problem)
    assert (broken.comparison.verdict, broken.runs) == ("missing", ())
    assert broken.comparison.error == whole.comparison.error
    assert whole.problem is None
    assert whole.comparison.verdict == "unchanged"


def test_outcomes_of_several_cases_come_one_by_one_and_none_after_ctrl_c():
    script = Script()
    outcomes = script.play_all(*PATCHES)
    first = next(outcomes)
    assert script.started["baseline"] == first.comparison.baseline.processes
    script.break_at["candidate", "Sample", 20] = KeyboardInterrupt()
    (second,) = outcomes
    assert (first.interrupted, second.interrupted) == (False, True)


def test_limits_out_of_their_range_are_refused_before_any_case():
    for wrong in ({"tolerance": 0.0}, {"max_time_s": math.nan}, {"patience_s": -1.0}):
        with pytest.raises(ConfigError):
            Script().play_all(*PATCHES, **wrong)


def test_the_turn_goes_back_and_forth_in_mirrored_order():
    script = Script()
    script.play()
    turns = ["".join(script.turns[index : index + 4]) for index in range(0, len(script.turns), 4)]
    assert set(turns) == {"bccb", "cbbc"}


@pytest.mark.parametrize(
    ("pass_s", "cold", "warmup"), [(0.01, 0, 4), (0.01, 2, 6), (0.01, 3, 6), (0.01, 999, 4), (0.3, 0, 2), (0.3, 1, 4)]
)
def test_warm_up_ends_when_passes_have_settled(pass_s, cold, warmup):
    for run in Script(dict.fromkeys(("baseline", "candidate"), pass_s), cold=cold).play().runs:
        assert {len(trial.warmup.whole.latency_s + trial.warmup.instrumented.latency_s) for trial in run.trials} == {
            warmup
        }


def test_what_all_processes_of_a_side_have_in_common_is_looked_at_in_the_first_pair_only():
    script = Script()
    script.play()
    assert script.compares == [True, True, *[False] * (2 * min(LOOKS) - 2)]


def test_identical_sides_are_unchanged_at_the_first_look():
    outcome = Script().play()
    assert outcome.comparison.verdict == "unchanged"
    assert outcome.comparison.baseline.processes == min(LOOKS)


def test_a_clear_slowdown_ends_it_at_the_first_look():
    script = Script({"baseline": 0.1, "candidate": 0.11})
    comparison = script.play().comparison
    assert comparison.verdict == "regressed"
    assert comparison.total.ratio.value == pytest.approx(1.1, rel=0.01)
    assert script.started == {"baseline": min(LOOKS), "candidate": min(LOOKS)}
    assert [stage.verdict for stage in comparison.stages] == ["regressed"]


def test_what_could_be_found_is_what_fits_into_the_time_though_it_ended_early():
    long, short = (Script(noise=0.07).play(max_time_s=seconds).comparison for seconds in (600, 45))
    assert long.verdict == "unchanged"
    assert long.detectable < 0.9 * short.detectable


def test_looks_and_progress_ask_each_pair_of_processes_once(monkeypatch):
    from vilt_bench.judge import pairs

    asked = []
    monkeypatch.setattr(pairs, "neighbour_logs", lambda *columns: asked.append(1) or neighbour_logs(*columns))
    comparison = Script({"baseline": 0.1, "candidate": 0.1025}, noise=0.3).play(max_time_s=2000).comparison
    count = comparison.baseline.processes
    assert count == max(LOOKS)
    assert len(asked) <= 2 * (2 + 1) * count  # two clocks; the whole in both kinds of passes, and one stage


def test_a_speedup_is_improved():
    assert Script({"baseline": 0.1, "candidate": 0.08}).play().comparison.verdict == "improved"


@pytest.mark.parametrize("max_time_s", [5, 20, 61, 200])
def test_it_never_takes_longer_than_it_may(max_time_s):
    script = Script({"baseline": 0.3, "candidate": 0.3}, noise=0.3)
    comparison = script.play(max_time_s=max_time_s).comparison
    assert script.now_s <= max_time_s + 1.2 * 1.5  # the last turn was under way
    assert comparison.spent_s == pytest.approx(script.now_s)


def test_where_time_is_short_pairs_are_so_short_that_the_first_look_is_reached():
    # Four turns a pair would leave time for five pairs.
    script = Script(pass_s={"baseline": 0.65, "candidate": 0.72}, start_s=3.4)
    outcome = script.play(max_time_s=90)
    assert outcome.comparison.verdict == "regressed"
    assert outcome.comparison.baseline.processes == min(LOOKS)
    assert outcome.comparison.spent_s < 90


def test_too_little_time_is_inconclusive_and_told_how_much_it_takes():
    comparison = Script({"baseline": 2.0, "candidate": 4.0}).play(max_time_s=60).comparison
    assert comparison.verdict == "inconclusive"
    assert "--max-time" in comparison.total.reason
    assert any("pairs take about" in note for note in comparison.notes)


def test_the_time_that_more_pairs_are_said_to_take_is_what_they_take():
    # Fast passes: far more turns a pair than slow ones get.
    script = Script({"baseline": 0.005, "candidate": 0.005125}, noise=0.3, start_s=1.2)
    comparison = script.play(max_time_s=60).comparison
    told = next(found for note in comparison.notes if (found := re.search(r"(\d+) pairs take about (\d+) s", note)))
    assert int(told[2]) / int(told[1]) == pytest.approx(comparison.spent_s / comparison.baseline.processes, rel=0.1)


def test_every_sample_is_kept_in_the_records_of_both_sides():
    outcome = Script().play()
    baseline, candidate = outcome.runs
    assert baseline.group == candidate.group
    assert "as baseline: main" in baseline.warnings[0]
    assert len(baseline.trials) == len(candidate.trials) == min(LOOKS)
    assert len(pairs_of(baseline, candidate)) == min(LOOKS)
    again, _ = decide(pairs_of(baseline, candidate))
    assert again[0] == outcome.comparison.total


def test_each_pair_is_kept_before_the_next_one_begins():
    happened, seen, script = {}, [], Script()

    def note(run_id, event):
        happened.setdefault(run_id, []).append(event)
        seen.append((event.trial.index, dict(script.started)))

    outcome = script.play(note=note)
    assert seen == [(pair, dict.fromkeys(script.started, pair + 1)) for pair in range(min(LOOKS)) for _ in range(2)]
    for run in outcome.runs:
        lines = journal.read_lines(b"".join(map(journal.line, happened[run.run_id])))
        read = journal.replay(lines, name="journal")
        assert (read.side, read.group, read.trials) == (run.side, run.group, run.trials)
        assert read.interrupted


def test_what_a_side_says_of_its_passes_stands_once_in_its_record():
    for run, side in zip(Script().play().runs, ("baseline", "candidate"), strict=True):
        assert [warning for warning in run.warnings if "changed" in warning] == [f"tokens of the {side} changed"]


def test_ctrl_c_keeps_what_was_measured_and_judges_it():
    script = Script({"baseline": 0.1, "candidate": 0.2})
    script.break_at["candidate", "Sample", 20] = KeyboardInterrupt()
    outcome = script.play()
    assert outcome.interrupted
    assert all(run.interrupted and run.trials[0].samples.whole.latency_s for run in outcome.runs)
    assert outcome.comparison.verdict == "inconclusive"
    assert any("Interrupted" in note for note in outcome.comparison.notes)


def test_a_candidate_that_fails_is_missing_and_never_a_pass():
    script = Script()
    failure = Failure("out-of-memory", "no more", "visual_embedder.roi_align")
    script.break_at["candidate", "Sample", 3] = WorkerFailedError(failure)
    outcome = script.play()
    assert outcome.comparison.verdict == "missing"
    assert "no more" in outcome.comparison.total.reason
    assert outcome.runs[1].failure == failure


KILLED = Failure("crashed", "the process was killed (signal 9), as the system does when memory runs out")


@pytest.mark.parametrize("failure", [KILLED, Failure("out-of-memory", "no more")])
def test_memory_that_ran_out_once_decides_nothing_and_passes_by_no_option(failure):
    script = Script()
    script.break_once["candidate", "Sample", 3] = WorkerFailedError(failure)
    outcome = script.play()
    assert outcome.comparison.verdict == "inconclusive"
    assert "alone it runs through" in outcome.comparison.total.reason
    assert exit_code([outcome.comparison], "pass") == 3
    assert outcome.runs[1].failure == failure


@pytest.mark.parametrize("request_name", ["Hello", "Prepare", "Count", "Sample", "Finish"])
def test_memory_that_runs_out_for_the_candidate_alone_where_the_baseline_runs_through_is_a_regression(request_name):
    script = Script()
    script.break_at["candidate", request_name, 1] = WorkerFailedError(KILLED)
    total = script.play().comparison.total
    assert (total.verdict, total.missing_from) == ("missing", "candidate")
    assert "where the baseline ran through under the same limit: a regression" in total.reason


@pytest.mark.parametrize("late", [27, 30])
def test_memory_that_ran_out_for_both_decides_nothing(late):
    script = Script()
    script.break_at["candidate", "Sample", 3] = WorkerFailedError(KILLED)
    script.break_at["baseline", "Sample", late] = WorkerFailedError(KILLED)
    comparison = script.play().comparison
    assert comparison.verdict == "inconclusive"
    assert "the baseline alone does not run through either" in comparison.total.reason


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), None])
def test_memory_that_ran_out_when_there_is_no_time_to_look_again_decides_nothing(stop):
    script = Script()
    script.break_once["candidate", "Sample", 3] = WorkerFailedError(KILLED)
    if stop is not None:
        script.break_at["baseline", "Sample", 7] = stop
    outcome = script.play(max_time_s=600 if stop else 8)
    assert outcome.comparison.verdict == "inconclusive"
    assert "was not seen in the time" in outcome.comparison.total.reason
    assert outcome.interrupted == (stop is not None)
    assert len(outcome.runs) == 2


def test_why_the_commit_is_not_known_is_told_with_the_verdict_and_kept_in_the_record(tmp_path, monkeypatch):
    for arguments in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    outcome = Script().play()
    remedy = f"git config --global --add safe.directory {tmp_path}"
    assert any("dubious ownership" in note and remedy in note for note in outcome.comparison.notes)
    baseline, candidate = (" ".join(run.warnings) for run in outcome.runs)
    assert remedy in candidate
    assert remedy not in baseline


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_a_process_that_the_system_kills_is_told_from_one_that_fails(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o755)
    script, candidate = Script(), Installation("new", str(python))
    start = {"baseline": lambda: script._start("baseline"), "candidate": candidate.start}
    total = gate(Case("patch32"), Installation("main"), candidate, start=start, max_time_s=60).comparison.total
    assert total.verdict == "missing"
    assert "signal 9" in total.reason
    assert "a regression" in total.reason


def test_a_baseline_that_fails_at_once_is_an_error():
    script = Script()
    script.break_at["baseline", "Prepare", 1] = WorkerFailedError(Failure("crashed", "gone"))
    with pytest.raises(MeasurementError, match=r"baseline \(main\) failed: gone"):
        script.play()


@pytest.mark.parametrize("request_name", ["Sample", "Finish"])
def test_a_baseline_that_fails_later_leaves_it_undecided_and_what_was_measured_is_kept(request_name):
    script = Script()
    script.break_at["baseline", request_name, 1] = WorkerFailedError(Failure("crashed", "gone"))
    outcome = script.play()
    assert outcome.comparison.verdict == "inconclusive"
    assert outcome.comparison.total.reason == "the baseline failed: gone"
    assert exit_code([outcome.comparison], "pass") == 3
    assert outcome.runs[0].failure == Failure("crashed", "gone")


def test_a_candidate_that_hangs_is_missing_and_its_failure_is_recorded():
    script = Script()
    hung = Failure("error", "hung in a pass: no answer for 60 s")
    script.break_at["candidate", "Sample", 3] = WorkerHungError(hung)
    outcome = script.play()
    assert outcome.comparison.verdict == "missing"
    assert outcome.runs[1].failure == hung


def test_a_baseline_that_hangs_at_the_greeting_is_not_taken_for_another_version():
    script = Script()
    script.break_at["baseline", "Hello", 1] = WorkerHungError(Failure("error", "hung in starting"))
    with pytest.raises(MeasurementError, match=r"baseline \(main\) failed: hung in starting"):
        script.play()


def test_a_process_that_can_not_be_started_is_nothing_that_the_candidate_lost():
    def play(at):
        script = Script()

        def start(side):
            if side == "candidate" and script.started[side] == at:
                raise WorkerNotStartedError(OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
            return script._start(side)

        sides = {side: lambda side=side: start(side) for side in script.pass_s}
        return gate(Case("patch32"), Installation("main"), max_time_s=600, start=sides, clock=lambda: script.now_s)

    outcome = play(at=2)
    assert exit_code([outcome.comparison], "fail") == 3
    assert "could not be started" in outcome.comparison.total.reason
    assert [len(run.trials) for run in outcome.runs] == [2, 2]
    with pytest.raises(MeasurementError, match=r"candidate \(this installation\) failed: .* could not be started"):
        play(at=0)


def test_time_that_is_over_before_there_is_a_pair_is_told_with_what_went_on():
    script = Script(start_s=300.0)  # each side takes 150 s
    script.break_at["candidate", "Prepare", 1] = WorkerFailedError(Failure("crashed", "killed (signal 9)"))
    outcome = script.play(max_time_s=100)
    assert outcome.comparison.verdict == "inconclusive"
    assert any("the candidate (this installation) was still starting" in note for note in outcome.comparison.notes)
    assert outcome.runs[-1].failure == Failure("error", "still starting when the time was over")


def test_an_error_says_whose_it_is():
    script = Script()
    script.break_at["candidate", "Prepare", 1] = EmbedderError("no embedder named 'new'")
    with pytest.raises(EmbedderError, match=r"candidate \(this installation\): no embedder named 'new'"):
        script.play()


def test_an_embedder_that_only_the_candidate_has_lacks_a_baseline():
    script = Script()
    script.break_at["baseline", "Prepare", 1] = UnknownEmbedderError("no embedder named 'new'")
    total = script.play().comparison.total
    assert (total.verdict, total.missing_from) == ("missing", "baseline")
    assert total.reason == "baseline (main): no embedder named 'new'"


def test_an_embedder_that_is_broken_in_the_baseline_is_an_error():
    script = Script()
    script.break_at["baseline", "Prepare", 1] = EmbedderError("embedder 'new' can't be built")
    with pytest.raises(EmbedderError, match=r"baseline \(main\): embedder 'new' can't be built"):
        script.play()


def test_the_records_tell_their_sides_apart():
    assert [run.side for run in Script().play().runs] == ["baseline", "candidate"]


def test_a_gpu_that_slowed_down_is_told():
    script = Script(throttled="hw_thermal_slowdown")
    assert any("The GPU slowed down meanwhile (hw_thermal" in note for note in script.play().comparison.notes)


def test_gated_stages_share_the_error_with_the_whole():
    rng = random.Random(1)
    pairs = [simulate_pair(rng, QUIET, slowdown=0.035) for _ in range(8)]
    whole_alone = judge_pairs(pairs, tolerance=0.025, decides="total", error=0.01)[0]
    assert judge_pairs(pairs, tolerance=0.025, decides="stages", error=0.02)[0] == whole_alone


def test_a_side_that_imports_what_the_other_side_is_is_refused(tmp_path):
    script = Script(origin=str(tmp_path / "src" / "my_embedder.py"))
    own = Installation("main", apart_from=(str(tmp_path),))
    with pytest.raises(ConfigError, match=r"baseline \(main\) imported .*my_embedder.py, which is not what"):
        script.play(baseline=own)
    installed = Script(origin=str(tmp_path / ".venv" / "site-packages" / "my_embedder.py"))
    assert installed.play(baseline=own).comparison.verdict == "unchanged"


def test_a_baseline_that_is_not_what_was_built_is_no_verdict(tmp_path):
    shared = str(tmp_path / "site-packages" / "acme" / "__init__.py")
    built = Installation("main", built=str(tmp_path / "built"))
    script = Script({"baseline": 0.1, "candidate": 0.1}, origin=shared)
    with pytest.raises(ConfigError) as refused:
        script.play(baseline=built)
    for told in ("no verdict", f"took the embedder from {shared}, the other side from {shared}", str(built.built)):
        assert told in str(refused.value)
    with pytest.raises(ConfigError, match="from an unknown file"):
        Script().play(baseline=built)


def test_a_baseline_whose_embedder_or_whose_vilt_bench_was_built_is_one(tmp_path):
    built = str(tmp_path / "built")
    own = Script(origin=f"{built}/environment/lib/python3.11/site-packages/acme.py")
    assert own.play(baseline=Installation("main", built=built)).comparison.verdict == "unchanged"
    shared = Script(origin="/elsewhere/acme.py")  # what is compared is vilt-bench itself
    assert shared.play(baseline=Installation("main", built="/baseline")).comparison.verdict == "unchanged"


def test_a_baseline_with_a_part_of_the_working_tree_in_it_is_refused(tmp_path):
    built = str(tmp_path / ".cache" / "built")  # in the repository, as some CI keeps it
    part, installed = str(tmp_path / "parts.py"), str(tmp_path / "env" / "site-packages" / "parts.py")
    installation = Installation("main", built=built, apart_from=(str(tmp_path), installed))
    for stray in (part, installed):
        script = Script(origin=f"{built}/source/acme.py", modules={"baseline": (f"{built}/source/acme.py", stray)})
        with pytest.raises(ConfigError, match=rf"baseline \(main\) imported {stray}, which is not what the reference"):
            script.play(baseline=installation)
    other = str(tmp_path / "env" / "site-packages" / "numpy" / "__init__.py")
    script = Script(origin=f"{built}/source/acme.py", modules={"baseline": (other,), "candidate": (part,)})
    assert script.play(baseline=installation).comparison.verdict == "unchanged"


def test_a_link_out_of_what_was_built_leads_to_the_other_side(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "acme.py").touch()
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / "acme.py").symlink_to(tmp_path / "root" / "acme.py")
    installation = Installation("main", built=str(tmp_path / "built"), apart_from=(str(tmp_path / "root"),))
    with pytest.raises(ConfigError, match="which is not what the reference has"):
        Script(origin=str(tmp_path / "built" / "acme.py")).play(baseline=installation)


def test_an_embedder_that_both_sides_share_is_told():
    notes = Script(origin="/here/my_embedder.py").play().comparison.notes
    assert any("Both sides take the embedder from /here/my_embedder.py" in note for note in notes)


def test_two_interpreters_of_one_code_are_the_same_installation(tmp_path):
    script = Script(origin="/here/my_embedder.py", location="/here/vilt_bench")
    notes = script.play(baseline=Installation("old", "/old/bin/python")).comparison.notes
    assert "Both sides are the same installation: what differs is noise." in notes


def test_a_candidate_that_is_an_installed_copy_is_told():
    origin = "/env/site-packages/acme/__init__.py"
    script = Script(origin=origin, origins={"baseline": "/baseline/source/acme.py"})
    baseline = Installation("main", built="/baseline", apart_from=("/repository", origin))
    notes = script.play(baseline=baseline).comparison.notes
    assert any(f"The candidate's embedder is the copy that is installed, {origin}" in note for note in notes)


def test_an_option_is_no_path_though_there_be_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large").touch()
    (tmp_path / "w.pth").touch()
    script = Script()
    script.play(
        case=Case("a:b", options={"size": "large", "weights": "w.pth"}), baseline=Installation("main", folder="/")
    )
    assert script.options == {"size": "large", "weights": str(tmp_path / "w.pth")}


def test_both_sides_see_the_photographs_of_this_version_whatever_the_others_are():
    script = Script()
    runs = script.play(baseline=Installation("main", "/old/bin/python")).runs
    assert script.images["baseline"] == script.images["candidate"]
    assert [Path(path).name for path in script.images["baseline"]] == ["hopper-upper.jpg", "hopper-lower.jpg"]
    assert all(Path(path).is_file() for path in script.images["baseline"])
    assert {run.case.images for run in runs} == {()}  # as was asked


def test_ctrl_c_late_in_a_pair_counts_that_pair():
    script = Script()
    for index in (1, 2, 3):
        script.break_at["candidate", "Finish", index] = KeyboardInterrupt()
    outcome = script.play()
    assert outcome.comparison.baseline.processes == len(outcome.runs[0].trials) == 1


def test_a_side_of_another_protocol_is_refused():
    with pytest.raises(ConfigError, match="another protocol"):
        Script(speaks=99).play()


def test_a_side_that_does_not_know_what_the_case_asks_for_is_refused_rather_than_asked_for_less():
    older = Script(knows={"baseline": ()})
    assert older.play().comparison.baseline.processes > 0
    with pytest.raises(ConfigError, match="which does not know `images_per_text`; leave it out"):
        older.play(case=Case("patch32", images_per_text=2))
    assert Script().play(case=Case("patch32", images_per_text=2)).comparison.baseline.processes > 0


def test_a_stage_that_the_candidate_lacks_is_missing():
    script = Script()
    script.stages = {"baseline": (STAGE, "visual_embedder.fpn"), "candidate": (STAGE,)}
    comparison = script.play(decides="stages").comparison
    assert comparison.verdict == "missing"
    assert {stage.name: stage.verdict for stage in comparison.stages}["visual_embedder.fpn"] == "missing"


def test_counts_of_both_sides_are_compared():
    script = Script(parameters={"baseline": 10, "candidate": 12})
    (change,) = script.play().comparison.counts
    assert (change.quantity, change.baseline, change.candidate) == ("parameters", 10, 12)


@dataclass(frozen=True)
class Machine:
    """How noisy a machine is; shares of a pass."""

    process_spread: float = 0.01
    """Standard deviation between processes, of memory layout and the like."""
    sample_spread: float = 0.02
    outliers: float = 0.02
    """Probability of a pass that takes up to three times as long."""
    load: float = 0.0
    """How much a burst of load slows passes down."""
    burst: float = 0.05
    """Probability that load comes or goes before a pass."""
    drift: float = 0.0
    """Over a pair, up or down."""
    cpu_share: float = 0.4
    """How much of what load does to wall time the CPU's clock sees."""
    far: float = 0.0
    """Probability of a process that takes up to half as long again, or half as long."""


QUIET = Machine()
LOADED = Machine(process_spread=0.015, sample_spread=0.05, outliers=0.05, load=0.8, drift=0.1)
LOADED_TWICE = Machine(process_spread=0.015, sample_spread=0.08, outliers=0.1, load=1.6, drift=0.3, cpu_share=0.25)
FAR_OFF = Machine(sample_spread=0.05, outliers=0.05, load=0.8, far=0.1)
HOPELESS = Machine(process_spread=0.25, sample_spread=0.3, outliers=0.2, load=3.0, drift=0.5, cpu_share=1.0)


def simulate_pair(rng: random.Random, machine: Machine, *, slowdown: float = 0.0, turns: int = SAMPLE_TURNS) -> Pair:
    """Returns a pair of processes of which the candidate takes so much longer; turns A B B A."""
    base = {side: 0.2 * math.exp(rng.gauss(0, machine.process_spread)) for side in "bc"}
    for side in "bc":
        if machine.far and rng.random() < machine.far:
            base[side] *= rng.uniform(0.5, 1.5)
    base["c"] *= 1 + slowdown
    walls: dict[str, list[float]] = {"b": [], "c": []}
    cpus: dict[str, list[float]] = {"b": [], "c": []}
    order = "bccb" if rng.random() < 0.5 else "cbbc"
    loaded = rng.random() < 0.5
    slope = rng.choice((-1, 1)) * machine.drift
    for turn in range(turns):
        for side in order:
            loaded ^= rng.random() < machine.burst
            slower = machine.load * loaded * rng.uniform(0.5, 1.5) + slope * turn / turns
            if rng.random() < machine.outliers:
                slower += rng.uniform(0, 2)
            noise = math.exp(rng.gauss(0, machine.sample_spread))
            walls[side].append(base[side] * noise * max(0.2, 1 + slower))
            cpus[side].append(2 * base[side] * math.sqrt(noise) * max(0.2, 1 + machine.cpu_share * slower))
    return Pair(*(_series(walls[side], cpus[side]) for side in "bc"))


def _series(wall: list[float], cpu: list[float]) -> Series:
    """Two passes a turn: uninstrumented, instrumented, and so on."""
    kinds = []
    for parity in (0, 1):
        chosen = [index for index in range(len(wall)) if index // 2 % 2 == parity]
        kinds.append(Times(wall_time_s=tuple(wall[i] for i in chosen), cpu_time_s=tuple(cpu[i] for i in chosen)))
    whole, instrumented = kinds
    return Series(whole, {"visual_embedder.backbone": instrumented}, instrumented, (len(whole.wall_time_s or ()),))


def test_a_clock_that_goes_backwards_is_not_believed():
    rng = random.Random(1)

    def broken():
        pair = simulate_pair(rng, QUIET)
        whole = pair.candidate.whole
        backwards = dataclasses.replace(whole, wall_time_s=(-5.0, *whole.wall_time_s[1:]), cpu_time_s=None)
        nothing = Times()
        candidate = dataclasses.replace(pair.candidate, whole=backwards, instrumented=nothing, stages={})
        return dataclasses.replace(pair, candidate=candidate)

    (total, _), _ = decide(broken() for _ in range(12))
    assert total.verdict == "inconclusive"


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 1.0, float("nan")])
def test_an_impossible_tolerance_is_refused(tolerance):
    with pytest.raises(ConfigError, match="`tolerance`"):
        Script().play(tolerance=tolerance)


@pytest.mark.parametrize("max_time_s", [0, -1, float("nan"), float("inf")])
def test_an_impossible_time_is_refused(max_time_s):
    with pytest.raises(ConfigError, match="`max_time_s`"):
        Script().play(max_time_s=max_time_s)


def verdicts(machine, *, slowdown=0.0, count, most=24, seed=1, **options):
    rng = random.Random(seed)
    seen = [
        decide((simulate_pair(rng, machine, slowdown=slowdown) for _ in range(most)), **options) for _ in range(count)
    ]
    return [total.verdict for (total, _), _ in seen]


@pytest.mark.parametrize("machine", [QUIET, LOADED], ids=["quiet", "loaded"])
def test_a_slowdown_of_10_percent_is_found_under_load(machine):
    assert verdicts(machine, slowdown=0.1, count=20, most=12).count("regressed") == 20


def test_identical_code_is_not_called_slower():
    assert "regressed" not in verdicts(LOADED, count=40)


def test_hopeless_noise_is_inconclusive_far_more_often_than_anything_else():
    assert verdicts(HOPELESS, count=20, most=12).count("inconclusive") >= 17


@pytest.mark.slow
@pytest.mark.parametrize(
    "machine", [QUIET, LOADED, LOADED_TWICE, FAR_OFF], ids=["quiet", "loaded", "loaded twice over", "far off"]
)
def test_false_alarms_are_at_most_half_a_percent(machine):
    # One-sided, to tell 0.5% from more: 1000 draws with a true 0.5% stay below 10 in 97 of 100 cases.
    assert verdicts(machine, count=1000, most=max(LOOKS)).count("regressed") < 10


@pytest.mark.slow
def test_a_slowdown_of_just_the_tolerance_seldom_passes_as_unchanged():
    # Each look may: docs/gate.md says how often all of them together do.
    assert verdicts(FAR_OFF, slowdown=0.025, count=200, most=max(LOOKS)).count("unchanged") <= 200 / 5
    assert verdicts(FAR_OFF, slowdown=0.035, count=200, most=max(LOOKS)).count("unchanged") <= 200 / 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "least"),
    [(QUIET, 0.95), (LOADED_TWICE, 0.8), (FAR_OFF, 0.8)],
    ids=["quiet", "loaded twice over", "far off"],
)
def test_a_slowdown_of_3_percent_is_found_by_a_finer_tolerance(machine, least):
    said = verdicts(machine, slowdown=0.03, count=100, most=36, tolerance=0.015)
    assert said.count("regressed") >= least * 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "least"),
    [(QUIET, 0.95), (LOADED, 0.95), (LOADED_TWICE, 0.9)],
    ids=["quiet", "loaded", "loaded twice over"],
)
def test_a_slowdown_of_5_percent_is_found(machine, least):
    assert verdicts(machine, slowdown=0.05, count=300).count("regressed") >= least * 300


@pytest.mark.slow
def test_two_real_processes_take_turns():
    case = Case("patch32", vilt=TINY, resolution=(64, 64), text_length=8, device="cpu", threads=1)
    outcome = gate(case, Installation("same"), max_time_s=120)
    comparison = outcome.comparison
    assert comparison.total.ratio is not None or comparison.verdict == "inconclusive"
    assert comparison.counts == ()
    assert "Both sides are the same installation: what differs is noise." in comparison.notes
    assert [stage.name for stage in comparison.stages] == [stage.name for stage in outcome.runs[0].stages]
    assert comparison.spent_s <= 121
