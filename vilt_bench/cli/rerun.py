"""`vilt-bench rerun`: measures records again, and says what changed since."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from vilt_bench.ask.case import case_name
from vilt_bench.cli import axes, formats, options, outcome, progress, screen, values, verdicts
from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from vilt_bench.cli import Add
    from vilt_bench.record.journal import Event
    from vilt_bench.record.live import Journals
    from vilt_bench.record.run import Run


def register(add: Add) -> None:
    """Add the command."""
    parser = add("rerun", rerun, "measure records again, and compare: what changed since?")
    parser.description = (
        "Measure the cases of records again, with the effort of each, save what comes of it, and compare, as "
        "'vilt-bench compare' does. What can't be repeated is said before anything is timed."
    )
    parser.add_argument("runs", nargs="*", metavar="RECORD", help=options.RUN)
    options.add_results(parser)
    values.add_allow_different(parser, "what may differ from then")
    verdicts.add_rule(parser)
    outcome.add_outputs(parser)
    group = parser.add_argument_group("records")
    group.add_argument(
        "--output",
        type=formats.folder,
        metavar="FOLDER",
        help="for the new records (default: where each record lies)",
    )
    options.add_name(group)
    group.add_argument("--quiet", action="store_true", help="say nothing while measuring")
    options.add_patience(parser.add_argument_group("measuring"))


def rerun(asked: argparse.Namespace) -> int:
    """Measure records again, save and compare; returns the exit code, as of `compare`."""
    from vilt_bench.director.rerun import check_repeatable
    from vilt_bench.director.rerun import rerun as measure_again
    from vilt_bench.judge.compare import compare_all, condensed
    from vilt_bench.record import find, live, load, store
    from vilt_bench.record.alike import key
    from vilt_bench.record.journal import Opened

    texts = [*asked.runs, *getattr(asked, "after", [])]
    if not texts:
        raise ConfigError("give a record, such as latest; 'vilt-bench report' shows those there are")
    left_out: list[str] = []
    paths = find.find_records(texts, asked.results)
    found = load.load_each(paths, lambda run, path: (condensed(run), path), left_out=left_out.append)
    runs = list({run.run_id: run for run, _ in found}.values())
    check_repeatable(runs)
    axes.check_backends([run.case for run in runs])
    folders = {key(run, "case"): _folder(path, asked.output) for run, path in reversed(found)}
    for folder in dict.fromkeys(folders.values()):
        store.check_writable(folder)
    # Before there is something new: earlier runs tell how far the machine drifts.
    history = [run for folder in dict.fromkeys(folders.values()) for run in _earlier(folder, left_out)]
    screen.leave_out(left_out)
    screen.keep_on_termination()

    def say(text: str) -> None:
        from vilt_bench.report import clean

        screen.say(f"{clean.printed(text)}\n")

    problems: list[str] = []

    keepers: dict[str, Journals | None] = {}

    def note(run_id: str, event: Event) -> None:
        if isinstance(event, Opened):
            keepers[run_id] = opened[folders[key(event.run, "case")]]
        if (keeper := keepers.get(run_id)) is not None:
            keeper.note(run_id, event)

    def save(run: Run) -> None:
        if run.trials or run.failure is not None:
            saved, unsaved = store.save_all([run], folders[key(run, "case")])
            problems.extend(unsaved)
            if (keeper := keepers.get(run.run_id)) is not None and not unsaved:
                keeper.saved(run.run_id)
            if not asked.quiet:
                for path in saved:
                    say(f"saved {path}")

    with ExitStack() as stack:
        opened = {
            folder: stack.enter_context(live.keeping(folder, report=screen.complain))
            for folder in dict.fromkeys(folders.values())
        }
        measured = measure_again(
            runs,
            allow_different=asked.allow_different,
            say=say,
            report=stack.enter_context(progress.shown(quiet=asked.quiet)),
            patience_s=asked.patience,
            overhear=screen.overhear(debug=asked.debug),
            name=asked.name,
            origin=options.origin(asked, repeats=[run.run_id for run in runs]),
            finished=save,
            note=note,
        )
    new = [run for run in measured if run.trials or run.failure is not None]
    problems += [
        f"{case_name(run.case)}: {run.failure.kind}: {run.failure.message}" for run in new if run.failure is not None
    ]
    for problem in problems:
        screen.complain(problem)
    if any(run.interrupted for run in new) or not new:
        screen.complain("interrupted; what was measured is saved, and not compared")
        return screen.INTERRUPTED
    candidate = [condensed(run) for run in new if run.failure is None]
    if not candidate:
        return screen.USER_ERROR
    cases = {key(run, "case") for run in candidate}
    comparisons = compare_all(
        [run for run in runs if key(run, "case") in cases],
        candidate,
        history=history,
        tolerance=asked.tolerance,
        decides=asked.gate,
        allow_different=asked.allow_different,
        names=(
            ", ".join(_called(run) for run in runs) if len(runs) < 4 else f"{len(runs)} records",
            asked.name or "now",
        ),
        complete=False,
    )
    return outcome.finish(comparisons, asked, otherwise=screen.USER_ERROR if problems else 0)


def _called(run: Run) -> str:
    return run.name or run.run_id[:12]


def _folder(path: str, output: str | None) -> str:
    """Returns where the repetition of a record is saved."""
    from vilt_bench.record.elsewhere import is_url

    if output is not None:
        return output
    return path.rpartition("/")[0] if is_url(path) else os.path.dirname(path) or "."


def _earlier(folder: str, left_out: list[str]) -> list[Run]:
    from vilt_bench.judge.compare import condensed
    from vilt_bench.record import load

    return load.load_folder(folder, left_out=left_out.append, keep=condensed)
