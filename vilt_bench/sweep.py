"""Directs the measuring: fresh worker processes, blocks handed out in turn, and when to stop.

The director imports no torch and sleeps while a worker measures, so that it takes nothing from what is measured.
"""

from __future__ import annotations

import math
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from itertools import accumulate, chain
from typing import Protocol, TypeVar

import msgspec

from vilt_bench import errors, files, git, protocol, registry
from vilt_bench.config import Case, Sampling, label
from vilt_bench.photographs import check_images
from vilt_bench.process import BYE_S, LONGEST_LINE, Child, Patience
from vilt_bench.records import Energy, Environment, Failure, Model, Run, Series, Source, Stage, Times, Trial
from vilt_bench.source import read_source
from vilt_bench.statistics import LEAST_UNITS, Estimate, block_interval, latency, settled

WARMUP_SHARE = 0.2
"""Of a trial's time, at most."""
WARMUP_BLOCK_S = 0.25
BLOCKS_A_TRIAL = 12
"""Blocks that fit into a trial's time: enough to see drift, few enough to hold several passes each."""
LONGEST_BLOCK_S = 2.0
LEAST_BLOCKS = 6
"""In a trial; an interval from fewer is a matter of luck where successive blocks are alike."""
AGREEING_LOOKS = 2
"""Looks in a row that must find the interval narrow enough: one may by chance."""
MOST_TRIALS = 12
"""Where trials differ by more than the precision asked for, they go on up to this many."""
BLOCK_RETRIES = 4
"""How often a worker measures a block at most."""
MOST_NOTES = 8
"""Of what goes on, for one request."""
LAST_WORD_S = 2.0
"""For a process that has closed its end of the wire to be gone."""

ReplyT = TypeVar("ReplyT", bound=protocol.Reply)


@dataclass(frozen=True)
class Progress:
    """Where the measuring of one case stands."""

    embedder: str
    trial: int
    trials: int
    phase: str
    """`starting`, `counting`, `warming up`, `sampling`"""
    samples: int = 0
    half_width: float | None = None
    """Of the whole's interval within this trial, as a share."""
    spent_s: float = 0.0
    budget_s: float = 0.0


Report = Callable[[Progress], None]
Clock = Callable[[], float]
"""Seconds."""
Overhear = Callable[[str], None]
"""Told what a process has printed."""


class WorkerFailedError(Exception):
    """A worker could not go on; holds what the record says of it."""

    def __init__(self, failure: Failure) -> None:
        """Keep the failure."""
        super().__init__(failure.message)
        self.failure = failure


class WorkerHungError(WorkerFailedError):
    """A worker was silent for longer than it may be."""


class WorkerNotStartedError(WorkerFailedError):
    """A worker could not be started: the fault is the machine's, or the interpreter's."""

    def __init__(self, cause: OSError) -> None:
        """Keep what the system said."""
        super().__init__(Failure("error", f"a measuring process could not be started: {files.why(cause)}"))
        self.cause = cause


class Asked(Protocol):
    """What measures when it is asked to."""

    def ask(self, request: protocol.Request, expected: type[ReplyT]) -> ReplyT:
        """Returns the reply to a request."""

    def close(self) -> None:
        """Let it end."""

    def kill(self) -> None:
        """End it now."""


class Worker:
    """A process of its own that measures one case."""

    def __init__(
        self,
        python: str = sys.executable,
        flags: Sequence[str] = (),
        folder: str | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        patience: Patience | None = None,
        overhear: Overhear = lambda _: None,
        older: bool = False,
    ) -> None:
        """Start the process; it waits for its first request.

        Args:
            python: the interpreter.
            flags: its options.
            folder: where it runs, and looks for modules first; this process's own if `None`.
            environment: its environment variables; this process's own if `None`. Git's of one repository are left out.
            patience: how long it may be silent.
            overhear: told what it has printed, when it has ended.
            older: whether it may be of an older version of this package.

        Raises:
            WorkerNotStartedError: it can't be started.
        """
        self._patience = patience or Patience()
        self._overhear = overhear
        self._traceback = ""
        self._longest_s = 0.0
        self._request: protocol.Request = protocol.Hello()
        self._spoke_unasked = False
        self._sent_s = 0.0
        try:
            self._child = Child(
                [python, *flags, "-m", "vilt_bench.worker"],
                folder=folder,
                environment=git.surroundings(environment),
                older=older,
            )
        except OSError as error:
            raise WorkerNotStartedError(error) from None

    def ask(self, request: protocol.Request, expected: type[ReplyT]) -> ReplyT:
        """Returns the reply; this process sleeps until it is there.

        Raises:
            ViltBenchError: the worker refused what the user asked for.
            WorkerFailedError: the worker failed, died, hung, or said what is no reply.
        """
        self.send(request)
        return self.receive(expected)

    def send(self, request: protocol.Request) -> None:
        """Hand a request over and go on, for two workers that are to do something at once."""
        self._request = request
        self._spoke_unasked = self._child.is_ahead()
        self._sent_s = time.monotonic()
        self._child.send(protocol.encode(request))

    def receive(self, expected: type[ReplyT]) -> ReplyT:
        """Returns the reply to what was sent.

        Raises:
            ViltBenchError: the worker refused what the user asked for.
            WorkerFailedError: the worker failed, died, hung, or said what is no reply.
        """
        reply = self._reply()
        if isinstance(reply, protocol.Refused):
            raise _refusal(reply)
        if isinstance(reply, protocol.Failed):
            self._traceback = reply.traceback
            raise WorkerFailedError(reply.failure)
        if not isinstance(reply, expected):
            raise self._astray(f"replied {type(reply).__name__} where {expected.__name__} was expected")
        if self._spoke_unasked or self._child.is_ahead():
            raise self._astray("replied more than it was asked")
        if isinstance(reply, protocol.Measured):
            if not protocol.is_whole(reply.series):
                raise self._astray("replied a block whose samples do not fit its number of passes")
            self._longest_s = max(self._longest_s, time.monotonic() - self._sent_s)
        elif isinstance(reply, protocol.Prepared):
            self._longest_s = reply.first_call_s
        return reply

    def close(self, within_s: float = BYE_S) -> None:
        """Let the process end by itself if it waits for a request; end it otherwise, or after that time."""
        self._child.close(within_s)
        if printed := f"{self._child.output}{self._traceback}".strip():
            self._overhear(printed)

    def kill(self) -> None:
        """End the process now, and all that it has started."""
        self._child.kill()

    def _reply(self) -> protocol.Reply:
        """Returns what it says next, notes of what it is doing left out."""
        phase, limit_s = _phase(self._request), self._limit_s()
        for _ in range(MOST_NOTES):
            try:
                reply: protocol.Reply | protocol.Doing = protocol.decode_reply(self._child.receive(limit_s))
            except TimeoutError:
                where = self._child.where()
                self.kill()
                at = "" if where is None else f" (at {where})"
                raise WorkerHungError(
                    Failure("error", f"hung in {phase}: no answer for {limit_s:g} s{at}; --patience allows more")
                ) from None
            except EOFError:
                raise WorkerFailedError(self._death()) from None
            except msgspec.DecodeError as error:
                raise self._astray(f"replied what this version can't read ({error})") from None
            except ValueError:
                raise self._astray(f"replied a line of more than {LONGEST_LINE // 2**20} MiB") from None
            if not isinstance(reply, protocol.Doing):
                return reply
            phase = reply.phase
        raise self._astray("says all the time that it is doing something else")

    def _limit_s(self) -> float:
        match self._request:
            case protocol.Measure(seconds):
                # Where heat slows it down, it may measure a block several times.
                return self._patience.for_passes(self._longest_s, BLOCK_RETRIES * seconds)
            case protocol.Sample():
                return self._patience.for_passes(self._longest_s)
            case _:
                return self._patience.for_once()

    def _astray(self, what: str) -> WorkerFailedError:
        """Returns the failure of a process that can't be directed any more, and ends it."""
        self.kill()
        return WorkerFailedError(Failure("error", f"the measuring process {what}"))

    def _death(self) -> Failure:
        code = self._child.wait(LAST_WORD_S)
        self.kill()
        lines = self._child.output.strip().splitlines()
        if code is None:
            return Failure("crashed", "the process closed the pipe over which it is directed")
        if code == -9:  # Linux ends a process so when the machine's memory is gone, but so may anybody
            return Failure("crashed", "the process was killed (signal 9), as the system does when memory runs out")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Failure("crashed", f"the process ended with {how}: {lines[-1] if lines else 'it left no message'}")


def _phase(request: protocol.Request) -> str:
    match request:
        case protocol.Hello():
            return "starting"
        case protocol.Prepare():
            return "building"
        case protocol.Count():
            return "counting"
        case protocol.Measure() | protocol.Sample():
            return "a pass"
        case protocol.MeasureEnergy():
            return "measuring energy"
        case protocol.Finish():
            return "finishing"


def _refusal(reply: protocol.Refused) -> errors.ViltBenchError:
    kind = getattr(errors, reply.error, None)
    if isinstance(kind, type) and issubclass(kind, errors.ViltBenchError):
        return kind(reply.message)
    return errors.MeasurementError(reply.message)


@dataclass
class Draft:
    """A run in the making."""

    case: Case
    environment: Environment | None = None
    model: Model | None = None
    stages: tuple[Stage, ...] = ()
    trials: list[Trial] = field(default_factory=list)
    energy: Energy | None = None
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()
    spent_s: float = 0.0
    pair_s: float = 0.0
    """How long one instrumented and one uninstrumented pass take together."""

    def wants_more(self, sampling: Sampling) -> bool:
        """Returns whether, after the trials asked for, another may bring the interval to the precision asked for."""
        trials = len(self.trials)
        if self.failure is not None or not LEAST_UNITS <= sampling.trials <= trials:
            return False
        found = latency(self.finished(sampling, group="", started_at="", interrupted=False))
        left_s = sampling.max_time_s - self.spent_s
        return found is not None and not found.within(sampling.precision) and left_s > self.spent_s / trials

    def finished(
        self, sampling: Sampling, *, group: str, started_at: str, interrupted: bool, source: Source | None = None
    ) -> Run:
        """Returns the run as it stands."""
        return Run(
            run_id=uuid.uuid4().hex,
            started_at=started_at,
            case=self.case,
            sampling=sampling,
            group=group,
            environment=self.environment,
            model=self.model,
            stages=self.stages,
            trials=tuple(self.trials),
            energy=self.energy,
            failure=self.failure,
            interrupted=interrupted,
            warnings=(*self.warnings, *(() if interrupted else self._short_of_time(sampling))),
            source=source,
        )

    def _short_of_time(self, sampling: Sampling) -> Iterator[str]:
        """Yields what to allow where the first call took most of a trial's time, and few passes were left."""
        passes = min((sum(trial.samples.blocks) for trial in self.trials if trial.samples.blocks), default=None)
        call_s = max((trial.first_call_s or 0.0 for trial in self.trials), default=0.0)
        share_s = sampling.max_time_s / sampling.trials
        if passes is None or passes >= sampling.least_samples or call_s < share_s / 2:
            return
        needed_s = sampling.trials * (call_s + sampling.least_samples * self.pair_s / (1 - WARMUP_SHARE))
        yield (
            f"The first call took {call_s:.2g} of the {share_s:.2g} s that a trial has, which left "
            f"{passes} pass{'' if passes == 1 else 'es'}; --max-time {math.ceil(needed_s)} is enough for "
            f"{sampling.least_samples} in each of {sampling.trials} trial{'' if sampling.trials == 1 else 's'}."
        )


@dataclass
class Lane:
    """One trial of one case, its worker alive: takes its turns until it is done."""

    draft: Draft
    start: Callable[[], Asked]
    sampling: Sampling
    index: int
    budget_s: float
    report: Report
    clock: Clock = time.monotonic
    process: Asked | None = None
    trial: Trial | None = None
    warmup: Series = field(default_factory=Series)
    samples: Series = field(default_factory=Series)
    settled: bool | None = None
    sampling_now: bool = False
    agreeing: int = 0
    """Looks in a row that found the interval narrow enough."""
    spent_s: float = 0.0

    def prepare(self) -> None:
        """Start the worker, and wait until it has made its first call."""
        self._tell("starting")
        self.process = self.start()
        ready = self.worker.ask(protocol.Prepare(self.draft.case), protocol.Prepared)
        self.trial = Trial(self.index, ready.started_at, ready.build_time_s, ready.first_call_s)
        self.draft.environment = self.draft.environment or ready.environment
        self.draft.model = self.draft.model or ready.model
        self._spend(ready.first_call_s)
        # Where one call takes more than warm-up may, it has been the warm-up.
        self.sampling_now = ready.first_call_s > WARMUP_SHARE * self.budget_s

    @property
    def worker(self) -> Asked:
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

    def turn(self) -> bool:
        """Measure one block; returns whether the lane wants another turn.

        Raises:
            ViltBenchError, WorkerFailedError: as `Worker.ask`.
        """
        self._tell("sampling" if self.sampling_now else "warming up")
        block_s = min(self.budget_s / BLOCKS_A_TRIAL, LONGEST_BLOCK_S) if self.sampling_now else WARMUP_BLOCK_S
        start = self.clock()
        series = self.worker.ask(protocol.Measure(block_s), protocol.Measured).series
        elapsed_s = self.clock() - start
        self._spend(elapsed_s)
        self.draft.pair_s = elapsed_s / series.blocks[0]
        self._check_stages(series)
        if self.sampling_now:
            self.samples = join(self.samples, series)
            return not self._done()
        self.warmup = join(self.warmup, series)
        self.settled = settled(self.warmup.whole.latency_s)
        self.sampling_now = self.settled or self.spent_s >= WARMUP_SHARE * self.budget_s
        return True

    def finish(self) -> None:
        """Keep the trial, and let the worker end."""
        if self.index == 0:
            self.draft.energy = self.worker.ask(protocol.MeasureEnergy(), protocol.EnergyMeasured).energy
        finished = self.worker.ask(protocol.Finish(), protocol.Finished)
        self.draft.warnings = tuple(dict.fromkeys((*self.draft.warnings, *finished.remarks)))
        if self.trial is not None:
            self.trial = replace(self.trial, conditions=finished.conditions)

    def keep(self) -> None:
        """Put what the trial has so far into the run; a trial that never became ready has nothing."""
        if self.trial is not None:
            self.draft.trials.append(
                replace(self.trial, warmup=self.warmup, samples=self.samples, settled=self.settled)
            )
            self.trial = None

    def _check_stages(self, series: Series) -> None:
        known = next((each for each in (self.samples, self.warmup) if each.blocks), series)
        if series.stages.keys() != known.stages.keys():
            raise WorkerFailedError(Failure("error", "the stages are not those of the block before"))

    def _done(self) -> bool:
        blocks = self.samples.blocks
        enough = sum(blocks) >= self.sampling.least_samples and len(blocks) >= LEAST_BLOCKS
        interval = self._interval() if enough else None
        narrow = interval is not None and interval.within(self.sampling.precision)
        self.agreeing = self.agreeing + 1 if narrow else 0
        return self.agreeing >= AGREEING_LOOKS or self._over()

    def _over(self) -> bool:
        return self.spent_s + self.draft.pair_s / 2 >= self.budget_s

    def _interval(self) -> Estimate | None:
        ends = list(accumulate(self.samples.blocks))
        latencies = self.samples.whole.latency_s
        return block_interval(
            [latencies[end - size : end] for end, size in zip(ends, self.samples.blocks, strict=True)]
        )

    def _spend(self, seconds: float) -> None:
        self.spent_s += seconds
        self.draft.spent_s += seconds

    def _tell(self, phase: str) -> None:
        interval = self._interval() if self.samples.blocks else None
        self.report(
            Progress(
                embedder=label(self.draft.case),
                trial=self.index,
                trials=max(self.sampling.trials, self.index + 1),
                phase=phase,
                samples=sum(self.samples.blocks),
                half_width=None if interval is None else interval.half_width,
                spent_s=self.draft.spent_s,
                budget_s=self.sampling.max_time_s,
            )
        )


def measure(case: Case, sampling: Sampling | None = None) -> Run:
    """Returns the run of one case, measured in fresh processes.

    Raises:
        ViltBenchError: the case can't be measured as asked; see `measure_together`.
    """
    return measure_together([case], sampling or Sampling())[0]


def measure_together(
    cases: Sequence[Case],
    sampling: Sampling,
    *,
    report: Report = lambda _: None,
    count: bool = True,
    patience_s: float | None = None,
    overhear: Overhear = lambda _: None,
    start_worker: Callable[[], Asked] | None = None,
    clock: Clock = time.monotonic,
) -> list[Run]:
    """Returns a run for each case, measured in turn, block by block, so that drift of the machine hits all alike.

    Each trial has a fresh process for each case. Where the trials asked for differ by more than the precision asked
    for, and time is left, more follow. A case that runs out of memory, or fails otherwise once it has
    begun, is a run with a failure; the others go on. Ctrl-C ends the measuring: the runs then hold what was
    measured, and say that they were interrupted.

    Args:
        cases: what to measure.
        sampling: how hard to look.
        report: told where the measuring stands, between blocks.
        count: whether to count parameters, FLOPs and memory, which takes a pass or two.
        patience_s: how long a process may be silent before it is ended, as a failure; `None`: by `process.Patience`.
        overhear: told what a process has printed, when it has ended.
        start_worker: starts a measuring process.
        clock: by which time is spent.

    Raises:
        ViltBenchError: a case can't be measured as asked (unknown embedder, unreadable image, missing device, …);
            nothing has been timed by then.
    """
    check_cases(cases)
    patience = Patience(patience_s, sampling.max_time_s)
    start = start_worker or (lambda: Worker(patience=patience, overhear=overhear))
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    problems: list[str] = []
    source = read_source(report=problems.append)
    drafts = [Draft(case) for case in cases]
    interrupted = False
    try:
        for index in range(max(sampling.trials, MOST_TRIALS)):
            wanted = drafts if index < sampling.trials else [draft for draft in drafts if draft.wants_more(sampling)]
            if not wanted:
                break
            _trial(wanted, sampling, index, report, start, clock, count=count and index == 0)
    except KeyboardInterrupt:
        interrupted = True
    group = uuid.uuid4().hex
    runs = [
        draft.finished(sampling, group=group, started_at=started_at, interrupted=interrupted, source=source)
        for draft in drafts
    ]
    return [replace(run, warnings=(*run.warnings, *problems), position=position) for position, run in enumerate(runs)]


def check_cases(cases: Iterable[Case]) -> None:
    """Refuse what can be seen without building anything.

    Raises:
        ViltBenchError: an unknown embedder, or an image that can't be read.
    """
    for case in cases:
        registry.check_name(case.embedder)
        check_images(case.images)


def join(before: Series, after: Series) -> Series:
    """Returns two series of one process as one, blocks kept apart."""
    if not before.blocks:
        return after
    return Series(
        whole=join_times([before.whole, after.whole]),
        stages={name: join_times([times, after.stages[name]]) for name, times in before.stages.items()},
        instrumented=join_times([before.instrumented, after.instrumented]),
        blocks=before.blocks + after.blocks,
    )


def join_times(parts: Sequence[Times]) -> Times:
    """Returns times one after the other; a clock that one of them lacks is absent."""

    def joined(clock: str) -> tuple[float, ...] | None:
        columns = [getattr(part, clock) for part in parts]
        return None if None in columns or not columns else tuple(chain.from_iterable(columns))

    return Times(**{clock.name: joined(clock.name) for clock in fields(Times)})


def _trial(
    drafts: Sequence[Draft],
    sampling: Sampling,
    index: int,
    report: Report,
    start_worker: Callable[[], Asked],
    clock: Clock,
    *,
    count: bool,
) -> None:
    """Measure one trial of every case that has not failed and has time left for a pair of passes."""
    lanes = []
    try:
        for draft in drafts:
            left_s = sampling.max_time_s - draft.spent_s
            if draft.failure is None and (index == 0 or left_s > draft.pair_s):
                # A trial after those asked for has as long as they had; the time left is for more of its kind.
                share = 1 / (sampling.trials - index) if index < sampling.trials else 1.0
                budget_s = min(max(0.0, left_s) * share, sampling.max_time_s / sampling.trials)
                lanes.append(Lane(draft, start_worker, sampling, index, budget_s, report, clock))
        # Made ready one after the other, before any is timed: building would disturb a neighbour's times.
        active = [lane for lane in lanes if _went_well(lane, lane.prepare)]
        if count:
            active = [lane for lane in active if _went_well(lane, lane.count)]
        ready = list(active)
        while active:
            active = [lane for lane in active if _went_well(lane, lane.turn)]
        for lane in ready:
            if lane.draft.failure is None:
                _went_well(lane, lane.finish)
    except BaseException:
        for lane in lanes:
            if lane.process is not None:
                lane.process.kill()
        raise
    finally:
        for lane in lanes:
            lane.keep()
            if lane.process is not None:
                lane.process.close()


def _went_well(lane: Lane, step: Callable[[], bool | None]) -> bool:
    """Returns whether a lane goes on after a step; what went wrong with it is noted in its run."""
    try:
        return step() is not False
    except WorkerFailedError as error:
        lane.draft.failure = error.failure
    except errors.ViltBenchError as error:
        if lane.index == 0 and not lane.samples.blocks and lane.trial is None:
            raise  # the user can mend it, and nothing is lost
        lane.draft.failure = Failure("error", str(error))
    return False
