"""`vilt-bench paper`: the paper's tables counted again, its rows and studies measured here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vilt_bench.cli import options, screen

if TYPE_CHECKING:
    from rich.console import Console

    from vilt_bench.cli import Add
    from vilt_bench.config import Case
    from vilt_bench.paper.measuring import RowProgress
    from vilt_bench.paper.models import PaperRow
    from vilt_bench.records import Run


def register(add: Add) -> None:
    """Add the command."""
    parser = add("paper", paper, "the ViLT paper's Tables 6 and 7 and Figure 1, counted again and measured here")
    parser.add_argument(
        "--rows", nargs="+", default=[], metavar="MODEL", help="rows of Table 6, such as ViLT-B/32 (default: all)"
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
        "--study-time", type=float, default=60.0, metavar="SECONDS", help="measuring time of a study (default: 60)"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write the report there (Markdown, CSV, SVG) of all that was measured, now or before, into its records",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing while measuring")
    options.add_where(parser)
    options.add_effort(
        parser,
        precision="0.05",
        max_time="20 for one trial of a row",
        trials="processes a row, in rounds over all rows",
        given=(None, None, 3),
    )


def paper(asked: argparse.Namespace) -> int:
    """Print the paper's Tables 6 and 7 counted again; measure its rows and studies where asked."""
    from vilt_bench.paper import render
    from vilt_bench.paper.counting import paper_table
    from vilt_bench.paper.models import ROWS, find_row
    from vilt_bench.paper.publish import publish

    rows = [find_row(name) for name in asked.rows] or list(ROWS.values())
    console = screen.console()
    studies_only = (asked.nms or asked.sequence) and not asked.measure and asked.output is None
    counted = None if studies_only else paper_table([row.model for row in rows])
    if counted is not None:
        render.show(counted, console)
    screen.keep_on_termination()
    runs = _measure_rows(rows, asked, console) if asked.measure else None
    interrupted = runs is not None and any(each.interrupted for each in runs.values())
    studies = {} if interrupted else _studies(asked, console)
    if asked.output is not None:
        assert counted is not None
        for path in publish(asked.output, counted=counted, runs=runs or _kept_rows(rows, asked), **studies):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return screen.INTERRUPTED if interrupted else 0


def _measure_rows(rows: Sequence[PaperRow], asked: argparse.Namespace, console: Console) -> dict[str, Run]:
    """Returns the rows' runs, by the paper's name, and prints their times."""
    from vilt_bench.config import Sampling
    from vilt_bench.paper import times
    from vilt_bench.paper.measuring import MAX_TIME_S, PRECISION, measure_rows

    sampling = Sampling(
        precision=PRECISION if asked.precision is None else asked.precision,
        max_time_s=MAX_TIME_S if asked.max_time is None else asked.max_time,
        trials=1,
    )

    def report(progress: RowProgress) -> None:
        left = "" if progress.left_s is None else f", about {progress.left_s / 60:.0f} min left"
        sys.stderr.write(
            f"{progress.model}: round {progress.round + 1} of {progress.rounds} "
            f"({progress.done} of {progress.total} trials done{left})\n"
        )

    runs = measure_rows(
        _cases(rows, asked),
        _records(asked),
        sampling=sampling,
        rounds=asked.trials,
        report=(lambda _: None) if asked.quiet else report,
    )
    console.print()
    times.show(runs, console)
    console.print(f"records: {_records(asked)}", highlight=False, soft_wrap=True)
    return runs


def _kept_rows(rows: Sequence[PaperRow], asked: argparse.Namespace) -> dict[str, Run]:
    from vilt_bench.paper.measuring import kept_rows

    return kept_rows(_cases(rows, asked), _records(asked))


def _cases(rows: Sequence[PaperRow], asked: argparse.Namespace) -> dict[str, Case]:
    return {row.model: replace(row.case, device=asked.device, dtype=asked.dtype, threads=asked.threads) for row in rows}


def _records(asked: argparse.Namespace) -> Path:
    return Path(asked.output if asked.output is not None else f"{options.RESULTS}/paper") / "records"


def _studies(asked: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns the studies by name, and prints them: those asked for measured, others as the output folder has them."""
    from vilt_bench import store
    from vilt_bench.paper import nms, sequence, study

    known: list[tuple[str, bool, Any, Any, Callable[..., Any]]] = [
        ("nms", asked.nms, nms, nms.NmsStudy, nms.run_nms_study),
        ("sequence", asked.sequence, sequence, sequence.SequenceStudy, sequence.run_sequence_study),
    ]
    found: dict[str, Any] = {}
    for name, wanted, module, kind, measure in known:
        file = _records(asked) / f"{name}.json"
        if wanted:
            store.check_writable(file.parent)
            if not asked.quiet:
                sys.stderr.write(f"{name}: about {asked.study_time:.0f} s\n")
            found[name] = measure(max_time_s=asked.study_time, device=asked.device, threads=asked.threads)
            store.write_bytes(file, study.encode(found[name]))
            console.print()
            module.render_table(found[name], console)
            console.print(f"wrote {file}", highlight=False, soft_wrap=True)
        elif asked.output is not None and file.is_file():
            found[name] = study.decode(file.read_bytes(), kind, name=str(file))
    return found
