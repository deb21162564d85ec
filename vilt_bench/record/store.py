"""Saves each run once, as one file; says which records of many can be read."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from vilt_bench import files
from vilt_bench.ask.case import case_name
from vilt_bench.errors import ConfigError, FileError, RecordError
from vilt_bench.record import elsewhere
from vilt_bench.record.codec import encode
from vilt_bench.record.run import Run


def save(run: Run, folder: str | os.PathLike[str]) -> Path | str:
    """Write the run as a new file and return its path, or its URL.

    The file appears whole or not at all, and never replaces another. Names sort by time.

    Args:
        run: to be written.
        folder: a path, or a URL that fsspec understands, such as `s3://bucket/sweep`.

    Raises:
        RecordError: the run can't be written, or is there already.
    """
    data = encode(run)
    if elsewhere.is_url(folder):
        return _save_elsewhere(os.fspath(folder), file_name(run), data)
    return _save_here(Path(folder) / file_name(run), data)


def _save_elsewhere(url: str, name: str, data: bytes) -> Path | str:
    try:
        if (here := elsewhere.local_path(url)) is not None:
            return _save_here(Path(here) / name, data)
        return elsewhere.create(url, name, data)
    except FileExistsError:
        raise _taken(f"{url.rstrip('/')}/{name}") from None
    except ConfigError as error:
        raise RecordError(f"the run could not be saved: {error}") from None


def _save_here(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _move(temporary, path)
    except (OSError, ValueError) as error:
        raise RecordError(f"the run could not be saved as {path}: {files.why(error)}; give another `folder`") from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink()
    return path


def save_all(runs: Iterable[Run], folder: str | os.PathLike[str]) -> tuple[list[Path | str], list[str]]:
    """Returns the files of the runs, paths or URLs, and a sentence for each that its folder did not take.

    Such a run is kept in the system's temporary folder, or else in the current one; what was measured is not lost by a
    disk that became full meanwhile.
    """
    saved: list[Path | str] = []
    problems = []
    for run in runs:
        try:
            saved.append(save(run, folder))
        except RecordError as error:
            problems.append(f"{error} ({_rescue(run)})")
    return saved, problems


def _rescue(run: Run) -> str:
    with contextlib.suppress(RecordError, ConfigError):  # there may be no temporary folder
        return f"kept as {save(run, files.temporary_folder())}"
    with contextlib.suppress(RecordError, OSError):  # nor a current one
        return f"kept as {save(run, Path.cwd())}"
    return "and nowhere else: what is shown is all there is"


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Make the folder and write to it, so that a run is not measured in vain.

    Raises:
        ConfigError: it can't be made or written to.
    """
    if not os.fspath(folder):
        raise ConfigError("'' names no folder; give one, such as results", field="folder")
    if elsewhere.is_url(folder):
        here = elsewhere.local_path(os.fspath(folder))
        if here is None:
            elsewhere.check_writable(os.fspath(folder))
            return
        folder = here
    probe = Path(folder) / f".{uuid.uuid4().hex}.tmp"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        with probe.open("xb") as file:
            file.write(b"\n")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} can't be written to: {files.why(error)}; give another folder", field="folder"
        ) from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            probe.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a report as UTF-8, as `write_bytes` does.

    Raises:
        ConfigError: it can't be written.
    """
    # A path that is no UTF-8 may stand in the text.
    write_bytes(path, text.encode(errors="replace"))


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a report; the file appears whole or not at all, in place of an older one.

    Raises:
        ConfigError: it can't be written.
    """
    try:
        files.write_bytes(path, data)
    except FileError as error:
        raise ConfigError(f"{error}; give another file", field="path") from None


def file_name(run: Run) -> str:
    """Returns `TIME-CASE-ID.json`, safe on every file system.

    Raises:
        RecordError: the run's start is no time.
    """
    try:
        time = stamp(run.started_at)
    except ValueError:
        raise RecordError(f"run {run.run_id} started at {run.started_at!r}, which is no ISO 8601 time") from None
    return f"{time}-{_safe(case_name(run.case))}-{_safe(run.run_id)}.json"


def stamp(started_at: str) -> str:
    """Returns an ISO 8601 time as part of a file's name, in UTC, that sorts by time.

    Raises:
        ValueError: it is no such time.
    """
    return f"{datetime.fromisoformat(started_at).astimezone(UTC):%Y-%m-%dT%H%M%SZ}"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace("×", "x")).strip("-.")[:80]


def _move(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, fails where the name is taken
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if path.exists():  # a file system without hard links
            raise _taken(path) from None
        temporary.rename(path)


def _taken(path: Path | str) -> RecordError:
    return RecordError(f"{path} is there already; records are never overwritten, give another `folder`")
