"""Directing the measuring of many cases, with scripted workers on a machine of scripted memory and speed."""

import math
import random
from dataclasses import dataclass, field, replace

import pytest
from scipy import stats

from vilt_bench import protocol
from vilt_bench.ask.axes import Sweep
from vilt_bench.ask.case import Case, Sampling
from vilt_bench.ask.forecast import HOST, Outlook, Share
from vilt_bench.director.process import KILLED, WorkerFailedError
from vilt_bench.director.sweep import FEW, anchor_sampling, look_at_memory, measure_sweep, plan_groups
from vilt_bench.errors import ConfigError, EmbedderError, InputError
from vilt_bench.judge.drift import TOLERATED, drift, is_drift
from vilt_bench.judge.latency import latency
from vilt_bench.judge.remarks import GroupsDiffer, remarks
from vilt_bench.record import codec
from vilt_bench.record.run import Anchor, Conditions, Environment, Failure, Model, Series, Stage, Times
from vilt_bench.report.remarks import sentence

ENVIRONMENT = Environment("machine", "f", "cpu", "cpu", 1, None, {}, {}, {})
MODEL = Model("linear", 768, 12, 12, (384, 640), 240, 40, "random", "random", "torch", ("synthetic",), "synthetic")
GIGA = 10**9


@dataclass
class Machine:
    """Starts scripted workers; its clock, its memory, and what was asked of whom."""

    now_s: float = 0.0
    speed: object = lambda now_s: 1.0
    """Times a pass's length at a time."""
    noise: float = 0.0
    memory: int = 10**12
    takes: object = lambda case: GIGA
    """A case's memory."""
    tells: bool = True
    """Whether workers say what they have taken."""
    refuses: dict[str, Exception] = field(default_factory=dict)
    breaks: dict[tuple[str, str, int], BaseException] = field(default_factory=dict)
    alive: dict[int, Case] = field(default_factory=dict)
    groups: list[set[str]] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def start(self):
        return Scripted(self, level=math.exp(self.rng.gauss(0, self.noise)))

    def free(self):
        return self.memory - sum(map(self.takes, self.alive.values()))

    def measure(self, cases, *, counted=True, **options):
        """Returns the runs of a sweep; each case is counted as what it takes."""
        outlook = Outlook(tuple({HOST: Share(self.takes(case), 0)} if counted else None for case in cases), {})
        options = {"sampling": Sampling(trials=3, max_time_s=6), "look": lambda _: outlook} | options
        return measure_sweep(cases, start_worker=self.start, clock=lambda: self.now_s, free=self.free, **options)


@dataclass(eq=False)
class Scripted:
    machine: Machine
    level: float
    case: Case | None = None

    def ask(self, request, expected):
        machine = self.machine
        if isinstance(request, protocol.Prepare):
            self.case = request.case
        name, kind = self.case.embedder, type(request).__name__
        machine.log.append((name, kind))
        if (error := machine.breaks.get((name, kind, machine.log.count((name, kind))))) is not None:
            raise error
        match request:
            case protocol.Prepare():
                if (refusal := machine.refuses.get(name)) is not None:
                    raise refusal
                if machine.free() < machine.takes(self.case):
                    raise WorkerFailedError(Failure("crashed", KILLED))
                machine.alive[id(self)] = self.case
                taken = machine.takes(self.case) if machine.tells else None
                return protocol.Prepared(
                    "2026-01-01T00:00:00+00:00", 0.5, 0.1, ENVIRONMENT, MODEL, host_peak_bytes=taken
                )
            case protocol.Count():
                return protocol.Counted((Stage("visual_embedder.projection", "visual_embedder", "[]", 1),), None, ())
            case protocol.Measure(seconds):
                machine.groups.append({each.embedder for each in machine.alive.values()})
                return protocol.Measured(self.block(seconds))
            case protocol.MeasureEnergy():
                return protocol.EnergyMeasured(None)
            case protocol.Finish():
                return protocol.Finished(Conditions())

    def block(self, seconds):
        samples, begin = [], self.machine.now_s
        while not samples or self.machine.now_s - begin < seconds:
            samples.append(0.05 * self.level * self.machine.speed(self.machine.now_s) * self.jitter())
            self.machine.now_s += 2 * samples[-1]
        times = Times(wall_time_s=tuple(samples))
        return Series(times, {"visual_embedder.projection": times}, times, (len(samples),))

    def jitter(self):
        return math.exp(self.machine.rng.gauss(0, 0.005)) if self.machine.noise else 1.0

    def close(self):
        self.machine.alive.pop(id(self), None)

    kill = close


def named(*names):
    return [Case(name) for name in names]


SIX = named("patch32", "patch16", "patch", "grid-r50", "grid-r101", "grid-x152")


def together(machine):
    """Returns which embedders were alive together, in turn."""
    found = []
    for group in machine.groups:
        if not found or found[-1] != group:
            found.append(group)
    return found


def test_what_fits_is_measured_together_and_each_case_has_a_run_in_the_order_asked_for():
    # Each takes 1.0 GB and, by what was measured, a tenth more; 0.8 of 5 GB hold three, or two and the anchor.
    machine = Machine(memory=5 * GIGA)
    runs = machine.measure(SIX)
    assert [run.case for run in runs] == SIX
    assert max(map(len, machine.groups)) <= 3
    assert len({run.group for run in runs}) == 3
    assert all(run.failure is None and len(run.trials) == 3 for run in runs)


def test_what_cases_take_together_stays_within_the_memory_that_is_asked_for():
    # Each takes 1.0 GB and, by what was measured, a tenth more: 2.5 of 20 GB hold two, or one and a repeat.
    bounded, free = Machine(memory=20 * GIGA), Machine(memory=20 * GIGA)
    runs = bounded.measure(SIX, memory_bytes=5 * GIGA // 2)
    assert [run.case for run in runs] == SIX
    assert max(map(len, bounded.groups)) == 2
    free.measure(SIX)
    assert max(map(len, free.groups)) == len(SIX)


def test_few_cases_that_fit_are_measured_at_once_without_being_counted():
    machine = Machine()

    def look(_):
        raise AssertionError("no process is to count")

    runs = machine.measure(SIX[:FEW], look=look)
    assert len({run.group for run in runs}) == 1
    assert [run.anchor for run in runs] == [None] * FEW


def test_no_more_cases_are_alive_than_asked_for_but_the_anchor():
    machine = Machine()
    runs = machine.measure(SIX, together=2)
    assert len({run.group for run in runs}) == 3
    assert max(map(len, machine.groups)) == 3
    assert max(map(len, machine.groups[: len(machine.groups) // 4])) == 2
    alone = Machine()
    runs = alone.measure(SIX, together=1)
    assert max(map(len, alone.groups)) == 1
    assert [run.anchor for run in runs] == [None] * 6


def test_nothing_is_alive_when_a_group_begins():
    machine, seen = Machine(), []
    machine.measure(SIX, together=3, finished=lambda run: seen.append(dict(machine.alive)))
    assert seen == [{}] * 6
    built = [kind for _, kind in machine.log]
    # All of a group is built before any of it is timed.
    first_timed = built.index("Measure")
    assert built[:first_timed].count("Prepare") == 3


def test_later_groups_are_planned_by_what_was_measured():
    # Counted at nothing, eight fit into 10 GB; they take 3 GB each, so that two are alive and an anchor's too much.
    cases = Sweep(["patch32"], {"batch_size": [1, 2, 3, 4, 5, 6]}).cases()
    machine = Machine(memory=10 * GIGA, takes=lambda case: 3 * GIGA)
    small = Outlook(tuple({HOST: Share(1, case.batch_size)} for case in cases), {})
    alive = []
    machine.measure(cases, look=lambda _: small, report=lambda _: alive.append(len(machine.alive)))
    runs = Machine(memory=10 * GIGA, takes=lambda case: 3 * GIGA).measure(cases, look=lambda _: small)
    sizes = [[run.group for run in runs].count(group) for group in dict.fromkeys(run.group for run in runs)]
    assert all(run.failure is None for run in runs)
    assert sizes[0] == 3  # the others of the first group ran out of memory, and were measured alone
    assert alive[-1] <= 2


def test_a_case_that_ran_out_of_memory_beside_others_is_measured_once_more_alone():
    # The third finds no memory beside two of 2 GB; alone it does.
    machine = Machine(memory=5 * GIGA, takes=lambda case: 2 * GIGA)
    known = Outlook(({HOST: Share(1, 1)},) * 3, {})
    noted = []
    runs = machine.measure(SIX[:3], look=lambda _: known, note=lambda run_id, _: noted.append(run_id))
    assert [run.failure for run in runs] == [None] * 3
    assert {*noted} == {run.run_id for run in runs}
    assert together(machine) == [{"patch32", "patch16"}, {"patch"}]
    assert runs[2].warnings == ("Measured alone, as it ran out of memory beside other cases.",)
    assert runs[0].warnings == ()


def test_a_case_that_does_not_fit_by_itself_is_a_failure_that_tells_what_it_needs_and_the_others_go_on():
    machine = Machine(memory=5 * GIGA, takes=lambda case: 50 * GIGA if case.embedder == "patch16" else GIGA)
    first, large, last = machine.measure(SIX[:3])
    assert large.failure.kind == "crashed"
    assert "this case needs about 50.3 GB (an estimate), and 5.0 GB are free" in large.failure.message
    assert (first.failure, last.failure) == (None, None)
    assert [name for name, kind in machine.log if kind == "Prepare"].count("patch16") == 1  # it had no neighbours


def test_a_case_that_goes_on_with_an_earlier_run_is_known_though_it_is_another_value():
    (earlier,) = Machine().measure([replace(SIX[1], options={})], sampling=Sampling(trials=1, max_time_s=6))
    cut = replace(earlier, trials=earlier.trials[:1], case=replace(SIX[1]))
    runs = Machine().measure(SIX[:3], begun=lambda case: cut if case == SIX[1] else None)
    assert [run.case.embedder for run in runs] == ["patch32", "patch16", "patch"]
    assert runs[1].run_id == earlier.run_id


def test_one_case_may_be_asked_for_several_times():
    runs = Machine(memory=5 * GIGA).measure([SIX[0]] * 5)
    assert len({run.run_id for run in runs}) == 5


def test_what_is_told_of_each_run_is_told_once_and_as_it_is_returned():
    machine, told = Machine(memory=5 * GIGA, takes=lambda case: 2 * GIGA), []
    known = Outlook(({HOST: Share(1, 1)},) * 3, {})
    runs = machine.measure(SIX[:3], look=lambda _: known, finished=told.append)
    assert sorted(told, key=runs.index) == runs


def test_what_can_not_be_measured_as_asked_is_left_out_of_any_group():
    refused = {name: InputError(f"no {name}") for name in ("patch16", "grid-r50", "grid-r101")}
    machine, told = Machine(refuses=refused), []
    runs = machine.measure(SIX, together=2, leave_out=lambda case, error: told.append((case.embedder, str(error))))
    assert [run.case.embedder for run in runs] == ["patch32", "patch", "grid-x152"]
    assert told == [(name, f"no {name}") for name in ("patch16", "grid-r50", "grid-r101")]


def test_where_none_can_be_measured_as_asked_the_last_tells_why():
    machine = Machine(refuses={case.embedder: InputError("no such image") for case in SIX})
    with pytest.raises(InputError, match="no such image"):
        machine.measure(SIX, together=2, leave_out=lambda *_: None)


def test_a_refusal_is_an_error_as_long_as_nothing_is_lost_by_it_and_a_failure_later():
    with pytest.raises(EmbedderError):
        Machine(refuses={"patch16": EmbedderError("no")}).measure(SIX, together=2)
    runs = Machine(refuses={"grid-x152": EmbedderError("no")}).measure(SIX, together=2)
    assert [run.failure and run.failure.message for run in runs] == [None] * 5 + ["no"]


def test_ctrl_c_ends_the_sweep_and_keeps_what_was_measured():
    machine = Machine(breaks={("patch", "Measure", 5): KeyboardInterrupt()})
    runs = machine.measure(SIX, together=2)
    assert [run.case.embedder for run in runs] == ["patch32", "patch16", "patch", "grid-r50"]
    assert [run.interrupted for run in runs] == [False, False, True, True]


def test_ctrl_c_keeps_the_failure_of_what_was_to_be_measured_alone():
    machine = Machine(
        memory=5 * GIGA, takes=lambda case: 2 * GIGA, breaks={("patch16", "Measure", 2): KeyboardInterrupt()}
    )
    known = Outlook(({HOST: Share(1, 1)},) * 3, {})
    runs = machine.measure(SIX[:3], look=lambda _: known)
    assert runs[2].failure.message.startswith(KILLED)
    assert runs[0].interrupted


# The anchor.


def test_a_case_of_each_group_is_measured_again_in_the_next_and_makes_no_run():
    machine = Machine()
    runs = machine.measure(SIX, together=2)
    assert len(runs) == 6
    assert [run.anchor for run in runs[:2]] == [None, None]
    by_id = {run.run_id: run.case.embedder for run in runs}
    anchors = [run.anchor for run in runs]
    assert [(by_id[each.run_id], each.name, each.groups) for each in anchors[2:]] == [
        ("patch32", "patch32", (1, 2)), ("patch32", "patch32", (1, 2)),
        ("patch", "patch", (2, 3)), ("patch", "patch", (2, 3)),
    ]  # fmt: skip
    assert all(each.ratio == pytest.approx(1) for each in anchors[2:])
    assert codec.decode(codec.encode(runs[-1]), name="-") == runs[-1]


def test_nothing_is_noted_of_a_repeat():
    noted = []
    runs = Machine().measure(SIX, together=2, note=lambda run_id, _: noted.append(run_id))
    assert set(noted) == {run.run_id for run in runs}


def test_an_anchor_takes_a_quarter_of_a_cases_time_and_is_not_counted():
    machine = Machine(noise=0.05)
    sampling = Sampling(trials=3, max_time_s=60, precision=0.0001)
    machine.measure(SIX[:2], together=1, sampling=sampling)
    plain_s, machine = machine.now_s, Machine(noise=0.05)
    machine.measure(SIX[:4], together=2, sampling=sampling)
    assert machine.now_s == pytest.approx((4 + 0.25) / 2 * plain_s, rel=0.05)
    kinds = [kind for name, kind in machine.log if name == "patch32"]
    assert (kinds.count("Count"), kinds.count("MeasureEnergy"), kinds.count("Prepare") >= 6) == (1, 1, True)
    assert anchor_sampling(Sampling(trials=12, max_time_s=60)).trials == 3
    assert anchor_sampling(Sampling(trials=1, max_time_s=0.2)).max_time_s == 0.2


def sweeps(count, speed):
    """Returns the anchors of so many sweeps of two groups, on a machine whose processes differ by a per cent."""
    found = []
    for seed in range(count):
        machine = Machine(noise=0.01, rng=random.Random(seed))
        halfway = []

        def finished(run, machine=machine, halfway=halfway):
            halfway.append(run)
            if len(halfway) == 2:
                machine.speed = lambda _: speed

        found.append(machine.measure(SIX[:4], together=2, finished=finished)[-1])
    return found


def test_a_drift_of_ten_per_cent_is_found_and_none_where_there_is_none():
    runs = sweeps(40, 1.10)
    ratios = [run.anchor.ratio for run in runs]
    assert sum(ratios) / len(ratios) == pytest.approx(1.10, abs=0.005)
    assert sum(run.anchor.low <= 1.10 <= run.anchor.high for run in runs) >= 36  # of 95%
    assert sum(is_drift(run.anchor) for run in runs) >= 28
    still = sweeps(40, 1.0)
    assert sum(run.anchor.low <= 1 <= run.anchor.high for run in still) >= 36
    assert not any(is_drift(run.anchor) for run in still)


def test_drift_is_told_with_the_groups_between_which_it_was():
    run = next(run for run in sweeps(5, 1.3) if is_drift(run.anchor))
    (remark,) = [each for each in remarks(run) if isinstance(each, GroupsDiffer)]
    assert sentence(remark).startswith("Drift between groups 1 and 2: patch32 took 1.")
    assert not [each for each in remarks(sweeps(1, 1.0)[0]) if isinstance(each, GroupsDiffer)]


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(1.04, 1.2, False), (1.06, 1.2, True), (0.8, 0.94, True), (0.8, 0.96, False), (None, None, False)],
)
def test_drift_is_told_where_the_interval_excludes_what_is_tolerated(low, high, told):
    assert TOLERATED == 0.05
    assert is_drift(Anchor("patch32", "0123", 1.0, low, high)) is told


def test_the_ratio_has_no_interval_where_processes_are_too_few(make_run):
    before, now = make_run(trials=2, noise=0), make_run(trials=3, noise=0)
    found = drift(before, now, name="patch32", groups=(1, 2))
    assert (found.ratio, found.low, found.high) == (pytest.approx(1), None, None)
    assert drift(make_run(trials=0), now, name="patch32", groups=(1, 2)) is None


def test_the_interval_of_the_ratio_is_welchs_of_the_logarithms(make_run):
    def timed(*milliseconds):
        times = [Series(whole=Times(wall_time_s=(each / 1000,)), blocks=(1,)) for each in milliseconds]
        trials = zip(make_run().trials, times, strict=True)
        return replace(make_run(), trials=tuple(replace(t, samples=s) for t, s in trials))

    found = drift(timed(100, 101, 102), timed(110, 111, 112), name="patch32", groups=(1, 2))
    logs = [[math.log(value) for value in each] for each in ((100, 101, 102), (110, 111, 112))]
    expected = stats.ttest_ind(logs[1], logs[0], equal_var=False).confidence_interval(0.95)
    assert latency(timed(100, 101, 102)).value == pytest.approx(0.101)
    # Degrees of freedom are rounded down: no narrower than Welch's.
    assert math.log(found.low) <= expected.low
    assert math.log(found.low) == pytest.approx(expected.low, rel=0.15)
    assert math.log(found.ratio) == pytest.approx(sum(logs[1]) / 3 - sum(logs[0]) / 3)


# Progress.


def test_progress_is_of_the_whole_sweep():
    machine, told = Machine(refuses={"grid-r101": InputError("no")}), []
    machine.breaks = {("patch16", "Measure", 3): WorkerFailedError(Failure("error", "broke"))}
    machine.measure(SIX, together=2, report=told.append, leave_out=lambda *_: None)
    ended = [each for each in told if each.ended is not None]
    assert [(each.name, each.done, each.failed, each.total) for each in ended] == [
        ("patch16", 1, 1, 6), ("patch32", 2, 1, 6), ("patch", 3, 1, 6), ("grid-r50", 4, 1, 6), ("grid-x152", 6, 1, 6),
    ]  # fmt: skip
    assert [(each.group, each.groups) for each in ended] == [(1, 3), (1, 3), (2, 3), (2, 3), (3, 3)]
    names = {each.current.name for each in told if each.current is not None}
    assert names == {case.embedder for case in SIX}


def test_time_left_is_at_most_what_sampling_takes_and_then_a_range_from_what_cases_took():
    machine, told = Machine(noise=0.05), []
    cases = [Case("patch32", seed=seed) for seed in range(8)]
    stamps = []
    machine.measure(cases, together=2, report=lambda each: (told.append(each), stamps.append(machine.now_s)))
    assert told[0].left.low_s is None
    assert told[0].left.high_s == 8 * 6
    end = stamps[-1]
    late = [(each.left, end - now) for each, now in zip(told, stamps, strict=True) if each.group >= 3]
    assert all(left.low_s <= left.high_s for left, _ in late)
    # Groups take about alike here, so the range is about right.
    assert all(left.low_s - 5 <= really <= left.high_s + 5 for left, really in late)
    assert told[-1].left.high_s == 0


# The process that counts.


def test_memory_is_counted_by_a_process_as_the_dry_run_counts_it():
    case = Case("patch32", resolution=(64, 64), images=("synthetic",), device="cpu", interaction="none")
    outlook = look_at_memory([case, replace(case, batch_size=2), Case("patch32", {"no": 1}, device="cpu")])
    weights = 4 * (3 * 32 * 32 * 768 + 768)
    inputs = [4 * size * 4 * 3 * 64 * 64 + 4 * size * 3 * 64 * 64 + size * 4 * 3 * 64 * 64 for size in (1, 2)]
    assert outlook.needs == ({HOST: Share(weights, inputs[0])}, {HOST: Share(weights, inputs[1])}, None)
    assert outlook.free_bytes == {}


def test_a_plan_beforehand_is_by_the_same_rule():
    outlook = Outlook(tuple({HOST: Share(2 * GIGA, 0)} for _ in SIX), {})
    assert plan_groups(SIX, outlook, free=lambda: 9 * GIGA) == [[0, 1, 2], [3, 4], [5]]
    assert plan_groups(SIX, outlook, together=4, free=lambda: 10**12) == [[0, 1, 2, 3], [4, 5]]
    assert plan_groups(SIX[:2], outlook, free=lambda: 0) == [[0, 1]]


def test_less_than_one_case_together_is_refused():
    with pytest.raises(ConfigError, match="`together` must be at least 1, got 0"):
        measure_sweep(SIX, together=0)
