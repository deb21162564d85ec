"""What `compare` and `gate` share: where their verdicts go, and the exit code that follows from them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from vilt_bench import files
from vilt_bench.cli import formats, screen
from vilt_bench.errors import ConfigError, FileError, ViltBenchError
from vilt_bench.report import verdicts

if TYPE_CHECKING:
    from vilt_bench.judge.comparison import Comparison

FILES = {name: format.file for name, format in verdicts.FORMATS.items() if format.file} | verdicts.DATA
"""Formats that have a flag of their own, with what it is for."""


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add how the verdicts are shown, where else they are written, and what an inconclusive one means."""
    group = parser.add_argument_group("the outcome")
    group.add_argument(
        "--format",
        choices=[*verdicts.FORMATS],
        default="table",
        metavar="NAME",
        help=f"what is printed: {', '.join(verdicts.FORMATS)} (default: table)",
    )
    for format, text in FILES.items():
        group.add_argument(f"--{format}", type=partial(_file, format), metavar="FILE", help=f"also write {text}")
    group.add_argument(
        "--annotations",
        action=argparse.BooleanOptionalAction,
        default=os.environ.get("GITHUB_ACTIONS") == "true",
        help="tell GitHub, on standard error, what to show beside the run (default: in its workflows)",
    )
    group.add_argument(
        "--inconclusive",
        choices=get_args(verdicts.Undecided),
        default="fail",
        help="exit code of what could not be decided: 0, or 3 (default: fail)",
    )


def finish(comparisons: Sequence[Comparison], asked: argparse.Namespace, *, otherwise: int = 0) -> int:
    """Write the files asked for, add to a GitHub job's summary, print the verdicts; returns the exit code.

    Args:
        comparisons: in the order in which they are shown.
        asked: has what `add_outputs` added.
        otherwise: exit code of what is no comparison.

    Raises:
        ConfigError: something can't be shown or written; all else has been by then.
    """
    from vilt_bench.record import store

    def text(format: str) -> str:
        return verdicts.render(comparisons, format, inconclusive=asked.inconclusive, otherwise=otherwise)

    # Files first: nothing that becomes of the screen, or of who reads it, may keep a verdict from them.
    problems = []
    for format in FILES:
        path = getattr(asked, format.replace("-", "_"))
        if path is not None:
            try:
                if format in verdicts.DATA:
                    from vilt_bench.report import data_files

                    store.write_bytes(path, data_files.of_comparisons(comparisons, format))
                else:
                    store.write_text(path, text(format))
            except ViltBenchError as error:
                problems.append(f"--{format} {error.problem}" if error.field == "path" else str(error))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(summary, text("markdown"))
    try:
        if asked.format == "table":
            verdicts.show(comparisons, screen.console())
        else:
            sys.stdout.write(text(asked.format))
        sys.stdout.flush()
    except ViltBenchError as error:
        problems.append(str(error))
    if asked.annotations:
        sys.stderr.write(text("github"))
    if problems:
        raise ConfigError("; ".join(problems))
    return verdicts.exit_code(comparisons, asked.inconclusive, otherwise)


def _append(summary: str, text: str) -> None:
    """Add to the job's summary; one that can't be written must not hide the verdict."""
    try:
        files.append_bytes(summary, f"{text}\n".encode(errors="replace"))
    except FileError as error:
        screen.complain(f"GITHUB_STEP_SUMMARY {error}; the summary is left out")


def _file(format: str, text: str) -> str:
    """Returns the path; refused at once if it can't be that of such a file, so that nothing is measured in vain."""
    folder = Path(text).parent
    if not text:
        raise argparse.ArgumentTypeError("an empty text names no file; give a file")
    if not files.is_folder(folder):
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {folder}; make it first")
    if files.is_folder(text):
        raise argparse.ArgumentTypeError(f"{text} is a folder; give a file")
    try:
        formats.check(format, text, flag="")
        if format in verdicts.DATA:
            from vilt_bench.report import data_files

            data_files.check(format)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error).strip()) from None
    return text
