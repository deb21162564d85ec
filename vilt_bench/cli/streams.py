"""Standard output and error as they are: closed, full, left by their reader, or of an encoding that lacks a character.

None of these may end a command half way: what can't be shown is lost, what is to be saved is saved, and the exit code
tells of the lost output afterwards.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LEFT = (errno.EPIPE, errno.ESHUTDOWN)
"""The reader, such as `head`, has had enough."""

_NEAR = "vilt_bench.near"
_NEAREST = {
    "×": "x",
    "●": "o",
    "–": "-",
    "→": ">",
    "↳": ">",
    "…": ".",
    "·": "-",
    "•": "*",
    "✓": "+",
    "−": "-",
    "▲": "+",
    "▼": "-",
}
"""What ASCII has for the characters of our own tables, one for one, so that columns stay columns."""


@dataclass
class Lost:
    """What kept standard output from being written; `None`: nothing did."""

    error: OSError | None = None

    @property
    def problem(self) -> str | None:
        """In words, where it is more than a reader that left."""
        if self.error is None or self.error.errno in _LEFT:
            return None
        why = "the device is full" if self.error.errno == errno.ENOSPC else (self.error.strerror or "").lower()
        return f"standard output can't be written: {why}; what was printed is lost, files that were asked for are not"


@contextlib.contextmanager
def guarded() -> Iterator[Lost]:
    """Let writing to standard output and error never fail within; yields what kept output from being written.

    What an encoding lacks is shown as something near it, or as `?`. A stream that was closed at the start takes
    everything and shows nothing.
    """
    lost = Lost()
    before = sys.stdout, sys.stderr
    open_all()
    sys.stdout, sys.stderr = _guard(sys.stdout, lost), _guard(sys.stderr, Lost())
    try:
        yield lost
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):  # closed by somebody
                stream.flush()
        sys.stdout, sys.stderr = before


def open_all() -> None:
    """Open what was closed at the start, so that no file of ours takes its descriptor and gets what is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free


class _Raw(io.RawIOBase):
    """Hands bytes on until that fails, and then nowhere."""

    def __init__(self, raw: io.RawIOBase, lost: Lost) -> None:
        self._raw = raw
        self._lost = lost

    def write(self, data: Buffer, /) -> int:
        try:
            while (written := self._raw.write(data)) is None:  # it does not block, and is not ready
                select.select([], [self._raw.fileno()], [])
            return written
        except OSError as error:
            self._lost.error = self._lost.error or error
            # Whoever else has the descriptor, such as Python at its end, need not fail on it once more.
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._raw.fileno())
                os.close(nowhere)
            return memoryview(data).nbytes

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def writable(self) -> bool:
        return True


def _guard(stream: TextIO | None, lost: Lost) -> TextIO:
    if stream is None:  # closed at the start
        return open(os.devnull, "w", encoding="utf-8", errors="replace")  # as long as the command
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # without a buffer between them where Python runs unbuffered
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.RawIOBase):
        return stream  # somebody's own, such as a test's
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(raw, lost)),
        encoding=stream.encoding,
        errors=_NEAR if stream.errors in ("strict", "surrogateescape") else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _near(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_NEAREST.get(character, "?") for character in error.object[error.start : error.end]), error.end


codecs.register_error(_NEAR, _near)
