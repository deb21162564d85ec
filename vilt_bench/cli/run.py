"""`vilt-bench run`: measures embedders, prints where the time goes, saves the records."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from vilt_bench.ask.case import SIZES, case_name, label, names_apart
from vilt_bench.cli import axes, engines, options, progress, screen, values
from vilt_bench.cli.flags import in_flags
from vilt_bench.cli.keeping import keeping
from vilt_bench.errors import ConfigError, ViltBenchError
from vilt_bench.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    from vilt_bench.ask.axes import Expansion
    from vilt_bench.ask.case import Case, Sampling
    from vilt_bench.ask.plans import Plan
    from vilt_bench.cli import Add
    from vilt_bench.record.run import PlanFile, Run


def register(add: Add) -> None:
    """Add the command."""
    parser = add("run", run, "measure embedders: where does the time go, stage by stage?")
    options.add_embedders(
        parser,
        help="a name that 'vilt-bench list' shows, or module.path:factory, with options of its factory, and with "
        "resolution=HxW, tiles=SCHEME or reduce=NAME:N where they are for it alone; several are measured side by side",
    )
    parser.add_argument(
        "--preset",
        action="append",
        metavar="NAME",
        help="a set of embedders, such as tiny, paper or vlm-2026, or of cases, such as tokens-curve ('vilt-bench list "
        "--presets' shows all), or a TOML file",
    )
    options.add_case(parser, lists=True)
    options.add_measuring(parser)
    options.add_sort(parser, default="rank")
    group = parser.add_argument_group(
        "sweeps",
        "--batch-size, --resolution, --dtype, --text-length, --images-per-text, --tiles, --reduce, --threads, "
        "--interaction, --backend and "
        "--quantize take several values, with commas between them: every combination with every embedder is a case.",
    )
    group.add_argument(
        "--plan",
        metavar="FILE",
        help="a TOML file with embedders, axes, exclusions and sampling, or - for standard input; see docs/sweeps.md; "
        "options that are given beside it take the place of what it says",
    )
    group.add_argument(
        "--together",
        type=int,
        metavar="N",
        help="measure at most N cases in turns, alive together (default: as many as memory holds); other cases follow "
        "in groups, each with a short repeat of a case of the one before; 1: each alone, and no repeats",
    )
    group.add_argument(
        "--memory",
        type=values.size_bytes,
        metavar="SIZE",
        help="of the host, for cases that are alive together, such as 6GB (default: four fifths of what is free)",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="list the cases, with pixels, tokens, groups and an estimate of memory and time; nothing is measured or "
        "saved",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="measure what is missing in --output: complete cases are left out, those that were cut short go on with "
        "what was measured of them, failed ones are tried again",
    )
    engines.add_engines(parser)
    # What was not given is to be told from what was: a plan may say it.
    parser.set_defaults(**dict.fromkeys((*axes.LISTS, *axes.SINGLE, *SIZES, "precision", "max_time", "trials")))


def run(asked: argparse.Namespace) -> int:
    """Measure embedders, print where the time goes, save the records."""
    return measure(asked)[1]


def measure(asked: argparse.Namespace) -> tuple[list[Run], int]:
    """Measure embedders, print where the time goes, save the records; returns the runs and the exit code."""
    from vilt_bench.director.measure import check_cases
    from vilt_bench.director.sweep import check_together, measure_sweep
    from vilt_bench.judge.ranking import by_rank
    from vilt_bench.record import store
    from vilt_bench.report import clean
    from vilt_bench.report.columns import chosen
    from vilt_bench.report.runs import table

    expansion, plan, file = _asked(asked)
    cases, sampling = expansion.cases, plan.how()
    engines.check(asked)
    is_here = asked.engine == engines.LOCAL
    # Before the folder is made; images are those of the machines that measure.
    check_cases(cases if is_here else [replace(case, images=()) for case in cases])
    check_together(plan.together)
    if asked.dry_run:
        return [], _foresee(expansion, plan)
    store.check_writable(asked.output)
    screen.keep_on_termination()

    def say(line: str) -> None:
        if not asked.quiet:
            screen.say(f"{clean.printed(line)}\n")

    for note in expansion.notes:
        say(in_flags(note))
    if not is_here:
        return engines.measure(asked, cases, plan, file)
    left_out: list[Case] = []

    def leave_out(case: Case, error: ViltBenchError) -> None:
        left_out.append(case)
        screen.complain(f"left out: {case_name(case)}: {error}")

    saved: dict[str, list[Path | str]] = {}
    problems: list[str] = []

    def save(run: Run) -> None:
        if run.trials or run.failure is not None:
            saved[run.run_id], told = store.save_all([run], asked.output)
            problems.extend(told)
            if not told:
                kept.saved(run.run_id)

    with (
        keeping(cases, sampling, asked.output, resume=asked.resume, say=say) as kept,
        progress.shown(quiet=asked.quiet) as show,
    ):
        if kept.cases:
            say(_plan(kept.cases, sampling, plan.together))
        runs = (
            measure_sweep(
                kept.cases,
                sampling,
                together=plan.together,
                memory_bytes=plan.memory_bytes,
                report=show,
                patience_s=asked.patience,
                overhear=screen.overhear(debug=asked.debug),
                leave_out=None if _are_embedders(cases) else leave_out,
                finished=save,
                note=kept.note,
                begun=kept.begun,
                name=asked.name,
                origin=options.origin(asked, plan=file),
            )
            if kept.cases
            else []
        )
        measured = [run for run in runs if run.trials or run.failure is not None]
        for run in measured:
            if run.run_id not in saved:  # Ctrl-C came while it was being saved
                save(run)
    if not measured and kept.cases:
        screen.complain("interrupted before anything was measured; nothing was saved")
        return [], screen.INTERRUPTED
    console = screen.console()
    shown = kept.with_complete(measured)
    if asked.sort != "asked":
        shown = by_rank(shown)
    if shown:
        table.show(shown, console, quantities=chosen(asked.columns) if asked.columns else (), notes=asked.notes)
        console.print()
    for path in chain.from_iterable(saved[run.run_id] for run in measured):
        console.print(f"saved {path}", highlight=False, soft_wrap=True)
    for problem in problems:
        screen.complain(problem)
    named = zip(names_apart([each.case for each in measured]), measured, strict=True)
    failed = [f"{name}: {_failure(each)}" for name, each in named if each.failure is not None]
    for problem in failed:
        screen.complain(problem)
    if problems:
        return measured, screen.USER_ERROR
    if any(each.interrupted for each in measured) or len(runs) + len(left_out) < len(kept.cases):
        return measured, screen.INTERRUPTED
    # What does not apply to an embedder is left out; an embedder that has no case at all was meant otherwise.
    lost = {case.embedder for case in left_out} - {each.case.embedder for each in shown}
    return measured, screen.USER_ERROR if failed or lost else 0


def _are_embedders(cases: Sequence[Case]) -> bool:
    """Returns whether each is of another embedder, so that no axis has made them."""
    return len({label(replace(case, tiles=None, reduce=None)) for case in cases}) == len(cases)


def _foresee(expansion: Expansion, plan: Plan) -> int:
    """Print the cases and what is known of them beforehand; nothing is measured."""
    from vilt_bench.ask.forecast import Outlook
    from vilt_bench.director.sweep import plan_groups
    from vilt_bench.report.runs import forecast
    from vilt_bench.worker.foresee import foresee, free_of_devices

    found = list(foresee(expansion.cases))
    outlook = Outlook(tuple(each.needs for each in found), free_of_devices(expansion.cases))
    groups = plan_groups(expansion.cases, outlook, together=plan.together, memory_bytes=plan.memory_bytes)
    notes = [in_flags(note) for note in expansion.notes]
    forecast.show(found, plan.how(), screen.console(), groups=groups, notes=notes)
    return 0


def _asked(asked: argparse.Namespace) -> tuple[Expansion, Plan, PlanFile | None]:
    """Returns the cases, what the options say over a plan, and the plan's file."""
    from vilt_bench import files
    from vilt_bench.ask.plans import STANDARD_INPUT, read_plan
    from vilt_bench.record.run import PlanFile

    files.check_current_folder()
    plan = axes.plan(asked)
    effort = {"precision": asked.precision, "max_time_s": asked.max_time, "trials": asked.trials}
    plan = replace(
        plan,
        together=asked.together,
        memory_bytes=asked.memory,
        sampling={name: value for name, value in effort.items() if value is not None},
    )
    if asked.plan is not None:
        plan = read_plan(asked.plan).under(plan)
    if not plan.embedders and asked.plan is not None:
        name = "standard input" if asked.plan == STANDARD_INPUT else asked.plan
        raise ConfigError(f'{name} has no embedders; it needs embedders = ["NAME"], or give --embedder NAME beside it')
    if not plan.embedders:
        raise ConfigError("give --embedder NAME, --preset NAME or --plan FILE; 'vilt-bench list' shows all")
    expansion = plan.expand()
    with plan.placed():
        axes.check_backends(expansion.cases)
    file = None if plan.sha256 is None else PlanFile(asked.plan, plan.sha256)
    return expansion, plan, file


def _plan(cases: Sequence[Case], sampling: Sampling, together: int | None) -> str:
    """Returns what is about to be done, and how long it takes."""
    from vilt_bench.report import clean

    trials = counted(sampling.trials, "trial")
    if len(cases) == 1:
        what, each = clean.within(*names_apart(cases)), ""
    else:
        which = "embedders" if _are_embedders(cases) else "cases"
        what, each = f"{len(cases)} {which} {_turns(cases, together)}", " each"
    total_s = len(cases) * sampling.max_time_s
    total = f"{total_s:.0f} s" if total_s < 120 else f"{total_s / 60:.0f} min"
    return (
        f"measuring {what}: {trials}{each} in fresh processes, at most {total} in all, "
        "and what building and counting take"
    )


def _turns(cases: Sequence[Case], together: int | None) -> str:
    if together is None or together >= len(cases):
        return "in turns"
    return "one after the other" if together == 1 else f"in turns, at most {together} together"


def _failure(failed: Run) -> str:
    assert failed.failure is not None
    # What ran out before a pass says itself what to do, if anything helps.
    in_a_pass = failed.failure.kind == "out-of-memory" and failed.failure.stage
    advice = "; try a smaller --batch-size or --resolution" if in_a_pass else ""
    where = f" in {failed.failure.stage}" if failed.failure.stage else ""
    return f"{failed.failure.kind}{where}: {failed.failure.message}{advice}"
