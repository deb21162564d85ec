"""Reads and writes the files that users name: regular ones only, of bounded size, each obstacle told in a phrase.

All records, presets, configurations, checkpoints and images are opened through here, and all reports written. A pipe
would be waited for, a device never ends, and a path can be no path at all: none of them is to hang or to end in a
traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vilt_bench.errors import ConfigError, FileError

LARGEST_BYTES = 1 << 30
"""Of a file that is read whole: far above any record, configuration or photograph."""

Name = str | os.PathLike[str]

_REASONS = {
    errno.ENOENT: "it is not there",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "symbolic links lead in a loop",
    errno.EMFILE: "too many files are open; raise the limit with 'ulimit -n'",
    errno.ENFILE: "too many files are open on this machine",
    errno.EISDIR: "it is a folder",
    errno.EEXIST: "it is, or lies in, a file and not a folder",
    errno.ENOTDIR: "it is, or lies in, a file and not a folder",
    errno.ENXIO: "it is not a regular file",  # a socket
}

_SCRATCH, _SCRATCH_LOCK = "vilt-bench-scratch-", ".lock"
_FORGOTTEN_S = 60.0
"""So old, a folder that nobody has locked was left by a kill; between being made and locked it is far younger."""

_LACKS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EROFS})


def read_bytes(path: Name, *, most: int = LARGEST_BYTES) -> bytes:
    """Returns what a regular file holds.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        FileError: it is missing, not a regular file, too large, or can't be read.
    """
    with _opened(path) as file:
        try:
            data = file.read(most + 1)
        except (OSError, MemoryError) as error:
            raise _refusal(path, "can't be read", why(error)) from None
    if len(data) > most:
        raise _refusal(path, "can't be read", f"it is larger than {_size(most)}")
    return data


def read_text(path: Name, *, most: int = LARGEST_BYTES) -> str:
    """Returns what a file of UTF-8 holds.

    Raises:
        FileError: as `read_bytes`, or it is no UTF-8.
    """
    try:
        return read_bytes(path, most=most).decode()
    except UnicodeDecodeError as error:
        raise _refusal(path, "can't be read", f"byte {error.start} is no UTF-8") from None


def read_json(path: Name, *, most: int = LARGEST_BYTES) -> Any:
    """Returns what a file of JSON holds.

    Raises:
        FileError: as `read_bytes`, or it is no JSON.
    """
    import json  # here as elsewhere in this module: a command that reads none starts without it

    data = read_bytes(path, most=most)
    try:
        return json.loads(data)
    except RecursionError:
        raise _refusal(path, "can't be read as JSON", "it is nested too deep") from None
    except ValueError as error:
        raise _refusal(path, "can't be read as JSON", _line(error)) from None


def read_toml(path: Name, *, most: int = LARGEST_BYTES) -> dict[str, Any]:
    """Returns what a file of TOML holds.

    Raises:
        FileError: as `read_text`, or it is no TOML.
    """
    import tomllib

    text = read_text(path, most=most)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _refusal(path, "can't be read as TOML", "it is nested too deep") from None
    except ValueError as error:
        raise _refusal(path, "can't be read as TOML", _line(error)) from None


def check_regular(path: Name) -> int:
    """Returns the size in bytes of a regular file that can be opened, for readers that open it themselves.

    Raises:
        FileError: it is missing, not a regular file, or can't be read.
    """
    with _opened(path) as file:
        return os.fstat(file.fileno()).st_size


def is_folder(path: Name) -> bool:
    """Returns whether there is a folder; false for what is no path at all."""
    return os.path.isdir(path)  # unlike pathlib, whatever the path


def is_file(path: Name) -> bool:
    """Returns whether there is a regular file; false for what is no path at all."""
    return os.path.isfile(path)


def check_current_folder() -> None:
    """Refuse to work in a folder that was deleted meanwhile: what is imported and started there fails in its own words.

    Raises:
        ConfigError: the current folder is gone.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(f"the current folder can't be used: {why(error)}; change to one that is there") from None


def real_path(path: Name) -> Path:
    """Returns the path without symbolic links; as it is where they lead nowhere."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return Path(path)


def write_bytes(path: Name, data: bytes) -> None:
    """Write a file; it appears whole or not at all, in place of an older one.

    Raises:
        FileError: it can't be written.
    """
    if not os.fspath(path) or not Path(path).name:
        raise FileError(f"{os.fspath(path)!r} can't be written: it names no file", reason="it names no file")
    temporary: Path | None = None
    try:
        with contextlib.suppress(FileNotFoundError):
            _check_mode(path, os.stat(path).st_mode, "can't be written")
        target = real_path(path)  # a link stays one
        temporary = target.with_name(f".{os.urandom(16).hex()}.tmp")
        temporary.write_bytes(data)
        temporary.replace(target)
    except FileNotFoundError:
        reason = f"there is no folder {Path(path).parent}"
        raise _refusal(path, "can't be written", reason, missing=True) from None
    except (OSError, ValueError) as error:
        raise _refusal(path, "can't be written", why(error)) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def append_bytes(path: Name, data: bytes) -> None:
    """Add to the end of a file, which is made where there is none.

    Raises:
        FileError: it is not a regular file, or can't be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with contextlib.suppress(FileNotFoundError):
            _check_mode(path, os.stat(path).st_mode, "can't be written")
        with open(os.open(path, flags, 0o666), "ab") as file:
            file.write(data)
    except (OSError, ValueError) as error:
        raise _refusal(path, "can't be written", why(error), missing=_missing(error)) from None


def temporary_folder() -> str:
    """Returns the system's folder for temporary files.

    Raises:
        ConfigError: there is none.
    """
    import tempfile

    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise ConfigError(_no_temporary(error)) from None


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Returns a context in which there is a folder of one's own for temporary files, which is removed at its end.

    What killed processes have left is removed first: a lock, which ends with them, tells it from what is in use.

    Raises:
        ConfigError: there is no folder for temporary files.
        OSError: it can't be made.
    """
    import shutil
    import tempfile

    parent = temporary_folder()
    _remove_forgotten(Path(parent))
    folder = tempfile.mkdtemp(prefix=_SCRATCH, dir=parent)
    lock = os.open(Path(folder, _SCRATCH_LOCK), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        _lock(lock)
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_forgotten(parent: Path) -> None:
    import shutil
    import time

    for folder in parent.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):  # another user's, or removed at the same time
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            lock = os.open(folder / _SCRATCH_LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if time.time() - os.fstat(lock).st_mtime > _FORGOTTEN_S and _lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _lock(descriptor: int) -> bool:
    """Returns whether a file is locked now, until the last process that has it open ends."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def lacks(error: OSError) -> bool:
    """Returns whether the machine lacks something that a user can give: room on a disk, descriptors, memory."""
    return error.errno in _LACKS


def why(error: Exception) -> str:
    """Returns in a phrase what the system objects to."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, OSError):
        return _REASONS.get(error.errno or 0) or (error.strerror or _line(error)).lower()
    return "its name holds what no name can" if "null" in str(error) or "surrogates" in str(error) else _line(error)


@contextlib.contextmanager
def _opened(path: Name) -> Iterator[IO[bytes]]:
    """Opens a regular file; nothing is waited for, whatever it is."""
    name = os.fspath(path)
    try:
        # Opening a pipe waits for a writer unless told not to; Windows has neither.
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        if is_folder(name):  # Windows refuses to open one
            raise _refusal(path, "can't be read", "it is a folder") from None
        raise _refusal(path, "can't be read", why(error), missing=_missing(error)) from None
    try:
        _check_mode(path, os.fstat(descriptor).st_mode, "can't be read")
    except FileError:
        os.close(descriptor)
        raise
    with open(descriptor, "rb") as file:
        yield file


def _check_mode(path: Name, mode: int, problem: str) -> None:
    if stat.S_ISDIR(mode):
        raise _refusal(path, problem, "it is a folder")
    if not stat.S_ISREG(mode):
        raise _refusal(path, problem, "it is not a regular file")


def _refusal(path: Name, problem: str, reason: str, *, missing: bool = False) -> FileError:
    return FileError(f"{_shown(path)} {problem}: {reason}", reason=reason, missing=missing)


def _missing(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError)


def _shown(path: Name, most: int = 200) -> str:
    """Returns a path for a message: what can't be printed is escaped, what is endless is cut."""
    text = os.fspath(path)
    text = text if text.isprintable() and text else repr(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _no_temporary(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no folder for temporary files that can be written to; set TMPDIR to one that is there"
    return f"no temporary file can be made: {why(error)}"


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >> 20 else f"{count} bytes"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
