"""`vilt-bench gate` and `vilt-bench compare`: is the candidate slower than the baseline?"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from vilt_bench.ask.case import case_name, names_apart
from vilt_bench.ask.rule import GATE_TIME_S, TOLERANCE, Decides
from vilt_bench.cli import options, outcome, screen, values
from vilt_bench.cli.flags import in_flags
from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from vilt_bench.ask.case import Case
    from vilt_bench.cli import Add
    from vilt_bench.director.installation import Installation
    from vilt_bench.director.lockstep import GateProgress
    from vilt_bench.record.run import Run

PASSED, NO_BASELINE = 0, 4


def register(add: Add) -> None:
    """Add the commands."""
    parser = add("gate", gate, "measure baseline and candidate together, in turns: is the candidate slower?")
    options.add_embedders(parser, help="what both sides measure; several embedders are guarded one after the other")
    group = parser.add_argument_group("the two sides")
    group.add_argument("--baseline-python", metavar="PATH", help="interpreter of the baseline's environment")
    group.add_argument(
        "--baseline-ref",
        metavar="NAME",
        help="git branch, tag or commit to build the baseline from, in an own environment",
    )
    group.add_argument(
        "--candidate-python", metavar="PATH", help="interpreter of the candidate's environment (default: this one)"
    )
    options.add_case(parser)
    options.add_input(parser)
    group = options.add_where(parser)
    options.add_backend(group)
    group = parser.add_argument_group("how hard to look")
    group.add_argument(
        "--max-time",
        type=values.seconds,
        default=GATE_TIME_S,
        metavar="TIME",
        help="in seconds, or such as 90s or 5m: for an embedder, starting of processes included; it ends earlier when "
        f"the answer is clear (default: {GATE_TIME_S:g})",
    )
    options.add_patience(group)
    add_rule(parser)
    outcome.add_outputs(parser)
    group = parser.add_argument_group("records")
    options.add_records(group)
    group.add_argument("--quiet", action="store_true", help="say nothing while measuring")

    parser = add("compare", compare, "compare records: what changed from baseline to candidate, and how sure is it?")
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help=f"BASELINE CANDIDATE…: {options.RUN}; of a folder the newest counts",
    )
    parser.add_argument(
        "--baseline", nargs="+", metavar="RUN", help="several records or folders; what else is given is the candidate"
    )
    parser.add_argument(
        "--baseline-ref", metavar="NAME", help="git branch, tag or commit whose folder of records is the baseline"
    )
    options.add_results(parser, more=", and that folder as --baseline-ref has it")
    values.add_allow_different(parser, "what may differ")
    add_rule(parser)
    outcome.add_outputs(parser)


def gate(asked: argparse.Namespace) -> int:
    """Measure baseline and candidate together, print the verdicts, save the records; returns the exit code."""
    from vilt_bench.director.gate import check_limits, gate_all
    from vilt_bench.record import live, store

    cases = options.cases(asked)
    check_limits(asked.tolerance, asked.max_time, asked.patience)
    screen.keep_on_termination()  # what is half built is cleared away as well
    _check_baseline(asked)
    store.check_writable(asked.output)
    baseline, candidate = _installations(asked)
    comparisons, code, is_saved = [], PASSED, True
    with live.keeping(asked.output, report=screen.complain) as journals:
        outcomes = gate_all(
            cases,
            baseline,
            candidate,
            max_time_s=asked.max_time,
            tolerance=asked.tolerance,
            decides=asked.gate,
            report=_narrator(cases, quiet=asked.quiet),
            patience_s=asked.patience,
            overhear=screen.overhear(debug=asked.debug),
            note=(lambda _, __: None) if journals is None else journals.note,
        )
        for found in outcomes:
            if found.problem is not None:
                if len(cases) == 1:
                    raise found.problem
                screen.complain(f"{case_name(found.comparison.case)}: {found.problem}")
            runs = [replace(run, origin=options.origin(asked)) for run in found.runs]
            for run in runs:
                for problem in (unsaved := store.save_all([run], asked.output)[1]):
                    is_saved = False
                    screen.complain(problem)
                if journals is not None and not unsaved:
                    journals.saved(run.run_id)
            comparisons.append(found.comparison)
            code = screen.INTERRUPTED if found.interrupted else code
    code = outcome.finish(comparisons, asked, otherwise=code)
    return screen.USER_ERROR if code == PASSED and not is_saved else code


def compare(asked: argparse.Namespace) -> int:
    """Compare records and print the verdicts; returns the exit code."""
    from vilt_bench.judge.compare import compare_all, condensed, newest
    from vilt_bench.record import load

    if asked.baseline is not None and asked.baseline_ref is not None:
        raise ConfigError("--baseline and --baseline-ref both name the baseline; give one of them")
    paths = [*asked.runs, *getattr(asked, "after", [])]
    given = [] if asked.baseline_ref is not None else asked.baseline or paths[:1]
    paths = paths if asked.baseline_ref is not None or asked.baseline else paths[1:]
    if not paths:
        raise ConfigError("expected BASELINE and CANDIDATE, two records or folders; got fewer")
    left_out: list[str] = []
    candidate, earlier = _load(paths, asked.results, left_out)
    if asked.baseline_ref is not None:
        name = asked.baseline_ref
        from vilt_bench.director.checkout import records_at

        baseline, history = newest(
            records_at(asked.baseline_ref, asked.results, left_out=left_out.append, keep=condensed), like=candidate
        )
    else:
        name = " ".join(given)
        baseline, history = _load(given, asked.results, left_out, like=candidate)
    told = screen.leave_out(left_out)
    if not baseline:
        screen.complain(
            f"no baseline: {name} has no record that is not the candidate's; 'vilt-bench run --output FOLDER' saves one"
        )
        return NO_BASELINE
    if not candidate:
        raise ConfigError(f"no record in {' '.join(paths)}; 'vilt-bench run --output FOLDER' saves one")
    # Who names files has chosen among the cases; a folder should have them all.
    comparisons = compare_all(
        baseline,
        candidate,
        history=[*history, *earlier],
        tolerance=asked.tolerance,
        decides=asked.gate,
        allow_different=asked.allow_different,
        names=(name, " ".join(paths)),
        complete=any(map(load.is_folder, paths)),
    )
    return outcome.finish([replace(each, notes=(*each.notes, *told)) for each in comparisons], asked)


def _load(
    paths: list[str], results: str, left_out: list[str], *, like: Sequence[Run] = ()
) -> tuple[list[Run], list[Run]]:
    """Returns the records given, of a folder the newest (on the machine of `like`, if any); and folders' older ones.

    What can't be read in a folder is left out and added to `left_out`.
    """
    from vilt_bench.judge.compare import condensed, newest
    from vilt_bench.record import find, load

    chosen: list[Run] = []
    earlier: list[Run] = []
    for path in find.find_records(paths, results):
        if not load.is_folder(path):
            chosen.append(load.load(path))
            continue
        new, old = newest(load.load_folder(path, left_out=left_out.append, keep=condensed), like=like)
        chosen += new
        earlier += old
    return chosen, earlier


def _check_baseline(asked: argparse.Namespace) -> None:
    if asked.baseline_python is not None and asked.baseline_ref is not None:
        raise ConfigError("--baseline-python and --baseline-ref both name the baseline; give one of them")
    if asked.baseline_python is None and asked.baseline_ref is None:
        raise ConfigError("give the baseline: --baseline-ref NAME of git, or --baseline-python PATH/bin/python")


def _installations(asked: argparse.Namespace) -> tuple[Installation, Installation | None]:
    """Returns baseline and candidate; `None`: this process's own. What git has is built, which may take minutes."""
    from vilt_bench.director.checkout import installation_at
    from vilt_bench.director.installation import Installation

    def installed(python: str) -> Installation:
        # Safe path: the folder that this runs in must not stand in for what is installed there.
        return Installation(python, python, ("-P",))

    candidate = None if asked.candidate_python is None else installed(asked.candidate_python)
    if asked.baseline_python is not None:
        return installed(asked.baseline_python), candidate

    def tell(text: str) -> None:
        from vilt_bench.report import clean

        if not asked.quiet:
            screen.say(f"{clean.printed(text)}\n")

    return installation_at(asked.baseline_ref, report=tell), candidate


def _narrator(cases: Sequence[Case], *, quiet: bool) -> Callable[[GateProgress], None]:
    """Returns what says on standard error where the measuring stands, of which embedder where there are several."""
    if quiet:
        return lambda _: None
    from vilt_bench.report import clean
    from vilt_bench.report.numbers import signed_percent

    names = [f"{clean.printed(name)}: " for name in names_apart(cases)] if len(cases) > 1 else [""]
    in_place = screen.is_terminal()

    def narrate(progress: GateProgress) -> None:
        known = ""
        if progress.interval is not None:
            low, high = (signed_percent(ratio - 1) for ratio in progress.interval)
            known = f", {low} to {high}"
        spent = f"{progress.spent_s:.0f} of {progress.budget_s:.0f} s"
        text = f"{names[cases.index(progress.case)]}pair {progress.pair + 1}: {progress.phase} ({spent}{known})"
        if in_place:
            screen.say(f"\r\x1b[K{text}")
        elif progress.phase == "warming up":  # a line a pair, as in a job's log
            screen.say(f"{text}\n")

    if in_place:
        import atexit

        atexit.register(lambda: screen.say("\r\x1b[K"))
    return narrate


def add_rule(parser: argparse.ArgumentParser) -> None:
    """Add what is accepted, and what decides."""
    group = parser.add_argument_group("the rule")
    group.add_argument(
        "--tolerance",
        type=_share,
        default=TOLERANCE,
        metavar="SHARE",
        help=f"accepted slowdown, 2.5%% or 0.025 (default: {100 * TOLERANCE:g}%%)",
    )
    group.add_argument(
        "--gate",
        choices=get_args(Decides),
        default="total",
        help="what decides: the whole alone, or every stage as well (default: total)",
    )


def _share(text: str) -> float:
    from vilt_bench.judge.compare import check_tolerance

    share = values.share(text)
    try:
        check_tolerance(share)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(in_flags(error.problem)) from None
    return share
