"""`vilt-bench run`: measures embedders, prints where the time goes, saves the records."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vilt_bench.cli import options, screen
from vilt_bench.errors import ViltBenchError

if TYPE_CHECKING:
    from vilt_bench.cli import Add
    from vilt_bench.records import Run


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
    from vilt_bench import store
    from vilt_bench.config import Sampling
    from vilt_bench.report import table
    from vilt_bench.sweep import check_cases, measure_together

    cases = options.cases(asked)
    sampling = Sampling(precision=asked.precision, max_time_s=asked.max_time, trials=asked.trials)
    check_cases(cases)  # before the folder is made
    store.check_writable(asked.output)
    screen.keep_on_termination()
    runs = measure_together(cases, sampling, report=screen.narrator(quiet=asked.quiet))
    measured = [run for run in runs if run.trials or run.failure is not None]
    if not measured:
        screen.complain("interrupted before anything was measured; nothing was saved")
        return screen.INTERRUPTED
    console = screen.console()
    saved, problem = _save(measured, asked.output)
    table.show(measured, console)
    console.print()
    for path in saved:
        console.print(f"saved {path}", highlight=False, soft_wrap=True)
    if problem is not None:
        return screen.complain(problem)
    if any(each.interrupted for each in measured):
        return screen.INTERRUPTED
    for each in measured:
        if each.failure is not None:
            return screen.complain(f"{each.case.embedder}: {each.failure.kind}: {each.failure.message}{_advice(each)}")
    return 0


def _save(runs: Sequence[Run], folder: str) -> tuple[list[Path], str | None]:
    """Returns the records' files, and what kept one from its folder; it is then in the system's temporary one."""
    from vilt_bench import files, store

    saved, problem = [], None
    for run in runs:
        try:
            saved.append(store.save(run, folder))
        except ViltBenchError as error:  # the folder was fine when measuring began
            try:
                problem = f"{error} (kept as {store.save(run, files.temporary_folder())})"
            except ViltBenchError:
                problem = f"{error} (and nowhere else: what is shown is all there is)"
    return saved, problem


def _advice(failed: Run) -> str:
    if failed.failure is not None and failed.failure.kind == "out-of-memory":
        return "; try a smaller --batch-size or --resolution"
    return ""
