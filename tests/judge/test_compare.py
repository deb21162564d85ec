"""Comparing stored records: what is refused, what is allowed for, and how often a verdict is wrong."""

import dataclasses
import math
import random
import statistics

import pytest

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.judge.compare import compare, compare_all, condensed, newest
from vilt_bench.judge.summary import summaries
from vilt_bench.record.run import Failure, Series, Times, Trial
from vilt_bench.report.runs.comparable import check_comparable
from vilt_bench.report.verdicts import exit_code


def trial(index, wall_s, cpu_s, *, rng, noise=0.01):
    def times(share):
        walls = tuple(share * wall_s * math.exp(abs(rng.gauss(0, noise))) for _ in range(10))
        cpus = tuple(share * cpu_s * math.exp(abs(rng.gauss(0, noise))) for _ in range(10))
        return Times(wall_time_s=walls, cpu_time_s=cpus)

    stages = {"visual_embedder.projection": times(0.1), "modality_interaction": times(0.9)}
    return Trial(index, "2026-11-24T03:55:01+00:00", samples=Series(times(1.0), stages, times(1.0), (10,)))


@pytest.fixture
def session(make_run):
    """Returns a factory of sessions: load moves wall times of all their processes, and a little the CPU's."""

    def make(rng, *, slowdown=0.0, spread=0.03, load=0.3, trials=10, **fields):
        level, cpu_level = math.exp(rng.gauss(0, load)), math.exp(rng.gauss(0, spread))
        each = [
            trial(index, 0.2 * level * (1 + slowdown), 0.4 * cpu_level * (1 + slowdown), rng=rng)
            for index in range(trials)
        ]
        run = make_run(trials=1, group=str(rng.random()), **{"run_id": str(rng.random()), **fields})
        return dataclasses.replace(run, trials=tuple(each))

    return make


def test_identical_code_of_another_session_is_not_called_slower(session):
    rng = random.Random(1)
    verdicts = [compare([session(rng)], [session(rng)]).verdict for _ in range(60)]
    assert verdicts.count("regressed") == 0
    assert verdicts.count("inconclusive") == 60


def test_history_tells_how_far_the_machine_drifts(session):
    rng = random.Random(2)
    history = [session(rng, spread=0.005) for _ in range(30)]
    wrong = found = 0
    for _ in range(60):
        baseline = session(rng, spread=0.005)
        wrong += compare([baseline], [session(rng, spread=0.005)], history=history).verdict == "regressed"
        slower = compare([baseline], [session(rng, spread=0.005, slowdown=0.06)], history=history)
        found += slower.verdict == "regressed"
    assert wrong <= 1
    assert found >= 55


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "sessions"), [(0.01, 5), (0.04, 10), (0.1, 20)])
def test_false_alarms_across_sessions_stay_below_one_in_a_hundred(session, spread, sessions):
    rng = random.Random(3)
    wrong = 0
    for _ in range(600):
        history = [session(rng, spread=spread, trials=3) for _ in range(sessions)]
        seen = compare([session(rng, spread=spread)], [session(rng, spread=spread)], history=history)
        wrong += seen.verdict == "regressed"
    assert wrong <= 6


def test_a_large_slowdown_is_found_and_what_can_be_found_is_stated(session):
    rng = random.Random(4)
    seen = compare([session(rng, load=0.05)], [session(rng, load=0.05, slowdown=0.5)])
    assert seen.verdict == "regressed"
    assert seen.detectable is not None
    assert 0.15 < seen.detectable < 0.3
    assert any("drift" in note for note in seen.notes)


def test_a_tolerance_above_the_drift_can_pass(session):
    rng = random.Random(5)
    history = [session(rng, load=0.01) for _ in range(10)]
    seen = compare([session(rng, load=0.01)], [session(rng, load=0.01)], history=history, tolerance=0.25)
    assert seen.verdict == "unchanged"


def test_stages_have_verdicts_and_decide_where_they_are_gated(session):
    rng = random.Random(6)
    seen = compare([session(rng, load=0.01)], [session(rng, load=0.01, slowdown=0.5)], decides="stages")
    assert [stage.name for stage in seen.stages] == ["visual_embedder.projection", "modality_interaction"]
    assert {stage.verdict for stage in seen.stages} == {"regressed"}


def test_a_stage_that_the_candidate_lacks_fails_where_stages_are_gated(session):
    rng = random.Random(7)
    baseline, candidate = session(rng), session(rng)
    trials = tuple(
        dataclasses.replace(
            each, samples=dataclasses.replace(each.samples, stages={"modality_interaction": each.samples.whole})
        )
        for each in candidate.trials
    )
    seen = compare([baseline], [dataclasses.replace(candidate, trials=trials)], decides="stages")
    assert seen.stages[0].verdict == "missing"
    assert seen.verdict == "missing"


def test_counts_are_compared_exactly(session):
    rng = random.Random(8)
    baseline, candidate = session(rng), session(rng)
    first, *rest = candidate.stages
    grown = dataclasses.replace(first, parameters=first.parameters + 1)
    (change,) = compare([baseline], [dataclasses.replace(candidate, stages=(grown, *rest))]).counts
    assert (change.stage, change.quantity) == (first.name, "parameters")
    assert change.candidate == change.baseline + 1


def test_one_process_tells_nothing(session):
    rng = random.Random(9)
    seen = compare([session(rng, trials=1)], [session(rng, trials=1, slowdown=3.0)])
    assert seen.verdict == "inconclusive"
    assert "--trials 10" in seen.total.reason


def test_runs_measured_together_have_no_drift_between_them(session):
    rng = random.Random(10)
    baseline = session(rng, load=0, spread=0)
    candidate = dataclasses.replace(session(rng, load=0, spread=0, slowdown=0.06), group=baseline.group)
    assert compare([baseline], [candidate]).verdict == "regressed"


def without_cpu_time(trial):
    times = {name: dataclasses.replace(each, cpu_time_s=None) for name, each in trial.samples.stages.items()}
    whole = dataclasses.replace(trial.samples.whole, cpu_time_s=None)
    return dataclasses.replace(trial, samples=dataclasses.replace(trial.samples, whole=whole, stages=times))


def replace_first_sample(run, value):
    first, *rest = run.trials
    samples = first.samples
    whole = dataclasses.replace(samples.whole, wall_time_s=(value, *samples.whole.wall_time_s[1:]))
    return dataclasses.replace(
        run, trials=(dataclasses.replace(first, samples=dataclasses.replace(samples, whole=whole)), *rest)
    )


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), 0.0])
def test_times_that_no_clock_should_give_are_refused(session, value):
    rng = random.Random(11)
    with pytest.raises(RecordError, match="trial 1, whole"):
        compare([session(rng)], [replace_first_sample(session(rng), value)])


def test_a_clock_that_jumped_once_changes_nothing(session):
    rng = random.Random(12)
    baseline, candidate = session(rng, load=0, spread=0), session(rng, load=0, spread=0)
    assert compare([baseline], [replace_first_sample(candidate, 86_400.0)]).verdict == "inconclusive"


def test_a_failed_run_is_refused(session):
    rng = random.Random(13)
    failed = session(rng, failure=Failure("out-of-memory", "no more"))
    with pytest.raises(RecordError, match=r"baseline failed \(out-of-memory: no more\)"):
        compare([failed], [session(rng)])


def test_a_run_without_a_sample_is_refused(make_run, session):
    rng = random.Random(14)
    with pytest.raises(RecordError, match="no timed pass"):
        compare([dataclasses.replace(make_run(), trials=())], [session(rng)])
    with pytest.raises(RecordError, match="the baseline has no run"):
        compare([], [session(rng)])


def test_another_case_machine_software_or_sampling_is_refused_with_what_differs(session):
    rng = random.Random(15)
    run = session(rng)
    where = run.environment
    others = {
        r"batch-size 1 / 2": {"case": Case("patch32", batch_size=2)},
        r"machine .* beef": {"environment": dataclasses.replace(where, fingerprint="beef")},
        r"torch 2.9.0 / 2.10.0": {
            "environment": dataclasses.replace(where, versions={**where.versions, "torch": "2.10.0"})
        },
        r"sampling .* 60 s / .* 5 s": {"sampling": Sampling(max_time_s=5)},
    }
    for message, fields in others.items():
        with pytest.raises(ConfigError, match=message):
            compare([run], [session(rng, **fields)])


def test_what_is_allowed_to_differ_is_told(session):
    rng = random.Random(16)
    run = session(rng)
    other = dataclasses.replace(run.environment, versions={**run.environment.versions, "torch": "2.10.0"})
    seen = compare([run], [session(rng, environment=other)], allow_different=["torch"])
    assert seen.different == ("torch 2.9.0 / 2.10.0",)


def test_everything_may_be_allowed_to_differ(session):
    rng = random.Random(16)
    run = session(rng)
    versions = {**run.environment.versions, "torch": "2.10.0", "python": "3.14.0"}
    other = dataclasses.replace(run.environment, versions=versions, threads=run.environment.threads + 1)
    seen = compare([run], [session(rng, environment=other)], allow_different=["all"])
    assert {each.partition(" ")[0] for each in seen.different} == {"torch", "python", "threads"}


def test_what_an_older_record_does_not_tell_contradicts_nothing(session):
    rng = random.Random(16)
    run = session(rng)

    def of(**settings):
        return dataclasses.replace(run.environment, settings={**run.environment.settings, **settings})

    seen = compare([run], [session(rng, environment=of(clock_source="tsc"))])
    assert seen.different == ("clock_source – / tsc",)
    hpet, tsc = (session(rng, environment=of(clock_source=name)) for name in ("hpet", "tsc"))
    with pytest.raises(ConfigError, match="clock_source hpet / tsc"):
        compare([hpet], [tsc])
    with pytest.raises(ConfigError, match="OMP_SCHEDULE – / static"):  # that it is not set is known
        compare([run], [session(rng, environment=of(OMP_SCHEDULE="static"))])


def test_a_name_that_is_not_checked_can_not_be_allowed(session):
    rng = random.Random(17)
    with pytest.raises(ConfigError, match="'tourch' is nothing that is checked"):
        compare([session(rng)], [session(rng)], allow_different=["tourch"])


@pytest.mark.parametrize("tolerance", [-0.1, 0.0, 1.0, float("nan")])
def test_an_impossible_tolerance_is_refused(session, tolerance):
    rng = random.Random(18)
    with pytest.raises(ConfigError, match="`tolerance`"):
        compare([session(rng)], [session(rng)], tolerance=tolerance)


def test_each_case_is_compared_with_its_own_baseline(session):
    rng = random.Random(19)
    cases = [Case("patch32"), Case("patch16")]
    baseline = [session(rng, case=case) for case in cases]
    candidate = [session(rng, case=case) for case in reversed(cases)]
    assert [seen.case for seen in compare_all(baseline, candidate)] == list(reversed(cases))


def test_a_case_that_the_baseline_lacks_is_refused(session):
    rng = random.Random(20)
    baseline = [session(rng, case=Case(name)) for name in ("patch32", "patch16")]
    with pytest.raises(ConfigError, match="no run of grid-r50"):
        compare_all(baseline, [session(rng, case=Case("grid-r50"))])


def test_a_case_that_the_candidate_lacks_is_missing_and_never_a_pass(session):
    rng = random.Random(22)
    baseline = [session(rng, case=Case(name)) for name in ("patch32", "patch16")]
    seen = compare_all(baseline, [session(rng, case=Case("patch32"))])
    assert [each.case.embedder for each in seen] == ["patch32", "patch16"]
    assert (seen[1].verdict, seen[1].total.missing_from) == ("missing", "candidate")
    assert exit_code(seen, "pass") == 1
    assert len(compare_all(baseline, [session(rng, case=Case("patch32"))], complete=False)) == 1


def test_a_case_that_only_the_candidate_has_lacks_a_baseline(session):
    rng = random.Random(23)
    both = [session(rng, case=Case(name)) for name in ("patch32", "patch16")]
    seen = compare_all([session(rng, case=Case("patch32"))], both)
    assert (seen[1].verdict, seen[1].total.missing_from) == ("missing", "baseline")
    assert exit_code(seen, "pass") == 4


def test_options_in_another_order_are_the_same_case(session):
    rng = random.Random(24)
    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    seen = compare_all(
        [session(rng, case=Case("x:y", options=one)), session(rng)],
        [session(rng, case=Case("x:y", options=other)), session(rng)],
    )
    assert all(each.total.ratio is not None for each in seen)


def test_the_newest_on_the_same_machine_counts_where_there_is_one(session):
    rng = random.Random(25)
    here = [session(rng, started_at=f"2026-11-{day}T03:55:00+00:00") for day in (20, 22)]
    elsewhere = dataclasses.replace(here[0].environment, fingerprint="beef")
    there = session(rng, started_at="2026-11-24T03:55:00+00:00", environment=elsewhere)
    assert newest([*here, there], like=[session(rng)])[0] == [here[1]]
    assert newest([*here, there])[0] == [there]


def test_the_baseline_of_a_gate_is_no_newest_measurement(session):
    rng = random.Random(26)
    sides = [dataclasses.replace(session(rng), side=side, group="one gate") for side in ("baseline", "candidate")]
    assert newest(sides) == ([sides[1]], [])
    assert newest(sides[:1]) == ([sides[0]], [])


def test_nothing_is_its_own_baseline(session):
    rng = random.Random(27)
    old, new = (session(rng, started_at=f"2026-11-{day}T03:55:00+00:00") for day in (20, 22))
    assert newest([old, new], like=[new]) == ([old], [])
    with pytest.raises(RecordError, match="is on both sides"):
        compare([old, new], [new])


def test_a_run_that_is_named_twice_counts_once(session):
    rng = random.Random(28)
    baseline, candidate = session(rng, trials=3), session(rng, trials=3)
    assert compare([baseline] * 4, [candidate] * 4) == compare([baseline], [candidate])


def test_several_cases_share_the_probability_of_a_false_alarm(session):
    rng = random.Random(29)
    cases = [Case(f"a:{name}") for name in "bcdefghijk"]
    baseline, candidate = ([session(rng, case=case) for case in cases] for _ in range(2))
    assert [each.error for each in compare_all(baseline, candidate)] == pytest.approx([0.001] * 10)
    alone = compare([baseline[0]], [candidate[0]])
    assert alone.error == 0.01


@pytest.mark.slow
def test_false_alarms_of_ten_stages_and_ten_cases_stay_below_one_in_a_hundred(session):
    rng = random.Random(30)
    wrong = dict.fromkeys(["stages", "cases"], 0)
    for _ in range(300):
        history = [session(rng, spread=0.04, trials=3) for _ in range(8)]
        sides = [[session(rng, spread=0.04, trials=5)] for _ in range(2)]
        wrong["stages"] += compare(*sides, history=history, decides="stages").verdict == "regressed"
        cases = [Case(f"a:{name}") for name in "bcdef"]
        many = [[session(rng, spread=0.04, trials=5, case=case) for case in cases] for _ in range(2)]
        known = [session(rng, spread=0.04, trials=3, case=case) for _ in range(8) for case in cases]
        wrong["cases"] += any(each.verdict == "regressed" for each in compare_all(*many, history=known))
    assert max(wrong.values()) <= 6


def test_sessions_of_other_settings_tell_nothing_of_the_drift(session):
    rng = random.Random(31)
    where = session(rng).environment
    history = [session(rng, spread=0.005, load=0.01) for _ in range(8)]
    other = dataclasses.replace(where, threads=1, versions={**where.versions, "torch": "1.0"})
    disturbing = [session(rng, spread=0.5, environment=other) for _ in range(8)]
    sides = [[session(rng, spread=0.005, load=0.01)] for _ in range(2)]
    found = compare(*sides, history=history)
    assert compare(*sides, history=[*history, *disturbing]) == found


def test_a_record_of_the_future_is_refused(session):
    rng = random.Random(32)
    with pytest.raises(RecordError, match="in the future"):
        newest([session(rng, started_at="2199-01-01T00:00:00+00:00"), session(rng)])


def test_a_record_that_does_not_tell_its_machine_is_refused(session):
    rng = random.Random(33)
    with pytest.raises(RecordError, match="does not tell its machine"):
        compare([session(rng, environment=None)], [session(rng, environment=None)])


def test_a_stage_without_a_time_has_no_verdict_and_hides_no_other(session):
    rng = random.Random(34)
    baseline, candidate = session(rng, load=0.01), session(rng, load=0.01, slowdown=0.9)
    trials = []
    for each in candidate.trials:
        stages = dict(each.samples.stages)
        first = next(iter(stages))
        stages[first] = Times(wall_time_s=(0.0,) * 10, cpu_time_s=(0.0,) * 10)
        trials.append(dataclasses.replace(each, samples=dataclasses.replace(each.samples, stages=stages)))
    seen = compare([baseline], [dataclasses.replace(candidate, trials=tuple(trials))])
    assert seen.verdict == "regressed"
    assert seen.stages[0].verdict == "inconclusive"


def test_times_over_hundreds_of_decades_are_no_traceback(session):
    rng = random.Random(35)
    values = (1e-300, 1e300, 1.0)
    trials = tuple(
        dataclasses.replace(each, samples=Series(Times(wall_time_s=(value,) * 3)))
        for each, value in zip(session(rng).trials, values, strict=False)
    )
    run = session(rng)
    assert compare([run], [dataclasses.replace(session(rng), trials=trials)]).verdict == "inconclusive"


def test_of_a_folder_the_newest_measurement_counts(session):
    rng = random.Random(21)
    runs = [session(rng, started_at=f"2026-11-{day}T03:55:00+00:00") for day in (20, 24, 22)]
    chosen, earlier = newest(runs)
    assert chosen == [runs[1]]
    assert earlier == [runs[0], runs[2]]


def test_times_are_of_the_clock_that_the_ratio_is_of(session):
    rng = random.Random(4)
    seen = compare([session(rng, load=0.05)], [session(rng, load=0.05, slowdown=0.5)])
    for stage in (seen.total, *seen.stages):
        assert stage.channel == "cpu_time"
        assert stage.ratio.candidate_s / stage.ratio.baseline_s == pytest.approx(stage.ratio.value)
    cpu_s = [
        min(trial.samples.whole.cpu_time_s) for run in [session(random.Random(4), load=0.05)] for trial in run.trials
    ]
    assert seen.total.ratio.baseline_s == pytest.approx(statistics.median(cpu_s), rel=0.1)


def test_drift_tells_how_many_sessions_know_it_by_each_clock(session):
    rng = random.Random(5)
    history = [session(rng, load=0.01) for _ in range(6)]
    without_cpu = [dataclasses.replace(run, trials=tuple(map(without_cpu_time, run.trials))) for run in history[:3]]
    seen = compare([session(rng)], [session(rng)], history=[*without_cpu, *history[3:]])
    note = next(note for note in seen.notes if "drift" in note)
    assert "of wall time (by 7 sessions)" in note  # the six, and the baseline's own
    assert "15% of CPU time (no 5 sessions of it are known)" in note


def test_runs_whose_threads_wait_otherwise_are_refused_and_that_is_told_once(session):
    rng = random.Random(1)
    calm = session(rng)
    settings = {name: value for name, value in calm.environment.settings.items() if name != "OMP_WAIT_POLICY"}
    where = dataclasses.replace(calm.environment, omp_wait_policy=None, settings=settings)
    calm = dataclasses.replace(
        calm,
        environment=dataclasses.replace(
            where, omp_wait_policy="PASSIVE", settings={**settings, "OMP_WAIT_POLICY": "PASSIVE"}
        ),
    )
    spinning = session(rng, environment=where)
    with pytest.raises(
        ConfigError, match=r"differ in omp-wait-policy unset / PASSIVE; .*`allow_different` omp-wait-policy$"
    ):
        compare([spinning], [calm])
    assert compare([spinning], [calm], allow_different=["omp-wait-policy"]).different == (
        "omp-wait-policy unset / PASSIVE",
    )
    with pytest.raises(ConfigError, match=r"differ in omp wait policy \(unset, PASSIVE\); .*omp-wait-policy to label"):
        check_comparable(summaries([spinning, calm]))
    check_comparable(summaries([spinning, calm]), ["omp-wait-policy"])


def test_runs_of_one_time_a_process_compare_as_those_of_all_samples(session):
    rng = random.Random(9)
    runs = [session(rng, trials=3, spread=0.01, load=0.01) for _ in range(8)]
    coarse = Times(wall_time_s=(0.0, 0.001, 0.002, 0.0), cpu_time_s=(0.0,) * 4)
    samples = dataclasses.replace(runs[0].trials[0].samples, stages={"textual_embedder": coarse})
    runs[0] = dataclasses.replace(runs[0], trials=(dataclasses.replace(runs[0].trials[0], samples=samples),))
    few = list(map(condensed, runs))
    assert max(len(trial.samples.whole.wall_time_s) for run in few for trial in run.trials) == 1
    for one, other in ((0, 1), (1, 2), (2, 0)):
        found, expected = (
            compare([each[one]], [each[other]], history=each[3:], decides="stages") for each in (few, runs)
        )
        assert found == expected


@pytest.mark.parametrize("wrong_s", [-1.0, 0.0, math.inf, math.nan])
def test_a_time_that_cant_be_true_is_refused_of_runs_of_one_time_a_process_too(session, wrong_s):
    run = session(random.Random(0))
    whole = Times(wall_time_s=(0.2, wrong_s, 0.2))
    wrong = dataclasses.replace(run.trials[3], samples=Series(whole=whole, blocks=(3,)))
    run = dataclasses.replace(run, trials=(*run.trials[:3], wrong))
    refused = []
    for each in (run, condensed(run)):
        with pytest.raises(RecordError, match="trial 4, whole: a time is") as told:
            compare([session(random.Random(1))], [each])
        refused.append(str(told.value))
    assert refused[0] == refused[1]
