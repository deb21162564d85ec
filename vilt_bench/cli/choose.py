"""`vilt-bench choose`: which towers of the catalogues may meet a budget, from counts and peaks; no model is run."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vilt_bench.ask.case import ALONE, Case
from vilt_bench.ask.choice import FORMATS, ORDERS, SHOWN, Range
from vilt_bench.cli import axes, options, run, screen, values
from vilt_bench.cli.parser import Parser
from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from vilt_bench.cli import Add
    from vilt_bench.judge.choice import Choice, LeastTime
    from vilt_bench.machine.datasheets import Datasheet

_SCALES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)\s*([KMGB]?)", re.IGNORECASE)
_BETWEEN = ".."


def register(add: Add) -> None:
    """Add the command."""
    parser = add("choose", choose, "which towers may meet a budget? Estimates from counts and peaks; no model is run")
    parser.add_argument(
        "--budget",
        type=_budget,
        metavar="TIME",
        help="for one image's tower and interaction together, such as 200ms or 1.5s; what can't meet it is left out",
    )
    parser.add_argument(
        "--tokens", type=_range, default=Range(), metavar="N..N", help="visual tokens, such as 64..1024, or ..256"
    )
    parser.add_argument(
        "--parameters", type=_at_most, default=Range(), metavar="N", help="at most so many, such as 400M; or 80M..400M"
    )
    parser.add_argument(
        "--resolution",
        type=_edge,
        default=Range(),
        metavar="N..N",
        help="shorter edge in pixels of the size that the catalogue has a tower at, such as 224..448",
    )
    parser.add_argument(
        "--embedder",
        action="append",
        type=_pattern,
        default=[],
        metavar="PATTERN",
        help="names such as 'timm/*siglip*', or a part of them; give it several times for several (default: all)",
    )
    parser.add_argument(
        "--interaction",
        default=options.USUAL.interaction,
        metavar="NAME",
        help=f"what the tokens go into, as for 'run' (default: {options.USUAL.interaction})",
    )
    parser.add_argument(
        "--text-length",
        type=axes.one(axes.number),
        metavar="N",
        help=f"text tokens (default: {options.USUAL.text_length})",
    )
    options.add_on(options.add_where(parser))
    group = parser.add_argument_group("what is shown")
    group.add_argument(
        "--sort", choices=ORDERS, default=ORDERS[0], help="the largest, the most visual tokens, or the fastest first, "
        f"those on the frontier before all others (default: {ORDERS[0]})",
    )  # fmt: skip
    group.add_argument("--frontier", action="store_true", help="only those on the frontier")
    group.add_argument("--limit", type=int, metavar="N", help=f"so many rows (default: {SHOWN}; of data all)")
    group.add_argument(
        "--format", choices=FORMATS, default="table", metavar="NAME", help=f"{', '.join(FORMATS)} (default: table)"
    )
    group = parser.add_argument_group("measuring the finalists")
    group.add_argument(
        "--measure",
        type=int,
        metavar="N",
        help="measure the first N, as 'vilt-bench run' does, and show that beside the estimates",
    )
    group.add_argument("--max-time", type=values.seconds, metavar="TIME", help="as for 'run', of each")
    group.add_argument("--trials", type=int, metavar="N", help="as for 'run', of each")
    options.add_records(group)
    group.add_argument("--quiet", action="store_true", help="say nothing while measuring")


def choose(asked: argparse.Namespace) -> int:
    """Print which towers may meet the budget; measure the finalists where asked."""
    from vilt_bench.ask import catalog
    from vilt_bench.judge.choice import Wanted, choose, fitting
    from vilt_bench.record import store
    from vilt_bench.report.embedders import choice as report

    machine = _machine(asked)
    text = {} if asked.text_length is None else {"text_length": asked.text_length}
    case = Case(
        "NAME", interaction=asked.interaction, dtype=asked.dtype, device=asked.device, threads=asked.threads, **text
    )
    wanted = Wanted(
        budget_s=asked.budget,
        tokens=asked.tokens,
        parameters=asked.parameters,
        edge=asked.resolution,
        patterns=tuple(asked.embedder),
        order=asked.sort,
    )
    # What clips cost is no choice among towers of images.
    entries = {name: entry for name, entry in catalog.entries().items() if entry.frames is None}
    towers = fitting(entries, wanted)
    if asked.measure is not None:
        store.check_writable(asked.output)
    from vilt_bench.model import shared_sizes
    from vilt_bench.worker.interaction import count_interaction

    numbers = {entry.visual_tokens for entry in towers.values() if entry.flops is not None}
    interaction = count_interaction(case, numbers)
    width = catalog.HIDDEN_SIZE if case.interaction == ALONE else shared_sizes(case.interaction, case.vilt).hidden_size
    least_s, described, busy = _least(case, machine)
    scalar_bytes = 4 if case.dtype == "float32" else 2
    found = choose(towers, wanted, least_s, interaction, scalar_bytes=scalar_bytes)
    if asked.frontier:
        found = _of_frontier(found)
    context = report.Context(
        case.interaction, case.text_length, case.dtype, described, wanted, len(entries), width, busy
    )
    if asked.format != "table":
        sys.stdout.write(report.render(found, context, asked.format, most=asked.limit))
        return 0
    report.show(found, context, screen.console(), most=asked.limit)
    return 0 if asked.measure is None else _measure(found, asked)


def _machine(asked: argparse.Namespace) -> Datasheet | None:
    """Returns the machine that `--on` names; `None`: this one. Refuses what does not go together."""
    machines = options.machines(asked)
    if len(machines) > 1:
        raise ConfigError(f"takes one machine; got {', '.join(each.key for each in machines)}", field="on")
    for flag, value in (("--limit", asked.limit), ("--measure", asked.measure)):
        if value is not None and value < 1:
            raise ConfigError(f"{flag} must be at least 1, got {value}")
    if asked.measure is None:
        for flag, value in (("--max-time", asked.max_time), ("--trials", asked.trials)):
            if value is not None:
                raise ConfigError(f"{flag} is for measuring; add --measure N")
    elif machines:
        raise ConfigError(f"--measure measures on this machine, not on {machines[0].key}; leave out --on")
    elif asked.format != "table":
        raise ConfigError(
            f"--format {asked.format} is for estimates alone; leave it out with --measure, and take 'vilt-bench report'"
        )
    return machines[0] if machines else None


def _least(case: Case, machine: Datasheet | None) -> tuple[LeastTime, str, bool]:
    """Returns what tells least times on the machine, of what they are computed, and whether others kept it busy.

    This one's peak is measured.

    Raises:
        ConfigError: no peak is stated for the dtype.
    """
    if machine is None:
        from vilt_bench.director.limits import measure_peak
        from vilt_bench.report import limits

        peak, device, threads = (found := measure_peak(case)).peak, found.device, found.threads
        told = limits.described(peak, device=device, threads=threads)
        busy = limits.busy(peak)
        return peak.bound_s, f"This machine: {told}, measured just now{busy}", bool(busy)
    if machine.peak(case.dtype) is None:
        raise ConfigError(machine.described(case.dtype))

    def least_s(flops: int, moved_bytes: int) -> float:
        found = machine.bound_s(flops, moved_bytes, dtype=case.dtype)
        assert found is not None, "it has a peak"
        return found

    return least_s, machine.described(case.dtype), False


def _of_frontier(found: Choice) -> Choice:
    from dataclasses import replace

    return replace(found, candidates=tuple(each for each in found.candidates if each.on_frontier))


def _measure(found: Choice, asked: argparse.Namespace) -> int:
    """Measure the first as `vilt-bench run` does, each at the catalogue's resolution; returns the exit code."""
    import shlex

    from vilt_bench.report.embedders.choice import show_measured

    finalists = found.candidates[: asked.measure]
    names = ["{},resolution={}x{}".format(each.name, *each.entry.resolution) for each in finalists]
    arguments = [*names, "--fit", "crop", "--interaction", asked.interaction, "--dtype", asked.dtype]
    given = {
        "--text-length": asked.text_length,
        "--device": asked.device,
        "--threads": asked.threads,
        "--max-time": asked.max_time,
        "--trials": asked.trials,
        "--output": asked.output,
    }
    for flag, value in given.items():
        if value is not None:
            arguments += [flag, str(value)]
    arguments += ["--quiet"] if asked.quiet else []
    screen.say(f"\nvilt-bench run {shlex.join(arguments)}\n\n")
    runs, code = run.measure(_parsed(arguments))
    if not runs:
        return code
    console = screen.console()
    console.print()
    show_measured(finalists, {each.case.embedder: each for each in runs}, console)
    return code


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns what `vilt-bench run` makes of the arguments."""
    made: list[Parser] = []

    def add(name: str, command: object, text: str) -> Parser:
        made.append(Parser(prog=f"vilt-bench {name}", allow_abbrev=False))
        made[-1].add_argument("--debug", action="store_true")
        return made[-1]

    run.register(add)
    return made[0].parse_args(arguments, argparse.Namespace(typed=["run", *arguments]))


def _budget(text: str) -> float:
    """Returns seconds of a text such as `200ms`, whose unit can't be left out.

    Raises:
        ArgumentTypeError: it is no duration above 0.
    """
    if text.strip().replace(".", "").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} has no unit; write {text.strip()}ms or {text.strip()}s")
    try:
        seconds = values.seconds(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; expected such as 200ms, 1.5s or 1m") from None
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0; expected such as 200ms or 1.5s")
    return seconds


def _range(text: str) -> Range:
    """Returns a range of a text such as `64..1024`, `64..`, `..1024` or `576`.

    Raises:
        ArgumentTypeError: it is none.
    """
    least, dots, most = (part.strip() for part in text.partition(_BETWEEN))
    if not least and not most:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; expected such as 64..1024, 64.., ..1024 or 576")
    if not dots:
        number = _number(least)
        return Range(number, number)
    found = Range(_number(least) if least else 0, _number(most) if most else math.inf)
    if found.least > found.most:
        raise argparse.ArgumentTypeError(f"{text!r} begins above its end; expected {most}..{least}")
    return found


def _at_most(text: str) -> Range:
    """Returns a range; a number alone is its end.

    Raises:
        ArgumentTypeError: it is none.
    """
    return _range(text) if _BETWEEN in text else Range(most=_number(text))


def _edge(text: str) -> Range:
    """Returns a range of the shorter edge; refuses a size, of which only that is asked.

    Raises:
        ArgumentTypeError: it is none.
    """
    if "x" in text.lower():
        raise argparse.ArgumentTypeError(f"{text!r} is a size; expected the shorter edge, such as 224 or 224..448")
    return _range(text)


def _pattern(text: str) -> str:
    """Returns it as it is.

    Raises:
        ArgumentTypeError: it is empty.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty text names no tower; expected such as 'timm/*siglip*'")
    return text


def _number(text: str) -> float:
    found = _NUMBER.fullmatch(text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; expected such as 576, 86M or 1.2B")
    return float(found[1]) * _SCALES[found[2].upper()]
