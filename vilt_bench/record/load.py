"""Reads records: files, folders, and wherever fsspec reaches (s3://, gs://, memory:// and others)."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from vilt_bench import files
from vilt_bench.errors import ConfigError, FileError, RecordError
from vilt_bench.record.codec import decode
from vilt_bench.record.join import join_trials, joinable, place, without_samples
from vilt_bench.record.run import Run
from vilt_bench.record.store import readable

Kept = TypeVar("Kept")

_AT_ONCE = 128
"""Files that are fetched together: remote file systems fetch them side by side."""


class EmptyFolderError(RecordError):
    """A folder is there, but no record in it."""


def read_folder(folder: str | os.PathLike[str]) -> Iterator[tuple[str, bytes | RecordError]]:
    """Returns the name and content of each record in a folder, subfolders included, by name; or why it can't be read.

    Args:
        folder: a path, or a URL that fsspec understands.

    Raises:
        ConfigError: what reads such a URL is not installed, or the folder can't be reached.
        EmptyFolderError: there is no record in it.
        RecordError: there is no such folder.
    """
    text = os.fspath(folder)
    if not text:
        raise RecordError("'' names no folder; give one of records, such as results")
    found = _remote(text) if re.match(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)", text) else _local(Path(text))
    first = next(found, None)
    if first is None:
        raise EmptyFolderError(f"no record in folder {text}; 'vilt-bench run --output FOLDER' saves one")
    yield first
    yield from found


def _local(folder: Path) -> Iterator[tuple[str, bytes | RecordError]]:
    if files.is_file(folder):
        found = [folder]
    elif files.is_folder(folder):
        found = sorted(folder.rglob(PATTERN), key=lambda file: file.name)
    else:
        raise RecordError(f"no folder {folder}; expected one that 'vilt-bench run --output {folder}' saved records in")
    for file in found:
        try:
            yield str(file), files.read_bytes(file)
        except FileError as error:
            yield str(file), RecordError(str(error))


def _remote(url: str) -> Iterator[tuple[str, bytes | RecordError]]:
    system, folder = _open(url)
    try:
        names = [
            name
            for name, facts in system.find(folder, detail=True).items()
            # What is no file, such as a pipe, would be waited for.
            if fnmatch(name.rpartition("/")[2], PATTERN) and facts.get("type", "file") == "file"
        ]
    except Exception as error:  # each file system has errors of its own: credentials, network, permissions
        raise ConfigError(f"{url} can't be reached ({type(error).__name__}: {_line(error)})") from error
    names.sort(key=lambda name: name.rpartition("/")[2])
    for start in range(0, len(names), _AT_ONCE):
        contents = system.cat(names[start : start + _AT_ONCE], on_error="return")
        for name in names[start : start + _AT_ONCE]:
            content = contents[name]
            full = str(system.unstrip_protocol(name))
            yield full, content if isinstance(content, bytes) else _unreadable(full, content)


def _open(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL, and the folder in it."""
    try:
        import fsspec
    except ImportError:
        raise ConfigError(f"{url} is read by fsspec; install it: python -m pip install fsspec") from None
    try:
        system, folder = fsspec.core.url_to_fs(url)
    except ImportError as error:
        # fsspec names the packages in a sentence of its own, a different one each time.
        named = re.findall(r"\binstall\s+['\"`]?([A-Za-z][\w.-]*\w)", str(error), re.IGNORECASE)
        packages = " ".join(named or re.findall(r"[\"']([\w-]+)[\"']", str(error)) or [url.partition(":")[0]])
        raise ConfigError(f"{url} needs {packages}; install it: python -m pip install {packages}") from None
    except ValueError as error:
        raise ConfigError(f"{url} is no folder that fsspec knows ({_line(error)})") from None
    except Exception as error:
        raise ConfigError(f"{url} can't be reached ({type(error).__name__}: {_line(error)})") from error
    return system, str(folder)


def _unreadable(name: str, error: Exception) -> RecordError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else _line(error)
    return RecordError(f"{name} can't be read: {reason.lower()}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


PATTERN = "[0-9]*T[0-9]*Z-*.json"
"""Names of the records in a folder; what else lies there, such as reports, is not read."""


def load(path: str | os.PathLike[str]) -> Run:
    """Returns the run of a record's file.

    Raises:
        RecordError: the file is missing, unreadable, or no record.
    """
    try:
        data = files.read_bytes(path)
    except FileError as error:
        problem = f"no record {path}" if error.missing else str(error)
        raise RecordError(f"{problem}; expected a file that 'vilt-bench run' saved") from None
    return decode(data, name=str(path))


def load_all(paths: Iterable[str | os.PathLike[str]], *, left_out: Callable[[str], object] | None = None) -> list[Run]:
    """Returns the runs of files and folders, in the order given; a folder's, subfolders included, as `in_order`.

    Args:
        paths: of files and folders.
        left_out: as `load_folder`; a file that is named itself is never left out.

    Raises:
        RecordError: a path is missing, a folder has no record that can be read, or a file is no record.
    """
    return load_each(paths, lambda run, _: run, left_out=left_out)


def load_each(
    paths: Iterable[str | os.PathLike[str]],
    keep: Callable[[Run, Path], Kept],
    *,
    left_out: Callable[[str], object] | None = None,
) -> list[Kept]:
    """Returns what is kept of each run, in the order of `load_all`.

    One record is in memory at a time, so that there may be more of them than fit.

    Args:
        paths: of files and folders.
        keep: makes of a run, and its file, what is kept.
        left_out: as `load_all`.

    Raises:
        RecordError: as `load_all`.
    """
    paths = list(paths)
    if not all(map(os.fspath, paths)):
        raise RecordError("'' names no record; give a file that 'vilt-bench run' saved, or a folder of them")
    found_all: list[Kept] = []
    seen: set[Path] = set()
    for path in map(Path, paths):
        found = _records(path) if files.is_folder(path) else [path]
        if not found:
            raise RecordError(f"no record in folder {path}; 'vilt-bench run --output {path}' saves one")
        new = {real: file for file in found if (real := files.real_path(file)) not in seen}
        seen.update(new)
        found_all += _load_each(new.values(), keep, left_out if files.is_folder(path) else None)
    return found_all


def load_joined(
    paths: Iterable[str | os.PathLike[str]],
    keep: Callable[[Run], Kept],
    *,
    left_out: Callable[[str], object] | None = None,
) -> list[Kept]:
    """Returns what is kept of each case's runs, joined as `join_cases` does.

    Records are read twice: what is joined with what is known before the first samples are kept.

    Args:
        paths: as `load_all`.
        keep: makes of a joined run what is kept.
        left_out: as `load_all`.

    Raises:
        RecordError: as `load_all`.
    """
    entries = load_each(paths, lambda run, path: (without_samples(run), path), left_out=left_out)
    return [
        keep(join_trials([load(path) for _, path in group]) if len(group) > 1 else load(group[0][1]))
        for group in joinable(entries, lambda entry: entry[0])
    ]


def load_folder(
    folder: str | os.PathLike[str],
    *,
    left_out: Callable[[str], object] | None = None,
    keep: Callable[[Run], Run] | None = None,
) -> list[Run]:
    """Returns the runs of a folder, subfolders included, as `in_order`; none where there is no folder or no record.

    Args:
        folder: need not be there.
        left_out: told in a sentence of each file that can't be read, while the others are; `None`: it is an error.
        keep: makes of each run what is kept, such as one without samples.

    Raises:
        RecordError: a file is no record; with `left_out`, none of them is.
    """
    return _load_each(_records(Path(folder)), lambda run, _: run if keep is None else keep(run), left_out)


def _load_each(
    paths: Iterable[Path], keep: Callable[[Run, Path], Kept], left_out: Callable[[str], object] | None
) -> list[Kept]:
    """Returns what is kept of each, as `in_order`."""

    def read(path: Path) -> tuple[Any, Kept]:
        run = load(path)
        return place(run), keep(run, path)

    with collecting_later():
        found = readable((partial(read, path) for path in paths), left_out)
    return [kept for _, kept in sorted(found, key=itemgetter(0))]


@contextmanager
def collecting_later() -> Iterator[None]:
    """Let no cycles be looked for meanwhile: records make none, but objects by the thousand."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _records(folder: Path) -> list[Path]:
    return sorted(folder.rglob(PATTERN), key=lambda file: file.name)
