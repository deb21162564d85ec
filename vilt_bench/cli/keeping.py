"""What a run keeps on disk while it measures, and what it goes on with under --resume."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vilt_bench.ask.case import case_name
from vilt_bench.cli import screen
from vilt_bench.words import counted, first_few

if TYPE_CHECKING:
    from vilt_bench.ask.case import Case, Sampling
    from vilt_bench.record.journal import Event
    from vilt_bench.record.live import Journals
    from vilt_bench.record.resume import Found, Standing
    from vilt_bench.record.run import Environment, Run

_NAMED = 3
"""Cases that a line names."""


@dataclass
class Keeping:
    """What is kept of a plan's cases."""

    cases: list[Case]
    """That are to be measured."""
    journals: Journals | None = None
    """`None`: the records go to a URL, where there are no others."""
    done: dict[str, Found] = field(default_factory=dict)
    """Complete already, by the case's name."""
    busy: int = 0
    """Cases that other processes measure."""
    _starts: dict[str, Run] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)
    """Of the plan's cases, by name."""

    def __post_init__(self) -> None:
        """Keep the order of the plan."""
        self._places = {case_name(case): place for place, case in enumerate(self.cases)}

    def begun(self, case: Case) -> Run | None:
        """Returns the run that a case's measuring goes on with; once."""
        return self._starts.pop(case_name(case), None)

    def with_complete(self, measured: Sequence[Run]) -> list[Run]:
        """Returns the runs that were there already with those that were measured, as the plan has them."""
        from vilt_bench.record import load

        runs = [*(load.load(each.path) for each in self.done.values()), *measured]
        return sorted(runs, key=lambda run: self._places.get(case_name(run.case), len(self._places)))

    def note(self, run_id: str, event: Event) -> None:
        """Keep an event."""
        if self.journals is not None:
            self.journals.note(run_id, event)

    def saved(self, run_id: str) -> None:
        """Keep a run no more: it has a record."""
        if self.journals is not None:
            self.journals.saved(run_id)


@contextmanager
def keeping(
    cases: Sequence[Case], sampling: Sampling, folder: str, *, resume: bool, say: Callable[[str], None]
) -> Iterator[Keeping]:
    """Gives what keeps the cases; with `resume`, those left out that are there, or that another process measures.

    Args:
        cases: of the plan.
        sampling: how hard to look.
        folder: for the records; it is there.
        resume: whether to go on with what was cut short.
        say: shows a line on where the plan stands.
    """
    from vilt_bench.record import elsewhere, live

    if elsewhere.is_url(folder):
        folder = elsewhere.local_path(folder) or folder
    journals = live.Journals.beside(folder, report=screen.complain)
    if journals is None:
        say(f"{folder} gets whole records alone: a kill loses the cases that are being measured")
    kept = Keeping(list(cases), journals)
    try:
        with live.alone_in(folder) if resume and journals is not None else nullcontext():
            if resume:
                _take_up(kept, sampling, folder, say)
            elif journals is not None and (left := live.left_behind(folder)):
                say(f"{counted(left, 'run')} in {folder} cut short; the same command with --resume goes on")
            _claim(kept, sampling)
        yield kept
    finally:
        if journals is not None:
            journals.close()


def here(device: str, threads: int | None) -> Environment:
    """Returns this machine and its software as a measuring process finds them."""
    from vilt_bench.machine.device import prepare_threads, resolve_device
    from vilt_bench.machine.environment import collect
    from vilt_bench.wire import CALM

    found = collect(resolve_device(device), threads=prepare_threads(threads))
    return replace(found, omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", CALM["OMP_WAIT_POLICY"]))


def _take_up(kept: Keeping, sampling: Sampling, folder: str, say: Callable[[str], None]) -> None:
    """Leave out what is there or elsewhere being measured, and go on with what was cut short."""
    from vilt_bench.record import live, load
    from vilt_bench.record.resume import runs_in, sort_out

    journals = kept.journals
    others = [] if journals is None else live.directors(journals.folder)
    found = runs_in(folder, left_out=lambda line: screen.leave_out([line]))
    standing = sort_out(
        kept.cases,
        sampling,
        found,
        [each for each in others if journals is None or each.director != journals.director.director],
        _Here(kept.cases),
    )
    kept.done, kept.busy = standing.done, len(standing.busy)
    asked = len(kept.cases)
    kept.cases = [case for case in kept.cases if case_name(case) not in {*standing.done, *standing.busy}]
    taken = 0
    for name, each in standing.cut.items():
        if journals is None:  # a URL's records can't be replaced
            break
        try:
            kept._starts[name] = journals.take_up(load.load(each.path), each.path)
            taken += 1
        except OSError as error:
            screen.complain(f"{each.path} can't be gone on with ({error}); its case is measured anew")
    for line in _told(standing, asked, taken, folder):
        say(line)


def _claim(kept: Keeping, sampling: Sampling) -> None:
    """Tell other processes what this one measures, under which ids."""
    from vilt_bench.record.live import Claim
    from vilt_bench.record.run import Run

    for case in kept.cases:
        kept._starts.setdefault(case_name(case), Run(uuid.uuid4().hex, "", case, sampling, ""))
    if kept.journals is not None:
        kept.journals.claim([Claim(kept._starts[case_name(case)].run_id, case) for case in kept.cases], sampling)


class _Here:
    """This machine and its software, looked at once for each device and number of threads."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._asked = {(case.device, case.threads) for case in cases}
        self._found: dict[tuple[str, int | None], Environment] = {}

    def __call__(self, case: Case) -> Environment:
        if not self._found:
            # The usual number of threads first: to ask for another changes what is usual.
            for device, threads in sorted(self._asked, key=lambda each: each[1] or 0):
                self._found[device, threads] = here(device, threads)
        return self._found[case.device, case.threads]


def _told(standing: Standing, asked: int, taken: int, folder: str) -> Iterator[str]:
    new = asked - len(standing.done) - len(standing.busy) - taken
    goes_on = f"{taken} {'goes' if taken == 1 else 'go'} on where {'it was' if taken == 1 else 'they were'} cut short"
    yield f"of {counted(asked, 'case')}, {len(standing.done)} complete in {folder}, {goes_on}, {new} to begin"
    by_writer: dict[str, list[str]] = {}
    for name, director in standing.busy.items():
        by_writer.setdefault(str(director), []).append(name)
    for writer, names in by_writer.items():
        yield f"left to {writer}, which measures into {folder}: {first_few(names, _NAMED)}"
    for name, facts in list(standing.otherwise.items())[:_NAMED]:
        yield f"measured anew, as the run that is there differs in {facts}: {name}"
    if (more := len(standing.otherwise) - _NAMED) > 0:
        yield f"measured anew likewise: {counted(more, 'other case')}"
    commits = {each.run.source.commit[:12] for each in standing.done.values() if each.run.source is not None}
    if changed := sorted(commits - _commit()):
        yield f"complete ones were measured at commit {', '.join(changed[:_NAMED])}, not at this one; they are kept"
    if standing.left_over:
        every = dict.fromkeys(case_name(each.run.case) for each in standing.left_over)
        runs = counted(len(standing.left_over), "run")
        yield f"left over in {folder}, as this plan has no use for it: {runs} ({first_few(every, _NAMED)})"


def _commit() -> set[str]:
    from vilt_bench.director.commit import read_source

    source = read_source()
    return set() if source is None else {source.commit[:12]}
