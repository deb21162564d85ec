"""`vilt-bench doctor`: is this machine fit to measure on?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from vilt_bench.cli import options, screen

if TYPE_CHECKING:
    from vilt_bench.cli import Add

UNFIT = 5
UNKNOWN = 3


def register(add: Add) -> None:
    """Add the command."""
    parser = add("doctor", doctor, "tell whether this machine is fit to measure on, and what to change")
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="about a minute instead of 15 s: starts each process anew, as a gate does",
    )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    options.add_patience(parser)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit code 5 where a slowdown of 5%% can't be found with 12 process pairs, 3 where that can't be told",
    )


def doctor(asked: argparse.Namespace) -> int:
    """Examine the machine and print what was found."""
    from vilt_bench.director.doctor import SHORT, THOROUGH, examine
    from vilt_bench.judge import fitness
    from vilt_bench.report.doctor import show, to_json

    found = examine(THOROUGH if asked.thorough else SHORT, report=_narrate, patience_s=asked.patience)
    _narrate("")
    if asked.format == "json":
        sys.stdout.write(to_json(found))
    else:
        show(found, screen.console())
    fit = fitness.diagnose(found).fit
    if not asked.strict or fit:
        return 0
    return UNKNOWN if fit is None else UNFIT


def _narrate(text: str) -> None:
    if screen.is_terminal():
        screen.say(f"\r\x1b[K{text}\r")
    elif text:
        screen.say(f"{text}\n")
