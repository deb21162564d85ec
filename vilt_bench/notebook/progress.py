"""Shows where the measuring of one case stands: in a notebook beneath the cell, on a terminal in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vilt_bench.cli import progress, screen

if TYPE_CHECKING:
    from vilt_bench.director.measure import Progress, Report


@contextmanager
def shown(*, quiet: bool) -> Iterator[Report]:
    """Returns a context with what shows the progress; where nobody looks, as in a job's log, nothing does.

    Like `cli.progress`, it writes between blocks only.
    """
    if quiet:
        yield lambda _: None
    elif (display := _notebook()) is not None:
        with _beneath(display) as show:
            yield show
    elif screen.is_terminal():
        with progress.in_place() as show:
            yield lambda told: show([progress.current(told)])
    else:
        yield lambda _: None


def _notebook() -> Callable[..., Any] | None:
    """Returns what shows something beneath a notebook's cell; `None`: this is no notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    return display  # type: ignore[no-any-return, unused-ignore]


@contextmanager
def _beneath(display: Callable[..., Any]) -> Iterator[Report]:
    from vilt_bench.report import clean

    handle = display({"text/plain": ""}, raw=True, display_id=True)

    def show(told: Progress) -> None:
        handle.update({"text/plain": clean.printed(progress.current(told))}, raw=True)

    try:
        yield show
    finally:
        handle.update({"text/plain": ""}, raw=True)
