"""Times the paper's rows through the ordinary runner: in rounds, a fresh process a row and round; resumable.

Each round's trial of a row is a record of its own, saved as soon as it is there: an interrupted measurement goes on
where it stopped. Rows alternate round by round, so that drift of the machine hits all alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.director import measure as sweep
from vilt_bench.director.limits import Peaks
from vilt_bench.director.process import Overhear
from vilt_bench.errors import ConfigError
from vilt_bench.judge.latency import latency
from vilt_bench.record import load, store
from vilt_bench.record.alike import Setup, alike
from vilt_bench.record.join import join_trials
from vilt_bench.record.journal import Note
from vilt_bench.record.live import Journals
from vilt_bench.record.run import FROM_PYTHON, Environment, Origin, Run
from vilt_bench.wire import Patience

PRECISION = 0.05
"""Of the whole within one process: the rows differ by far more."""
MAX_TIME_S = 20.0
"""For one trial of a row: a region model gets a first call and a pass of each kind, however long they take."""
ROUNDS = 3

MeasureOne = Callable[[Case, Sampling, bool], Run]
"""Measures one trial of a case; with false, leaves out what an earlier trial has counted."""


@dataclass(frozen=True)
class Measured:
    """What came of measuring the rows."""

    runs: Mapping[str, Run]
    """By the row's name; rows that have no trial are left out."""
    interrupted: bool = False
    problems: tuple[str, ...] = ()
    """A sentence for each trial that the folder did not take; it is among the runs nevertheless."""


@dataclass(frozen=True)
class RowProgress:
    """Where the measuring of the rows stands."""

    model: str
    """The row whose turn it is."""
    round: int
    rounds: int
    done: int
    total: int
    """Trials, kept ones included."""
    left_s: float | None
    """An estimate of the time left, from trials of this very measurement; `None` before there is one."""


def measure_rows(
    cases: Mapping[str, Case],
    folder: str | os.PathLike[str],
    *,
    sampling: Sampling | None = None,
    rounds: int = ROUNDS,
    report: Callable[[RowProgress], None] = lambda _: None,
    here: Environment | None = None,
    patience_s: float | None = None,
    overhear: Overhear = lambda _: None,
    origin: Origin = FROM_PYTHON,
    measure_one: MeasureOne | None = None,
    left_out: Callable[[str], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Measured:
    """Returns a run for each row, of as many trials as rounds; what is in the folder already is not measured again.

    A trial in the folder counts if it is of the same case and sampling, complete, and of this machine, software and
    settings. One that can't be saved, as the disk is full, is kept and told, and the others go on. Ctrl-C ends the
    measuring; the runs then hold the trials that there are.

    Args:
        cases: by the row's name.
        folder: for the records.
        sampling: how hard to look in each trial.
        rounds: trials a row.
        report: told where the measuring stands, before each trial.
        here: this machine and software; `None`: those of the folder's newest trial.
        patience_s: how long a process may be silent before it is ended, as a failure; `None`: by `wire.Patience`.
        overhear: told what a process has printed, when it has ended.
        origin: what asks for them.
        measure_one: measures one trial.
        left_out: as `load.load_folder`.
        clock: seconds.

    Raises:
        ViltBenchError: a case can't be measured as asked, or the folder not be written to.
    """
    if rounds < 1:
        raise ConfigError(f"must be at least 1, got {rounds}", field="rounds")
    each = replace(sampling or Sampling(precision=PRECISION, max_time_s=MAX_TIME_S), trials=1)
    Patience(patience_s)  # refuses what is no time
    store.check_writable(folder)
    there = load.load_folder(folder, left_out=left_out)
    kept = {name: _kept(case, each, there, here)[:rounds] for name, case in cases.items()}
    took_s: dict[str, float] = {}
    problems: list[str] = []
    journals = Journals.beside(folder, report=problems.append)
    measure = measure_one or _measurer(patience_s, overhear, origin, None if journals is None else journals.note)
    try:
        for turn in range(rounds):
            for name, case in cases.items():
                if len(kept[name]) > turn:
                    continue
                report(_progress(name, turn, rounds, kept, took_s))
                start = clock()
                run = measure(case, each, not kept[name])
                took_s[name] = clock() - start
                if run.trials or run.failure is not None:
                    problems += (unsaved := store.save_all([run], folder)[1])
                    if journals is not None and not unsaved:
                        journals.saved(run.run_id)
                if run.interrupted:
                    raise KeyboardInterrupt
                kept[name].append(run)
    except KeyboardInterrupt:
        joined = {name: replace(join_trials(runs), interrupted=True) for name, runs in kept.items() if runs}
        return Measured(joined, interrupted=True, problems=tuple(problems))
    finally:
        if journals is not None:
            journals.close()
    return Measured({name: join_trials(runs) for name, runs in kept.items()}, problems=tuple(problems))


def kept_rows(
    cases: Mapping[str, Case], folder: str | os.PathLike[str], *, left_out: Callable[[str], object] | None = None
) -> dict[str, Run]:
    """Returns a run for each row that the folder has complete trials of, joined; nothing is measured.

    A row's trials are those with the sampling, device, precision, machine, software and settings of its newest one.

    Args:
        cases: by the row's name.
        folder: of records; need not be there.
        left_out: as `load.load_folder`.

    Raises:
        RecordError: a file is no record; with `left_out`, none of them is.
    """
    runs = load.load_folder(folder, left_out=left_out)
    found = {}
    for name, case in cases.items():
        mine = [run for run in runs if _anywhere(run.case) == _anywhere(case) and _complete(run)]
        if mine:
            found[name] = join_trials(_kept(mine[-1].case, mine[-1].sampling, mine))
    return found


def _measurer(patience_s: float | None, overhear: Overhear, origin: Origin, note: Note | None) -> MeasureOne:
    peaks = Peaks()

    def measure(case: Case, sampling: Sampling, count: bool) -> Run:
        (run,) = sweep.measure_together(
            [case],
            sampling,
            count=count,
            patience_s=patience_s,
            overhear=overhear,
            peaks=peaks,
            origin=origin,
            note=note or (lambda _, __: None),
        )
        return run

    return measure


def _anywhere(case: Case) -> Case:
    """Returns the case without where and in what precision it was run."""
    return replace(case, device="auto", dtype="float32", threads=None)


def _kept(case: Case, sampling: Sampling, runs: Sequence[Run], here: Environment | None = None) -> list[Run]:
    """Returns the trials of the case among the runs that are of that machine and software; `None`: the newest one's."""
    mine = [run for run in runs if run.case == case and run.sampling == sampling and _complete(run)]
    wanted = here or (mine[-1].environment if mine else None)
    if wanted is None:
        return []
    setup = Setup(case, sampling, wanted)
    same = [run for run in mine if alike(run, setup, "resume")]
    # The first one that counted stages goes first, so that joining finds it.
    return sorted(same, key=lambda run: not run.stages)


def _complete(run: Run) -> bool:
    return run.failure is None and not run.interrupted and latency(run) is not None


def _progress(
    name: str, turn: int, rounds: int, kept: Mapping[str, Sequence[Run]], took_s: Mapping[str, float]
) -> RowProgress:
    missing = {row: rounds - len(runs) for row, runs in kept.items()}
    left_s = None
    if took_s:
        mean_s = sum(took_s.values()) / len(took_s)  # stands in for rows that have not had their first turn
        left_s = sum(took_s.get(row, mean_s) * count for row, count in missing.items())
    total = rounds * len(kept)
    return RowProgress(name, turn, rounds, total - sum(missing.values()), total, left_s)
