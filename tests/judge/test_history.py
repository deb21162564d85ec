"""Histories, from records in a folder to what a reader sees."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest

import vilt_bench
from vilt_bench.ask.case import Case
from vilt_bench.cli import main
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.judge.history import history, rows
from vilt_bench.record import codec, load, store
from vilt_bench.record.run import Failure, Run, Source
from vilt_bench.report.history import render as run_render
from vilt_bench.report.history.words import machine_line

MakeRun = Callable[..., Run]
FIRST = datetime(2026, 9, 1, tzinfo=UTC)
STAGES_S = {"textual_embedder": 0.0003, "visual_embedder.backbone": 0.17, "modality_interaction": 0.0955}


def commit(index: int) -> str:
    return f"{index + 1:08x}" + 32 * "0"


def test_a_slowdown_is_told_with_its_commit_size_and_stage(save_history, tmp_path) -> None:
    save_history(tmp_path, 40, since=25, slower=1.1)
    (case,) = vilt_bench.history(tmp_path).cases
    (whole,) = case.changes_of("whole")
    (backbone,) = case.changes_of("visual_embedder.backbone")
    assert whole.first.source.commit == backbone.first.source.commit == commit(25)
    assert whole.last.source.commit == commit(24)
    assert backbone.low < 1.1 < backbone.high
    assert 1.0 < whole.ratio < backbone.ratio
    assert not case.changes_of("textual_embedder")
    assert not case.changes_of("modality_interaction")


def test_what_else_changed_with_a_slowdown_is_named(save_history, make_run, tmp_path) -> None:
    save_history(tmp_path, 12)
    old = load.load_all([tmp_path])
    for index, run in enumerate(old):
        versions = dict(run.environment.versions) | {"torch": "2.10.0"}
        latencies = {stage: 1.3 * value for stage, value in STAGES_S.items()}
        later = make_run(
            latencies_s=latencies,
            run_id=f"later{index}",
            started_at=(FIRST + timedelta(days=50 + index)).isoformat(),
            environment=replace(run.environment, versions=versions),
        )
        store.save(later, tmp_path)
    (case,) = history(tmp_path).cases
    assert case.changes_of("whole")[0].differences == ("torch 2.9.0 → 2.10.0",)


def test_machines_cases_and_threads_are_kept_apart(make_run, tmp_path) -> None:
    plain = make_run()
    other = replace(plain.environment, fingerprint="beef")
    fewer = replace(plain.environment, threads=1)
    batch = replace(plain.case, batch_size=8)
    for index, fields in enumerate([{}, {}, {"environment": other}, {"environment": fewer}, {"case": batch}]):
        store.save(make_run(run_id=str(index), **fields), tmp_path)
    assert sorted(len(case.points) for case in history(tmp_path).cases) == [1, 1, 1, 2]


def test_candidates_of_gates_and_runs_with_calm_threads_have_histories_of_their_own(make_run, tmp_path) -> None:
    where = make_run().environment
    calm, spinning = (replace(where, omp_wait_policy=policy) for policy in ("PASSIVE", None))
    runs = [(spinning, None), (calm, None), (calm, "baseline"), (calm, "candidate")]
    for index, (environment, side) in enumerate(runs):
        store.save(make_run(run_id=str(index), environment=environment, side=side), tmp_path)
    lines = {case.points[0].run_id: machine_line(case) for case in history(tmp_path).cases}
    assert sorted(lines) == ["0", "1", "3"]
    assert "OMP_WAIT_POLICY" not in lines["0"]
    assert lines["1"].endswith("OMP_WAIT_POLICY=PASSIVE")
    assert lines["3"].endswith("OMP_WAIT_POLICY=PASSIVE · candidates of gates")


def test_a_machine_that_is_measured_no_more_neither_hides_nor_alarms(make_run, tmp_path, capsys) -> None:
    where = make_run().environment
    retired = replace(where, fingerprint="beef")
    for day in range(1, 13):
        store.save(
            make_run(run_id=f"old-{day}", started_at=f"2026-01-{day:02}T00:00:00+00:00", environment=retired), tmp_path
        )
    for day in range(1, 7):
        store.save(make_run(run_id=f"new-{day}", started_at=f"2026-02-{day:02}T00:00:00+00:00"), tmp_path)
    assert [case.fingerprint for case in history(tmp_path).current()] == [where.fingerprint]
    assert main(["history", "check", str(tmp_path)]) == 3
    assert "beef" in capsys.readouterr().out
    assert len(history(tmp_path).current(newest=40)) == 1


def test_one_folder_may_be_empty_but_not_all(make_run, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    store.save(make_run(), tmp_path / "new")
    assert history(tmp_path / "empty", tmp_path / "new").records == 1
    with pytest.raises(RecordError, match="no record in folder"):
        history(tmp_path / "empty", tmp_path / "empty")


def test_runs_stand_in_order_of_their_commits_or_as_they_were_made(make_run, tmp_path) -> None:
    backfilled = Source(commit(0), None, False, "2026-01-01T00:00:00+00:00")
    store.save(make_run(run_id="second", started_at="2026-05-01T00:00:00+00:00"), tmp_path)
    store.save(make_run(run_id="first", started_at="2026-06-01T00:00:00+00:00", source=backfilled), tmp_path)
    assert [point.run_id for point in history(tmp_path).cases[0].points] == ["first", "second"]
    assert [point.run_id for point in history(tmp_path, order="run").cases[0].points] == ["second", "first"]


def test_latency_and_interval_are_those_of_the_report(make_run, tmp_path) -> None:
    from vilt_bench.judge.latency import latency

    run = make_run()
    store.save(run, tmp_path)
    (point,) = history(tmp_path).cases[0].points
    for stage in ("whole", "visual_embedder", "visual_embedder.projection"):
        expected, found = latency(run, stage), point.latency(stage)
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_since_limit_embedder_and_stage_choose(save_history, tmp_path) -> None:
    save_history(tmp_path, 10)
    save_history(tmp_path, 10, name="grid-r50")
    assert [case.embedder for case in history(tmp_path, embedders=["grid-r50"]).cases] == ["grid-r50"]
    assert {len(case.points) for case in history(tmp_path, since="2026-09-08").cases} == {2}
    assert {case.points[0].run_id[-1] for case in history(tmp_path, limit=3).cases} == {"7"}
    chosen = history(tmp_path, stages=["backbone"])
    assert chosen.stages == ("visual_embedder.backbone",)
    assert {row["stage"] for row in rows(chosen)} == {"visual_embedder.backbone"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"embedders": ["patch3"]}, "no run of `embedders` patch3; there is patch32"),
        ({"stages": ["rpn"]}, "no run has `stages` rpn; there is whole"),
        ({"since": "yesterday"}, "neither a date"),
        ({"since": "2099-01-01"}, "no run since"),
        ({"limit": 0}, "`limit` must be at least 1"),
        ({"order": "size"}, "`order` must be one of"),
    ],
)
def test_a_choice_that_fits_nothing_is_refused_with_what_there_is(make_run, tmp_path, arguments, said) -> None:
    store.save(make_run(), tmp_path)
    with pytest.raises(ConfigError, match=said):
        history(tmp_path, **arguments)


def test_one_corrupt_record_hides_no_other_and_is_named(save_history, make_run, tmp_path) -> None:
    save_history(tmp_path, 3)
    (tmp_path / "2026-11-24T000000Z-cut-short.json").write_bytes(b'{"schema_version": 1, "run_')
    (tmp_path / "2026-11-24T000001Z-empty.json").write_bytes(b"")
    (tmp_path / "2026-11-24T000002Z-other.json").write_bytes(b"[]")
    (tmp_path / "2026-11-24T000003Z-newer.json").write_bytes(b'{"schema_version": 99}')
    negative = codec.encode(make_run(run_id="negative")).replace(b"0.0042", b"-0.0042").replace(b"0.1", b"-0.1")
    (tmp_path / "2026-11-24T000004Z-negative.json").write_bytes(negative)
    found = history(tmp_path)
    assert [len(case.points) for case in found.cases] == [3]
    assert found.records == 8
    assert len(found.unreadable) == 5
    for name, line in zip(["cut-short", "empty", "other", "newer", "negative"], found.unreadable, strict=True):
        assert name in line
    with pytest.raises(RecordError, match="cut-short"):
        history(tmp_path, strict=True)


def test_failed_runs_are_counted_and_not_drawn(make_run, tmp_path) -> None:
    store.save(make_run(run_id="fine"), tmp_path)
    store.save(make_run(run_id="failed", trials=0, failure=Failure("error", "no")), tmp_path)
    (case,) = history(tmp_path).cases
    assert (len(case.points), case.failed) == (1, 1)
    assert "1 more failed" in run_render(history(tmp_path), "table")


def test_empty_and_missing_folders_are_refused(tmp_path) -> None:
    with pytest.raises(RecordError, match="no record in folder"):
        history(tmp_path)
    with pytest.raises(RecordError, match="no folder"):
        history(tmp_path / "missing")


@pytest.fixture
def memory_folder() -> Iterator[str]:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.makedirs("/nightly", exist_ok=True)
    yield "memory://nightly"
    system.rm("/nightly", recursive=True)


def test_a_folder_of_another_file_system_reads_the_same(save_history, tmp_path, memory_folder) -> None:
    import fsspec

    save_history(tmp_path, 5)
    system = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        system.pipe(f"/nightly/{path.name}", path.read_bytes())
    system.pipe("/nightly/report.json", b"[]")
    assert history(memory_folder).cases == history(tmp_path).cases


def test_an_empty_folder_elsewhere_is_refused(memory_folder) -> None:
    with pytest.raises(RecordError, match="no record in folder memory://"):
        history(memory_folder)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://bucket/nightly", "python -m pip install s3fs"),
        ("gs://bucket/nightly", "python -m pip install gcsfs"),
        ("abfs://box/nightly", "python -m pip install adlfs"),
        ("quark://nightly", "no folder that fsspec knows"),
    ],
)
def test_a_missing_file_system_is_told_with_the_line_that_installs_it(url, said, capsys) -> None:
    pytest.importorskip("fsspec")
    package = said.split()[-1]
    if package in ("s3fs", "gcsfs", "adlfs") and find_spec(package):
        pytest.skip(f"{package} is installed")
    assert main(["history", url]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1


def with_a_wrong_clock(save_history, folder: Path, *, late: int) -> None:
    """Saves a history that is slower since `late` runs, whose commits a clock dated 30 days back."""
    save_history(folder, 30, since=30 - late, slower=1.5)
    for run in load.load_folder(folder):
        index = int(run.run_id.rpartition("-")[2])
        if index >= 30 - late:
            dated = (FIRST + timedelta(days=index - 30)).isoformat()
            source = dataclasses.replace(run.source, committed_at=dated)
            (path,) = folder.glob(f"*{run.run_id}.json")
            path.write_bytes(codec.encode(dataclasses.replace(run, source=source)))


def test_a_slowdown_that_a_wrong_clock_hides_among_old_commits_is_told_and_decides_nothing(
    save_history, tmp_path, capsys
) -> None:
    with_a_wrong_clock(save_history, tmp_path, late=6)
    assert main(["history", "check", str(tmp_path), "--order", "run"]) == 1
    said = capsys.readouterr().out
    assert "slower since" in said
    assert "by time of commit instead of run, no slowdown began" in said
    assert main(["history", "check", str(tmp_path)]) == 3
    said = capsys.readouterr().out
    assert "by time of run instead of commit, slower since" in said
    assert commit(24)[:8] in said
    assert "no slowdown began in the newest" not in said
    found = vilt_bench.history(tmp_path)
    for format in ("table", "markdown", "json"):
        assert "By time of run instead of commit it changes otherwise" in " ".join(run_render(found, format).split())


def test_orders_that_agree_are_not_told_of(save_history, tmp_path, capsys) -> None:
    save_history(tmp_path, 30, since=24, slower=1.5)
    assert main(["history", "check", str(tmp_path)]) == 1
    assert "instead of" not in capsys.readouterr().out
    assert "instead of" not in run_render(vilt_bench.history(tmp_path), "table")


def test_histories_of_two_sizes_bear_two_names_and_say_what_the_model_saw(make_run, tmp_path, capsys) -> None:
    for index in range(16):
        size = (224, 224) if index % 2 else (384, 384)
        run = make_run(case=Case("patch32", resolution=size), run_id=f"r{index}")
        model = dataclasses.replace(run.model, resolution=size, visual_tokens=size[0] ** 2 // 32**2)
        store.save(dataclasses.replace(run, model=model), tmp_path)
    found = vilt_bench.history(tmp_path)
    for format in ("table", "markdown", "csv", "json"):
        text = run_render(found, format)
        assert "patch32 (224×224)" in text
        assert "patch32 (384×384)" in text
    assert "224×224 pixels, 49 visual tokens" in run_render(found, "table")
    assert main(["history", "check", str(tmp_path)]) == 0
    frame = found.to_frame()
    assert set(frame["visual_tokens"]) == {49, 144}


def test_a_change_of_what_the_model_saw_is_named_with_the_slowdown(save_history, tmp_path) -> None:
    save_history(tmp_path, 30, since=15, slower=1.5)
    for path in sorted(tmp_path.glob("*.json")):
        run = load.load(path)
        if int(run.run_id.rpartition("-")[2]) >= 15:
            model = dataclasses.replace(run.model, visual_tokens=960)
            path.write_bytes(codec.encode(dataclasses.replace(run, model=model)))
    assert "visual tokens 240 → 960" in " ".join(run_render(vilt_bench.history(tmp_path), "table").split())
