"""A measuring process as the director sees it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from vilt_bench import errors, files, protocol
from vilt_bench.director import git
from vilt_bench.record.run import Failure
from vilt_bench.wire import BYE_S, LONGEST_LINE, Child, Patience, place_in

BLOCK_RETRIES = 4
"""How often a worker measures a block at most."""
MOST_NOTES = 8
"""Of what goes on, for one request."""
KILLED = "the process was killed (signal 9), as the system does when memory runs out"
"""What a failure says of that."""
LAST_WORD_S = 2.0
"""For a process that has closed its end of the wire to be gone."""
ReplyT = TypeVar("ReplyT", bound=protocol.Reply)
Overhear = Callable[[str], None]
"""Told what a process has printed."""


class WorkerFailedError(Exception):
    """A worker could not go on; holds what the record says of it."""

    def __init__(self, failure: Failure) -> None:
        """Keep the failure."""
        super().__init__(failure.message)
        self.failure = failure


class WorkerHungError(WorkerFailedError):
    """A worker was silent for longer than it may be."""


class WorkerNotStartedError(WorkerFailedError):
    """A worker could not be started: the fault is the machine's, or the interpreter's."""

    def __init__(self, cause: OSError) -> None:
        """Keep what the system said."""
        super().__init__(Failure("error", f"a measuring process could not be started: {files.why(cause)}"))
        self.cause = cause


class MeasuringProcess(Protocol):
    """What measures when it is asked to."""

    def ask(self, request: protocol.Request, expected: type[ReplyT]) -> ReplyT:
        """Returns the reply to a request."""

    def close(self) -> None:
        """Let it end."""

    def kill(self) -> None:
        """End it now."""


class TurnTakingProcess(MeasuringProcess, Protocol):
    """What measures in turns with another, and may be asked something while the other is."""

    def send(self, request: protocol.Request) -> None:
        """Hand a request over and go on."""

    def receive(self, expected: type[ReplyT]) -> ReplyT:
        """Returns the reply to what was sent."""

    def close(self, within_s: float = BYE_S) -> None:
        """Let it end by itself in that time."""


class Process:
    """A process of this package that answers each line with one, and what is told of it where it does not."""

    def __init__(self, child: Child, *, overhear: Overhear = lambda _: None) -> None:
        """Direct a process that has been started.

        Args:
            child: the process.
            overhear: told what it has printed, when it has ended.
        """
        self._child = child
        self._overhear = overhear
        self._traceback = ""
        self._printed_before = 0
        """Bytes that it had printed when it was asked last."""

    def close(self, within_s: float = BYE_S) -> None:
        """Let the process end by itself if it waits for a request; end it otherwise, or after that time."""
        self._child.close(within_s)
        if printed := f"{self._child.output}{self._traceback}".strip():
            self._overhear(printed)

    def kill(self) -> None:
        """End the process now, and all that it has started."""
        self._child.kill()

    def _line(self, limit_s: float, phase: str) -> bytes:
        """Returns what it says next, within that time.

        Raises:
            WorkerHungError: nothing came; it is ended.
            WorkerFailedError: it has died, or says too much; it is ended.
        """
        try:
            return self._child.receive(limit_s)
        except TimeoutError:
            where = self._child.where()
            self.kill()
            at = "" if where is None else f" (at {where})"
            raise WorkerHungError(
                Failure("error", f"hung in {phase}: no answer for {limit_s:g} s{at}; --patience allows more")
            ) from None
        except EOFError:
            raise WorkerFailedError(self._death()) from None
        except ValueError:
            raise self._astray(f"replied a line of more than {LONGEST_LINE // 2**20} MiB") from None

    def _astray(self, what: str) -> WorkerFailedError:
        """Returns the failure of a process that can't be directed any more, and ends it."""
        self.kill()
        return WorkerFailedError(Failure("error", f"the measuring process {what}"))

    def _death(self) -> Failure:
        code = self._child.wait(LAST_WORD_S)
        self.kill()
        if code is None:
            return Failure("crashed", "the process closed the pipe over which it is directed")
        if code == -9:  # Linux ends a process so when the machine's memory is gone, but so may anybody
            return Failure("crashed", KILLED)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        # What it printed earlier says nothing of its end; Python itself says where a signal has met it.
        last, crash, where = self._child.output_since(self._printed_before).partition("Fatal Python error: ")
        place = place_in(where) if crash else None
        lines = last.strip().splitlines() or ([] if place else ["it left no message"])
        told = [how if place is None else f"{how} (at {place})", *lines[-1:]]
        return Failure("crashed", f"the process ended with {': '.join(told)}")


class Worker(Process):
    """A process of its own that measures one case."""

    def __init__(self, child: Child, *, patience: Patience | None = None, overhear: Overhear = lambda _: None) -> None:
        """Direct a process that has been started, and waits for its first request.

        Args:
            child: the process.
            patience: how long it may be silent.
            overhear: told what it has printed, when it has ended.
        """
        super().__init__(child, overhear=overhear)
        self._patience = patience or Patience()
        self._longest_s = 0.0
        self._request: protocol.Request = protocol.Hello()
        self._spoke_unasked = False
        self._sent_s = 0.0

    @classmethod
    def start(
        cls,
        python: str = sys.executable,
        flags: Sequence[str] = (),
        folder: str | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        patience: Patience | None = None,
        overhear: Overhear = lambda _: None,
        older: bool = False,
    ) -> Worker:
        """Returns a fresh process, which waits for its first request.

        Args:
            python: the interpreter.
            flags: its options.
            folder: where it runs, and looks for modules first; this process's own if `None`.
            environment: its environment variables; this process's own if `None`. Git's of one repository are left out.
            patience: how long it may be silent.
            overhear: told what it has printed, when it has ended.
            older: whether it may be of an older version of this package.

        Raises:
            WorkerNotStartedError: it can't be started.
        """
        command = [python, *flags, "-m", "vilt_bench.worker"]
        child = start_child(command, folder=folder, environment=git.surroundings(environment), older=older)
        return cls(child, patience=patience, overhear=overhear)

    def ask(self, request: protocol.Request, expected: type[ReplyT]) -> ReplyT:
        """Returns the reply; this process sleeps until it is there.

        Raises:
            ViltBenchError: the worker refused what the user asked for.
            WorkerFailedError: the worker failed, died, hung, or said what is no reply.
        """
        self.send(request)
        return self.receive(expected)

    def send(self, request: protocol.Request) -> None:
        """Hand a request over and go on, for two workers that are to do something at once."""
        self._request = request
        self._spoke_unasked = self._child.is_ahead()
        self._printed_before = self._child.printed
        self._sent_s = time.monotonic()
        self._child.send(protocol.encode(request))

    def receive(self, expected: type[ReplyT]) -> ReplyT:
        """Returns the reply to what was sent.

        Raises:
            ViltBenchError: the worker refused what the user asked for.
            WorkerFailedError: the worker failed, died, hung, or said what is no reply.
        """
        reply = self._reply()
        if isinstance(reply, protocol.Refused):
            raise _refusal(reply)
        if isinstance(reply, protocol.Failed):
            self._traceback = reply.traceback
            raise WorkerFailedError(reply.failure)
        if not isinstance(reply, expected):
            raise self._astray(f"replied {type(reply).__name__} where {expected.__name__} was expected")
        if self._spoke_unasked or self._child.is_ahead():
            raise self._astray("replied more than it was asked")
        if isinstance(reply, protocol.Measured):
            if not protocol.is_whole(reply.series):
                raise self._astray("replied a block whose samples do not fit its number of passes")
            self._longest_s = max(self._longest_s, time.monotonic() - self._sent_s)
        elif isinstance(reply, protocol.Prepared):
            self._longest_s = reply.first_call_s
        return reply

    def _reply(self) -> protocol.Reply:
        """Returns what it says next, notes of what it is doing left out."""
        phase, limit_s = _phase(self._request), self._limit_s()
        for _ in range(MOST_NOTES):
            line = self._line(limit_s, phase)
            try:
                reply: protocol.Reply | protocol.Doing = protocol.decode_reply(line)
            except msgspec.DecodeError as error:
                raise self._astray(f"replied what this version can't read ({error})") from None
            except ValueError:  # halves of characters
                raise self._astray("replied what is no text") from None
            if not isinstance(reply, protocol.Doing):
                return reply
            phase = reply.phase
        raise self._astray("says all the time that it is doing something else")

    def _limit_s(self) -> float:
        match self._request:
            case protocol.Measure(seconds):
                # Where heat slows it down, it may measure a block several times.
                return self._patience.for_passes(self._longest_s, BLOCK_RETRIES * seconds)
            case protocol.Sample():
                return self._patience.for_passes(self._longest_s)
            case _:
                return self._patience.for_once()


def start_child(
    command: Sequence[str],
    *,
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
    older: bool = False,
) -> Child:
    """Returns a process of this package, started as `wire.Child.start` does it.

    Raises:
        WorkerNotStartedError: it can't be started.
    """
    try:
        return Child.start(command, folder=folder, environment=environment, older=older)
    except OSError as error:
        raise WorkerNotStartedError(error) from None


def _phase(request: protocol.Request) -> str:
    match request:
        case protocol.Hello():
            return "starting"
        case protocol.Prepare():
            return "building"
        case protocol.MeasurePeak():
            return "measuring the machine's peak"
        case protocol.Count():
            return "counting"
        case protocol.Measure() | protocol.Sample():
            return "a pass"
        case protocol.MeasureEnergy():
            return "measuring energy"
        case protocol.MeasurePipeline():
            return "preprocessing and model at the same time"
        case protocol.ProfileBlocks():
            return "profiling"
        case protocol.Finish():
            return "finishing"


def _refusal(reply: protocol.Refused) -> errors.ViltBenchError:
    kind = getattr(errors, reply.error, None)
    if isinstance(kind, type) and issubclass(kind, errors.ViltBenchError):
        return kind(reply.message)
    return errors.MeasurementError(reply.message)
