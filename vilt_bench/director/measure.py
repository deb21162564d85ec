"""Directs the measuring: fresh worker processes, blocks handed out in turn, and when to stop.

The director imports no torch and sleeps while a worker measures, so that it takes nothing from what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from vilt_bench import errors, protocol
from vilt_bench.ask import registry
from vilt_bench.ask.case import Case, Sampling, case_name, names_apart
from vilt_bench.ask.clips import check_inputs
from vilt_bench.director.commit import read_source
from vilt_bench.director.draft import LEAST_BLOCKS, WARMUP_SHARE, Draft, new_id, now
from vilt_bench.director.limits import Peaks
from vilt_bench.director.process import MeasuringProcess, Overhear, Worker, WorkerFailedError
from vilt_bench.judge.estimate import percentiles
from vilt_bench.judge.growing import GrowingBlocks, GrowingWarmup
from vilt_bench.record import journal
from vilt_bench.record.alike import Setup, differences
from vilt_bench.record.find import check_run_name
from vilt_bench.record.journal import Note
from vilt_bench.record.run import FROM_PYTHON, Environment, Failure, Origin, Pipelined, Run, Series, Source, Trial
from vilt_bench.record.thin import MOST_WARMUP_PASSES, KeptPasses
from vilt_bench.wire import Patience

WARMUP_BLOCK_S = 0.25


BLOCKS_A_TRIAL = 12
"""Blocks that fit into a trial's time: enough to see drift, few enough to hold several passes each."""


LONGEST_BLOCK_S = 2.0


PIPELINE_SHARE = 0.4
"""Of a trial's time, for preprocessing and model at the same time where that is asked for."""


PIPELINE_ROUNDS = 4
"""In a trial: each times both at the same time, and each of them alone."""


AGREEING_LOOKS = 2
"""Looks in a row that must find the interval narrow enough: one may by chance."""


@dataclass(frozen=True)
class Progress:
    """Where the measuring of one case stands."""

    name: str
    """Of the case among those that are measured together."""
    trial: int
    trials: int
    phase: str
    """`starting`, `counting`, `warming up`, `sampling`, `pipelining`"""
    samples: int = 0
    half_width: float | None = None
    """Of the whole's interval within this trial, as a share."""
    spent_s: float = 0.0
    budget_s: float = 0.0


Report = Callable[[Progress], None]


Refused = Callable[[Draft, errors.ViltBenchError], None]
"""Told of a case that can't be measured as asked."""

Finished = Callable[[Run], None]
"""Told of each case's run as soon as it is final, to save it while others go on."""


Prepared = Callable[[Case, protocol.Prepared], None]
"""Told of each process that is ready to be timed."""

Clock = Callable[[], float]
"""Seconds."""


@dataclass(frozen=True)
class Repeat:
    """A case that was measured before and is measured again among others, to see how far the machine has drifted."""

    case: Case
    sampling: Sampling
    finished: Finished
    """Told of its run, which is not among those of the cases; before theirs, where they are final at the same time."""


@dataclass
class OpenTrial:
    """One trial of one case, its worker alive: takes its turns until it is done."""

    draft: Draft
    start: Callable[[], MeasuringProcess]
    sampling: Sampling
    index: int
    budget_s: float
    report: Report
    note: Note = lambda _, __: None
    clock: Clock = time.monotonic
    prepared: Prepared = lambda _, __: None
    peaks: Peaks = field(default_factory=Peaks)
    process: MeasuringProcess | None = None
    trial: Trial | None = None
    warmup: KeptPasses = field(default_factory=lambda: KeptPasses(MOST_WARMUP_PASSES))
    samples: KeptPasses = field(default_factory=KeptPasses)
    warmup_times: GrowingWarmup = field(default_factory=GrowingWarmup)
    latencies: GrowingBlocks = field(default_factory=GrowingBlocks)
    """Of the whole, uninstrumented."""
    settled: bool | None = None
    sampling_now: bool = False
    pipelining: bool = False
    """Whether all passes are timed, and what is left is preprocessing and model at the same time."""
    pipelined: Pipelined | None = None
    agreeing: int = 0
    """Looks in a row that found the interval narrow enough."""
    spent_s: float = 0.0

    def prepare(self) -> None:
        """Start the worker, and wait until it has made its first call."""
        self._tell("starting")
        self.process = self.start()
        ready = self.worker.ask(protocol.Prepare(self.draft.case), protocol.Prepared)
        self.trial = Trial(
            self.index,
            ready.started_at,
            ready.build_time_s,
            ready.first_call_s,
            prepare_time_s=ready.prepare_time_s,
        )
        if self.draft.trials and self.draft.environment is not None:
            self._compare(self.draft.environment, ready.environment)
        self.draft.environment = self.draft.environment or ready.environment
        self.draft.model = self.draft.model or ready.model
        self.prepared(self.draft.case, ready)
        self._spend(ready.first_call_s)
        self.note(self.draft.run_id, journal.Opened(self.draft.header(self.sampling), self.trial))
        # Where one call takes more than warm-up may, it has been the warm-up.
        self.sampling_now = ready.first_call_s > WARMUP_SHARE * self.budget_s

    @property
    def worker(self) -> MeasuringProcess:
        """The process, once it is started."""
        assert self.process is not None
        return self.process

    def count(self) -> None:
        """Let the worker count what is not timed."""
        self._tell("counting")
        counted = self.worker.ask(protocol.Count(), protocol.Counted)
        self.draft.stages = counted.stages
        self.draft.warnings = counted.warnings
        if self.draft.model is not None:
            self.draft.model = replace(self.draft.model, memory_method=counted.memory_method)
        self.note(self.draft.run_id, journal.Counted(self.draft.stages, self.draft.model, self.draft.warnings))

    @property
    def passes_s(self) -> float:
        """Of the trial's time, what is for passes."""
        return self.budget_s * (1 - PIPELINE_SHARE if self._has_pipeline else 1)

    @property
    def _has_pipeline(self) -> bool:
        return self.draft.case.preprocessing_workers is not None and not self.draft.is_repeat

    def turn(self) -> bool:
        """Measure one block, or one round; returns whether the open_trial wants another turn.

        Raises:
            ViltBenchError, WorkerFailedError: as `Worker.ask`.
        """
        return self._round() if self.pipelining else self._block()

    def _round(self) -> bool:
        self._tell("pipelining")
        block_s = min(self.budget_s * PIPELINE_SHARE / PIPELINE_ROUNDS / 3, LONGEST_BLOCK_S)
        start = self.clock()
        found = self.worker.ask(protocol.MeasurePipeline(block_s), protocol.PipelineMeasured).pipelined
        self._spend(self.clock() - start)
        self.pipelined = found if self.pipelined is None else joined(self.pipelined, found)
        return len(self.pipelined.pipelined_s) < PIPELINE_ROUNDS

    def _block(self) -> bool:
        self._tell("sampling" if self.sampling_now else "warming up")
        block_s = min(self.passes_s / BLOCKS_A_TRIAL, LONGEST_BLOCK_S) if self.sampling_now else WARMUP_BLOCK_S
        start = self.clock()
        series = self.worker.ask(protocol.Measure(block_s), protocol.Measured).series
        elapsed_s = self.clock() - start
        self._spend(elapsed_s)
        self.draft.pair_s = elapsed_s / series.blocks[0]
        self._check_stages(series)
        if self.sampling_now:
            self.samples.add(series)
            self.latencies.add(series.whole.latency_s)
            self.note(self.draft.run_id, journal.Block(series))
            done = self._done()
            self.pipelining = done and self._has_pipeline
            return self.pipelining or not done
        self.warmup.add(series)
        self.warmup_times.add(series.whole.latency_s)
        self.settled = self.warmup_times.settled()
        self.note(self.draft.run_id, journal.Block(series, is_warmup=True, settled=self.settled))
        self.sampling_now = self.settled or self.spent_s >= WARMUP_SHARE * self.passes_s
        return True

    def finish(self) -> None:
        """Keep the trial, and let the worker end."""
        if not self.draft.knows_energy:
            self.draft.energy = self.worker.ask(protocol.MeasureEnergy(), protocol.EnergyMeasured).energy
            self.draft.knows_energy = True
        case, where = self.draft.case, self.draft.environment
        # Everything else of the trial is measured: the others of the group wait for their end.
        time_s = None if self.draft.is_repeat else self.peaks.time_s(case, where, self.sampling)
        finished = self.worker.ask(protocol.Finish(time_s), protocol.Finished)
        if finished.peak is not None and where is not None:
            self.peaks.take(case, where, finished.peak)
            self.draft.peak = finished.peak
        self.draft.warnings = tuple(dict.fromkeys((*self.draft.warnings, *finished.remarks)))
        if self.trial is not None:
            self.trial = replace(self.trial, conditions=finished.conditions)
        self.note(
            self.draft.run_id,
            journal.Closed(
                finished.conditions, self.draft.energy, self.draft.warnings, self.draft.peak, self.pipelined
            ),
        )

    def fail(self, failure: Failure) -> None:
        """Go on no more."""
        self.draft.failure = failure
        if self.trial is not None:
            self.note(self.draft.run_id, journal.BrokenOff(failure))

    def keep(self) -> None:
        """Put what the trial has so far into the run; a trial that never became ready has nothing."""
        if self.trial is not None:
            whole = self.latencies
            known = (whole.medians, percentiles(whole)) if whole.count and not self.samples.is_whole else ()
            self.draft.trials.append(
                replace(
                    self.trial,
                    warmup=self.warmup.series(),
                    samples=self.samples.series(*known),
                    pipelined=self.pipelined,
                    settled=self.settled if self.settled or self.samples.blocks else None,  # else it was cut short
                )
            )
            self.trial = None

    def _compare(self, before: Environment, now: Environment) -> None:
        """Tell what of the surroundings is otherwise than when the run began."""
        setups = [Setup(self.draft.case, self.sampling, each) for each in (before, now)]
        if told := [f"{each.name} {' / '.join(each.values)}" for each in differences(setups, "resume")]:
            warning = f"Its trials were not all measured in the same surroundings: {', '.join(told)}."
            self.draft.warnings = tuple(dict.fromkeys((*self.draft.warnings, warning)))

    def _check_stages(self, series: Series) -> None:
        known = self.samples.stages or self.warmup.stages
        if known is not None and series.stages.keys() != set(known):
            raise WorkerFailedError(Failure("error", "the stages are not those of the block before"))

    def _done(self) -> bool:
        enough = self.samples.passes >= self.sampling.least_samples and self.samples.blocks >= LEAST_BLOCKS
        interval = self.latencies.interval() if enough else None
        narrow = interval is not None and interval.within(self.sampling.precision)
        self.agreeing = self.agreeing + 1 if narrow else 0
        return self.agreeing >= AGREEING_LOOKS or self._over()

    def _over(self) -> bool:
        return self.spent_s + self.draft.pair_s / 2 >= self.passes_s

    def _spend(self, seconds: float) -> None:
        self.spent_s += seconds
        self.draft.spent_s += seconds

    def _tell(self, phase: str) -> None:
        interval = self.latencies.interval()
        self.report(
            Progress(
                name=self.draft.name,
                trial=self.index,
                trials=max(self.sampling.trials, self.index + 1),
                phase=phase,
                samples=self.samples.passes,
                half_width=None if interval is None else interval.half_width,
                spent_s=self.draft.spent_s,
                budget_s=self.sampling.max_time_s,
            )
        )


def joined(before: Pipelined, more: Pipelined) -> Pipelined:
    """Returns the rounds of one process together."""
    return replace(
        before,
        pipelined_s=before.pipelined_s + more.pipelined_s,
        preprocessing_s=before.preprocessing_s + more.preprocessing_s,
        model_s=before.model_s + more.model_s,
        batches=before.batches + more.batches,
    )


def measure_together(
    cases: Sequence[Case],
    sampling: Sampling | None = None,
    *,
    report: Report = lambda _: None,
    count: bool = True,
    patience_s: float | None = None,
    overhear: Overhear = lambda _: None,
    leave_out: Callable[[Case, errors.ViltBenchError], None] | None = None,
    finished: Finished = lambda _: None,
    note: Note = lambda _, __: None,
    begun: Callable[[Case], Run | None] = lambda _: None,
    names: Sequence[str] | None = None,
    prepared: Prepared = lambda _, __: None,
    anchor: Repeat | None = None,
    peaks: Peaks | None = None,
    start_worker: Callable[[], MeasuringProcess] | None = None,
    clock: Clock = time.monotonic,
    name: str | None = None,
    origin: Origin = FROM_PYTHON,
) -> list[Run]:
    """Returns a run for each case, measured in turn, block by block, so that drift of the machine hits all alike.

    Each trial has a fresh process for each case. Where the trials asked for differ by more than the precision asked
    for, and time is left, more follow. A case that runs out of memory, or fails otherwise once it has
    begun, is a run with a failure; the others go on. Ctrl-C ends the measuring: the runs then hold what was
    measured, and say that they were interrupted.

    Args:
        cases: what to measure.
        sampling: how hard to look; `None`: as `Sampling` has it.
        report: told where the measuring stands, between blocks.
        count: whether to count parameters, FLOPs and memory, which takes a pass or two.
        patience_s: how long a process may be silent before it is ended, as a failure; `None`: by `wire.Patience`.
        overhear: told what a process has printed, when it has ended.
        leave_out: told of a case that can't be measured as asked, and why; it has no run, and the others go on as long
            as there are any. `None`: there is to be no such case.
        finished: told of each run that will be returned, as soon as it is final, while the others may go on.
        note: told of each event, such as a block, before the next, to keep what is measured whatever happens.
        begun: gives the run that a case goes on with, if any: its id, its start, and what was measured of it already.
        names: how the cases are told of; `None`: by what tells them apart.
        prepared: told of what each process says when it is ready to be timed.
        anchor: one more case, with an effort of its own, that is measured in turn with the others and has no run here;
            its failure is no fault of the others.
        peaks: what the machine reaches, as far as it was measured by then; what is lacking is measured at the end of a
            case's first trial, and added. `None`: nothing is known yet.
        start_worker: starts a measuring process.
        clock: by which time is spent.
        name: what the runs are to be called.
        origin: what asks for them.

    Raises:
        ConfigError: there can be no such name.
        ViltBenchError: a case, or with `leave_out` every case, can't be measured as asked (unknown embedder, unreadable
            image, missing device, …); nothing has been timed by then.
    """
    sampling = sampling or Sampling()
    if name is not None:
        check_run_name(name)
    check_cases(cases)
    patience = Patience(patience_s, sampling.max_time_s)
    start = start_worker or partial(Worker.start, patience=patience, overhear=overhear)
    known_peaks = Peaks() if peaks is None else peaks
    problems: list[str] = []
    source, group, started_at = read_source(report=problems.append), new_id(), now()
    drafts = []
    for position, (case, apart) in enumerate(zip(cases, names or names_apart(cases), strict=True)):
        fresh = Run(
            new_id(), started_at, case, sampling, group, source=source, position=position, name=name, origin=origin
        )
        earlier = replace(begun(case) or fresh, case=case)  # the same object, by which callers know it
        if not earlier.trials:
            earlier = replace(fresh, run_id=earlier.run_id, failure=earlier.failure)
        drafts.append(Draft.of(earlier, apart, sampling))
        if (failure := earlier.failure) is not None:
            drafts[-1].warnings += (f"Gone on with after a failure: {failure.kind}: {failure.message}.",)
        if earlier.trials and earlier.source != source:
            drafts[-1].warnings += (f"Interrupted at {_named(earlier.source)}, gone on with at {_named(source)}.",)
    runs: dict[str, Run] = {}
    repeats = []
    if anchor is not None:
        repeats.append(Draft(anchor.case, case_name(anchor.case), is_repeat=True, knows_energy=True))

    def how(draft: Draft) -> Sampling:
        return anchor.sampling if anchor is not None and draft.is_repeat else sampling

    def hand_out(going_on: Sequence[Draft] = (), *, interrupted: bool = False) -> None:
        for draft in (*repeats, *drafts):
            if draft.refusal is None and draft.run_id not in runs and draft not in going_on:
                draft.peak = known_peaks.of(draft.case, draft.environment, draft.peak)
                run = draft.finished(how(draft), interrupted=interrupted)
                runs[draft.run_id] = replace(run, warnings=tuple(dict.fromkeys((*run.warnings, *problems))))
                tell = anchor.finished if anchor is not None and draft.is_repeat else finished
                tell(runs[draft.run_id])

    def refused(draft: Draft, error: errors.ViltBenchError) -> None:
        if draft.is_repeat:
            draft.failure = Failure("error", str(error))
        elif leave_out is None:
            raise error  # the user can mend it, and nothing is lost
        else:
            _leave_out(drafts, draft, error, leave_out)

    interrupted = False
    try:
        while True:
            lacking = [draft for draft in (*drafts, *repeats) if draft.lacks_trials(how(draft))]
            unsure = [draft for draft in drafts if draft not in lacking and draft.wants_more(sampling)]
            hand_out([*lacking, *unsure])
            if not (lacking or unsure):
                break
            _trial(lacking or unsure, how, report, note, start, clock, refused, prepared, known_peaks, count=count)
    except KeyboardInterrupt:
        interrupted = True
    hand_out(interrupted=interrupted)
    return [runs[draft.run_id] for draft in drafts if draft.refusal is None]


def check_cases(cases: Iterable[Case]) -> None:
    """Refuse what can be seen without building anything.

    Raises:
        ViltBenchError: an unknown embedder, or an image that can't be read.
    """
    cases = list(cases)
    for embedder in dict.fromkeys(case.embedder for case in cases):
        registry.check_name(embedder)
    check_inputs(cases)


def _trial(
    drafts: Sequence[Draft],
    how: Callable[[Draft], Sampling],
    report: Report,
    note: Note,
    start_worker: Callable[[], MeasuringProcess],
    clock: Clock,
    refused: Refused,
    prepared: Prepared,
    peaks: Peaks,
    *,
    count: bool,
) -> None:
    """Measure one more trial of every case."""
    open_trials = []
    try:
        for draft in drafts:
            sampling = how(draft)
            left_s, lacking = sampling.max_time_s - draft.spent_s, sampling.trials - draft.counting
            # A trial after those asked for has as long as they had; the time left is for more of its kind.
            share = 1 / lacking if lacking > 0 else 1.0
            budget_s = min(max(0.0, left_s) * share, sampling.max_time_s / sampling.trials)
            # After a kill some runs of a group have the trial that it cut, others not: turns are found by index.
            index = max(each.next_index for each in drafts if each.group == draft.group)
            kept = (lambda _, __: None) if draft.is_repeat else note
            open_trials.append(
                OpenTrial(draft, start_worker, sampling, index, budget_s, report, kept, clock, prepared, peaks)
            )
        # Made ready one after the other, before any is timed: building would disturb a neighbour's times.
        active = [open_trial for open_trial in open_trials if _went_well(open_trial, open_trial.prepare, refused)]
        if count:
            active = [
                open_trial
                for open_trial in active
                if open_trial.draft.stages or open_trial.draft.is_repeat or _went_well(open_trial, open_trial.count)
            ]
        ready = list(active)
        while active:
            active = [open_trial for open_trial in active if _went_well(open_trial, open_trial.turn)]
        for open_trial in ready:
            if open_trial.draft.failure is None:
                _went_well(open_trial, open_trial.finish)
    except BaseException:
        for open_trial in open_trials:
            if open_trial.process is not None:
                open_trial.process.kill()
        raise
    finally:
        for open_trial in open_trials:
            open_trial.keep()
            if open_trial.process is not None:
                open_trial.process.close()


def _leave_out(
    drafts: Sequence[Draft],
    draft: Draft,
    error: errors.ViltBenchError,
    tell: Callable[[Case, errors.ViltBenchError], None],
) -> None:
    """Go on without a case.

    Raises:
        ViltBenchError: it was the last.
    """
    draft.refusal = error
    draft.failure = Failure("error", str(error))  # so that no trial of it follows
    if all(each.refusal is not None for each in drafts):
        raise error
    tell(draft.case, error)


def _went_well(open_trial: OpenTrial, step: Callable[[], bool | None], refused: Refused | None = None) -> bool:
    """Returns whether a open_trial goes on after a step; what went wrong with it is noted in its run."""
    try:
        return step() is not False
    except WorkerFailedError as error:
        open_trial.fail(error.failure)
    except errors.ViltBenchError as error:
        if not open_trial.draft.trials and open_trial.trial is None:
            if refused is None:
                raise
            refused(open_trial.draft, error)
            return False
        open_trial.fail(Failure("error", str(error)))
    return False


def _named(source: Source | None) -> str:
    """Returns which commit was measured."""
    return "an unknown commit" if source is None else f"{source.commit[:12]}{', changed' * source.dirty}"
