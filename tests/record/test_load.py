import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vilt_bench.ask.case import Case
from vilt_bench.cli import main
from vilt_bench.director.checkout import records_at
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


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """Returns a function that copies a folder to another file system, and gives its URL."""
    fsspec = pytest.importorskip("fsspec")
    system, root = fsspec.filesystem("memory"), f"/load-{tmp_path.name}"

    def copy(folder: Path) -> str:
        for file in (file for file in folder.rglob("*") if file.is_file()):
            system.pipe(f"{root}/{folder.name}/{file.relative_to(folder).as_posix()}", file.read_bytes())
        return f"memory:/{root}/{folder.name}"

    yield copy
    if system.exists(root):
        system.rm(root, recursive=True)


@pytest.fixture
def mixed(make_run: MakeRun, tmp_path: Path) -> tuple[Path, list[Run], str]:
    """Returns a folder with records, one of them cut off, and other files; the runs; and the broken one's name."""
    folder = tmp_path / "mixed"
    runs = [make_run(run_id=f"{day}", started_at=f"2026-11-2{day}T03:55:00+00:00") for day in range(4)]
    for day, run in enumerate(runs):
        store.save(run, folder / f"below-{3 - day}")
    broken = store.save(make_run(run_id="9", started_at="2026-11-25T03:55:00+00:00"), folder)
    broken.write_bytes(broken.read_bytes()[:-200])
    (folder / "report.json").write_text("[]")
    (folder / "notes.txt").write_text("2026")
    return folder, runs, broken.name


def test_folders_urls_and_commits_are_read_alike_and_leave_out_the_same(
    mixed: tuple[Path, list[Run], str],
    elsewhere: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, runs, broken = mixed
    monkeypatch.chdir(folder.parent)
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm records"):
        subprocess.run(["git", *command.split()], check=True)
    url = elsewhere(folder)
    readers: dict[str, Callable[..., list[Run]]] = {
        "folder": lambda **options: load.load_folder(folder, **options),
        "folders": lambda **options: load.load_all([folder], **options),
        "url": lambda **options: load.load_folder(url, **options),
        "urls": lambda **options: load.load_all([url, url], **options),
        "commit": lambda **options: records_at("HEAD", folder.name, **options),
    }
    for name, read in readers.items():
        told: list[str] = []
        assert read(left_out=told.append) == runs, name
        assert len(told) == 1, name
        assert broken in told[0], name
        with pytest.raises(RecordError, match=broken):
            read()


def test_report_and_compare_take_a_url_as_they_take_a_folder(
    make_run: MakeRun, tmp_path: Path, elsewhere: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    for side, noise in (("before", 0.001), ("after", 0.002)):
        store.save(make_run(run_id=side, group=side, noise=noise), tmp_path / side)
    urls = {side: elsewhere(tmp_path / side) for side in ("before", "after")}

    def printed(*arguments: str) -> str:
        main(list(arguments))
        return capsys.readouterr().out

    for command in (["report"], ["report", "--format", "csv"], ["report", "--join"], ["compare", "--format", "json"]):
        here = printed(*command, str(tmp_path / "before"), str(tmp_path / "after"))
        there = printed(*command, urls["before"], urls["after"])
        assert len(here) > 100
        assert there.replace(urls["before"], str(tmp_path / "before")).replace(
            urls["after"], str(tmp_path / "after")
        ) == here  # fmt: skip


def test_one_record_is_read_by_its_url(make_run: MakeRun, tmp_path: Path, elsewhere: Callable[[Path], str]) -> None:
    path = store.save(make_run(), tmp_path / "one")
    url = elsewhere(tmp_path / "one")
    assert load.load(f"{url}/{path.name}") == make_run()
    with pytest.raises(RecordError, match="no record memory:"):
        load.load(f"{url}/missing.json")
