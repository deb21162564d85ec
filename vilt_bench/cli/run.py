"""`vilt-bench run`: measures embedders, prints where the time goes, saves the records."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vilt_bench.ask.case import names_apart
from vilt_bench.cli import options, screen
from vilt_bench.words import counted

if TYPE_CHECKING:
    from vilt_bench.ask.case import Case, Sampling
    from vilt_bench.cli import Add
    from vilt_bench.record.run import Run


def register(add: Add) -> None:
    """Add the command."""
    parser = add("run", run, "measure embedders: where does the time go, stage by stage?")
    options.add_embedders(
        parser,
        help="a name that 'vilt-bench list' shows, or module.path:factory, with options of its factory, and with "
        "resolution=HxW or reduce=NAME:N where they are for it alone; several are measured side by side",
    )
    parser.add_argument(
        "--preset",
        action="append",
        metavar="NAME",
        help="a set of embedders, such as tiny, paper or vlm-2026 (see 'vilt-bench list --presets'), or a TOML file",
    )
    options.add_case(parser)
    options.add_measuring(parser)


def run(asked: argparse.Namespace) -> int:
    """Measure embedders, print where the time goes, save the records."""
    from vilt_bench.ask.case import Sampling
    from vilt_bench.director.measure import check_cases, measure_together
    from vilt_bench.record import store
    from vilt_bench.report.runs import table

    cases = options.cases(asked)
    sampling = Sampling(precision=asked.precision, max_time_s=asked.max_time, trials=asked.trials)
    check_cases(cases)  # before the folder is made
    store.check_writable(asked.output)
    screen.keep_on_termination()
    if not asked.quiet:
        screen.say(f"{_plan(cases, sampling)}\n")
    runs = measure_together(
        cases,
        sampling,
        report=screen.narrator(quiet=asked.quiet),
        patience_s=asked.patience,
        overhear=screen.overhear(debug=asked.debug),
    )
    measured = [run for run in runs if run.trials or run.failure is not None]
    if not measured:
        screen.complain("interrupted before anything was measured; nothing was saved")
        return screen.INTERRUPTED
    saved, problems = store.save_all(measured, asked.output)
    console = screen.console()
    table.show(measured, console)
    console.print()
    for path in saved:
        console.print(f"saved {path}", highlight=False, soft_wrap=True)
    for problem in problems:
        screen.complain(problem)
    named = zip(names_apart([each.case for each in measured]), measured, strict=True)
    failed = [f"{name}: {_failure(each)}" for name, each in named if each.failure is not None]
    for problem in failed:
        screen.complain(problem)
    if problems:
        return screen.USER_ERROR
    if any(each.interrupted for each in measured):
        return screen.INTERRUPTED
    return screen.USER_ERROR if failed else 0


def _plan(cases: Sequence[Case], sampling: Sampling) -> str:
    """Returns what is about to be done, and how long it takes."""
    from vilt_bench.report import clean

    trials = counted(sampling.trials, "trial")
    if len(cases) == 1:
        what, each = clean.within(*names_apart(cases)), ""
    else:
        what, each = f"{len(cases)} embedders in turns", " each"
    total_s = len(cases) * sampling.max_time_s
    total = f"{total_s:.0f} s" if total_s < 120 else f"{total_s / 60:.0f} min"
    return (
        f"measuring {what}: {trials}{each} in fresh processes, at most {total} in all, "
        "and what building and counting take"
    )


def _failure(failed: Run) -> str:
    assert failed.failure is not None
    # What ran out before a pass says itself what to do, if anything helps.
    in_a_pass = failed.failure.kind == "out-of-memory" and failed.failure.stage
    advice = "; try a smaller --batch-size or --resolution" if in_a_pass else ""
    where = f" in {failed.failure.stage}" if failed.failure.stage else ""
    return f"{failed.failure.kind}{where}: {failed.failure.message}{advice}"
