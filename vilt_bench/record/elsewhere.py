"""Folders that are no folders of this machine: URLs that fsspec understands, such as `s3://bucket/sweep`."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vilt_bench.errors import ConfigError, RecordError

Contents = Iterator[tuple[str, bytes | RecordError]]
"""Names of records, and what they hold, or why it can't be read."""

_AT_ONCE = 128
"""Files that are fetched together: remote file systems fetch them side by side."""
_LOCAL = ("file", "local")
"""Protocols of this machine's own folders."""


def is_url(path: str | os.PathLike[str]) -> bool:
    """Returns whether a text is for fsspec to read, such as `s3://bucket/folder`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)", os.fspath(path)) is not None


def local_path(url: str) -> str | None:
    """Returns the path of a URL such as `file:///records`; `None`: it is not of this machine.

    Raises:
        ConfigError: fsspec does not know what it is.
    """
    if url.partition("://")[0].lower() not in _LOCAL:
        return None
    return _open(url)[1]


def find(url: str) -> tuple[list[str], Callable[[Sequence[str]], Contents]]:
    """Returns the URLs of all files below one, in no order, and what reads some of them.

    Raises:
        ConfigError: what reads such a URL is not installed, or it can't be reached.
    """
    system, folder = _open(url)
    try:
        system.invalidate_cache()  # another process may have written meanwhile
        found = {
            str(system.unstrip_protocol(name)): name
            for name, facts in system.find(folder, detail=True).items()
            if facts.get("type", "file") == "file"  # what is none, such as a pipe, would be waited for
        }
    except Exception as error:  # each file system has errors of its own: credentials, network, permissions
        raise ConfigError(_trouble(url, "reached", error)) from error

    def read(names: Sequence[str]) -> Contents:
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            contents = system.cat([found[name] for name in some], on_error="return")
            for name in some:
                content = contents[found[name]]
                yield name, content if isinstance(content, bytes) else _unreadable(name, content)

    return list(found), read


def create(url: str, name: str, data: bytes) -> str:
    """Write a new file into a folder, and return its URL.

    An object store takes it whole or not at all, and is asked to refuse a name that is taken.

    Raises:
        ConfigError: what writes such a URL is not installed, or it can't be reached.
        FileExistsError: there is one of that name.
    """
    system, folder = _open(url)
    path = f"{folder.rstrip('/')}/{name}"
    try:
        try:
            system.pipe_file(path, data, mode="create")
        except (TypeError, NotImplementedError):  # file systems that can't refuse
            if system.exists(path):
                raise FileExistsError(path) from None
            system.pipe_file(path, data)
    except FileExistsError:
        raise
    except Exception as error:
        raise ConfigError(_trouble(url, "written to", error)) from error
    return str(system.unstrip_protocol(path))


def check_writable(url: str) -> None:
    """Write to a folder, so that nothing is measured in vain.

    Raises:
        ConfigError: as `create`.
    """
    name = f".{uuid.uuid4().hex}.tmp"
    create(url, name, b"\n")
    system, folder = _open(url)
    with contextlib.suppress(Exception):  # rights to write only leave it there; it is no record
        system.rm_file(f"{folder.rstrip('/')}/{name}")


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
        raise ConfigError(_trouble(url, "reached", error)) from error
    return system, str(folder)


_WHY: Mapping[str, str] = {
    "FileNotFoundError": "there is no such bucket or folder; make it, or give another",
    "PermissionError": "these credentials have no right to it; give others, or another folder",
    "NoCredentialsError": "no credentials were found; give them as that store's tools take them",
    "EndpointConnectionError": "nothing answers there; is the network up, and the endpoint's address right?",
}
"""By an error's name, as each file system has its own."""


def _trouble(url: str, done: str, error: Exception) -> str:
    """Returns a line on what was done to a URL in vain."""
    advice = next((_WHY[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _WHY), "")
    return f"{url} can't be {done} ({type(error).__name__}: {_line(error)}){advice and f': {advice}'}"


def _unreadable(name: str, error: Exception) -> RecordError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else _line(error)
    return RecordError(f"{name} can't be read: {reason.lower()}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
