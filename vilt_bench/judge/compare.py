"""Baseline and candidate records in, a comparison out.

Records of different times differ by what the machine drifts in between: the interval is widened by it, so that
drift is not taken for a change.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from vilt_bench.ask.case import ALL, case_name
from vilt_bench.ask.rule import TOLERANCE, Decides
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.judge.comparison import Comparison, CountChange, Counted, Side, SideName, StageVerdict, missing
from vilt_bench.judge.estimate import mean, median, stdev, student_t
from vilt_bench.judge.significance import (
    WIDEST,
    Evidence,
    Subject,
    best_detectable,
    clock_name,
    judge,
    trimmed_mean,
    unpaired,
)
from vilt_bench.record.alike import OWN, alike, check_names, differences, key
from vilt_bench.record.run import WHOLE, Environment, Run, Series, Stage, Times, parse_time
from vilt_bench.words import counted

ERROR = 0.01
"""Of a false alarm: half for chance, half for drift beyond what is allowed for."""
LEAST_SESSIONS = 5
"""Fewer earlier runs of the machine tell nothing of its drift."""
DRIFT = {"cpu_time": 0.15, "wall_time": 3.0, "device_time": 0.15}
"""Between sessions, where none tell. On shared machines, CPU times moved by up to 15%; load of others made wall times
up to four times as long."""
ENOUGH_PROCESSES = 10
"""A side should have so many."""
LOWEST = 3
"""Of a process's CPU times: their mean moves least with the load of others."""


def compare(
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    *,
    history: Sequence[Run] = (),
    tolerance: float = TOLERANCE,
    decides: Decides = "total",
    allow_different: Sequence[str] = (),
    names: tuple[str, str] = ("baseline", "candidate"),
    cases: int = 1,
) -> Comparison:
    """Returns how the candidate's records compare with the baseline's, by stage and in total.

    Args:
        baseline: runs of one case.
        candidate: runs of the same case.
        history: earlier runs; those of this case and machine tell how far the machine drifts.
        tolerance: accepted slowdown, as a share.
        decides: what the verdict is of, `total` or the `stages` as well.
        allow_different: names of what may differ, such as `torch`; `all`: everything.
        names: of the sides, as a reader knows them.
        cases: how many are compared at once: they share the probability of a false alarm.

    Raises:
        RecordError: a side has no run, or one that failed or can't be true; or a run is on both sides.
        ConfigError: the sides differ in more than may differ, or an option is impossible.
    """
    check_tolerance(tolerance)
    baseline, candidate = _once(baseline), _once(candidate)
    for side, runs in zip(("baseline", "candidate"), (baseline, candidate), strict=True):
        _check_runs(side, runs)
    if both := {run.run_id for run in baseline} & {run.run_id for run in candidate}:
        raise RecordError(f"run {min(both)} is on both sides; give a baseline that was measured apart")
    different = _check_comparable(baseline, candidate, allow_different)
    allow_different = [*allow_different, *different]
    together = _together(baseline, candidate)
    known_runs = _once([*history, *baseline])  # folders may overlap
    sessions = [
        run for run in known_runs if run.failure is None and alike(run, candidate[0], "drift", but=allow_different)
    ]
    chance = share_of_error(ERROR / 2, decides) / cases
    stages = dict.fromkeys(name for run in (*baseline, *candidate) for name in _stage_names(run))
    # Drift has the other half of the error; where stages decide, it is shared among all that may be called slower.
    drift_error = ERROR / 2 / cases / (1 if decides == "total" else 1 + len(stages))

    def subject(stage: str) -> Subject:
        return Subject(
            name=stage,
            baseline_s=_latency_s(baseline, stage),
            candidate_s=_latency_s(candidate, stage),
            evidence=tuple(_evidence(baseline, candidate, stage, None if together else sessions, error=drift_error)),
            obstacle="fewer than three processes a side, or a clock too coarse, tell nothing of their spread; "
            "measure with --trials 10",
        )

    whole = subject(WHOLE)
    (total,) = judge([whole], tolerance=tolerance, error=chance)
    detectable, detectable_channel = best_detectable(whole.evidence, tolerance=tolerance, error=chance)
    return Comparison(
        case=candidate[-1].case,
        method="stored",
        baseline=_side(names[0], baseline),
        candidate=_side(names[1], candidate),
        environment=candidate[-1].environment,
        total=total,
        stages=tuple(
            judge([subject(name) for name in stages], tolerance=tolerance, error=chance, whole_s=whole.baseline_s)
        ),
        counts=count_changes(baseline[-1].stages, candidate[-1].stages),
        tolerance=tolerance,
        error=ERROR / cases,
        gate=decides,
        detectable=detectable,
        detectable_channel=detectable_channel,
        spent_s=None,
        different=tuple(f"{name} {values}" for name, values in different.items()),
        notes=tuple(_notes(baseline, candidate, whole, sessions, together=together)),
    )


def compare_all(
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    *,
    history: Sequence[Run] = (),
    tolerance: float = TOLERANCE,
    decides: Decides = "total",
    allow_different: Sequence[str] = (),
    names: tuple[str, str] = ("baseline", "candidate"),
    complete: bool = True,
) -> list[Comparison]:
    """Returns a comparison for each case; see `compare`. A case that one side lacks is missing.

    Where each side has one case only, they are compared even if they differ in more than may differ, which then says
    what differs.

    Args:
        baseline: runs.
        candidate: runs.
        history: as `compare`.
        tolerance: as `compare`.
        decides: as `compare`.
        allow_different: as `compare`.
        names: as `compare`.
        complete: whether the candidate should have all cases of the baseline; else what it lacks is left out.

    Raises:
        ViltBenchError: as `compare`; or both sides have no case in common.
    """
    before, after = _by_case(baseline), _by_case(candidate)
    if len(before) == len(after) == 1:
        after = dict.fromkeys(before, next(iter(after.values())))
    if before and not before.keys() & after.keys():
        asked, has = (
            ", ".join(dict.fromkeys(case_name(runs[0].case) for runs in side.values())) for side in (after, before)
        )
        raise ConfigError(
            f"the baseline has no run of {asked}, as the candidate has it; it has {has}; measure both alike"
        )
    found = []
    for case, runs in after.items():
        same = before.get(case)
        if same is None:
            found.append(_missing(runs, "baseline", tolerance=tolerance, decides=decides, names=names))
            continue
        found.append(
            compare(
                same,
                runs,
                history=history,
                tolerance=tolerance,
                decides=decides,
                allow_different=allow_different,
                names=names,
                cases=len(before.keys() & after.keys()),
            )
        )
    if complete:
        gone = [runs for case, runs in before.items() if case not in after]
        found += [_missing(runs, "candidate", tolerance=tolerance, decides=decides, names=names) for runs in gone]
    return found


def share_of_error(error: float, decides: Decides) -> float:
    """Returns the probability of a false alarm for the whole; the stages together have as much.

    Where the whole alone decides, the stages' own false alarms fail nothing.
    """
    return error if decides == "total" else error / 2


def _missing(
    runs: Sequence[Run], lacking: SideName, *, tolerance: float, decides: Decides, names: tuple[str, str]
) -> Comparison:
    """Returns the comparison of a case that only one side has."""
    there = _latency_s(runs, WHOLE)
    before_s, after_s = (None, there) if lacking == "baseline" else (there, None)
    reason = f"the {lacking} has no run of it"
    sides = [Side(names[0]), Side(names[1])]
    other = 1 if lacking == "baseline" else 0
    sides[other] = _side(names[other], runs)
    return missing(
        runs[-1].case,
        "stored",
        (sides[0], sides[1]),
        StageVerdict(WHOLE, "missing", before_s, after_s, None, "", reason, lacking),
        tolerance=tolerance,
        error=ERROR,
        gate=decides,
        environment=runs[-1].environment,
    )


def newest(runs: Iterable[Run], *, like: Iterable[Run] = ()) -> tuple[list[Run], list[Run]]:
    """Returns of each case the runs of the newest measurement, and all others: what came before.

    Args:
        runs: of a folder. The baselines of gates are left out where their candidates are: they are of what was
            installed elsewhere then.
        like: where there are runs of the case on the machine of one of these, the newest of them counts; these
            themselves are left out, as nothing is its own baseline.

    Raises:
        RecordError: a run is dated in the future, and would stay the newest.
    """
    like = list(like)
    machines = {run.environment.fingerprint for run in like if run.environment is not None}
    chosen: list[Run] = []
    earlier: list[Run] = []
    known = {run.run_id for run in like}
    runs = [run for run in runs if run.run_id not in known]
    gates = {run.group for run in runs if run.side == "candidate"}
    for each in _by_case(run for run in runs if run.side != "baseline" or run.group not in gates).values():
        there = [run for run in each if run.environment is not None and run.environment.fingerprint in machines]
        last = max(there or each, key=_time)
        for run in each:
            (chosen if run.group == last.group else earlier).append(run)
    return chosen, earlier


def condensed(run: Run) -> Run:
    """Returns the run with one time a process, stage and clock: all that a comparison asks of its samples.

    A hundredth of the size, so that the records of years fit into memory. What can't be true of a time is kept.
    """
    trials = tuple(
        dataclasses.replace(
            trial,
            warmup=Series(),
            samples=Series(
                whole=_condensed(trial.samples.whole),
                stages={name: _condensed(times) for name, times in trial.samples.stages.items()},
            ),
        )
        for trial in run.trials
    )
    return dataclasses.replace(run, trials=trials)


def _condensed(times: Times) -> Times:
    found = {clock: getattr(times, clock) for clock in _CLOCKS}
    return Times(**{clock: _few(clock, samples) for clock, samples in found.items() if samples})


def _few(clock: str, samples: Sequence[float]) -> tuple[float, ...]:
    """Returns the samples' level; where one can't be true or the clock is too coarse, what tells that as well."""
    if not all(map(math.isfinite, samples)):
        return (math.nan,)
    lowest = min(samples)
    return (_level(clock, samples),) if lowest > 0 else (lowest, median(samples), max(samples))


_CLOCKS = tuple(field.name for field in dataclasses.fields(Times))


def _level(clock: str, samples: Sequence[float]) -> float:
    """Returns what a process took by a clock, all its passes together; seconds."""
    return mean(sorted(samples)[:LOWEST]) if clock == "cpu_time_s" else median(samples)


def _time(run: Run) -> datetime:
    found = parse_time(run.started_at)
    if found is None:
        raise RecordError(f"run {run.run_id} started at {run.started_at!r}, which is no ISO 8601 time")
    if found > datetime.now(UTC) + timedelta(days=1):
        raise RecordError(f"run {run.run_id} is dated {run.started_at}, in the future; remove it or correct the clock")
    return found


def _by_case(runs: Iterable[Run]) -> dict[object, list[Run]]:
    """Returns the runs of each case."""
    cases: dict[object, list[Run]] = {}
    for run in runs:
        cases.setdefault(key(run, "case"), []).append(run)
    return cases


def _check_runs(side: str, runs: Sequence[Run]) -> None:
    if not runs:
        raise RecordError(f"the {side} has no run; expected records that 'vilt-bench run' saved")
    for run in runs:
        if run.environment is None:
            raise RecordError(f"run {run.run_id} of the {side} does not tell its machine; measure it again")
        if run.failure is not None:
            raise RecordError(
                f"run {run.run_id} of the {side} failed ({run.failure.kind}: {run.failure.message}); measure it again"
            )
        if not any(trial.samples.of(WHOLE).latency_s for trial in run.trials):
            raise RecordError(f"run {run.run_id} of the {side} has no timed pass; measure it again")
        for trial in run.trials:
            for stage in (WHOLE, *trial.samples.stages):
                times = trial.samples.of(stage)
                values = [value for clock in dataclasses.fields(times) for value in getattr(times, clock.name) or ()]
                if any(not math.isfinite(value) or value < 0 for value in values):
                    raise RecordError(
                        f"run {run.run_id} of the {side}, trial {trial.index + 1}, {stage}: a time is negative or "
                        "not finite, so a clock was set or the record was edited; measure it again"
                    )
                if stage == WHOLE and not all(times.latency_s):
                    raise RecordError(
                        f"run {run.run_id} of the {side}, trial {trial.index + 1}, {stage}: a time is zero, which no "
                        "pass takes; measure it again"
                    )


def _check_comparable(
    baseline: Sequence[Run], candidate: Sequence[Run], allow_different: Sequence[str]
) -> dict[str, str]:
    """Returns what differs and may, by name."""
    runs = (*baseline, *candidate)
    check_names(allow_different, runs, "compare")
    found = differences(runs, "compare")
    differing = {each.name: " / ".join(dict.fromkeys(each.values)) for each in found}
    refused = [each.name for each in found if each.matters and not {each.name, ALL}.intersection(allow_different)]
    if refused:
        told = "; ".join(f"{name} {differing[name]}" for name in refused)
        raise ConfigError(
            f"baseline and candidate differ in {told}; measure both alike, "
            f"or give `allow_different` {','.join(refused)}"
        )
    return differing


def _once(runs: Sequence[Run]) -> list[Run]:
    """Returns each run once, however often it was named."""
    return list({run.run_id: run for run in runs}.values())


def _together(baseline: Sequence[Run], candidate: Sequence[Run]) -> bool:
    """Returns whether the two were measured in turns, or block by block."""
    return {run.group for run in baseline} == {run.group for run in candidate}


def _stage_names(run: Run) -> list[str]:
    return [name for trial in run.trials for name in trial.samples.stages]


def _latency_s(runs: Sequence[Run], stage: str) -> float | None:
    medians = [median(times) for run in runs for trial in run.trials if (times := trial.samples.of(stage).latency_s)]
    return median(medians) if medians else None


def _evidence(
    baseline: Sequence[Run], candidate: Sequence[Run], stage: str, sessions: Sequence[Run] | None, *, error: float
) -> Iterator[Evidence]:
    """Yields what the clocks say; with earlier sessions, which tell the drift, or `None` where both were together."""
    timed = [trial.samples.of(stage) for run in (*baseline, *candidate) for trial in run.trials]
    on_device = any(times.device_time_s for times in timed)
    for channel in ("device_time",) if on_device else ("wall_time", "cpu_time"):
        before, after = (_logs(runs, stage, channel) for runs in (baseline, candidate))
        drift = 0.0 if sessions is None else _drift(sessions, stage, channel, error)
        found = unpaired(channel, before, after, drift=drift)
        if found is not None and channel == "cpu_time":
            before_s, after_s = (math.exp(trimmed_mean(logs)) for logs in (before, after))
            found = dataclasses.replace(found, baseline_s=before_s, candidate_s=after_s)
        if found is not None:
            yield found


def _logs(runs: Sequence[Run], stage: str, channel: str) -> list[float]:
    """Returns a number a process; none where the clock has none, or is too coarse for the stage."""
    columns = [getattr(trial.samples.of(stage), f"{channel}_s") for run in runs for trial in run.trials]
    columns = [column for column in columns if column]
    if any(value <= 0 for column in columns for value in column):
        return []
    return [math.log(_level(f"{channel}_s", each)) for each in columns]


def _drift(sessions: Sequence[Run], stage: str, channel: str, error: float) -> float:
    """Returns how far two sessions of the machine may lie apart, as a logarithm."""
    levels = _levels(sessions, stage, channel)
    if len(levels) < LEAST_SESSIONS:
        return math.log1p(DRIFT[channel])
    # One session to another, of as many as it takes to know the spread; one-sided, for half the error.
    return student_t(len(levels) - 1, 1 - 2 * error) * stdev(levels) * math.sqrt(2)


def _levels(sessions: Sequence[Run], stage: str, channel: str) -> list[float]:
    """Returns the mean logarithm of each session that has times by that clock."""
    groups: dict[str, list[float]] = {}  # what was measured together is one session
    for run in sessions:
        groups.setdefault(run.group, []).extend(_logs([run], stage, channel))
    return [mean(logs) for logs in groups.values() if logs]


def _side(name: str, runs: Sequence[Run]) -> Side:
    versions = dict.fromkeys(
        f"{OWN} {run.environment.versions[OWN]}"
        for run in runs
        if run.environment is not None and OWN in run.environment.versions
    )
    model = next((run.model for run in reversed(runs) if run.model is not None), None)
    return Side(
        name,
        tuple(run.run_id for run in runs),
        sum(len(run.trials) for run in runs),
        tuple(versions),
        pixels=None if model is None else model.resolution,
        visual_tokens=None if model is None else model.visual_tokens,
        images_per_pass=runs[-1].case.images_per_pass,
    )


def _notes(
    baseline: Sequence[Run], candidate: Sequence[Run], whole: Subject, sessions: Sequence[Run], *, together: bool
) -> Iterator[str]:
    if together:
        yield "Both sides were measured together: no drift between sessions is allowed for."
    elif whole.evidence:
        allowed = ", ".join(
            f"{_drifted(each)} of {clock_name(each.channel)} ({_source(len(_levels(sessions, WHOLE, each.channel)))})"
            for each in whole.evidence
        )
        yield (
            f"Measured at different times: the machine's drift is allowed for, up to {allowed}. "
            "'vilt-bench gate' measures both together and finds far smaller slowdowns."
        )
    for name, runs in (("baseline", baseline), ("candidate", candidate)):
        processes = sum(len(run.trials) for run in runs)
        if processes < ENOUGH_PROCESSES:
            has = counted(processes, "process", "processes")
            yield f"The {name} has {has}; {ENOUGH_PROCESSES} or more (--trials) narrow the interval."
        if any(run.interrupted for run in runs):
            yield f"The {name} was interrupted before it was complete."


def _drifted(evidence: Evidence) -> str:
    share = 100 * math.expm1(min(evidence.drift, math.log(WIDEST)))
    return f"{share:.0f}%" if evidence.drift < math.log(WIDEST) else "an unknown share"


def _source(sessions: int) -> str:
    return f"by {sessions} sessions" if sessions >= LEAST_SESSIONS else f"no {LEAST_SESSIONS} sessions of it are known"


def count_changes(baseline: Sequence[Stage], candidate: Sequence[Stage]) -> tuple[CountChange, ...]:
    """Returns what differs in parameters, FLOPs and peak memory, stage by stage."""
    return tuple(_count_changes(baseline, candidate)) if baseline and candidate else ()


def _count_changes(baseline: Sequence[Stage], candidate: Sequence[Stage]) -> Iterator[CountChange]:
    before, after = ({stage.name: stage for stage in stages} for stages in (baseline, candidate))
    for name in dict.fromkeys([*before, *after]):
        for quantity, of in _COUNTED.items():
            stages = (before.get(name), after.get(name))
            old, new = (None if stage is None else of(stage) for stage in stages)
            if old != new:
                yield CountChange(name, quantity, old, new)


_COUNTED: Mapping[Counted, Callable[[Stage], int | None]] = {
    "parameters": lambda stage: stage.parameters,
    "flops": lambda stage: stage.flops,
    "peak_bytes": lambda stage: None if stage.memory is None else stage.memory.peak_bytes,
}
"""What is counted of a stage, by the names of `report.columns`."""


def software_differences(baseline: Environment, candidate: Environment) -> tuple[str, ...]:
    """Returns the versions and settings that differ, such as `torch 2.9.0 / 2.10.0`."""
    fields = ((baseline.versions, candidate.versions), (baseline.settings, candidate.settings))
    return tuple(
        f"{name} {before.get(name, '–')} / {after.get(name, '–')}"
        for before, after in fields
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that makes no sense.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not (math.isfinite(tolerance) and 0 < tolerance < 1):
        raise ConfigError(
            f"must be between 0 and 100%, as in `tolerance` 2.5%, got {100 * tolerance:g}%", field="tolerance"
        )
