"""Who measures into a folder: directors that are alive, known by a lock that ends with them, and their journals.

Each director has a file in the folder, locked as long as it lives, with the cases that it has taken on. Its end,
however it comes, takes the lock away: what it has left is then anybody's to read and to go on with. No clock is asked.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psutil

from vilt_bench import files
from vilt_bench.ask.case import Case, Sampling
from vilt_bench.errors import FileError, ViltBenchError
from vilt_bench.record import elsewhere, journal
from vilt_bench.record.run import Run

PREFIX, SUFFIX = ".director-", ".lock"
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
"""Names of files on their way to be records, journals or reports; the move is the end of the writing."""
_FORGOTTEN_S = 3600.0
"""So much older than a new file, what is on its way has been left there by a kill: writing takes seconds."""
_LOCK_AT = 1 << 30
"""Byte that is locked where a lock keeps others from reading: far behind what is written."""


class Claim(msgspec.Struct, frozen=True):
    """A case that a director has taken on."""

    run_id: str
    case: Case


class Director(msgspec.Struct, frozen=True):
    """A process that measures into a folder."""

    director: str
    host: str
    pid: int
    sampling: Sampling | None = None
    claims: tuple[Claim, ...] = ()

    def __str__(self) -> str:
        """Tells the process."""
        return f"process {self.pid} on {self.host}"


class Journals:
    """Keeps what this process measures into a folder, until it is a record."""

    def __init__(self, folder: str | os.PathLike[str], *, report: Callable[[str], object] = lambda _: None) -> None:
        """Lock a file of its own; `close` removes it.

        Args:
            folder: of the records; it is there.
            report: told in a sentence, once, that what is measured can't be kept until it is a record.
        """
        self._folder = Path(folder)
        self._report = report
        self._told = False
        self._lengths: dict[str, int] = {}
        """By run: bytes of its journal that are whole lines."""
        self._held: dict[str, bytes] = {}
        """By run: lines that wait for the first block, before which there is nothing to lose."""
        self._lock: int | None = None
        self.director = Director(uuid.uuid4().hex, platform.node(), os.getpid())
        self.claim((), None)
        _remove_forgotten(self._folder, beside=self._path(self.director.director))

    @classmethod
    def beside(
        cls, folder: str | os.PathLike[str], *, report: Callable[[str], object] = lambda _: None
    ) -> Journals | None:
        """Returns what keeps journals beside the records of a folder; `None` of one that is not of this machine.

        Args:
            folder: a path, or a URL that fsspec understands.
            report: as for `Journals`.
        """
        here = elsewhere.local_path(os.fspath(folder)) if elsewhere.is_url(folder) else os.fspath(folder)
        return None if here is None else cls(here, report=report)

    def claim(self, claims: Sequence[Claim], sampling: Sampling | None) -> None:
        """Tell which cases are taken on, in place of those told before."""
        self.director = msgspec.structs.replace(self.director, sampling=sampling, claims=tuple(claims))
        path = self._path(self.director.director)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        lock = None
        try:
            lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            _try_lock(lock, exclusive=True)  # before it has its name: whoever sees it sees it locked
            _write(lock, msgspec.json.encode(self.director))
            if sys.platform == "win32" and self._lock is not None:  # an open file can't be replaced there
                os.close(self._lock)
                self._lock = None
            temporary.replace(path)
        except OSError as error:
            self._tell(error)
            with suppress(OSError):
                temporary.unlink()
            if lock is not None:
                os.close(lock)
            return
        if self._lock is not None:
            os.close(self._lock)
        self._lock = lock

    def note(self, run_id: str, event: journal.Event) -> None:
        """Add an event to a run's journal; it is on disk when this returns, or it is told that it can't be."""
        data = self._held.pop(run_id, b"") + journal.line(event)
        if run_id not in self._lengths and not _has_passes(event):
            self._held[run_id] = data
            return
        try:
            self._append(run_id, data)
        except OSError as error:
            self._tell(error)

    @property
    def folder(self) -> Path:
        """Where the journals lie."""
        return self._folder

    def take_up(self, run: Run, path: str | os.PathLike[str]) -> Run:
        """Go on with a run that is nobody's, and return it; it is this director's from now on, and has a journal.

        Args:
            run: as it stands.
            path: of its journal or its record, which its journal takes the place of.

        Raises:
            OSError: the journal can't be written; the run is where it was.
        """
        own = self._folder / journal.file_name(run.run_id)
        owned = journal.line(journal.Owned(self.director.director))
        if own.exists() and own.samefile(path):
            self._lengths[run.run_id] = journal.read_lines(own.read_bytes()).length
            self._append(run.run_id, owned)
            return run
        data = owned + journal.line(journal.Kept(run))
        temporary = own.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(own)
            _sync_folder(self._folder)
        finally:
            with suppress(OSError):
                temporary.unlink()
        try:
            Path(path).unlink()
        except OSError:
            with suppress(OSError):
                own.unlink()
            raise
        self._lengths[run.run_id] = len(data)
        return run

    def saved(self, run_id: str) -> None:
        """Remove a run's journal: its record has taken its place."""
        self._lengths.pop(run_id, None)
        with suppress(OSError):
            (self._folder / journal.file_name(run_id)).unlink()

    def close(self) -> None:
        """Take on nothing any more."""
        with suppress(OSError):
            self._path(self.director.director).unlink()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _append(self, run_id: str, data: bytes) -> None:
        path = self._folder / journal.file_name(run_id)
        is_new = run_id not in self._lengths
        if is_new:
            data = journal.line(journal.Owned(self.director.director)) + data
        at = self._lengths.get(run_id, 0)
        flags = os.O_WRONLY | (os.O_CREAT if is_new else 0) | getattr(os, "O_BINARY", 0)
        file = os.open(path, flags, 0o666)
        try:
            os.ftruncate(file, at)  # what was torn
            os.lseek(file, at, os.SEEK_SET)
            _write(file, data)
            self._lengths[run_id] = at + len(data)
        finally:
            os.close(file)
        if is_new:
            _sync_folder(self._folder)

    def _path(self, director: str) -> Path:
        return self._folder / f"{PREFIX}{director}{SUFFIX}"

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            self._report(
                f"what is measured can't be kept in {self._folder} until it is a record ({files.why(error)}); "
                "a kill would lose it"
            )


def _has_passes(event: journal.Event) -> bool:
    match event:
        case journal.Opened(_, trial):
            return bool(trial.samples.blocks)
        case journal.Counted():
            return False
    return True


@contextmanager
def keeping(
    folder: str | os.PathLike[str], *, report: Callable[[str], object] = lambda _: None
) -> Iterator[Journals | None]:
    """Gives what `Journals.beside` does, and closes it."""
    made = Journals.beside(folder, report=report)
    try:
        yield made
    finally:
        if made is not None:
            made.close()


@contextmanager
def alone_in(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Let no other director take on cases of a folder meanwhile, where the system can lock folders."""
    lock = None
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY)
    try:
        if lock is not None:
            with suppress(OSError, ImportError):
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        if lock is not None:
            os.close(lock)


def directors(folder: str | os.PathLike[str]) -> list[Director]:
    """Returns the directors that are alive and measure into a folder; files of others are removed if they can be."""
    alive = []
    for path in sorted(Path(folder).glob(f"{PREFIX}*{SUFFIX}")):
        if (found := _director(path)) is not None:
            alive.append(found)
        else:
            with suppress(OSError):
                path.unlink()
    return alive


def _remove_forgotten(folder: Path, *, beside: Path) -> None:
    """Remove what kills have left half written, by the ages that the file system tells, not by this machine's clock."""
    with suppress(OSError):
        now_s = beside.stat().st_mtime
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    if now_s - path.stat().st_mtime > _FORGOTTEN_S:
                        path.unlink()


def left_behind(folder: str | os.PathLike[str]) -> int:
    """Returns how many runs a folder has that were cut short and have no record."""
    journals = map(str, Path(folder).glob(f"{journal.PREFIX}*{journal.SUFFIX}"))
    left = journal.without_records(journals, map(str, Path(folder).glob("*.json")))
    return sum(_director(path) is None for path in map(_lock_of, left) if path is not None)


def writer_of(path: str | os.PathLike[str], lines: journal.Lines) -> Director | None:
    """Returns the director that is alive and writes a journal; `None`: nobody does any more."""
    lock = _lock_of(path, lines)
    return None if lock is None else _director(lock)


def _lock_of(path: str | os.PathLike[str], lines: journal.Lines | None = None) -> Path | None:
    """Returns the file that the last writer of a journal held locked; `None`: no line tells."""
    if lines is None:
        try:
            lines = journal.read_lines(files.read_bytes(path))
        except FileError:
            return None
    owners = [event.director for event in lines.events if isinstance(event, journal.Owned)]
    return Path(path).with_name(f"{PREFIX}{owners[-1]}{SUFFIX}") if owners else None


def _director(path: Path) -> Director | None:
    """Returns the director of a file, if it is alive."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    try:
        locked = _try_lock(file, exclusive=False)
    finally:
        os.close(file)
    if locked:
        return None
    try:
        found = msgspec.json.decode(files.read_bytes(path), type=Director)
    except (FileError, msgspec.DecodeError, UnicodeDecodeError, ViltBenchError):
        return None
    return found if locked is False or _runs(found) else None


def _runs(director: Director) -> bool:
    """Returns whether its process is there; of another machine's that can't be seen, and it is taken for alive."""
    return director.host != platform.node() or psutil.pid_exists(director.pid)


def _try_lock(file: int, *, exclusive: bool) -> bool | None:
    """Returns whether a file could be locked until it is closed; `None`: this file system has no locks."""
    try:
        import fcntl
    except ImportError:
        return _try_lock_byte(file)
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _try_lock_byte(file: int) -> bool | None:
    if sys.platform == "win32":
        import msvcrt

        try:
            os.lseek(file, _LOCK_AT, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return True
    return None


def _write(file: int, data: bytes) -> None:
    """Write all of it, to the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    getattr(os, "fdatasync", os.fsync)(file)


def _sync_folder(folder: Path) -> None:
    """Let new names in a folder outlive a loss of power, where the system can be told to."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
