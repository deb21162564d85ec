"""Directs the measuring of many cases: group after group of those that fit into memory, with an anchor between them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from vilt_bench import errors, protocol
from vilt_bench.ask.case import Case, Sampling, case_name, names_apart
from vilt_bench.ask.forecast import HOST, Outlook
from vilt_bench.director import groups
from vilt_bench.director.draft import Draft
from vilt_bench.director.groups import DEVICE_PROCESS_BYTES, Ledger, Memory
from vilt_bench.director.limits import Peaks
from vilt_bench.director.measure import WARMUP_BLOCK_S, Clock, Finished, Progress, Repeat, check_cases, measure_together
from vilt_bench.director.process import KILLED, MeasuringProcess, Overhear, Process, WorkerFailedError, start_child
from vilt_bench.judge.drift import drift
from vilt_bench.judge.estimate import LEAST_UNITS
from vilt_bench.judge.latency import trial_medians
from vilt_bench.machine.memory import free_host_bytes
from vilt_bench.record.journal import Note
from vilt_bench.record.run import FROM_PYTHON, Anchor, Failure, Origin, Run
from vilt_bench.wire import Patience

FEW = 2
"""Cases that are measured together without counting their memory first, which takes some seconds."""
ANCHOR_SHARE = 0.25
"""Of a case's time that its repeat in the next group may take."""
LEAST_TRIAL_S = 2 * WARMUP_BLOCK_S
"""Of such a repeat, unless the case itself has less."""
LOOK_S = 300.0
"""For the process that counts memory; it takes half a minute at most by itself."""


@dataclass(frozen=True)
class TimeLeft:
    """How long the rest may take, in seconds."""

    low_s: float | None
    """`None`: no case has been measured yet, and the other end is what sampling may take at most."""
    high_s: float


@dataclass(frozen=True)
class SweepProgress:
    """Where the measuring of many cases stands."""

    done: int
    """Cases that are over, failed ones and those left out among them."""
    failed: int
    total: int
    group: int
    """The number of the present group, from 1."""
    groups: int
    """How many there will be, as far as is known."""
    left: TimeLeft
    current: Progress | None = None
    """Of the case whose turn it is."""
    ended: Run | None = None
    """The run that has just become final."""
    name: str = ""
    """Of its case, among all."""


SweepReport = Callable[[SweepProgress], None]
LeaveOut = Callable[[Case, errors.ViltBenchError], None]
Look = Callable[[Sequence[Case]], Outlook]


def measure_sweep(
    cases: Sequence[Case],
    sampling: Sampling | None = None,
    *,
    together: int | None = None,
    memory_bytes: int | None = None,
    report: SweepReport = lambda _: None,
    count: bool = True,
    patience_s: float | None = None,
    overhear: Overhear = lambda _: None,
    leave_out: LeaveOut | None = None,
    finished: Finished = lambda _: None,
    note: Note = lambda _, __: None,
    begun: Callable[[Case], Run | None] = lambda _: None,
    start_worker: Callable[[], MeasuringProcess] | None = None,
    clock: Clock = time.monotonic,
    look: Look | None = None,
    free: Callable[[], int] = free_host_bytes,
    name: str | None = None,
    origin: Origin = FROM_PYTHON,
) -> list[Run]:
    """Returns a run for each case that was measured, in the order of the cases; they are measured in groups that fit.

    The cases of a group are alive together and measured in turn, as `measure_together` does it; a group's processes end
    before the next group's start. More than two cases are counted first: weights and inputs on the meta device, which
    takes a process of its own some seconds; what processes then really take corrects what is planned from there on. A
    case of each group is measured again in the next, briefly, and the next group's runs tell how far the machine has
    drifted (`Run.anchor`). A case that has run out of memory beside others is measured once more, alone.

    Args:
        cases: what to measure.
        sampling: how hard to look; `None`: as `Sampling` has it.
        together: how many cases may be alive together, the anchor not among them; `None`: as many as fit. With 1
            there are no anchors.
        memory_bytes: what those that are alive together may take of the host's memory, the anchor among them, as far
            as it is known beforehand; `None`: what is free but for a fifth.
        report: told where the measuring stands, between blocks, and of each run that is final.
        count: as for `measure_together`; likewise patience_s, overhear, start_worker and clock.
        patience_s: how long a process may be silent.
        overhear: told what a process has printed.
        leave_out: told of a case that can't be measured as asked. `None`: there is to be no such case, and one of the
            first group is an error, one of a later group a run with a failure.
        finished: told of each run that will be returned, as soon as it is final.
        note: told of each event, such as a block, before the next; not of those of repeats.
        begun: gives the run that a case goes on with, if any.
        start_worker: starts a measuring process.
        clock: by which time is spent.
        look: counts what cases take, and what devices have free; `None`: in a process of its own.
        free: how many bytes of the host are free.
        name: what the runs are to be called.
        origin: what asks for them.

    Raises:
        ViltBenchError: as `measure_together`, of the first group; or every case can't be measured as asked.
    """
    check_together(together)
    check_cases(cases)
    Patience(patience_s, (sampling or Sampling()).max_time_s)  # refuses what is no time
    sweep = _Sweep(
        tuple(cases),
        sampling or Sampling(),
        together,
        memory_bytes,
        report,
        leave_out,
        finished,
        clock,
        free,
        name,
        origin,
    )

    peaks = Peaks()

    def run(members: Sequence[int], anchor: Repeat | None, out: LeaveOut | None) -> None:
        measure_together(
            [sweep.cases[index] for index in members],
            sweep.sampling,
            names=[sweep.names[index] for index in members],
            report=sweep.tell,
            count=count,
            patience_s=patience_s,
            overhear=overhear,
            leave_out=out,
            finished=sweep.take,
            note=note,
            begun=sweep.begun_beside if sweep.is_again else begun,
            prepared=sweep.learn,
            anchor=anchor,
            peaks=peaks,
            start_worker=start_worker,
            clock=clock,
            name=name,
            origin=origin,
        )

    sweep.measure(run, look or look_at_memory)
    return [sweep.runs[index] for index in sorted(sweep.runs)]


def plan_groups(
    cases: Sequence[Case],
    outlook: Outlook,
    *,
    together: int | None = None,
    memory_bytes: int | None = None,
    free: Callable[[], int] = free_host_bytes,
) -> list[list[int]]:
    """Returns the groups that cases would be measured in, by their places, as far as that is known beforehand."""
    sweep = _Sweep(tuple(cases), Sampling(), together, memory_bytes, free=free)
    sweep.take_in(outlook)
    return sweep.plan(None)


def check_together(together: int | None) -> None:
    """Refuse what is no number of cases.

    Raises:
        ConfigError: it is below 1.
    """
    if together is not None and together < 1:
        raise errors.ConfigError(f"must be at least 1, got {together}", field="together")


RunGroup = Callable[[Sequence[int], Repeat | None, LeaveOut | None], None]


@dataclass
class _Sweep:
    """A sweep as far as it has come."""

    cases: tuple[Case, ...]
    sampling: Sampling
    together: int | None
    memory_bytes: int | None = None
    report: SweepReport = lambda _: None
    leave_out: LeaveOut | None = None
    finished: Finished = lambda _: None
    clock: Clock = time.monotonic
    free: Callable[[], int] = free_host_bytes
    name: str | None = None
    origin: Origin = FROM_PYTHON
    runs: dict[int, Run] = field(default_factory=dict)
    """By the case's place among the cases."""
    left_out: dict[int, errors.ViltBenchError] = field(default_factory=dict)
    costs_s: list[float] = field(default_factory=list)
    """Of a case, by group."""
    interrupted: bool = False

    def __post_init__(self) -> None:
        self.names = names_apart(self.cases)
        self._full_names = list(map(case_name, self.cases))
        self.pending = list(range(len(self.cases)))
        self.number = 0
        self.planned: list[list[int]] = []
        self.group: list[int] = []
        self.alone_again: dict[int, Run] = {}
        """Of the present group, those that ran out of memory beside others, and how."""
        self.is_again = False
        self.repeated: Anchor | None = None
        self.anchor: int | None = None
        self.begin_s = 0.0
        self.ledger = Ledger(self.cases, (None,) * len(self.cases))
        self.devices: Memory = {}

    def measure(self, run: RunGroup, look: Look) -> None:
        """Measure group after group until none is left, or Ctrl-C."""
        try:
            if self._is_counted():
                self.take_in(look(self.cases))
            while self.pending and not self.interrupted:
                self._measure_next(run)
        except KeyboardInterrupt:  # between groups
            self.interrupted = True

    def _is_counted(self) -> bool:
        """Returns whether what the cases take is counted beforehand: not of a few, unless memory is bounded."""
        few = FEW if self.memory_bytes is None else 1
        return len(self.cases) > few and self.together != 1

    def take_in(self, outlook: Outlook) -> None:
        """Take in what was counted."""
        self.ledger, self.devices = Ledger(self.cases, outlook.needs), outlook.free_bytes

    def _measure_next(self, run: RunGroup) -> None:
        anchor = None if self.together == 1 else self._choose_anchor()
        self.planned = self.plan(anchor)
        self.group = self.planned[0]
        self.number += 1
        if anchor is not None and not groups.within(map(self.ledger.need, [*self.group, anchor]), self._room()):
            anchor = None
        self.anchor, self.repeated, self.alone_again = anchor, None, {}
        self._run(run, self.group, None if anchor is None else self._repeat(anchor))
        for index, failed in self.alone_again.items():
            if not self.interrupted:
                self._run_again(run, index)
            if index not in self.runs:
                self._keep(index, failed)
        self.pending = [index for index in self.pending if index not in self.group]

    def plan(self, anchor: int | None) -> list[list[int]]:
        """Returns the groups of the cases that are left."""
        if self.together != 1 and not self._is_counted():
            return [self.pending]
        return groups.plan(
            self.pending,
            self.ledger.need,
            self._room(),
            compared=lambda index: groups.comparison(self.cases[index]),
            together=self.together,
            anchor=None if anchor is None else self.ledger.need(anchor),
        )

    def _room(self) -> Memory:
        room = dict(groups.usable({HOST: self.free(), **self.devices}))
        if self.memory_bytes is not None:
            room[HOST] = min(room[HOST], self.memory_bytes)
        return room

    def _run(self, run: RunGroup, members: list[int], anchor: Repeat | None) -> None:
        """Measure cases together; what can't be measured as asked is no end of the others."""
        self.begin_s, before, refusal = self.clock(), len(self.runs), self._refusal()
        try:
            run(members, anchor, refusal)
        except errors.ViltBenchError as error:
            # The last of a group that could all not be measured as asked.
            if refusal is None or (not self.runs and len(self.left_out) + 1 == len(self.cases)):
                raise
            for index in members:
                if index not in self.left_out and index not in self.runs:
                    self._leave_out(index, error)
        if measured := len(self.runs) - before:
            self.costs_s.append((self.clock() - self.begin_s) / measured)

    def _run_again(self, run: RunGroup, index: int) -> None:
        """Measure a case alone that has run out of memory beside others."""
        self.is_again = True
        try:
            self._run(run, [index], None)
        finally:
            self.is_again = False

    def begun_beside(self, case: Case) -> Run | None:
        """Returns what was measured of a case beside others before memory ran out: it is not measured twice."""
        return next((run for index, run in self.alone_again.items() if self.cases[index] is case), None)

    def _refusal(self) -> LeaveOut | None:
        if self.leave_out is None and not self.runs:
            return None

        def refuse(case: Case, error: errors.ViltBenchError) -> None:
            self._leave_out(self._index(case, self.left_out), error)

        return refuse

    def _leave_out(self, index: int, error: errors.ViltBenchError) -> None:
        if self.leave_out is not None:
            self.left_out[index] = error
            self.leave_out(self.cases[index], error)
            return
        # It was to be measured, and what was measured before is not to be lost.
        failed = Draft(self.cases[index], run_name=self.name, origin=self.origin, failure=Failure("error", str(error)))
        self._keep(index, failed.finished(self.sampling, interrupted=False))

    def take(self, run: Run) -> None:
        """Take a run that is final, unless the case is to be measured once more, alone."""
        over = self.runs if self.is_again else {**self.runs, **self.alone_again}
        index = self._index(run.case, over)
        self.interrupted |= run.interrupted
        has_company = len(self.group) + (self.anchor is not None) > 1 and not self.is_again
        if ran_out_of_memory(run) and has_company and not run.interrupted:
            self.alone_again[index] = run
            return
        if self.is_again:
            run = replace(run, warnings=(*run.warnings, "Measured alone, as it ran out of memory beside other cases."))
        self._keep(index, run if run.failure is None else replace(run, failure=self._explained(index, run)))

    def _keep(self, index: int, run: Run) -> None:
        run = replace(run, anchor=self.repeated)
        self.runs[index] = run
        self.finished(run)
        self.report(replace(self._stand(), ended=run, name=self.names[index]))

    def _explained(self, index: int, run: Run) -> Failure | None:
        """Returns a failure with what is needed and what is free, where the system has ended the process."""
        if run.failure is None or run.failure.message != KILLED or not self.ledger.is_known(index):
            return run.failure
        needed, free = _in_gb(self.ledger.need(index).get(HOST, 0)), _in_gb(self.free())
        return replace(
            run.failure, message=f"{KILLED}; this case needs about {needed} (an estimate), and {free} are free"
        )

    def learn(self, case: Case, prepared: protocol.Prepared) -> None:
        """Keep what a process that is ready has taken."""
        if prepared.host_peak_bytes is None:
            return
        taken = {HOST: prepared.host_peak_bytes}
        device = prepared.environment.device
        if prepared.device_peak_bytes is not None:
            taken[device] = prepared.device_peak_bytes + DEVICE_PROCESS_BYTES
        self.ledger.measured[self._index(case)] = taken

    def _index(self, case: Case, over: Container[int] = ()) -> int:
        """Returns the place of a case of the group, or of its anchor; by name, as one that goes on is another value."""
        name = case_name(case)
        known = [*self.group, *([] if self.anchor is None else [self.anchor])]
        return next(index for index in known if self._full_names[index] == name and index not in over)

    def _choose_anchor(self) -> int | None:
        """Returns the case of the group before that takes least memory, among those whose times can be compared."""
        usable = [
            index
            for index in self.group
            if index in self.runs and self.runs[index].failure is None and trial_medians(self.runs[index])
        ]
        return min(usable, key=lambda index: sum(self.ledger.need(index).values()), default=None)

    def _repeat(self, index: int) -> Repeat:
        there, numbers = self.runs[index], (self.number - 1, self.number)

        def compare(here: Run) -> None:
            if not here.interrupted:
                self.repeated = drift(there, here, name=self.names[index], groups=numbers)

        return Repeat(self.cases[index], anchor_sampling(self.sampling), compare)

    def tell(self, progress: Progress) -> None:
        self.report(replace(self._stand(), current=progress))

    def _stand(self) -> SweepProgress:
        failed = sum(run.failure is not None for run in self.runs.values())
        return SweepProgress(
            done=len(self.runs) + len(self.left_out),
            failed=failed,
            total=len(self.cases),
            group=self.number,
            groups=self.number - 1 + len(self.planned),
            left=self._left(),
        )

    def _left(self) -> TimeLeft:
        remaining = len(self.cases) - len(self.runs) - len(self.left_out)
        if not self.costs_s:
            return TimeLeft(None, remaining * self.sampling.max_time_s)
        spent_s = self.clock() - self.begin_s
        present = sum(index not in self.runs and index not in self.left_out for index in self.group)
        low, high = (
            max(0.0, present * cost_s - spent_s) + (remaining - present) * cost_s
            for cost_s in (min(self.costs_s), max(self.costs_s))
        )
        return TimeLeft(low, high)


def ran_out_of_memory(run: Run) -> bool:
    """Returns whether a run failed as memory was gone, or may have been: the system ended its process."""
    return run.failure is not None and (run.failure.kind == "out-of-memory" or run.failure.message == KILLED)


def anchor_sampling(sampling: Sampling) -> Sampling:
    """Returns how hard to look at a case again: in a quarter of the time, in as many processes as tell their spread."""
    trials = min(sampling.trials, LEAST_UNITS)
    return replace(
        sampling,
        max_time_s=min(sampling.max_time_s, max(ANCHOR_SHARE * sampling.max_time_s, trials * LEAST_TRIAL_S)),
        trials=trials,
        least_samples=max(1, round(ANCHOR_SHARE * sampling.least_samples)),
    )


class Looker(Process):
    """A process that counts what cases take, as the director has no torch."""

    def ask(self, cases: Sequence[Case]) -> Outlook:
        """Returns what they take.

        Raises:
            WorkerFailedError: it has died, is silent for too long, or says what is no answer.
        """
        self._child.send(msgspec.json.encode(tuple(cases)))
        line = self._line(LOOK_S, "counting memory")
        try:
            return msgspec.json.decode(line, type=Outlook)
        except ValueError as error:  # of msgspec, or of text that is none
            raise self._astray(f"replied what can't be read ({error})") from None


def look_at_memory(cases: Sequence[Case]) -> Outlook:
    """Returns what the cases take, as a process counts it that has ended by then; nothing where it fails."""
    nothing = Outlook((None,) * len(cases), {})
    try:
        looker = Looker(start_child([sys.executable, "-m", "vilt_bench.worker.foresee"]))
    except WorkerFailedError:
        return nothing
    try:
        found = looker.ask(cases)
    except WorkerFailedError:  # what is wrong is told when the case is measured
        return nothing
    except BaseException:
        looker.kill()
        raise
    finally:
        looker.close()
    return found if len(found.needs) == len(cases) else nothing


def _in_gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
