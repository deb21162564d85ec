"""`vilt-bench profile`: where within the stages the time goes, by module and by operator."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from vilt_bench.cli import formats, options, screen, values
from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from vilt_bench.cli import Add

FORMATS = ("table", "csv", "json", "markdown")
MOST_LEVELS = 8


def register(add: Add) -> None:
    """Add the command."""
    parser = add("profile", profile, "tell where within the stages the time goes, by module and by operator")
    options.add_embedders(parser, help="the embedder, by a name that 'vilt-bench list' shows, with its options")
    options.add_case(parser)
    options.add_input(parser)
    options.add_backend(options.add_where(parser))
    group = parser.add_argument_group("the profile")
    group.add_argument(
        "--depth", type=int, default=1, metavar="N", help="levels of modules within a stage, 0 to 8 (default: 1)"
    )
    group.add_argument(
        "--max-time",
        type=values.seconds,
        default=5.0,
        metavar="TIME",
        help="passes with the profiler, and without it, in seconds, or such as 90s (default: 5)",
    )
    options.add_patience(group)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--format",
        choices=FORMATS,
        metavar="NAME",
        help=f"{', '.join(FORMATS)} (default: by the file's name, else a table)",
    )
    group.add_argument("--output", metavar="FILE", help="write to a file instead of printing")
    group.add_argument(
        "--operators", type=int, default=10, metavar="N", help="show the N that take most, 0 for none (default: 10)"
    )
    group.add_argument("--trace", metavar="FILE", help="a trace of a pass for Perfetto, FILE.json or FILE.json.gz")
    group.add_argument("--figure", metavar="FILE", help="an icicle of stages and modules, as .svg, .png or .pdf")
    group.add_argument("--quiet", action="store_true", help="say nothing while measuring")


def profile(asked: argparse.Namespace) -> int:
    """Profile one case; print, and write what is asked for."""
    format = formats.chosen(asked.format, asked.output, FORMATS)
    pictures = ("svg", "png", "pdf")
    picture = None if asked.figure is None else formats.chosen(None, asked.figure, pictures, flag="--figure")
    _check(asked)
    case, *others = options.cases(asked)
    if others:
        raise ConfigError(f"'profile' takes one embedder; got {case.embedder} and {others[0].embedder}")
    _check_backend(case.backend)

    from vilt_bench import files
    from vilt_bench.director.profile import profile as measured
    from vilt_bench.report import profiles

    found, where, trace = measured(
        case,
        seconds=asked.max_time,
        depth=asked.depth,
        with_trace=asked.trace is not None,
        report=(lambda _: None) if asked.quiet else (lambda text: screen.say(f"{text}\n")),
        overhear=screen.overhear(debug=asked.debug),
        patience_s=asked.patience,
    )
    if format == "table" and asked.output is None:
        profiles.show(case, found, where, screen.console(), operators=asked.operators)
    else:
        text = profiles.render(format, case, found, where, operators=asked.operators)
        if asked.output is None:
            sys.stdout.write(text)
        else:
            files.write_bytes(asked.output, text.encode())
    if trace is not None:
        import gzip

        # No time within, so that the same trace is the same file.
        files.write_bytes(asked.trace, gzip.compress(trace, mtime=0) if asked.trace.endswith(".gz") else trace)
    if picture is not None:
        from vilt_bench.report.pictures import icicle

        files.write_bytes(asked.figure, icicle.draw(case, found, where, picture))
    return 0


def _check(asked: argparse.Namespace) -> None:
    """Refuse what no profile has, before anything is measured."""
    if not 0 <= asked.depth <= MOST_LEVELS:
        raise ConfigError(f"--depth must be between 0 and {MOST_LEVELS}, got {asked.depth}")
    if not 0 < asked.max_time <= 600:
        raise ConfigError(f"--max-time must be between 0 and 600 seconds, got {asked.max_time:g}")
    if asked.operators < 0:
        raise ConfigError(f"--operators must be 0 or more, got {asked.operators}")
    if asked.preprocessing:
        raise ConfigError("--with-preprocessing is of the host, which has no modules; leave it out of a profile")
    if asked.trace is not None and not asked.trace.endswith((".json", ".json.gz")):
        raise ConfigError(f"--trace {asked.trace}: expected a name with .json or .json.gz")


def _check_backend(backend: str) -> None:
    from vilt_bench.ask.case import parse_backend
    from vilt_bench.worker import backends

    name, _ = parse_backend(backend)
    if not getattr(backends.load(name), "KEEPS_MODULES", False):
        keeping = [each for each in ("torch", "onednn") if each in backends.names()]
        raise ConfigError(
            f"{name} computes a stage without its modules, so that there are none to tell apart; "
            f"'profile' takes {' and '.join(keeping)}",
            field="backend",
        )
