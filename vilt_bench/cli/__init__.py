"""The command line: each command parses, calls one public function, prints, and chooses the exit code.

Exit codes: 0 good; 1 slower, by the gate, by `compare` or by `history check`, and nothing else; 2 something that the
user can mend, told in one line on standard error; 3 undecided; 4 no baseline; 5 a machine that is not fit (`doctor
--strict`); 70 something unexpected, told in one line, its traceback in a file; 130 interrupted.
A reader that has had enough of the output, such as `head`, changes none of them.
Imports wait until a command needs them: `--help` and `list` start in a tenth of a second. A module here is a command,
or two that belong together, and has a `register`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence

from vilt_bench import __version__, files
from vilt_bench.cli import (
    choose,
    completion,
    config,
    crash,
    doctor,
    embedders,
    history,
    paper,
    profile,
    report,
    rerun,
    run,
    screen,
    streams,
    verdicts,
    view,
)
from vilt_bench.cli.parser import Parser
from vilt_bench.errors import ConfigError, ViltBenchError

COMMANDS = (run, rerun, verdicts, profile, embedders, choose, paper, report, view, history, doctor, completion)
"""In the order in which `--help` shows them."""

Command = Callable[[argparse.Namespace], int]
Add = Callable[[str, Command, str], argparse.ArgumentParser]
"""Adds a command by its name, function and description; returns its parser."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of one command."""
    with streams.guarded() as lost:
        try:
            code = _run(arguments)
        except SystemExit as ended:  # of argparse: help, the version, or a complaint
            code = ended.code if isinstance(ended.code, int) else 0
        except KeyboardInterrupt:
            code = screen.INTERRUPTED
        with contextlib.suppress(ValueError):  # closed by somebody
            sys.stdout.flush()
        return code if lost.problem is None else screen.complain(lost.problem)


def _run(arguments: Sequence[str] | None) -> int:
    typed = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    try:
        typed, of_file = config.expanded(typed, _commands(parser))
    except ConfigError as error:
        return screen.complain(str(error))
    asked = parser.parse_args(typed)
    asked.typed = typed
    if of_file and not getattr(asked, "quiet", False):
        from vilt_bench.report import clean

        screen.say(f"{clean.printed(f'options of {asked.config}: {chr(32).join(of_file)}')}\n")
    try:
        code: int = asked.command(asked)
    except ViltBenchError as error:
        if asked.debug:
            import traceback

            traceback.print_exception(error)
        return screen.complain(str(error))
    except OSError as error:
        if not files.lacks(error):
            return crash.tell(error, debug=asked.debug)
        named = f" for {error.filename}" if error.filename else ""
        return screen.complain(f"the machine has not what it takes{named}: {files.why(error)}")
    # A plug-in's sys.exit() is as unexpected as its errors.
    except (Exception, SystemExit) as error:
        return crash.tell(error, debug=asked.debug)
    return code


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Returns the parsers of the commands, by name."""
    (found,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return dict(found.choices)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="vilt-bench",
        description="What does it cost a vision-and-language model to see? Measures visual embedders, stage by stage.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vilt-bench {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        end = "" if text.endswith("?") else "."
        sentence = f"{text[0].upper()}{text[1:]}{end}"
        sub = commands.add_parser(name, help=text, description=sentence, allow_abbrev=False)
        sub.set_defaults(command=command)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.add_argument(
            config.FLAG,
            metavar="FILE",
            help="a TOML file with options for this and other commands; those that are typed win",
        )
        return sub

    for module in COMMANDS:
        module.register(add)
    return parser
