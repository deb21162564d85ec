"""Measuring records again, with a scripted worker."""

import dataclasses
from dataclasses import dataclass, field

import pytest

from vilt_bench import protocol
from vilt_bench.ask.case import Case, Sampling
from vilt_bench.director.rerun import rerun
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.record.run import Conditions, Environment, Failure, Origin, Series, Source, Times

QUICK = Sampling(trials=1, max_time_s=0.01, least_samples=1)


@dataclass
class ScriptedWorker:
    environment: Environment
    model: object
    log: list = field(default_factory=list)

    def ask(self, request, expected):
        self.log.append(request)
        match request:
            case protocol.Prepare():
                return protocol.Prepared("2026-01-01T00:00:00+00:00", 0.1, 0.001, self.environment, self.model)
            case protocol.Count():
                return protocol.Counted((), None, ())
            case protocol.Measure():
                times = Times(wall_time_s=(0.01,))
                return protocol.Measured(Series(times, {"visual_embedder": times}, times, (1,)))
            case protocol.MeasureEnergy():
                return protocol.EnergyMeasured(None)
        return protocol.Finished(Conditions(), ())

    def close(self):
        """It has no process."""

    kill = close


@pytest.fixture
def again(make_run):
    """Measures runs again on the machine that `changes` make of the records' own; returns the new runs and what was
    said and asked."""

    def measure(*runs, changes=None, versions=None, settings=None, **options):
        old = runs[0].environment or make_run(trials=1).environment
        now = dataclasses.replace(
            old,
            versions={**old.versions, **(versions or {})},
            settings={**old.settings, **(settings or {})},
            **(changes or {}),
        )
        said, log = [], []
        new = rerun(
            runs,
            say=said.append,
            start_worker=lambda: ScriptedWorker(now, make_run(trials=1).model, log),
            **options,
        )
        return new, said, log

    return measure


@pytest.fixture
def record(make_run):
    return make_run(trials=1, sampling=QUICK)


def test_the_case_is_measured_with_the_effort_of_its_record(again, record):
    (new,), _, _ = again(record, name="again", origin=Origin("vilt-bench rerun latest", repeats=(record.run_id,)))
    assert (new.case, new.sampling, new.name) == (record.case, QUICK, "again")
    assert new.origin == Origin("vilt-bench rerun latest", None, ("0123abcd",))
    assert new.run_id != record.run_id


def test_cases_of_one_effort_are_measured_together_and_one_that_several_records_have_once(again, record):
    other = dataclasses.replace(record, run_id="other", case=Case("patch16"))
    twin = dataclasses.replace(record, run_id="twin")
    slow = dataclasses.replace(record, run_id="slow", sampling=dataclasses.replace(QUICK, least_samples=2))
    new, _, _ = again(record, other, twin, slow)
    assert [run.case.embedder for run in new] == ["patch32", "patch16", "patch32"]
    assert [run.sampling.least_samples for run in new] == [1, 1, 2]
    assert new[0].group == new[1].group != new[2].group


@pytest.mark.parametrize(
    ("different", "said"),
    [
        ({"versions": {"torch": "2.14.1"}}, r"torch 2\.9\.0 / 2\.14\.1 \(then / now\).*`allow_different` torch"),
        ({"changes": {"fingerprint": "beef", "machine": "Xeon"}}, r"machine EPYC 7B13 f00d / Xeon beef"),
        ({"changes": {"device": "cuda:0"}}, "device cpu / cuda:0"),
        ({"changes": {"threads": 4}}, "threads 2 / 4"),
    ],
)
def test_another_machine_or_torch_is_refused_before_anything_is_timed(again, record, different, said):
    asked = []
    with pytest.raises(ConfigError, match=said):
        _, _, asked = again(record, **different)
    assert not any(isinstance(request, protocol.Measure) for request in asked)


def test_other_photographs_than_those_of_then_are_said(again, record):
    older = dataclasses.replace(record, model=dataclasses.replace(record.model, images=("china.jpg", "flower.jpg")))
    _, said, _ = again(older)
    both = "photographs china.jpg, flower.jpg / hopper-upper.jpg, hopper-lower.jpg"
    assert said == [f"Differs, and may: {both} (then / now)."]


def test_what_may_differ_is_said_and_measured(again, record):
    runs, said, _ = again(record, versions={"torch": "2.14.1"}, allow_different=["torch"])
    assert len(runs) == 1
    assert said == ["Differs, and may: torch 2.9.0 / 2.14.1 (then / now)."]


def test_a_setting_that_only_needs_telling_is_told_and_once(again, record):
    twin = dataclasses.replace(record, run_id="twin")
    record, twin = (
        dataclasses.replace(
            each, environment=dataclasses.replace(each.environment, settings={"governor": "performance"})
        )
        for each in (record, twin)
    )
    _, said, _ = again(record, twin, settings={"governor": "powersave"}, allow_different=["governor"])
    assert said == ["Differs, and may: governor performance / powersave (then / now)."]


def test_another_commit_and_an_interruption_are_told(again, record):
    record = dataclasses.replace(record, source=Source("a" * 40, "main", True, None), interrupted=True)
    _, said, _ = again(record)
    assert [text.partition(";")[0] for text in said] == [
        "Run 0123abcd is of commit aaaaaaaaaaaa (changed)",
        "Run 0123abcd was interrupted",
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"case": Case("patch32", images=("gone.jpg",))}, "can't be measured again: no image 'gone.jpg'"),
        ({"case": Case("acme-embedder")}, "can't be measured again: .*acme-embedder"),
        ({"failure": Failure("out-of-memory", "16 GiB")}, "failed .*vilt-bench run --embedder patch32"),
        ({"trials": ()}, "has no timed pass"),
        ({"environment": None}, "has no timed pass"),
        ({"side": "baseline"}, "the baseline of a gate"),
    ],
)
def test_what_can_not_be_repeated_is_refused_before_a_process_is_started(record, fields, said):
    with pytest.raises(RecordError, match=said):
        rerun([dataclasses.replace(record, **fields)], start_worker=lambda: pytest.fail("started"))


def test_what_may_differ_must_be_known(record):
    with pytest.raises(ConfigError, match="'trch' is nothing that is checked"):
        rerun([record], allow_different=["trch"], start_worker=lambda: pytest.fail("started"))


def test_nothing_can_not_be_measured_again():
    with pytest.raises(RecordError, match="no run"):
        rerun([])
