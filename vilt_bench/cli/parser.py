"""Parses the command line: complaints in one line, which lead to the help page of their own command."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from vilt_bench.cli import screen
from vilt_bench.words import nearest


class Parser(argparse.ArgumentParser):
    """A parser whose complaints name what is nearest, and its own help page."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Returns what was parsed; what is unknown is refused here, where the flags are known."""
        parsed, unknown = super().parse_known_args(args, namespace)
        several = next((each.dest for each in self._actions if not each.option_strings and each.nargs == "*"), None)
        if several is not None and not any(each.startswith("-") for each in unknown):
            # Before an option, argparse takes it that there are none.
            setattr(parsed, several, [*getattr(parsed, several), *unknown])
            return parsed, []
        if unknown:
            self.error(self._unknown(unknown))
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Complain in one line."""
        if choice := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            message += _guess(choice[1], re.findall(r"[\w-]+", choice[2]))
        joint = "" if message.endswith("?") else ";"
        sys.exit(screen.complain(f"{message}{joint} see '{self.prog} --help'"))

    def _unknown(self, arguments: Sequence[str]) -> str:
        flag = arguments[0]
        if not flag.startswith("-"):
            return f"nothing is known of {flag!r}"
        return f"no option {flag.partition('=')[0]}{_guess(flag.partition('=')[0], list(self._option_string_actions))}"


def _guess(text: str, known: Sequence[str]) -> str:
    close = nearest(text, known, cutoff=0.6)
    return f"; did you mean {close}?" if close else ""
