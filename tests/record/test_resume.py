"""Where a plan stands: what is there, what was cut short, what others measure, and what is left over."""

import platform
from dataclasses import replace

import pytest

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.record import store
from vilt_bench.record.live import Claim, Director
from vilt_bench.record.resume import runs_in, sort_out
from vilt_bench.record.run import Failure

SAMPLING = Sampling()


@pytest.fixture
def standing(tmp_path, make_run):
    """Returns where cases stand in a folder with the records given."""

    def stand(cases, *runs, directors=(), sampling=SAMPLING, here=None):
        for index, run in enumerate(runs):
            store.save(replace(run, run_id=f"id{index}"), tmp_path)
        where = here or make_run().environment
        return sort_out(cases, sampling, runs_in(tmp_path), directors, lambda _: where)

    return stand


def test_a_complete_record_of_case_sampling_and_machine_is_not_measured_again(standing, make_run):
    run = make_run("patch32")
    found = standing([run.case, Case("patch16")], run)
    assert list(found.done) == ["patch32"]
    assert (found.cut, found.busy, found.otherwise, found.left_over) == ({}, {}, {}, [])


def test_what_was_interrupted_or_failed_goes_on_where_most_was_measured(standing, make_run):
    some, more = make_run(trials=1, interrupted=True), make_run(trials=2, interrupted=True)
    broken = make_run("grid-r50", failure=Failure("crashed", "gone"))
    unbuilt = make_run("patch16", trials=0, environment=None, failure=Failure("out-of-memory", "no more"))
    found = standing([some.case, broken.case, unbuilt.case], more, some, broken, unbuilt)
    assert {name: each.run.run_id for name, each in found.cut.items()} == {
        "patch32": "id0",
        "grid-r50": "id2",
        "patch16": "id3",
    }
    assert [each.run.run_id for each in found.left_over] == ["id1"]


@pytest.mark.parametrize(
    ("sampling", "change", "facts"),
    [
        (Sampling(max_time_s=5), {}, "sampling precision 0.01, 60 s / precision 0.01, 5 s"),
        (SAMPLING, {"fingerprint": "beef"}, "machine EPYC 7B13 f00d / EPYC 7B13 beef"),
        (SAMPLING, {"threads": 4}, "threads 2 / 4"),
        (SAMPLING, {"versions": {"torch": "2.10.0", "python": "3.12.3"}}, "torch 2.9.0 / 2.10.0"),
    ],
)
def test_what_was_measured_otherwise_is_measured_anew_and_said(standing, make_run, sampling, change, facts):
    run = make_run()
    found = standing([run.case], run, sampling=sampling, here=replace(run.environment, **change))
    assert found.otherwise == {"patch32": facts}
    assert (found.done, found.cut, found.left_over) == ({}, {}, [])


def test_a_governor_or_a_commit_that_changed_is_no_reason_to_measure_again(standing, make_run):
    run = make_run()
    here = replace(run.environment, settings={**run.environment.settings, "governor": "powersave"})
    assert list(standing([run.case], run, here=here).done) == ["patch32"]


def test_runs_of_no_case_of_the_plan_are_left_over(standing, make_run):
    found = standing([Case("patch32")], make_run("patch16"), make_run("grid-r50", interrupted=True))
    assert {each.run.case.embedder for each in found.left_over} == {"patch16", "grid-r50"}


def test_the_sides_of_a_gate_are_no_records_of_a_plan(standing, make_run):
    run = make_run(side="candidate")
    assert not standing([run.case], run).done


def test_a_clock_that_was_set_back_changes_nothing(standing, make_run):
    cut = make_run(trials=1, interrupted=True, started_at="2031-01-01T00:00:00+00:00")
    done = make_run("patch16", started_at="2031-01-01T00:00:00+00:00")
    found = standing([cut.case, done.case], cut, done)
    assert (list(found.done), list(found.cut)) == (["patch16"], ["patch32"])


@pytest.mark.parametrize(
    ("host", "sampling", "busy"),
    [(platform.node(), SAMPLING, True), (platform.node(), Sampling(trials=1), False), ("elsewhere", SAMPLING, False)],
)
def test_what_another_process_measures_on_this_machine_is_left_to_it(standing, host, sampling, busy):
    case = Case("patch32")
    other = Director("d", host, 1, sampling, (Claim("a", case),))
    found = standing([case, Case("patch16")], directors=[other])
    assert found.busy == ({"patch32": other} if busy else {})


def test_a_folder_that_is_not_there_has_nothing(tmp_path):
    assert list(runs_in(tmp_path / "new")) == []
    assert list(runs_in(tmp_path)) == []


def test_what_can_not_be_read_is_said(tmp_path, make_run):
    path = store.save(make_run(), tmp_path)
    path.write_text("{")
    told = []
    assert list(runs_in(tmp_path, left_out=told.append)) == []
    assert "is not a whole record" in told[0]
