"""A process of our own that answers lines: its wire, its output, deadlines, and an end for all that it has started.

The wire is a pipe of its own where the system can hand one over: what libraries print is output, never an answer.
Versions before it answer on standard output, and are understood as well. Whoever waits sleeps in the system's `poll`.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO, NamedTuple

import psutil

from vilt_bench.errors import ConfigError

CALM = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of every process that is timed, unless the user's says otherwise: threads that spin at barriers make
passes of a loaded machine several times as long, and as noisy."""
WIRE = "VILT_BENCH_WIRE"
"""Environment variable: the descriptor that answers go to, and its inode, by which it is known to be ours."""
MARK = "VILT_BENCH_PROCESS_"
"""Begins an environment variable that all descendants of a process inherit; by it they are found."""
LONGEST_LINE = 2**25
"""Bytes of an answer: several times what the times of a block of the shortest passes take."""
KEPT_OUTPUT = 2**16
"""Bytes of a process's output that are kept, the last ones."""
BYE_S = 10.0
"""How long a process may take to end."""
LONGEST_PATIENCE_S = 86_400.0

_POSIX = os.name == "posix"
_HEARTBEAT_S = 1.0
"""How often one that waits looks whether the process lives: its end is usually told by its pipes, at once."""
_GRACE_S = 5.0
"""For an answer that has begun when its time is over."""
_LAST_WORD_S = 1.0
"""For a hung process to tell where it is, and for one that nobody directs any more to end by itself."""
_LOOKS, _LOOK_S, _YOUNG_S = 20, 0.02, 3.0
"""How often at most, and how long apart, it is looked for descendants while one that is so young may become known."""
_ANSWER = b'{"type":' if _POSIX else b""
"""How an answer on standard output begins."""
_CHUNK = 2**20
_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


@dataclass(frozen=True)
class Patience:
    """How long a process may be silent in each of its phases before it is taken for hung."""

    given_s: float | None = None
    """The user's limit, of every phase."""
    budget_s: float = 60.0
    """How long the measuring may take."""

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        if self.given_s is not None and not 0 < self.given_s <= LONGEST_PATIENCE_S:
            raise ConfigError(
                f"must be between 0 and {LONGEST_PATIENCE_S:g} seconds, got {self.given_s:g}", field="patience_s"
            )

    def for_once(self) -> float:
        """Returns the seconds for what is done once: building, the first call, counting."""
        return max(300.0, 10 * self.budget_s) if self.given_s is None else self.given_s

    def for_passes(self, longest_s: float, asked_s: float = 0.0) -> float:
        """Returns the seconds for passes.

        Args:
            longest_s: the longest that passes have taken so far.
            asked_s: how long they were asked to go on, all retries together.
        """
        return asked_s + (max(60.0, 20 * longest_s) if self.given_s is None else self.given_s)


class Child:
    """A process that reads lines and answers each with one."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        selector: selectors.BaseSelector,
        *,
        wire: IO[bytes] | None,
        mark: str,
        older: bool,
    ) -> None:
        """Listen to a process that `start` has started; its arguments are told there."""
        self._process = process
        self._selector = selector
        self._mark = mark
        self._output = bytearray()
        self._printed = 0
        self._is_over = False
        self._wire, self._standard = _Lines(), _Lines()
        self._spoke = _POSIX and not older
        """Whether answers come on the wire only: standard output is then output."""
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._pipes: list[IO[bytes]] = [process.stdout, process.stderr, *([wire] if wire else [])]
        for pipe, into in zip(self._pipes, ("standard", "error", "wire"), strict=False):
            selector.register(_selectable(pipe), selectors.EVENT_READ, into)
        if _POSIX:
            os.set_blocking(process.stdin.fileno(), False)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        folder: str | None = None,
        environment: Mapping[str, str] | None = None,
        older: bool = False,
    ) -> Child:
        """Returns a process, started in a session of its own, so that Ctrl-C does not reach it.

        Args:
            command: interpreter and arguments.
            folder: where it runs; this process's own if `None`.
            environment: its environment variables; this process's own if `None`.
            older: whether it may be of a version that answers on standard output, until it speaks on the wire.

        Raises:
            OSError: it can't be started.
        """
        mark = f"{MARK}{uuid.uuid4().hex}"
        variables = {**CALM, **(os.environ if environment is None else environment), mark: "1"}
        with ExitStack() as undo:
            selector = _selector()
            undo.callback(selector.close)
            inherited: tuple[int, ...] = ()
            wire: IO[bytes] | None = None
            if _POSIX:
                reader, writer = map(_above_standard, os.pipe())
                undo.callback(os.close, writer)
                wire = undo.enter_context(os.fdopen(reader, "rb", buffering=0))
                variables[WIRE] = f"{writer}:{os.fstat(writer).st_ino}"
                inherited = (writer,)
            process = subprocess.Popen(
                command,
                bufsize=0,
                cwd=folder,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=inherited,
            )
            if inherited:
                os.close(inherited[0])
            undo.pop_all()
        return cls(process, selector, wire=wire, mark=mark, older=older)

    @property
    def output(self) -> str:
        """What the process has printed, the last of it."""
        return self._output.decode(errors="replace")

    @property
    def printed(self) -> int:
        """How many bytes the process has printed."""
        return self._printed

    def output_since(self, printed: int) -> str:
        """Returns what of `output` came after so many bytes."""
        fresh = min(self._printed - printed, len(self._output))
        return self._output[len(self._output) - fresh :].decode(errors="replace")

    @property
    def code(self) -> int | None:
        """The exit code; a signal's number negative; `None` while it runs."""
        return self._process.poll()

    def send(self, line: bytes, within_s: float = BYE_S) -> None:
        """Hand a line over; one that can't be, as the process is gone or does not read, is seen when it is answered."""
        assert self._process.stdin is not None
        rest = memoryview(line + b"\n")
        deadline_s = time.monotonic() + within_s
        with suppress(OSError, ValueError):
            while rest and time.monotonic() < deadline_s:
                written = self._process.stdin.write(rest)
                if written is None:  # the pipe is full
                    self._pump(0.05)
                else:
                    rest = rest[written:]

    def receive(self, within_s: float) -> bytes:
        """Returns the next line; this process sleeps until then.

        Raises:
            TimeoutError: none came in that time.
            EOFError: the process has died, or has closed its wire.
            ValueError: the line is too long.
        """
        deadline_s = time.monotonic() + within_s
        while True:
            if (line := self._take()) is not None:
                return line
            left_s = deadline_s - time.monotonic()
            came = self._pump(min(max(left_s, 0.0), _HEARTBEAT_S)) & self._answering
            if not came and (self._process.poll() is not None or not self._open & self._answering):
                raise EOFError
            if left_s <= 0 and (not came or left_s < -_GRACE_S):
                raise TimeoutError

    def is_ahead(self) -> bool:
        """Returns whether it has said more than was taken."""
        self._pump(0.0)
        if self._spoke:
            return bool(self._wire.buffer.strip())  # a greeting is none
        return any(line.startswith(_ANSWER) for line in self._standard.buffer.splitlines())

    def where(self) -> str | None:
        """Returns the line of Python at which a hung process is, as `FILE, line N, in FUNCTION`, if it tells."""
        if not (self._spoke and _POSIX):  # others would die of the signal
            return None
        before = len(self._output)
        with suppress(OSError):
            self._process.send_signal(signal.SIGUSR1)
        deadline_s = time.monotonic() + _LAST_WORD_S
        while (left_s := deadline_s - time.monotonic()) > 0 and self._pump(left_s):
            if b"most recent call first" in self._output[before:]:
                deadline_s = min(deadline_s, time.monotonic() + 0.1)
        return place_in(self.output)

    def wait(self, within_s: float = BYE_S) -> int | None:
        """Returns the exit code, if it ends in that time; what it prints until then is taken in."""
        deadline_s = time.monotonic() + within_s
        while self._process.poll() is None and (left_s := deadline_s - time.monotonic()) > 0:
            if self._open:
                self._pump(min(left_s, _HEARTBEAT_S))
            else:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(left_s)
        while self._pump(0.0) and time.monotonic() < deadline_s + _LAST_WORD_S:
            pass
        return self._process.poll()

    def close(self, within_s: float = BYE_S) -> None:
        """Let it end by itself in that time; end it then, and all that it has started."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self.wait(within_s)
        self.kill()
        self._selector.close()
        for pipe in self._pipes:
            pipe.close()

    def kill(self) -> None:
        """End it now, and all that it has started."""
        if self._is_over:  # its number may be another's by now
            return
        ended: set[int] = set()
        family, _ = self._descendants()  # before its end, while its children are known as such
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # a driver may hold it
            self._process.wait(BYE_S)
        for _ in range(_LOOKS):
            for pid in family - ended:
                with suppress(psutil.Error, OSError):
                    _end(pid)
            ended |= family
            family, is_all = self._descendants()
            if family <= ended:
                if is_all:
                    break
                time.sleep(_LOOK_S)
        self._is_over = self._process.poll() is not None

    def _descendants(self) -> tuple[set[int], bool]:
        """Returns its children, theirs, and those that it left behind, known by mark or session; and if that is all.

        A process that is just being started has no environment yet, by which it could be known.
        """
        found: set[int] = set()
        is_all = True
        if self._process.poll() is None:
            with suppress(psutil.Error):
                found = {each.pid for each in psutil.Process(self._process.pid).children(recursive=True)}
        with suppress(OSError):  # no descriptor left to look with
            for each in psutil.process_iter():
                if each.pid in (os.getpid(), self._process.pid):
                    continue
                with suppress(psutil.Error, OSError):  # gone meanwhile, or another user's
                    variables = each.environ()
                    if self._mark in variables or (_POSIX and os.getsid(each.pid) == self._process.pid):
                        found.add(each.pid)
                    elif not variables and time.time() - each.create_time() < _YOUNG_S:
                        is_all = False
        return found, is_all

    def _take(self) -> bytes | None:
        """Returns a line that has come, if any."""
        while (line := self._wire.take()) is not None:
            if line:  # the first is a greeting
                return line
        while not self._spoke and (line := self._standard.take()) is not None:
            if line.startswith(_ANSWER):
                return line
            self._keep(line + b"\n")
        return None

    def _pump(self, within_s: float) -> set[str]:
        """Take in what comes; returns where it came from."""
        ready = self._selector.select(within_s)
        came = set()
        for key, _ in ready:
            try:
                data = os.read(key.fd, _CHUNK) if _POSIX else key.fileobj.recv(_CHUNK)  # type: ignore[union-attr]
            except OSError:
                data = b""
            if not data:
                self._selector.unregister(key.fileobj)
                continue
            came.add(key.data)
            if key.data == "wire":
                if not self._spoke:
                    self._spoke = True
                    self._keep(bytes(self._standard.buffer))
                    self._standard.buffer.clear()
                self._wire.add(data)
            elif key.data == "standard" and not self._spoke:
                self._standard.add(data)
            else:
                self._keep(data)
        return came

    @property
    def _answering(self) -> set[str]:
        """Where answers may come from, as far as is known."""
        return {"wire"} if self._spoke else {"wire", "standard"}

    @property
    def _open(self) -> set[str]:
        return {key.data for key in self._selector.get_map().values()}

    def _keep(self, data: bytes) -> None:
        self._printed += len(data)
        self._output += data
        del self._output[:-KEPT_OUTPUT]


@dataclass
class _Lines:
    """What has come and was not taken."""

    buffer: bytearray = field(default_factory=bytearray)
    searched: int = 0

    def add(self, data: bytes) -> None:
        self.buffer += data

    def take(self) -> bytes | None:
        """Returns the next whole line without its end.

        Raises:
            ValueError: it is too long.
        """
        end = self.buffer.find(b"\n", self.searched)
        if (len(self.buffer) if end < 0 else end) > LONGEST_LINE:
            self.buffer.clear()
            self.searched = 0
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
        if end < 0:
            self.searched = len(self.buffer)
            return None
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        self.searched = 0
        return line


class Owner(NamedTuple):
    """The other end, as a process sees it that is owned."""

    requests: BinaryIO
    replies: BinaryIO
    hears_notes: bool
    """Whether it understands what is said besides answers."""


def attach() -> Owner:
    """Returns where requests come from and where answers go, for the process that another one owns.

    From then on standard input is empty and standard output is standard error: whatever code runs here has no part in
    the wire. The process ends when its owner does, whatever it is at, and tells where it is at SIGUSR1.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    wire = _inherited_wire()
    owner = Owner(
        requests=os.fdopen(os.dup(0), "rb"),
        replies=os.fdopen(os.dup(1) if wire is None else wire, "wb"),
        hears_notes=wire is not None,
    )
    _to_nowhere(0)
    os.dup2(2, 1)
    if _POSIX:
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=False)
        faulthandler.enable(file=2, all_threads=False)  # of a crash
        # A fork has no part in the wire, and must not keep it open.
        os.register_at_fork(after_in_child=lambda: _to_nowhere(owner.requests.fileno(), owner.replies.fileno()))
    _end_with(owner)
    if owner.hears_notes:
        owner.replies.write(b"\n")
        owner.replies.flush()
    return owner


def _to_nowhere(*descriptors: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for each in descriptors:
        os.dup2(nowhere, each, inheritable=each == 0)
    os.close(nowhere)


def _inherited_wire() -> int | None:
    """Returns a descriptor for answers, if the owner has handed one over; a number that is another's is left alone."""
    number, _, inode = os.environ.pop(WIRE, "").partition(":")
    if not (number.isdecimal() and inode.isdecimal()):
        return None
    try:
        if os.fstat(int(number)).st_ino != int(inode):
            return None
        own = os.dup(int(number))
        os.close(int(number))
    except OSError:
        return None
    return own


def _end_with(owner: Owner) -> None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without it
            ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)

    def watch() -> None:
        if hasattr(select, "poll"):
            hangup = select.poll()
            hangup.register(owner.requests.fileno(), 0)  # sleeps until the other end is closed
            hangup.poll()
        else:
            with suppress(psutil.Error):
                psutil.Process(os.getppid()).wait()
        time.sleep(_LAST_WORD_S)  # one that waits for a request ends by itself
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _end(pid: int) -> None:
    if _POSIX:
        os.kill(pid, signal.SIGKILL)  # unlike psutil, whatever the clock was set to since the process was seen
    else:
        psutil.Process(pid).kill()


def _above_standard(descriptor: int) -> int:
    """Returns the descriptor, moved where it has a standard stream's number, as those are closed: it would be lost."""
    if descriptor > 2:
        return descriptor
    import fcntl

    moved: int = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _selector() -> selectors.BaseSelector:
    """Returns one that takes no descriptor and any number of them."""
    return getattr(selectors, "PollSelector", selectors.SelectSelector)()


def _selectable(pipe: IO[bytes]) -> Any:
    """Returns what can be waited for with others: a pipe itself, on Windows a socket that a thread feeds from it."""
    if _POSIX:
        return pipe
    near, far = socket.socketpair()

    def pour() -> None:
        with suppress(OSError, ValueError), far:
            while data := pipe.read(_CHUNK):
                far.sendall(data)

    threading.Thread(target=pour, daemon=True).start()
    return near


def place_in(output: str) -> str | None:
    """Returns the line of Python that a process was at, as `FILE, line N, in FUNCTION`, where it has told that last."""
    frames: list[tuple[str, str, str]] = _FRAME.findall(output.rpartition("most recent call first")[2])
    own = [frame for frame in frames if not _is_library(frame[0])]
    return "{}, line {}, in {}".format(*(own or frames)[0]) if frames else None


def _is_library(path: str) -> bool:
    """Returns whether a source file is of Python, of an installed package or of this one."""
    places = (os.path.dirname(os.__file__), os.path.dirname(__file__))
    return "-packages" in path or path.startswith("<") or any(path.startswith(place + os.sep) for place in places)
