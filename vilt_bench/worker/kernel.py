"""The fixed kernel that `vilt-bench doctor` times, in a process of its own: a float32 matrix product of torch.

A line of JSON each way: `"time"` asks for one pass, `"environment"` for the machine; the first line out says ready.

With `--fork` it times nothing itself: `"fork"` asks for two forks in place of those before, which have what is imported
and nothing else; the requests above then begin with the place of the one that is asked: `[0, "time"]`.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, BinaryIO

import msgspec
import torch

from vilt_bench import wire
from vilt_bench.machine.device import prepare_threads
from vilt_bench.machine.environment import collect

SIZE = 768
"""Rows and columns: a few milliseconds on a core, and larger than its first-level caches."""
FORK = "--fork"
_FARTHEST = 2**22
"""Bytes of memory at most that a fork takes before its matrices, drawn anew by each: they then lie elsewhere."""


def main() -> None:
    """Answer each line of input."""
    owner = wire.attach()
    if FORK in sys.argv[1:]:
        _answer_by_forks(owner.requests, owner.replies)
    else:
        _time(owner.requests, owner.replies)


def _time(requests: Iterable[bytes], replies: BinaryIO) -> None:
    """Time a pass for each line."""
    threads = prepare_threads(None)
    torch.manual_seed(0)
    left, right = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    out = torch.empty(SIZE, SIZE)
    with torch.inference_mode():
        torch.mm(left, right, out=out)
        _say(replies, "ready")
        for line in requests:
            if line.strip() == b'"environment"':
                _say(replies, collect(torch.device("cpu"), threads=threads))
                continue
            cpu_ns, wall_ns = time.process_time_ns(), time.perf_counter_ns()
            torch.mm(left, right, out=out)
            end_ns, cpu_end_ns = time.perf_counter_ns(), time.process_time_ns()
            _say(replies, ((end_ns - wall_ns) * 1e-9, (cpu_end_ns - cpu_ns) * 1e-9))


def _answer_by_forks(requests: Iterable[bytes], replies: BinaryIO) -> None:
    """Hand each line on to the fork that it is for."""
    _say(replies, "ready")
    with ExitStack() as every:
        pair = every.enter_context(ExitStack())
        asks: list[Callable[[bytes], bytes]] = []
        for line in requests:
            request: Any = msgspec.json.decode(line)
            if request == "fork":
                pair.close()
                asks = [_fork(pair) for _ in range(2)]
                _say(replies, "ready")
            else:
                place, what = request
                replies.write(asks[place](msgspec.json.encode(what) + b"\n"))
                replies.flush()


def _fork(until: ExitStack) -> Callable[[bytes], bytes]:
    """Returns what asks a fork that is ready, and ends with that stack."""
    (its_requests, to_it), (from_it, its_replies) = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        # Of a thread beside this one: it waits for the owner's end, and holds nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os.close(to_it)
            os.close(from_it)
            _apart = torch.empty(int.from_bytes(os.urandom(4), "little") % _FARTHEST, dtype=torch.uint8)
            _time(os.fdopen(its_requests, "rb"), os.fdopen(its_replies, "wb"))
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)  # nothing of the other's is to be cleared away here
    os.close(its_requests)
    os.close(its_replies)
    asking, answers = os.fdopen(to_it, "wb", buffering=0), os.fdopen(from_it, "rb")
    until.callback(os.waitpid, pid, 0)
    until.callback(answers.close)
    until.callback(asking.close)  # it ends, as it reads on

    def answer() -> bytes:
        if not (line := answers.readline()):
            raise ChildProcessError("a fork of the kernel has died")
        return line

    def ask(request: bytes) -> bytes:
        asking.write(request)
        return answer()

    answer()  # ready
    return ask


def _say(replies: BinaryIO, message: object) -> None:
    replies.write(msgspec.json.encode(message) + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
