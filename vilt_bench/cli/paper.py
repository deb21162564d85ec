"""`vilt-bench paper`: the paper's tables counted again, its rows and studies measured here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vilt_bench.cli import formats, options, screen, values
from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from vilt_bench.ask.case import Case
    from vilt_bench.cli import Add
    from vilt_bench.paper.measuring import Measured, RowProgress
    from vilt_bench.record.run import Run

STUDY_TIME_S = 60.0


def register(add: Add) -> None:
    """Add the command."""
    parser = add("paper", paper, "the ViLT paper's Tables 6 and 7 and Figure 1, counted again and measured here")
    parser.add_argument(
        "--rows",
        nargs="+",
        action="extend",
        default=[],
        metavar="MODEL",
        help="rows of Table 6 to print and to time, such as ViLT-B/32 (default: all)",
    )
    parser.add_argument(
        "--measure", action="store_true", help="time the rows on this machine; resumes what was interrupted"
    )
    parser.add_argument(
        "--nms", action="store_true", help="study: what drives the latency of the final NMS, in its three modes"
    )
    parser.add_argument(
        "--sequence", action="store_true", help="study: the interaction's latency against the sequence's length"
    )
    parser.add_argument(
        "--study-time",
        type=values.seconds,
        metavar="TIME",
        help=f"measuring time of a study in seconds, or such as 90s or 2m (default: {STUDY_TIME_S:g})",
    )
    parser.add_argument(
        "--output",
        type=formats.folder,
        metavar="FOLDER",
        help="write the report there (Markdown, CSV, SVG) of all that was measured, now or before, into its records",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing while measuring")
    options.add_where(parser)
    options.add_effort(
        parser,
        precision="0.05",
        max_time="20 for one trial of a row",
        trials="processes a row, in rounds over all rows (default: 3)",
        given=(None, None, None),
    )


def paper(asked: argparse.Namespace) -> int:
    """Print the paper's Tables 6 and 7 counted again; measure its rows and studies where asked."""
    from vilt_bench.paper.counting import paper_table
    from vilt_bench.paper.models import ROWS, find_row
    from vilt_bench.paper.pages import counted
    from vilt_bench.paper.pages.publish import publish

    _check(asked)
    if asked.nms or asked.sequence:
        wait_as_workers_do()
    rows = list(dict.fromkeys(find_row(name).model for name in asked.rows)) or list(ROWS)
    console = screen.console()
    studies_only = (asked.nms or asked.sequence) and not asked.measure
    if not studies_only:
        counted.show(paper_table(rows), console)
    screen.keep_on_termination()
    measured = _measure_rows(rows, asked, console) if asked.measure else None
    interrupted = measured is not None and measured.interrupted
    studies = {} if interrupted else _studies(asked, console)
    if asked.output is not None:
        runs = _kept_rows(asked) | dict(measured.runs if measured is not None else {})
        for path in publish(asked.output, counted=paper_table(), runs=runs, **studies):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if interrupted:
        return screen.INTERRUPTED
    return _tell_problems(measured) if measured is not None else 0


def wait_as_workers_do(loaded: Container[str] = sys.modules) -> None:
    """Let threads of this process sleep where they wait, as those of workers do; the user's own setting stays.

    Args:
        loaded: modules that are imported. Once torch is, its threads wait as they were told by then.
    """
    from vilt_bench.wire import CALM

    if "torch" not in loaded:
        for name, value in CALM.items():
            os.environ.setdefault(name, value)


def _tell_problems(measured: Measured) -> int:
    """Returns the exit code, rows that failed and trials that could not be saved being told."""
    problems = list(measured.problems)
    for name, run in measured.runs.items():
        if run.failure is not None:
            where = f" in {run.failure.stage}" if run.failure.stage else ""
            problems.append(f"{name}: {run.failure.kind}{where}: {run.failure.message}")
    for problem in problems:
        screen.complain(problem)
    return screen.USER_ERROR if problems else 0


def _check(asked: argparse.Namespace) -> None:
    """Refuse what would only fail after minutes, and options that would do nothing."""
    from vilt_bench.paper.studies.rounds import check_time
    from vilt_bench.record import elsewhere, store

    studies = asked.nms or asked.sequence
    check_time(asked.study_time if asked.study_time is not None else STUDY_TIME_S, field="study_time")
    if asked.study_time is not None and not studies:
        raise ConfigError("--study-time is for a study; add --nms or --sequence")
    given = {
        "--trials": asked.trials,
        "--precision": asked.precision,
        "--max-time": asked.max_time,
        "--patience": asked.patience,
    }
    for flag, value in given.items():
        if value is not None and not asked.measure:
            raise ConfigError(f"{flag} is for timing the rows; add --measure")
    if asked.output is not None:
        if elsewhere.is_url(asked.output):
            raise ConfigError(f"--output {asked.output}: a paper's report is a folder of this machine, not a URL")
        store.check_writable(asked.output)
    if studies and asked.dtype != "float32":
        raise ConfigError(f"--dtype {asked.dtype} is for the rows; the studies are in float32, run them apart")


def _measure_rows(rows: Sequence[str], asked: argparse.Namespace, console: Console) -> Measured:
    """Returns the rows' runs, by the paper's name, and prints their times."""
    from vilt_bench.ask.case import Sampling
    from vilt_bench.cli.keeping import here
    from vilt_bench.judge.summary import summarise
    from vilt_bench.paper.measuring import MAX_TIME_S, PRECISION, ROUNDS, measure_rows
    from vilt_bench.paper.pages import times

    sampling = Sampling(
        precision=PRECISION if asked.precision is None else asked.precision,
        max_time_s=MAX_TIME_S if asked.max_time is None else asked.max_time,
        trials=1,
    )

    def report(progress: RowProgress) -> None:
        left = "" if progress.left_s is None else f", about {progress.left_s / 60:.0f} min left"
        screen.say(
            f"{progress.model}: round {progress.round + 1} of {progress.rounds} "
            f"({progress.done} of {progress.total} trials done{left})\n"
        )

    measured = measure_rows(
        {name: case for name, case in _cases(asked).items() if name in rows},
        _records(asked),
        left_out=_leave_out,
        sampling=sampling,
        rounds=ROUNDS if asked.trials is None else asked.trials,
        report=(lambda _: None) if asked.quiet else report,
        here=here(asked.device, asked.threads),
        patience_s=asked.patience,
        overhear=screen.overhear(debug=asked.debug),
        origin=options.origin(asked),
    )
    console.print()
    times.show({name: summarise(run) for name, run in measured.runs.items()}, console)
    console.print(f"records: {_records(asked)}", highlight=False, soft_wrap=True)
    return measured


def _kept_rows(asked: argparse.Namespace) -> dict[str, Run]:
    from vilt_bench.paper.measuring import kept_rows

    # Where rows were measured, they were told of already.
    return kept_rows(_cases(asked), _records(asked), left_out=(lambda _: None) if asked.measure else _leave_out)


def _leave_out(line: str) -> None:
    screen.leave_out([line])


def _cases(asked: argparse.Namespace) -> dict[str, Case]:
    """Returns what is measured of each of the paper's rows."""
    from vilt_bench.paper.models import ROWS

    return {
        name: replace(row.case, device=asked.device, dtype=asked.dtype, threads=asked.threads)
        for name, row in ROWS.items()
    }


def _records(asked: argparse.Namespace) -> Path:
    return Path(asked.output if asked.output is not None else f"{options.RESULTS}/paper") / "records"


def _studies(asked: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns the studies by name: those asked for measured, printed and kept; others as the folder's newest."""
    from vilt_bench import files
    from vilt_bench.paper.studies import figures, nms, rounds, sequence
    from vilt_bench.record import store

    seconds = STUDY_TIME_S if asked.study_time is None else asked.study_time
    known: list[tuple[str, Any, Any, Callable[..., Any], Callable[..., bytes]]] = [
        ("nms", nms, nms.NmsStudy, nms.run_nms_study, figures.draw_nms),
        ("sequence", sequence, sequence.SequenceStudy, sequence.run_sequence_study, figures.draw_sequence),
    ]
    found: dict[str, Any] = {}
    for name, module, kind, measure, draw in known:
        if getattr(asked, name):
            store.check_writable(_records(asked))
            if not asked.quiet:
                screen.say(f"{name}: about {seconds:.0f} s, or what three rounds take\n")
            each = found[name] = measure(max_time_s=seconds, device=asked.device, threads=asked.threads)
            console.print()
            module.render_table(each, console)
            file = _records(asked) / f"{name}-{store.stamp(each.started_at)}.json"
            store.write_bytes(file, rounds.encode(each))
            store.write_bytes(file.with_suffix(".svg"), draw(each, "svg"))
            console.print(f"wrote {file} and {file.with_suffix('.svg').name}", highlight=False, soft_wrap=True)
        elif asked.output is not None and (kept := sorted(_records(asked).glob(f"{name}-*.json"))):
            found[name] = rounds.decode(files.read_bytes(kept[-1]), kind, name=str(kept[-1]))
    return found
