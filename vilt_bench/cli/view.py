"""`vilt-bench view`: records as a page in the browser."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vilt_bench.cli import options, screen
from vilt_bench.report import NEWEST_ON_PAGES

if TYPE_CHECKING:
    from vilt_bench.cli import Add


def register(add: Add) -> None:
    """Add the command."""
    parser = add("view", view, "show records as a page in the browser")
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"{options.RUN} (default: {options.RESULTS})")
    options.add_results(parser)
    parser.add_argument(
        "--newest", type=int, metavar="N", help=f"only the N runs that started last (default: {NEWEST_ON_PAGES})"
    )
    options.add_columns(parser)


def view(asked: argparse.Namespace) -> int:
    """Write a page of the records to a temporary file, print its path, and open the browser if there is one."""
    from vilt_bench.judge.ranking import by_rank
    from vilt_bench.judge.trace import traced
    from vilt_bench.record import find, load, store
    from vilt_bench.report import render_picture

    paths = find.find_records([*asked.runs, *getattr(asked, "after", [])] or [asked.results], asked.results)
    unreadable: list[str] = []
    runs = by_rank(load.load_each(paths, traced, left_out=unreadable.append))
    page = render_picture(
        runs,
        "html",
        newest="usual" if asked.newest is None else asked.newest,
        left_out=screen.leave_out(unreadable),
        quantities=asked.columns,
    )
    path = Path(tempfile.mkdtemp(prefix="vilt-bench-")) / "page.html"
    store.write_bytes(str(path), page)
    print(path)
    if not _open(path):
        screen.complain("no browser was found here; open that file in one")
    return 0


def _open(path: Path) -> bool:
    """Returns whether a browser was opened; one in this terminal is none, unless its user asks for it by $BROWSER."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    # Its type itself: those that run beside the terminal are its kinds.
    if type(browser) is webbrowser.GenericBrowser and "BROWSER" not in os.environ:
        return False
    return browser.open(path.as_uri())
