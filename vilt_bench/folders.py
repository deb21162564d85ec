"""Reads the records of a folder, here or wherever fsspec reaches: s3://, gs://, memory:// and others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from vilt_bench import files
from vilt_bench.errors import ConfigError, FileError, RecordError
from vilt_bench.store import PATTERN

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
