from collections.abc import Callable
from pathlib import Path

import pytest

from vilt_bench.ask.case import Case
from vilt_bench.errors import RecordError
from vilt_bench.record import load, store
from vilt_bench.record.run import Run

MakeRun = Callable[..., Run]


def test_files_of_a_folder_load_in_order_of_time(make_run: MakeRun, tmp_path: Path) -> None:
    times = ["2026-11-24T03:55:00+00:00", "2026-01-01T00:00:00Z", "2026-11-24T09:00:00+09:00"]
    for index, time in enumerate(times):
        store.save(make_run(f"embedder{index}", started_at=time), tmp_path / str(2 - index))
    (tmp_path / "report.json").write_text("[]")
    assert [run.started_at for run in load.load_all([tmp_path])] == [times[1], times[2], times[0]]


def test_file_given_twice_is_loaded_once(make_run: MakeRun, tmp_path: Path) -> None:
    path = store.save(make_run(), tmp_path)
    assert len(load.load_all([path, tmp_path, path])) == 1


def test_missing_file_empty_folder_and_folder_as_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no record"):
        load.load_all([tmp_path / "missing.json"])
    with pytest.raises(RecordError, match="no record in folder"):
        load.load_all([tmp_path])
    with pytest.raises(RecordError, match="can't be read"):
        load.load(tmp_path)


def test_one_broken_record_in_a_folder_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    path = store.save(make_run(), tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RecordError, match=path.name):
        load.load_all([tmp_path])


def test_runs_of_a_folder_come_as_they_were_asked_for(make_run: MakeRun, tmp_path: Path) -> None:
    sizes = [(224, 224), (512, 512), (384, 384)]
    for position, (size, run_id) in enumerate(zip(sizes, "zxy", strict=True)):
        store.save(
            make_run(case=Case("patch32", resolution=size), run_id=run_id, group="b", position=position), tmp_path
        )
    earlier = make_run("patch16", run_id="0", group="a", started_at="2026-11-24T03:54:59.900+00:00")
    store.save(earlier, tmp_path)
    expected = [None, *sizes]
    assert [run.case.resolution for run in load.load_all([tmp_path])] == expected
    assert [run.case.resolution for run in load.load_folder(tmp_path)] == expected


def test_runs_of_older_records_come_by_size(make_run: MakeRun, tmp_path: Path) -> None:
    for size, run_id in (((512, 512), "a"), ((224, 224), "c"), ((384, 384), "b")):
        store.save(make_run(case=Case("patch32", resolution=size), run_id=run_id), tmp_path)
    assert [run.case.resolution[0] for run in load.load_all([tmp_path])] == [224, 384, 512]
