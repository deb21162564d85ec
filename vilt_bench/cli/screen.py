"""What all commands share of the screen: the console, progress, complaints, exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from vilt_bench.sweep import Progress

USER_ERROR = 2
INTERRUPTED = 130
WIDTH = 100
"""Columns where standard output is no terminal."""


def console() -> Console:
    """Returns where tables are printed."""
    from vilt_bench.report.terminal import Terminal

    found = Terminal()
    return found if found.is_terminal else Terminal(width=WIDTH)


def narrator(*, quiet: bool) -> Callable[[Progress], None]:
    """Returns what says on standard error where the measuring stands, in one line that is written over."""
    if quiet or not sys.stderr.isatty():
        return lambda _: None

    def narrate(progress: Progress) -> None:
        known = "" if progress.half_width is None else f", ±{100 * progress.half_width:.1f}%"
        text = (
            f"{progress.embedder}: trial {progress.trial + 1} of {progress.trials}, {progress.phase}"
            f" ({progress.samples} passes{known}; {progress.spent_s:.0f} of {progress.budget_s:.0f} s)"
        )
        # Written between blocks only: a spinner would take time from what is measured.
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    import atexit

    atexit.register(lambda: sys.stderr.write("\r\x1b[K"))
    return narrate


def complain(message: str) -> int:
    """Say in one line what is wrong; returns the exit code."""
    from vilt_bench.report import clean

    sys.stderr.write(f"vilt-bench: {clean.within(message)}\n")
    return USER_ERROR


def keep_on_termination() -> None:
    """Let a cancelled CI job, or a closed terminal, keep what it has, as Ctrl-C does."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.default_int_handler)
