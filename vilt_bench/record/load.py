"""Reads records: files, folders, and wherever fsspec reaches (s3://, gs://, memory:// and others).

A journal without a record, which a process has left that was killed, is read as the interrupted run that it holds.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from vilt_bench import files
from vilt_bench.errors import FileError, RecordError
from vilt_bench.record import elsewhere, journal
from vilt_bench.record.codec import decode, encode
from vilt_bench.record.elsewhere import Contents, is_url
from vilt_bench.record.join import join_trials, joinable, place, without_samples
from vilt_bench.record.run import Run

Kept = TypeVar("Kept")

PATTERN = "[0-9]*T[0-9]*Z-*.json"
"""Names of the records in a folder; what else lies there, such as reports, is not read."""


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
    names, read = _records_in(os.fspath(folder))
    yield from read(names)


def records_among(names: Iterable[str]) -> list[str]:
    """Returns the names of files that are records, by the last part, which begins with the time."""
    last = {name: name.replace(os.sep, "/").rpartition("/")[2] for name in names}
    return sorted((name for name in last if fnmatch(last[name], PATTERN)), key=last.__getitem__)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path or URL is read as a folder; a URL is, unless it ends as a record's name does."""
    return not os.fspath(path).endswith(".json") if is_url(path) else files.is_folder(path)


def records_in(folder: str) -> tuple[list[str], Callable[[Sequence[str]], Contents]]:
    """Returns the names of a folder's records, by their last part, and what reads some of them.

    Args:
        folder: a path, which need not be there, or a URL that fsspec understands.

    Raises:
        ConfigError: a URL can't be reached, or what reads it is not installed.
    """
    return _look_into(folder) if is_folder(folder) else ([], _read)


def _records_in(folder: str) -> tuple[list[str], Callable[[Sequence[str]], Contents]]:
    """Returns what `_look_into` does, of a folder that has to hold records."""
    names, read = _look_into(folder)
    if not names:
        raise EmptyFolderError(f"no record in folder {folder}; 'vilt-bench run --output FOLDER' saves one")
    return names, read


def _look_into(folder: str) -> tuple[list[str], Callable[[Sequence[str]], Contents]]:
    """Returns the names of a folder's records, and what reads some of them."""
    if not folder:
        raise RecordError("'' names no folder; give one of records, such as results")
    if is_url(folder):
        found, fetch = elsewhere.find(folder)
        records = records_among(found)
        others = journal.without_records(filter(journal.is_journal, found), records)
        return [*records, *others], lambda names: _with_journals(fetch(names))
    if files.is_file(folder):
        return [folder], _read
    if not files.is_folder(folder):
        raise RecordError(f"no folder {folder}; expected one that 'vilt-bench run --output {folder}' saved records in")
    records = records_among(map(str, Path(folder).rglob(PATTERN)))
    journals = map(str, Path(folder).rglob(f"{journal.PREFIX}*{journal.SUFFIX}"))
    return [*records, *journal.without_records(journals, records)], _read


def _read(names: Sequence[str]) -> Contents:
    return _with_journals(_read_files(names))


def _read_files(names: Sequence[str]) -> Contents:
    for name in names:
        try:
            content = files.read_bytes(name)
        except FileError as error:
            if not (error.missing and journal.is_journal(name)):  # its record has taken its place meanwhile
                yield name, RecordError(str(error))
            continue
        yield name, content


def _with_journals(contents: Contents) -> Contents:
    for name, content in contents:
        yield name, _told_by(name, content) if isinstance(content, bytes) and journal.is_journal(name) else content


def _told_by(name: str, content: bytes) -> bytes | RecordError:
    """Returns a journal's run as a record has it, or why there is none."""
    lines = journal.read_lines(content)
    if not is_url(name):
        from vilt_bench.record.live import writer_of  # where nothing was killed, nobody need look for processes

        if (writer := writer_of(name, lines)) is not None:
            return journal.InProgressError(f"{name} is being measured by {writer}; it is left out until it is complete")
    try:
        return encode(journal.replay(lines, name=name))
    except RecordError as error:
        return error


def load(path: str | os.PathLike[str]) -> Run:
    """Returns the run of a record's file.

    Args:
        path: of a file, or its URL.

    Raises:
        ConfigError: what reads such a URL is not installed, or it can't be reached.
        RecordError: the file is missing, unreadable, or no record.
    """
    if is_url(path):
        names, read = _look_into(os.fspath(path))
        found = next(read(names), None)
        if found is None:
            raise RecordError(f"no record {path}; expected a file that 'vilt-bench run' saved")
        return _decode(*found)
    if journal.is_journal(os.fspath(path)):
        with suppress(FileError):
            return journal.replay(journal.read_lines(files.read_bytes(path)), name=os.fspath(path))
    try:
        data = files.read_bytes(path)
    except FileError as error:
        problem = f"no record {path}" if error.missing else str(error)
        raise RecordError(f"{problem}; expected a file that 'vilt-bench run' saved") from None
    return decode(data, name=str(path))


def load_all(paths: Iterable[str | os.PathLike[str]], *, left_out: Callable[[str], object] | None = None) -> list[Run]:
    """Returns the runs of files and folders, in the order given; a folder's, subfolders included, as `in_order`.

    Args:
        paths: of files and folders, or URLs that fsspec understands.
        left_out: as `load_folder`; a file that is named itself is never left out.

    Raises:
        ConfigError: a URL can't be reached, or what reads it is not installed.
        RecordError: a path is missing, a folder has no record that can be read, or a file is no record.
    """
    return load_each(paths, lambda run, _: run, left_out=left_out)


def load_each(
    paths: Iterable[str | os.PathLike[str]],
    keep: Callable[[Run, str], Kept],
    *,
    left_out: Callable[[str], object] | None = None,
) -> list[Kept]:
    """Returns what is kept of each run, in the order of `load_all`.

    One record is in memory at a time, so that there may be more of them than fit.

    Args:
        paths: as `load_all`.
        keep: makes of a run, and its file's path or URL, what is kept.
        left_out: as `load_all`.

    Raises:
        ViltBenchError: as `load_all`.
    """
    texts = [os.fspath(path) for path in paths]
    if not all(texts):
        raise RecordError("'' names no record; give a file that 'vilt-bench run' saved, or a folder of them")
    kept: list[Kept] = []
    seen: set[object] = set()
    for text in texts:
        if not is_folder(text):
            if (real := _real(text)) not in seen:
                kept.append(keep(load(text), text))
            seen.add(real)
            continue
        names, read = _records_in(text)
        new = {real: name for name in names if (real := _real(name)) not in seen}
        seen.update(new)
        kept += decode_each(read(list(new.values())), keep, left_out)
    return kept


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
        ViltBenchError: as `load_all`.
    """
    entries = load_each(paths, lambda run, path: (without_samples(run), path), left_out=left_out)
    groups = [[path for _, path in group] for group in joinable(entries, lambda entry: entry[0])]
    del entries
    with collecting_later():
        return [
            keep(join_trials([load(path) for path in group]) if len(group) > 1 else load(group[0])) for group in groups
        ]


def load_folder(
    folder: str | os.PathLike[str],
    *,
    left_out: Callable[[str], object] | None = None,
    keep: Callable[[Run], Run] | None = None,
) -> list[Run]:
    """Returns the runs of a folder, subfolders included, as `in_order`; none where there is no folder or no record.

    Args:
        folder: a path, which need not be there, or a URL that fsspec understands.
        left_out: told in a sentence of each file that can't be read, while the others are; `None`: it is an error.
        keep: makes of each run what is kept, such as one without samples.

    Raises:
        ConfigError: a URL can't be reached, or what reads it is not installed.
        RecordError: a file is no record; with `left_out`, none of them is.
    """
    if not is_folder(folder):
        return []
    names, read = _look_into(os.fspath(folder))
    return decode_each(read(names), lambda run, _: run if keep is None else keep(run), left_out)


def decode_each(
    contents: Contents, keep: Callable[[Run, str], Kept], left_out: Callable[[str], object] | None
) -> list[Kept]:
    """Returns what is kept of each run, as `in_order`.

    Args:
        contents: of records.
        keep: makes of a run, and its record's name, what is kept.
        left_out: as `load_folder`.

    Raises:
        RecordError: as `load_folder`.
    """
    found: list[tuple[Any, Kept]] = []
    problems: list[RecordError] = []
    with collecting_later():
        for name, content in contents:
            try:
                run = _decode(name, content)
            except RecordError as error:
                if left_out is None:
                    if isinstance(error, journal.InProgressError):
                        continue
                    raise
                problems.append(error)
            else:
                found.append((place(run), keep(run, name)))
    if problems and not found:
        more = f" (and {len(problems) - 1} more, of which none can be read)" if len(problems) > 1 else ""
        raise RecordError(f"{problems[0]}{more}")
    for problem in problems:
        if left_out is not None:
            left_out(str(problem))
    return [kept for _, kept in sorted(found, key=itemgetter(0))]


def _decode(name: str, content: bytes | RecordError) -> Run:
    if isinstance(content, RecordError):
        raise content
    return decode(content, name=name)


def _real(name: str) -> object:
    """Returns what is equal for two ways to one file."""
    return name if is_url(name) else files.real_path(Path(name))


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
