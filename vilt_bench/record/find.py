"""Finds the records that a user means: a file, a folder, a URL, `latest`, a run's name, or the beginning of its id."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter

import msgspec

from vilt_bench.ask.case import case_name
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.record.alike import key
from vilt_bench.record.codec import decode
from vilt_bench.record.elsewhere import Contents, is_url
from vilt_bench.record.join import place, without_samples
from vilt_bench.record.journal import is_journal, run_id_of
from vilt_bench.record.load import records_in
from vilt_bench.record.run import Run, parse_time
from vilt_bench.record.store import stamp

LEAST_DIGITS = 4
"""Of a run's id, to mean that run."""
LONGEST_NAME = 80
_LATEST = re.compile(r"latest(?:~(\d{1,9}))?")
_ID = re.compile(rf"[0-9a-fA-F]{{{LEAST_DIGITS},}}")
_STAMP = len("2026-11-24T035500Z")
"""Characters of a record's name that tell when its run started."""
_LISTED = 6
"""Candidates that a message names; the rest are counted."""

Read = Callable[[Sequence[str]], Contents]


def find_records(texts: Iterable[str | os.PathLike[str]], folder: str | os.PathLike[str]) -> list[str]:
    """Returns the paths and URLs that are meant, in the order given.

    What is there as a file or folder, or reads as a path or URL, is meant itself. Else `latest` is the run of the
    folder that started last, of those that started together that with the last id, and `latest~1` the one before; a
    name is all runs that bear it; hexadecimal digits are the beginning of a run's id.

    Args:
        texts: as users give them.
        folder: of records, in which to look, subfolders included; a path or a URL.

    Raises:
        ConfigError: the folder's URL can't be reached, or what reads it is not installed.
        RecordError: there is no such run in the folder, or there are several.
    """
    found: list[str] = []
    for text in [os.fspath(each) for each in texts]:
        found += [text] if _is_path(text) else _find(text, os.fspath(folder))
    return found


def check_run_name(name: str) -> None:
    """Refuse what can't name runs, as it is nothing, can't be shown, or means something else where a record is given.

    Raises:
        ConfigError: the name is such.
    """
    if not name.strip():
        why = "is empty"
    elif not name.isprintable():
        why = "has characters that can't be shown"
    elif name != name.strip():
        why = "begins or ends with a space"
    elif len(name) > LONGEST_NAME:
        why = f"has {len(name)} characters, more than {LONGEST_NAME}"
    elif re.search(r"[/\\]", name) or name.startswith((".", "~")) or name.endswith(".json"):
        why = "reads as a path"
    elif name.startswith("-"):
        why = "reads as an option"
    elif _LATEST.fullmatch(name):
        why = "means the run that started last"
    elif _ID.fullmatch(name):
        why = "reads as the beginning of a run's id"
    else:
        return
    shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    raise ConfigError(f"{shown!r} {why}; give a name such as before-fix", field="name")


def _is_path(text: str) -> bool:
    # As the rest of what reads as a path: what is wrong with it is told where it is read.
    return not text or is_url(text) or re.search(r"[/\\\0]|\.json$", text) is not None or os.path.lexists(text)


def _find(text: str, folder: str) -> list[str]:
    names, read = records_in(folder)
    if latest := _LATEST.fullmatch(text):
        return [_latest(int(latest[1] or 0), text, names, read, folder)]
    if _ID.fullmatch(text):
        return [_by_id(text, names, read, folder)]
    return _by_name(text, names, read, folder)


def _latest(back: int, text: str, names: Sequence[str], read: Read, folder: str) -> str:
    """Returns the record of the run that started last, or that before it, and so on."""
    left = back
    for _, together in groupby(sorted(_seconds(names, read), reverse=True), key=itemgetter(0)):
        runs = sorted(
            _runs([name for _, name in together], read),
            key=lambda found: (parse_time(found[1].started_at), found[1].run_id),
        )
        if left < len(runs):
            return runs[-1 - left][0]
        left -= len(runs)
    there = f"{len(names)} of them" if names else "none"
    raise RecordError(
        f"no record {text}: {folder} has {there}, and there is no file of that name; "
        "'vilt-bench run --output FOLDER' saves records"
    )


def _seconds(names: Sequence[str], read: Read) -> Iterator[tuple[str, str]]:
    """Yields when each run started, to the second, with its record; a run that is still measured is left out."""
    yield from ((_last_part(name)[:_STAMP], name) for name in names if not is_journal(name))
    for name, content in read([name for name in names if is_journal(name)]):
        if isinstance(content, bytes):
            with suppress(ValueError):
                yield stamp(decode(content, name=name).started_at), name


def _by_id(text: str, names: Sequence[str], read: Read, folder: str) -> str:
    """Returns the record whose file's name ends with an id that begins so."""
    ids = {_id(name): name for name in names if _id(name).startswith(text.lower())}
    if len(ids) > 1:
        runs = _runs(list(ids.values()), read)
        raise RecordError(f"{text!r} begins the ids of several runs in {folder}: {_listed(runs)}; give more digits")
    if not ids:
        raise _missing(text, folder)
    return next(iter(ids.values()))


def _by_name(text: str, names: Sequence[str], read: Read, folder: str) -> list[str]:
    """Returns the records of that name, one a case."""
    written = msgspec.json.encode(text) if text.isprintable() else None
    # Most records need no decoding to be told apart.
    bearing = [
        (name, decode(content, name=name))
        for name, content in read(names)
        if written is not None and isinstance(content, bytes) and written in content
    ]
    runs = {run.run_id: (name, without_samples(run)) for name, run in bearing if run.name == text}
    if not runs:
        raise _missing(text, folder)
    found = sorted(runs.values(), key=lambda each: place(each[1]))
    cases: dict[object, list[tuple[str, Run]]] = {}
    for each in found:
        where = each[1].environment
        cases.setdefault((key(each[1], "case"), where and where.fingerprint), []).append(each)
    if several := [each for same in cases.values() if len(same) > 1 for each in same]:
        raise RecordError(
            f"{text!r} names several runs of one case in {folder}: {_listed(several)}; give one by its id, or its file"
        )
    return [name for name, _ in found]


def _runs(names: Sequence[str], read: Read) -> list[tuple[str, Run]]:
    found = []
    for name, content in read(names):
        if isinstance(content, RecordError):
            raise content
        found.append((name, without_samples(decode(content, name=name))))
    return found


def _missing(text: str, folder: str) -> RecordError:
    few = re.fullmatch(rf"[0-9a-fA-F]{{1,{LEAST_DIGITS - 1}}}", text)
    more = f" (of an id, give {LEAST_DIGITS} digits at least)" if few else ""
    return RecordError(
        f"no record {text}: neither a file or folder nor, in {folder}, a run of that name or whose id begins so{more}; "
        "expected a file that 'vilt-bench run' saved, latest, a name that --name gave, or the beginning of a run's id"
    )


def _listed(runs: Sequence[tuple[str, Run]]) -> str:
    told = [f"{run.run_id[:12]} of {run.started_at[:19]} ({case_name(run.case)})" for _, run in runs[:_LISTED]]
    if len(runs) > _LISTED:
        told.append(f"and {len(runs) - _LISTED} more")
    return ", ".join(told)


def _last_part(name: str) -> str:
    return name.replace(os.sep, "/").rpartition("/")[2]


def _id(name: str) -> str:
    return run_id_of(name) if is_journal(name) else _last_part(name).removesuffix(".json").rpartition("-")[2].lower()
