import dataclasses
import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import vilt_bench
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.record import load, store
from vilt_bench.record.run import Run

MakeRun = Callable[..., Run]


def test_saved_run_loads_equal(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    path = store.save(run, tmp_path / "new" / "folder")
    assert path.name == "2026-11-24T035500Z-patch32-0123abcd.json"
    assert vilt_bench.load(path) == run
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", ["timm/vit_base", "my.module:factory", "../../up", "a b|c*?", "日本語"])
def test_name_of_any_embedder_is_safe_as_a_file_name(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    run = make_run(name)
    path = store.save(run, tmp_path)
    assert path.parent == tmp_path
    assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert load.load_all([tmp_path]) == [run]


def test_saving_again_never_overwrites(make_run: MakeRun, tmp_path: Path) -> None:
    path = store.save(make_run(), tmp_path)
    before = path.read_bytes()
    with pytest.raises(RecordError, match="never overwritten"):
        store.save(make_run(interrupted=True), tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_of_writers_at_once_exactly_one_wins(make_run: MakeRun, tmp_path: Path) -> None:
    outcomes: list[str] = []

    def write(index: int) -> None:
        try:
            store.save(make_run(group=str(index)), tmp_path)
            outcomes.append("saved")
        except RecordError:
            outcomes.append("refused")

    threads = [threading.Thread(target=write, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["saved"]
    assert len(load.load_all([tmp_path])) == 1


def test_file_system_without_hard_links_is_written_to(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = store.save(make_run(), tmp_path)
    assert load.load(path) == make_run()
    with pytest.raises(RecordError, match="never overwritten"):
        store.save(make_run(), tmp_path)


def test_full_disk_is_one_line_and_leaves_nothing(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="the disk is full") as caught:
        store.save(make_run(), tmp_path)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_file_in_place_of_the_folder_is_refused_before_measuring(make_run: MakeRun, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below"):
        with pytest.raises(ConfigError, match="a file and not a folder"):
            store.check_writable(folder)
        with pytest.raises(RecordError, match="a file and not a folder"):
            store.save(make_run(), folder)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="permission denied"):
        store.check_writable(tmp_path)


def test_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    store.check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


def test_record_is_plain_json_with_its_version(make_run: MakeRun, tmp_path: Path) -> None:
    raw = json.loads(store.save(make_run(), tmp_path).read_text())
    assert raw["schema_version"] == 1
    assert len(raw["trials"][0]["samples"]["whole"]["wall_time_s"]) == 30


def test_run_that_started_at_no_time_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="ISO 8601"):
        store.save(dataclasses.replace(make_run(), started_at="yesterday"), tmp_path)
