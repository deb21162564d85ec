"""Shows where the measuring of many cases stands: in place on a terminal, a line a case that is over elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vilt_bench.cli import screen
from vilt_bench.words import counted

if TYPE_CHECKING:
    from vilt_bench.director.measure import Progress
    from vilt_bench.director.sweep import SweepProgress, TimeLeft
    from vilt_bench.record.run import Run

_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
Show = Callable[["SweepProgress"], None]


@contextmanager
def shown(*, quiet: bool) -> Iterator[Show]:
    """Returns a context with what shows on standard error where the measuring stands.

    It writes when it is told something, between blocks, and has no clock of its own: a spinner would take time from
    what is measured.
    """
    if quiet:
        yield lambda _: None
    elif screen.is_terminal():
        with in_place() as write:

            def show(progress: SweepProgress) -> None:
                if progress.current is not None:
                    write([*([overall(progress)] if progress.total > 1 else []), current(progress.current)])

            yield show
    else:
        yield by_case


@contextmanager
def in_place() -> Iterator[Callable[[Sequence[str]], None]]:
    """Returns a context with what writes lines on standard error, over those that it wrote before."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from vilt_bench.report.terminal import Terminal

    live = Live(console=Terminal(stderr=True), auto_refresh=False, transient=True, redirect_stdout=False)
    with live:

        def write(lines: Sequence[str]) -> None:
            with suppress(OSError, ValueError):  # a terminal that is gone
                live.update(Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines)), refresh=True)

        yield write


def by_case(progress: SweepProgress) -> None:
    """Write a line for a case that is over."""
    if progress.ended is not None:
        from vilt_bench.report import clean

        left = "" if progress.done == progress.total else f"; {time_left(progress.left)}"
        told = f"{progress.done} of {progress.total}: {progress.name}: {outcome(progress.ended)}{left}"
        screen.say(f"{clean.printed(told)}\n")


def outcome(run: Run) -> str:
    """Returns what came of a case, in short: its latency with the 95% interval, or its failure."""
    from vilt_bench.judge.latency import latency
    from vilt_bench.report.numbers import milliseconds_interval

    found = latency(run)
    if run.failure is not None:
        return f"failed ({run.failure.kind}): {run.failure.message}"
    told = "no pass" if found is None else f"{milliseconds_interval(found)} ms"
    return f"interrupted: {told}" if run.interrupted else told


def overall(progress: SweepProgress) -> str:
    """Returns where the whole stands: `12 of 48 done, 1 failed; group 3 of 9; 14 to 19 min left`."""
    failed = f", {progress.failed} failed" if progress.failed else ""
    group = f"; group {progress.group} of {progress.groups}" if progress.groups > 1 else ""
    return f"{progress.done} of {progress.total} done{failed}{group}; {time_left(progress.left)}"


def current(progress: Progress) -> str:
    """Returns where a case stands: `patch32: trial 1 of 3, sampling (12 passes, ±1.2%; 3 of 60 s)`."""
    known = "" if progress.half_width is None else f", ±{100 * progress.half_width:.1f}%"
    return (
        f"{progress.name}: trial {progress.trial + 1} of {progress.trials}, {progress.phase} "
        f"({counted(progress.samples, 'pass', 'passes')}{known}; {progress.spent_s:.0f} of {progress.budget_s:.0f} s)"
    )


def time_left(left: TimeLeft) -> str:
    """Returns how long it may take yet, as a range; before a case is over, what sampling takes at most."""
    unit_s, unit = next((each for each in _UNITS if left.high_s >= 2 * each[0]), _UNITS[-1])
    high = _rounded(left.high_s / unit_s)
    if left.low_s is None:
        return f"at most {high} {unit} of sampling left"
    low = _rounded(left.low_s / unit_s)
    return f"about {high} {unit} left" if low == high else f"{low} to {high} {unit} left"


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"
