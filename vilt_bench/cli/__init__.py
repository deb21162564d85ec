"""The command line: each command parses, calls one public function, prints, and chooses the exit code.

Exit codes: 0 good; 1 the gate failed; 2 something that the user can mend, told in one line on standard error;
3 undecided; 4 no baseline; 130 interrupted.
Imports wait until a command needs them: `--help` and `list` start in a tenth of a second. A module here is a command,
or two that belong together, and has a `register`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from vilt_bench import __version__, files
from vilt_bench.cli import doctor, embedders, history, paper, report, run, screen, verdicts
from vilt_bench.errors import ViltBenchError

COMMANDS = (run, verdicts, embedders, paper, report, history, doctor)
"""In the order in which `--help` shows them."""

Command = Callable[[argparse.Namespace], int]
Add = Callable[[str, Command, str], argparse.ArgumentParser]
"""Adds a command by its name, function and description; returns its parser."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of one command."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        code: int = asked.command(asked)
        sys.stdout.flush()
        return code
    except ViltBenchError as error:
        if asked.debug:
            raise
        return screen.complain(str(error))
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        sys.stderr.close()
        return 0
    except OSError as error:
        if not files.lacks(error):
            raise
        named = f" for {error.filename}" if error.filename else ""
        return screen.complain(f"the machine has not what it takes{named}: {files.why(error)}")
    except KeyboardInterrupt:
        return screen.INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Complain in one line."""
        sys.exit(screen.complain(f"{message}; see '{self.prog} --help'"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vilt-bench",
        description="What does it cost a vision-and-language model to see? Measures visual embedders, stage by stage.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vilt-bench {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        sub.set_defaults(command=command)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return sub

    for module in COMMANDS:
        module.register(add)
    return parser
