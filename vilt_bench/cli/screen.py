"""What all commands share of the screen: the console, progress, complaints, exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from vilt_bench.cli.flags import in_flags

if TYPE_CHECKING:
    from rich.console import Console

    from vilt_bench.director.measure import Progress

USER_ERROR = 2
INTERRUPTED = 130
WIDTH = 100
"""Columns where standard output is no terminal."""
_NAMED = 3
"""Files that can't be read and are named; the rest are counted."""


def console() -> Console:
    """Returns where tables are printed."""
    from vilt_bench.report.terminal import Terminal

    found = Terminal()
    return found if found.is_terminal else Terminal(width=WIDTH)


def say(text: str) -> None:
    """Write to standard error; where that is closed, full or has no reader, nothing else is lost by it."""
    with suppress(OSError, ValueError, AttributeError):  # closed before the start: `None`
        sys.stderr.write(text)
        sys.stderr.flush()


def is_terminal() -> bool:
    """Returns whether standard error is shown to somebody, who sees a line being written over."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def narrator(*, quiet: bool) -> Callable[[Progress], None]:
    """Returns what says on standard error where the measuring stands.

    On a terminal in one line that is written over; elsewhere, as in a job's log, a line a phase.
    """
    if quiet:
        return lambda _: None
    return _narrate_in_place() if is_terminal() else _narrate_by_phase()


def _narrate_in_place() -> Callable[[Progress], None]:
    def narrate(progress: Progress) -> None:
        known = "" if progress.half_width is None else f", ±{100 * progress.half_width:.1f}%"
        # Written between blocks only: a spinner would take time from what is measured.
        say(
            f"\r\x1b[K{_phase(progress)} ({progress.samples} passes{known}; "
            f"{progress.spent_s:.0f} of {progress.budget_s:.0f} s)"
        )

    import atexit

    atexit.register(lambda: say("\r\x1b[K"))
    return narrate


def _narrate_by_phase() -> Callable[[Progress], None]:
    told: set[str] = set()

    def narrate(progress: Progress) -> None:
        if (phase := _phase(progress)) not in told:  # embedders take turns
            told.add(phase)
            say(f"{phase} ({progress.spent_s:.0f} of {progress.budget_s:.0f} s)\n")

    return narrate


def _phase(progress: Progress) -> str:
    from vilt_bench.report import clean

    return f"{clean.printed(progress.name)}: trial {progress.trial + 1} of {progress.trials}, {progress.phase}"


def overhear(*, debug: bool) -> Callable[[str], None]:
    """Returns what shows, for whoever debugs, what a measuring process has printed."""
    if not debug:
        return lambda _: None
    from vilt_bench.report import clean

    def show(printed: str) -> None:
        lines = "\n".join(f"  {clean.printed(line)}" for line in printed.splitlines())
        say(f"a measuring process printed:\n{lines}\n")

    return show


def complain(message: str) -> int:
    """Say in one line what is wrong, with flags for the fields that it names; returns the exit code."""
    from vilt_bench.report import clean

    say(f"vilt-bench: {clean.within(in_flags(message))}\n")
    return USER_ERROR


def leave_out(lines: Sequence[str], *, more: str = "") -> list[str]:
    """Say on standard error which records could not be read; returns the same in a few sentences, for reports.

    Args:
        lines: a sentence each.
        more: what to do about those that are not named one by one.
    """
    told = [f"Left out: {line}" for line in lines[:_NAMED]]
    if len(lines) > _NAMED:
        told.append(f"Left out: {len(lines) - _NAMED} more that can't be read{more}")
    for line in told:
        complain(f"l{line[1:]}")
    return told


def keep_on_termination() -> None:
    """Let a cancelled CI job, or a closed terminal, keep what it has, as Ctrl-C does.

    A signal that is ignored stays so: `nohup` asks for that.
    """
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            number = getattr(signal, name)
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)
