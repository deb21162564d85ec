"""Options of engines, which measure elsewhere, and what is printed of what they have measured."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vilt_bench.cli import options, screen
from vilt_bench.cli.flags import in_flags
from vilt_bench.errors import ConfigError
from vilt_bench.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vilt_bench.ask.case import Case
    from vilt_bench.ask.plans import Plan
    from vilt_bench.record.run import PlanFile, Run

LOCAL = "local"
_OF_ENGINES = ("address", "on", "anywhere")


def add_engines(parser: argparse.ArgumentParser) -> None:
    """Add who measures, and where."""
    group = parser.add_argument_group("many machines", "see docs/many-machines.md")
    group.add_argument(
        "--engine",
        default=LOCAL,
        metavar="NAME",
        help="who measures: local, this machine; ray, the machines of a Ray cluster, which needs ray; or "
        f"what another package offers (default: {LOCAL})",
    )
    group.add_argument("--address", metavar="HOST:PORT", help="of the cluster's head, such as 10.0.0.1:6379")
    group.add_argument(
        "--on",
        metavar="KEY=TEXT,…",
        help="machines that tell so of themselves, such as gpu=H100 or cpu=EPYC,cores=64 (default: all)",
    )
    group.add_argument(
        "--anywhere", action="store_true", help="measure each case on one of the machines (default: on each of them)"
    )


def check(asked: argparse.Namespace) -> None:
    """Refuse an engine that is not there, and options of engines where there is none.

    Raises:
        ConfigError: there are some.
    """
    if asked.engine != LOCAL:
        from vilt_bench.engines import find_engine

        find_engine(asked.engine)
    for name in _OF_ENGINES if asked.engine == LOCAL else ():
        if getattr(asked, name):
            raise ConfigError("is for machines of a cluster; add --engine ray, or leave it out", field=name)


def measure(
    asked: argparse.Namespace, cases: Sequence[Case], plan: Plan, file: PlanFile | None
) -> tuple[list[Run], int]:
    """Measure by an engine, and print what was measured; returns the runs and the exit code."""
    from vilt_bench.engines import Order, find_engine
    from vilt_bench.report import clean
    from vilt_bench.report.columns import chosen
    from vilt_bench.report.runs import table

    given = {"--patience": asked.patience, "--together": plan.together, "--memory": plan.memory_bytes}
    order = Order(
        cases=cases,
        sampling=plan.how(),
        folder=asked.output,
        address=asked.address,
        on=asked.on,
        anywhere=asked.anywhere,
        resume=asked.resume,
        name=asked.name,
        origin=options.origin(asked, plan=file),
        arguments=[text for flag, value in given.items() if value is not None for text in (flag, str(value))],
    )

    def tell(line: str) -> None:
        if not asked.quiet:
            screen.say(f"{clean.printed(in_flags(line))}\n")

    outcome = find_engine(asked.engine).measure(order, tell)
    if outcome.runs:
        console = screen.console()
        table.show(outcome.runs, console, quantities=chosen(asked.columns) if asked.columns else (), notes=asked.notes)
        console.print()
        for path in outcome.saved:
            console.print(f"saved {path}", highlight=False, soft_wrap=True)
    if outcome.kept and not asked.quiet:
        screen.say(f"{counted(outcome.kept, 'case')} measured before, and not again\n")
    for (machine, name), (_, why) in outcome.left_out.items():
        screen.complain(f"{machine}: left out: {name}: {why}")
    failed = [each for each in outcome.runs if each.failure is not None]
    for problem in outcome.problems:
        screen.complain(problem)
    if outcome.interrupted:
        return outcome.runs, screen.INTERRUPTED
    # As on one machine: an embedder that has no case at all was meant otherwise.
    lost = {case.embedder for case, _ in outcome.left_out.values()} - {run.case.embedder for run in outcome.runs}
    return outcome.runs, screen.USER_ERROR if outcome.problems or failed or (lost and not outcome.kept) else 0
