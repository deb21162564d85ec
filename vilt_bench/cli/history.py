"""`vilt-bench history`: latency over commits, with the changes of level; `--check`: does the newest begin one?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, get_args

from vilt_bench.ask.rule import NEWEST, Order
from vilt_bench.cli import formats, options, screen
from vilt_bench.errors import ConfigError
from vilt_bench.report.history import DATA, PICTURES
from vilt_bench.report.history import FORMATS as TEXTS
from vilt_bench.words import counted

if TYPE_CHECKING:
    from vilt_bench.cli import Add
    from vilt_bench.judge.history import History

CHECK = "check"
"""As the first of the folders, this word is the option `--check`."""
SLOWER = 1
TOO_FEW = UNDECIDED = 3


def register(add: Add) -> None:
    """Add the command."""
    parser = add("history", history, "show latency over commits, and where it changed")
    parser.usage = "vilt-bench history [FOLDER …] [options]\n       vilt-bench history check [FOLDER …] [options]"
    parser.epilog = (
        "'history check' is 'history --check': exit code 1 if the newest runs begin a slowdown, 0 if not, 3 if no "
        "history has runs enough to tell, or if the order of runs and that of commits disagree. A trend, not a gate: "
        "'vilt-bench gate' measures both sides together. A folder of the name check is ./check."
    )
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help=f"of records: a path, or a URL such as s3://bucket/folder (default: {options.RESULTS})",
    )
    group = parser.add_argument_group("what to look at")
    group.add_argument("--embedder", action="append", default=[], metavar="NAME", help="this one only; may be repeated")
    group.add_argument(
        "--stage",
        action="append",
        default=[],
        metavar="NAME",
        help="whole, a component or a stage; may be repeated (default: all; for --check: the whole)",
    )
    group.add_argument("--since", metavar="DATE", help="leave out what is earlier: 2026-10-01, or 90d for 90 days")
    group.add_argument("--limit", type=int, metavar="N", help="the newest N runs of each history only")
    group.add_argument(
        "--order",
        choices=get_args(Order),
        default="commit",
        help="by time of the commit or the run (default: commit)",
    )
    group.add_argument("--strict", action="store_true", help="refuse a folder with an unreadable record")
    group = parser.add_argument_group("a nightly job's question")
    group.add_argument("--check", action="store_true", help="say only whether the newest runs begin a slowdown")
    group.add_argument(
        "--newest", type=int, metavar="N", help=f"for --check: runs in whose midst a change is new (default: {NEWEST})"
    )
    group = parser.add_argument_group("output")
    options.add_format(group, [*TEXTS, *DATA, *PICTURES])
    group.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="FILE.toml|NAME=LABEL",
        help="of a picture: labels, colours and order of your own, as docs/pictures.md has them",
    )
    group.add_argument("--output", metavar="FILE", help="write to this file instead of the terminal")


def history(asked: argparse.Namespace) -> int:
    """Print latency over commits, or write it to a file; or say whether the newest runs begin a slowdown."""
    from vilt_bench.judge import history as trend

    check, folders = asked.check, asked.folders
    if not check and folders[:1] == [CHECK]:
        check, folders = True, folders[1:]
    if asked.newest is not None and (not check or asked.newest < 1):
        raise ConfigError(f"--newest is for 'vilt-bench history check', and at least 1; got {asked.newest}")
    if check and (asked.format is not None or asked.output is not None):
        raise ConfigError("'history check' prints sentences only; --format and --output are for 'vilt-bench history'")
    asked.format = formats.chosen(asked.format, asked.output, [*TEXTS, *DATA, *PICTURES])
    if not check and asked.format in (*DATA, *PICTURES) and asked.output is None and sys.stdout.isatty():
        raise ConfigError(f"--format {asked.format} is not for a terminal; add --output FILE.{asked.format}")
    if asked.labels and (check or asked.format not in PICTURES):
        raise ConfigError(f"--labels is for pictures; add --format {'|'.join(PICTURES)}")
    if asked.format in DATA:
        from vilt_bench.report import data_files

        data_files.check(asked.format)
    found = trend.history(
        *(folders or [options.RESULTS]),
        embedders=asked.embedder,
        stages=asked.stage or (["whole"] if check else []),
        since=asked.since,
        limit=asked.limit,
        order=asked.order,
        strict=asked.strict,
    )
    screen.leave_out(found.unreadable, more="; --strict refuses such a folder")
    return _check(found, asked.newest or NEWEST) if check else _print(found, asked)


def _print(found: History, asked: argparse.Namespace) -> int:
    from vilt_bench.record import store
    from vilt_bench.report.history import render

    if asked.format in (*DATA, *PICTURES):
        if asked.format in DATA:
            from vilt_bench.report import data_files

            data = data_files.of_history(found, asked.format)
        else:
            from vilt_bench.report.history import picture

            data = picture.render(found, asked.format, labels=asked.labels)
        if asked.output is None:
            sys.stdout.buffer.write(data)
        else:
            store.write_bytes(asked.output, data)
    elif asked.format == "table" and asked.output is None:
        from vilt_bench.report.history import table

        table.show(found, screen.console())
    elif asked.output is None:
        sys.stdout.write(render(found, asked.format))
    else:
        store.write_text(asked.output, render(found, asked.format))
    return 0


def _check(found: History, newest: int) -> int:
    from vilt_bench.report import clean
    from vilt_bench.report.history.words import change_line, machine_line, too_few

    def say(text: str) -> None:
        print(clean.printed(text))

    began = found.began(newest)
    for case, change in began:
        say(f"{case.name} on {machine_line(case)}: slower since {change_line([change])}")
    other = "run" if found.order == "commit" else "commit"
    otherwise = found.began_otherwise(newest)
    for case, slower in otherwise:
        said = "no slowdown began" if slower is None else f"slower since {change_line([slower])}"
        say(
            f"{case.name} on {machine_line(case)}: by time of {other} instead of {found.order}, {said}; commits were "
            f"measured in another order than they are dated, so a clock was wrong or old ones were measured late: "
            f"look at both with 'vilt-bench history --order {other}'"
        )
    current = found.current(newest)
    for case in found.cases:
        if case not in current:
            say(f"{case.name} on {machine_line(case)}: not measured lately, so not looked at")
    short = [case for case in current if not case.enough]
    for case in short:
        say(f"{case.name} on {machine_line(case)}: {too_few(case)}")
    if began:
        return SLOWER
    if otherwise:
        return UNDECIDED
    if len(short) == len(current):
        return TOO_FEW
    told = len(current) - len(short)
    print(f"no slowdown began in the newest {newest} runs of {counted(told, 'history', 'histories')}")
    return 0
