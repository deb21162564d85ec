"""Passes, blocks, trials and cases joined."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeVar

from vilt_bench.ask.case import label
from vilt_bench.errors import RecordError
from vilt_bench.record.alike import key
from vilt_bench.record.run import Run, Series, Times, parse_time

Item = TypeVar("Item")


def join_blocks(parts: Sequence[Series]) -> Series:
    """Returns successive series of one process as one, blocks kept apart; all have the stages of the first."""
    if not parts:
        return Series()
    return Series(
        whole=join_times([part.whole for part in parts]),
        stages={name: join_times([part.stages[name] for part in parts]) for name in parts[0].stages},
        instrumented=join_times([part.instrumented for part in parts]),
        blocks=tuple(chain.from_iterable(part.blocks for part in parts)),
    )


def join_times(parts: Sequence[Times]) -> Times:
    """Returns times one after the other; a clock that one of them lacks is absent."""

    def joined(clock: str) -> tuple[float, ...] | None:
        columns = [getattr(part, clock) for part in parts]
        return None if None in columns or not columns else tuple(chain.from_iterable(columns))

    return Times(**{clock.name: joined(clock.name) for clock in fields(Times)})


def join_passes(parts: Sequence[Series]) -> Series:
    """Returns single passes of a process as one series."""
    wholes = [part.whole for part in parts if part.whole.latency_s]
    staged = [part for part in parts if part.instrumented.latency_s]
    names = list(staged[0].stages) if staged else []
    return Series(
        whole=join_times(wholes),
        stages={name: join_times([part.stages[name] for part in staged]) for name in names},
        instrumented=join_times([part.instrumented for part in staged]),
        blocks=(len(wholes),) if wholes else (),
    )


def in_order(runs: Iterable[Run]) -> list[Run]:
    """Returns the runs by start, and those that were measured together in the order in which they were asked for.

    Records that do not say it are then by embedder and size.
    """
    return sorted(runs, key=place)


def place(run: Run) -> tuple[Any, ...]:
    """Returns what `in_order` orders by."""
    height, width = run.case.resolution or (0, 0)
    asked = (run.case.embedder, height * width, run.case.batch_size, run.case.text_length, label(run.case))
    side = ("baseline", "candidate", None).index(run.side)
    start = parse_time(run.started_at) or datetime.min.replace(tzinfo=UTC)
    return start, run.group, run.position is None, run.position or 0, asked, side, run.run_id


def join_trials(runs: Sequence[Run]) -> Run:
    """Returns runs of one case as one run with all their trials.

    Raises:
        RecordError: they are not of one case.
    """
    first = runs[0]
    if any(run.case != first.case for run in runs):
        raise RecordError(f"run {first.run_id} and others are of different cases; join the trials of one case only")
    trials = [trial for run in runs for trial in run.trials]
    # Each record was allowed its own time; the joined one all of it.
    sampling = dataclasses.replace(
        first.sampling,
        trials=sum(run.sampling.trials for run in runs),
        max_time_s=first.sampling.max_time_s * len(runs),
    )
    counted = next((run for run in runs if run.stages), first)
    return dataclasses.replace(
        first,
        sampling=sampling,
        environment=max(runs, key=lambda run: run.started_at).environment,  # the newest tells the most
        model=counted.model or first.model,
        stages=counted.stages,
        energy=counted.energy,
        trials=tuple(dataclasses.replace(trial, index=index) for index, trial in enumerate(trials)),
        failure=next((run.failure for run in runs if run.failure is not None), None),
        interrupted=any(run.interrupted for run in runs),
        warnings=tuple(dict.fromkeys(warning for run in runs for warning in run.warnings)),
    )


def join_cases(runs: Sequence[Run]) -> list[Run]:
    """Returns a run for each case, sampling, machine, software, commit and side, with all trials, in the order given.

    Runs that failed are joined with nothing.
    """
    return [join_trials(group) if len(group) > 1 else group[0] for group in joinable(runs, lambda run: run)]


def joinable(items: Iterable[Item], run_of: Callable[[Item], Run]) -> list[list[Item]]:
    """Returns the items by what `join_cases` joins, in the order given.

    Args:
        items: any.
        run_of: gives an item's run, which may be without samples.
    """
    groups: dict[object, list[Item]] = {}
    for item in items:
        run = run_of(item)
        alone = run.environment is None or run.failure is not None
        groups.setdefault(run.run_id if alone else key(run, "join"), []).append(item)
    return list(groups.values())


def without_samples(run: Run) -> Run:
    """Returns what of a run says what it is of: a hundredth of its size."""
    return dataclasses.replace(run, trials=(), stages=(), energy=None, warnings=())
