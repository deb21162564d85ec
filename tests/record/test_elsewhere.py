"""Records in folders that are reached by a URL: in memory, and on a server that speaks S3's protocol."""

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vilt_bench.cli import main
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.record import load, store
from vilt_bench.record.run import Run

MakeRun = Callable[..., Run]


@pytest.fixture(params=["memory", "s3", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "s3":
        yield request.getfixturevalue("s3")
    elif request.param == "file":
        yield f"file://{tmp_path}/sweep"
    else:
        system = pytest.importorskip("fsspec").filesystem("memory")
        yield f"memory://{tmp_path.name}/sweep"
        system.store.clear()


def test_a_run_that_is_saved_to_a_url_is_read_from_there(make_run: MakeRun, folder: str) -> None:
    runs = [make_run(run_id=each, started_at=f"2026-11-24T0{each}:00:00+00:00") for each in "12"]
    urls = [str(store.save(run, folder)) for run in runs]
    assert load.load_folder(folder) == runs
    assert [load.load(url) for url in urls] == runs


def test_a_record_at_a_url_is_never_overwritten(make_run: MakeRun, folder: str) -> None:
    store.save(make_run(), folder)
    with pytest.raises(RecordError, match="is there already; records are never overwritten"):
        store.save(make_run(group="another"), folder)
    assert load.load_folder(folder) == [make_run()]


def test_to_look_whether_a_url_can_be_written_to_leaves_no_record(folder: str) -> None:
    store.check_writable(folder)
    with pytest.raises(RecordError, match="no record in folder"):
        list(load.read_folder(folder))


def test_a_bucket_is_reported_as_a_folder_is(
    make_run: MakeRun, s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for folder in (s3, str(tmp_path / "here")):
        store.save(make_run(), folder)
        assert main(["report", folder, "--format", "csv"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


@pytest.fixture
def without_rights(s3: str, s3_server: str) -> Iterator[str]:
    """Returns a folder in a bucket of a server that knows nobody."""

    def look_at_keys_after(actions: int) -> None:
        request = urllib.request.Request(
            f"{s3_server}/moto-api/reset-auth", str(actions).encode(), {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request).close()

    look_at_keys_after(0)
    yield s3
    look_at_keys_after(10**9)


def test_a_bucket_without_rights_is_told_in_a_line_before_anything_is_measured(
    without_rights: str, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecordError, match=r"could not be saved: .* no right to it"):
        store.save(make_run(), without_rights)
    for command in (["run", "patch32", "--output", without_rights], ["report", without_rights]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"vilt-bench: {without_rights} can't be ")
        assert "these credentials have no right to it; give others, or another folder" in said
        assert said.count("\n") == 1


def test_a_bucket_that_is_not_there_is_told_in_a_line(s3: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = "s3://no-such-bucket-as-this/sweep"
    for command in (["run", "patch32", "--output", url], ["report", url]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "there is no such bucket or folder; make it, or give another" in said
        assert said.count("\n") == 1


def test_missing_credentials_are_told(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="no credentials were found"):
        store.check_writable(s3)
    s3fs.S3FileSystem.clear_instance_cache()


def test_what_writes_to_buckets_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec.registry")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"needs s3fs; install it: python -m pip install s3fs"):
        store.check_writable("s3://bucket/sweep")
    with pytest.raises(ConfigError, match="no folder that fsspec knows"):
        store.check_writable("quark://bucket/sweep")


def test_a_file_system_that_can_not_refuse_a_name_is_asked_for_it_before(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem

    def pipe_file(self: object, path: str, value: bytes) -> None:  # as it was before there was a mode
        self.open(path, "wb", data=value)  # type: ignore[attr-defined]

    monkeypatch.setattr(memory, "pipe_file", pipe_file)
    folder = f"memory://{tmp_path.name}/sweep"
    store.save(make_run(), folder)
    with pytest.raises(RecordError, match="is there already"):
        store.save(make_run(), folder)
    memory().rm(f"/{tmp_path.name}", recursive=True)


def test_folders_of_this_machine_need_no_fsspec(tmp_path: Path) -> None:
    code = (
        "import sys; from vilt_bench.record import load, store; store.check_writable('here')\n"
        "try: load.load_folder('here')\n"
        "except Exception: pass\n"
        "sys.exit('fsspec' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
