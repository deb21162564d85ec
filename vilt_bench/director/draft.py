"""A run in the making."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.errors import ViltBenchError
from vilt_bench.judge.estimate import LEAST_UNITS
from vilt_bench.judge.latency import latency
from vilt_bench.judge.objections import objections
from vilt_bench.record.peak import Peak
from vilt_bench.record.run import (
    FROM_PYTHON,
    Conditions,
    Energy,
    Environment,
    Failure,
    Model,
    Origin,
    Run,
    Source,
    Stage,
    Trial,
)
from vilt_bench.words import counted

WARMUP_SHARE = 0.2
"""Of a trial's time, at most."""


MOST_TRIALS = 12
"""Where trials differ by more than the precision asked for, they go on up to this many."""


LEAST_BLOCKS = 6
"""In a trial; an interval from fewer is a matter of luck where successive blocks are alike."""


def new_id() -> str:
    """Returns what no other run or group has."""
    return uuid.uuid4().hex


def now() -> str:
    """Returns the time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(eq=False)
class Draft:
    """A run in the making."""

    case: Case
    name: str = ""
    """How the case is told of while it is measured, among those that are measured with it."""
    run_id: str = field(default_factory=new_id)
    started_at: str = field(default_factory=now)
    group: str = field(default_factory=new_id)
    position: int | None = None
    source: Source | None = None
    run_name: str | None = None
    """What the user calls the run."""
    origin: Origin = FROM_PYTHON
    environment: Environment | None = None
    model: Model | None = None
    stages: tuple[Stage, ...] = ()
    trials: list[Trial] = field(default_factory=list)
    energy: Energy | None = None
    failure: Failure | None = None
    refusal: ViltBenchError | None = None
    """Why the case can't be measured as asked, where the others go on without it; it then makes no run."""
    warnings: tuple[str, ...] = ()
    spent_s: float = 0.0
    pair_s: float = 0.0
    """How long one instrumented and one uninstrumented pass take together."""
    cut: int = 0
    """Trials that ended early as the process that directed them did: they are kept, and others take their place."""
    is_repeat: bool = False
    """Whether it makes no record, and only times are asked for, as all else is known of the case."""
    peak: Peak | None = None
    """What the machine reached, as far as it was measured for this run."""
    knows_energy: bool = False
    """Whether it was asked for energy, which many a machine does not count."""

    @classmethod
    def of(cls, run: Run, name: str, sampling: Sampling) -> Draft:
        """Returns a draft that goes on where a run stopped."""
        trials = [trial for trial in run.trials if trial.samples.blocks or trial.warmup.blocks]
        spent = [_spent(trial) for trial in trials]
        return cls(
            case=run.case,
            name=name,
            run_id=run.run_id,
            started_at=run.started_at,
            group=run.group,
            position=run.position,
            source=run.source,
            run_name=run.name,
            origin=run.origin or FROM_PYTHON,
            environment=run.environment,
            model=run.model,
            stages=run.stages,
            trials=trials,
            energy=run.energy,
            warnings=run.warnings,
            spent_s=sum(total_s for total_s, _ in spent),
            pair_s=max((pair_s for _, pair_s in spent), default=0.0),
            cut=sum(_is_cut(trial, sampling) for trial in trials),
            peak=run.peak,
            knows_energy=run.energy is not None,
        )

    @property
    def counting(self) -> int:
        """How many trials there are, those that were cut left out."""
        return len(self.trials) - self.cut

    @property
    def next_index(self) -> int:
        """The index of the next trial."""
        return 1 + max((trial.index for trial in self.trials), default=-1)

    def lacks_trials(self, sampling: Sampling) -> bool:
        """Returns whether one of the trials asked for is to follow, and there is time for it: for the first always."""
        left_s = sampling.max_time_s - self.spent_s
        is_first = not any(trial.samples.blocks for trial in self.trials)
        return self.failure is None and self.counting < sampling.trials and (is_first or left_s > self.pair_s)

    def wants_more(self, sampling: Sampling) -> bool:
        """Returns whether, after the trials asked for, another may bring the interval to the precision asked for."""
        trials = len(self.trials)
        if self.failure is not None or trials >= MOST_TRIALS or not LEAST_UNITS <= sampling.trials <= self.counting:
            return False
        found = latency(self.finished(sampling, interrupted=False))
        left_s = sampling.max_time_s - self.spent_s
        return found is not None and not found.within(sampling.precision) and left_s > self.spent_s / trials

    def finished(self, sampling: Sampling, *, interrupted: bool) -> Run:
        """Returns the run as it stands."""
        return Run(
            run_id=self.run_id,
            started_at=self.started_at,
            case=self.case,
            sampling=sampling,
            group=self.group,
            environment=self.environment,
            model=self.model,
            stages=self.stages,
            trials=tuple(self.trials),
            energy=self.energy,
            failure=self.failure,
            interrupted=interrupted,
            warnings=(*self.warnings, *(() if interrupted else self._short_of_time(sampling))),
            source=self.source,
            position=self.position,
            name=self.run_name,
            origin=self.origin,
            doctor=objections(self.environment, [trial.conditions for trial in self.trials]),
            peak=self.peak,
        )

    def header(self, sampling: Sampling) -> Run:
        """Returns the run as it stands, without trials."""
        return replace(self.finished(sampling, interrupted=True), trials=())

    def _short_of_time(self, sampling: Sampling) -> Iterator[str]:
        """Yields what to allow where the first call took most of a trial's time, and few passes were left."""
        passes = min((trial.samples.passes for trial in self.trials if trial.samples.blocks), default=None)
        call_s = max((trial.first_call_s or 0.0 for trial in self.trials), default=0.0)
        share_s = sampling.max_time_s / sampling.trials
        if passes is None or passes >= sampling.least_samples or call_s < share_s / 2:
            return
        needed_s = sampling.trials * (call_s + sampling.least_samples * self.pair_s / (1 - WARMUP_SHARE))
        yield (
            f"The first call took {call_s:.2g} of the {share_s:.2g} s that a trial has, which left "
            f"{counted(passes, 'pass', 'passes')}; --max-time {math.ceil(needed_s)} is enough for "
            f"{sampling.least_samples} in each of {counted(sampling.trials, 'trial')}."
        )


def _spent(trial: Trial) -> tuple[float, float]:
    """Returns about how long a trial's passes took together, first call included, and a pair of them; seconds."""
    total_s, pair_s = trial.first_call_s or 0.0, 0.0
    for series in (trial.warmup, trial.samples):
        if kept := sum(series.blocks):
            passes_s = sum(sum(times.wall_time_s or times.latency_s) for times in (series.whole, series.instrumented))
            pair_s = passes_s / kept
            total_s += pair_s * series.passes
    return total_s, pair_s


def _is_cut(trial: Trial, sampling: Sampling) -> bool:
    """Returns whether a trial was neither finished nor has what is asked of one."""
    has_enough = trial.samples.passes >= sampling.least_samples and len(trial.samples.blocks) >= LEAST_BLOCKS
    return trial.conditions == Conditions() and not has_enough
