"""Reads the values of options: shares, durations, sizes and lists of names, alike for all commands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

from vilt_bench.ask.case import ALL
from vilt_bench.ask.effort import parse_duration_s, parse_share, parse_size_bytes
from vilt_bench.cli.flags import in_flags
from vilt_bench.errors import ConfigError

_Value = TypeVar("_Value")


def read_by(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """Returns a type of options that reads a text as a parser does, whose complaint is told of the option."""

    @wraps(parse)
    def read(text: str) -> _Value:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(error.problem) from None

    return read


share = read_by(parse_share)
seconds = read_by(parse_duration_s)
size_bytes = read_by(parse_size_bytes)


def names(text: str) -> list[str]:
    """Returns the names of a text such as `torch,driver`."""
    return [name.strip() for name in text.split(",") if name.strip()]


class Quantities(argparse.Action):
    """An option of names of quantities, which are told in that order; `help` lists them and ends."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep the names, all known."""
        from vilt_bench.report import columns

        given = str(values)
        if given.strip() == "help":
            sys.stdout.write("".join(f"{line}\n" for line in columns.listed()))
            parser.exit()
        if given.strip() in ("1", "2"):
            parser.error(
                f"--columns chooses quantities; the columns of a paper that a picture of 'report' spans: --span {given}"
            )
        try:
            found = columns.chosen(names(given))
        except ConfigError as error:
            parser.error(in_flags(str(error)))
        setattr(namespace, self.dest, [each.name for each in found])


class Machines(argparse.Action):
    """An option of machines that are known by their datasheets; `help` lists them and ends."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep the datasheets."""
        from vilt_bench.machine import datasheets

        given = str(values)
        if given.strip() == "help":
            sys.stdout.write("".join(f"{line}\n" for line in datasheets.listed()))
            parser.exit()
        try:
            found = datasheets.find(given)
        except ConfigError as error:
            parser.error(in_flags(str(error)))
        setattr(namespace, self.dest, found)


class NamesOrAll(argparse.Action):
    """An option of names that may differ; alone it means all of them.

    What follows it and is a path belongs to the command: it is kept under `after`, in the order given.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take one value or none."""
        super().__init__(*arguments, **{**options, "nargs": "?"})

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep the names."""
        found = list(getattr(namespace, self.dest) or [])
        if isinstance(values, str) and (os.sep in values or values.endswith(".json") or os.path.lexists(values)):
            namespace.after = [*getattr(namespace, "after", []), values]
            values = None
        setattr(namespace, self.dest, [*found, *(names(values) if isinstance(values, str) else [ALL])])


def add_allow_different(parser: argparse._ActionsContainer, what: str) -> None:
    """Add the names of what may differ between two sides."""
    parser.add_argument(
        "--allow-different",
        action=NamesOrAll,
        default=[],
        metavar="NAME,…",
        help=f"{what}, such as torch,driver; alone: everything; the report says what does",
    )
