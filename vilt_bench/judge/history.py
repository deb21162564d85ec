"""Latency over commits: folders of records in; a history for each case and machine out, with its changes of level."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, get_args

from vilt_bench import files
from vilt_bench.ask.case import Case, case_name, label
from vilt_bench.ask.rule import NEWEST, Order
from vilt_bench.errors import ConfigError, RecordError, ViltBenchError
from vilt_bench.judge.change_points import ERROR, LEAST_RUNS, find_shifts
from vilt_bench.judge.estimate import Estimate, estimate
from vilt_bench.judge.latency import trial_median
from vilt_bench.judge.throughput import images_of, images_per_second
from vilt_bench.record.alike import MAY_BE_UNTOLD, key
from vilt_bench.record.codec import decode
from vilt_bench.record.journal import InProgressError
from vilt_bench.record.load import EmptyFolderError, read_folder
from vilt_bench.record.run import WHOLE, Model, Run, Source, parse_time

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Point:
    """One run, as far as a history needs it."""

    run_id: str
    started_at: datetime
    source: Source | None
    medians_s: Mapping[str, tuple[float, ...]]
    """By stage and component, and of the `whole`: the median of each trial, in seconds."""
    setup: Mapping[str, str]
    """Versions, settings that change speed, and what the model saw."""
    pixels: tuple[int, int] | None = None
    """(height, width) of what the model saw; `None`: not recorded."""
    visual_tokens: int | None = None

    @property
    def committed_at(self) -> datetime:
        """When the commit was made; when the run was, where there is no commit."""
        return self.started_at if self.source is None else parse_time(self.source.committed_at) or self.started_at

    @property
    def commit(self) -> str | None:
        """The commit, short, with a `*` where files differed from it."""
        return None if self.source is None else self.source.commit[:8] + "*" * self.source.dirty

    def latency_s(self, stage: str = WHOLE) -> float | None:
        """Returns the mean of the trials' medians; `None` where the stage was not measured."""
        medians = self.medians_s.get(stage)
        return fmean(medians) if medians else None

    def latency(self, stage: str = WHOLE) -> Estimate | None:
        """Returns the latency in seconds with its 95% interval over trials, which takes three of them."""
        return estimate([[[value]] for value in self.medians_s.get(stage, ())])


@dataclass(frozen=True)
class Change:
    """A change of level of one stage."""

    stage: str
    index: int
    """Of the first run of the new level, among the history's points."""
    ratio: float
    """New level over old: above 1 it is slower."""
    low: float
    """Of the 95% interval of the ratio."""
    high: float
    before_s: float
    after_s: float
    probability: float
    """Of so clear a change in a history that has none."""
    first: Point
    """The first run of the new level."""
    last: Point
    """The last run of the old one: the change was made after its commit."""
    differences: tuple[str, ...]
    """What else changed between the two runs, such as `torch 2.9.0 → 2.10.0`."""

    @property
    def slower(self) -> bool:
        """Whether it is a slowdown."""
        return self.ratio > 1


@dataclass(frozen=True)
class CaseHistory:
    """The runs of one case on one machine, in order."""

    case: Case
    machine: str
    fingerprint: str
    device: str
    threads: int
    points: tuple[Point, ...]
    omp_wait_policy: str | None = None
    in_turns: bool = False
    """Whether these are candidates of gates: measured in turns with a baseline, which is no plain run."""
    changes: tuple[Change, ...] = ()
    """In order of their runs; those of the whole first where they begin together."""
    failed: int = 0
    """Runs without times."""
    otherwise: CaseHistory | None = None
    """The same in the other order, by time of run or of commit; `None` where the two agree."""

    @property
    def name(self) -> str:
        """The case's name; where it was run is told apart."""
        return case_name(replace(self.case, device="auto", threads=None))

    @property
    def embedder(self) -> str:
        """As written on the command line."""
        return label(self.case)

    @property
    def enough(self) -> bool:
        """Whether there are runs enough to tell a change."""
        return len(self.points) >= LEAST_RUNS

    @property
    def stages(self) -> tuple[str, ...]:
        """The whole, then components and stages in order."""
        names = dict.fromkeys(name for point in self.points for name in point.medians_s)
        return tuple(names)

    def changes_of(self, stage: str) -> tuple[Change, ...]:
        """Returns the changes of one stage."""
        return tuple(change for change in self.changes if change.stage == stage)


@dataclass(frozen=True)
class History:
    """All histories of some folders."""

    cases: tuple[CaseHistory, ...]
    stages: tuple[str, ...] = ()
    """The stages that were asked for; none: all."""
    order: Order = "commit"
    unreadable: tuple[str, ...] = ()
    """A sentence for each file that was left out."""
    records: int = 0
    """Files that were read."""

    def to_frame(self) -> pd.DataFrame:
        """Returns a tidy `pandas.DataFrame`: one row a run and stage.

        Columns: case, embedder, machine, fingerprint, device, threads, batch_size, images_per_text,
        frames, tiles, dtype, height, width, visual_tokens, run_id, started_at, committed_at, commit, branch, dirty,
        stage, latency_s, low_s, high_s, images_per_second, images_per_second_low, images_per_second_high, trials,
        change (the ratio where a change begins).
        """
        import pandas as pd

        return pd.DataFrame(list(rows(self)), columns=list(FIELDS))

    def _repr_html_(self) -> str:
        """Returns the levels by stage, as a notebook shows them."""
        from vilt_bench.report.cells import of_history

        return of_history(self)

    def current(self, newest: int = NEWEST) -> list[CaseHistory]:
        """Returns the histories that go on.

        Of a case's histories on several machines, those that have a run since the newest runs of the one that was
        measured last began.
        """

        def what(case: CaseHistory) -> tuple[Case, bool]:
            return replace(case.case, device="auto", threads=None), case.in_turns

        times = [sorted(point.started_at for point in case.points) for case in self.cases]
        found = []
        for case, own in zip(self.cases, times, strict=True):
            rivals = [each for other, each in zip(self.cases, times, strict=True) if what(other) == what(case)]
            if own[-1] >= max(rivals, key=lambda each: each[-1])[-newest:][0]:
                found.append(case)
        return found

    def began(self, newest: int = NEWEST) -> list[tuple[CaseHistory, Change]]:
        """Returns the slowdowns that began within the newest runs of each history that goes on.

        Of the whole, or of the stages that were asked for.
        """
        looked_at = self.stages or (WHOLE,)
        return [(case, change) for case in self.current(newest) for change in _newly_slower(case, looked_at, newest)]

    def began_otherwise(self, newest: int = NEWEST) -> list[tuple[CaseHistory, Change | None]]:
        """Returns histories of which the other order says otherwise whether a slowdown began, and that slowdown.

        `None` instead of a slowdown: one began in this order, and none in the other.
        """
        looked_at = self.stages or (WHOLE,)
        found: list[tuple[CaseHistory, Change | None]] = []
        for case in self.current(newest):
            if case.otherwise is None:
                continue
            here, there = (_newly_slower(each, looked_at, newest) for each in (case, case.otherwise))
            found += [(case, change) for change in there[:1] if not here]
            found += [(case, None) for _ in here[:1] if not there]
        return found


def _newly_slower(case: CaseHistory, stages: Sequence[str], newest: int) -> list[Change]:
    first = len(case.points) - newest
    return [change for change in case.changes if change.slower and change.stage in stages and change.index >= first]


@dataclass
class _Gathered:
    """A history while its records are read."""

    run: Run
    points: list[Point] = field(default_factory=list)
    failed: int = 0


def history(
    *folders: str | os.PathLike[str],
    embedders: Sequence[str] = (),
    stages: Sequence[str] = (),
    since: str | datetime | None = None,
    limit: int | None = None,
    order: Order = "commit",
    strict: bool = False,
) -> History:
    """Returns how latency went over commits, for each case and machine, with the changes of level.

    Args:
        folders: of records; paths, or URLs that fsspec understands.
        embedders: names, with or without their options; none: all.
        stages: `whole`, components or stages, by full or last name; none: all.
        since: a date such as 2026-10-01, or `90d` for the last 90 days; earlier ones are left out.
        limit: newest runs of each history that are looked at; `None`: all.
        order: by time of commit or of run.
        strict: refuse a folder with an unreadable record, instead of leaving it out and saying so; one that is named
            itself is refused in any case.

    Raises:
        ConfigError: an option is wrong, or a folder can't be reached.
        RecordError: there is no record that can be read; with `strict`, one can't be.
    """
    if order not in get_args(Order):
        raise ConfigError(f"must be one of {', '.join(get_args(Order))}; got {order!r}", field="order")
    if limit is not None and limit < 1:
        raise ConfigError(f"must be at least 1, got {limit}", field="limit")
    earliest = _since(since)
    gathered, unreadable, count = _gather(folders, strict=strict)
    if not gathered:
        more = f" ({unreadable[0]})" if unreadable else ""
        raise RecordError(
            f"none of the {count} records in {', '.join(str(os.fspath(folder)) for folder in folders)} has times{more}"
        )
    kept = _of_embedders(list(gathered.values()), embedders)

    def ordered(points: Sequence[Point], order: Order) -> list[Point]:
        def time(point: Point) -> tuple[datetime, datetime]:
            return (point.committed_at if order == "commit" else point.started_at), point.started_at

        chosen = sorted((point for point in points if earliest is None or time(point)[0] >= earliest), key=time)
        return chosen[-(limit or 0) :]

    other: Order = "run" if order == "commit" else "commit"
    cases = []
    for each in kept:
        points, otherwise = ordered(each.points, order), ordered(each.points, other)
        if points:
            apart = _history(each, otherwise) if otherwise and otherwise != points else None
            cases.append(replace(_history(each, points), otherwise=apart))
    if not cases:
        raise ConfigError(f"no run since {since}; give an earlier `since`")
    wanted = _stages(cases, stages)
    cases.sort(key=lambda case: (case.name, case.machine, case.fingerprint, case.device, case.threads))
    return History(
        cases=tuple(_with_changes(case, wanted) for case in cases),
        stages=wanted,
        order=order,
        unreadable=tuple(unreadable),
        records=count,
    )


def _gather(
    folders: Sequence[str | os.PathLike[str]], *, strict: bool
) -> tuple[dict[object, _Gathered], list[str], int]:
    """Returns the histories that have times, by what sets them apart; what could not be read; how many were read."""
    named = {str(Path(folder)) for folder in folders if files.is_file(folder)}
    gathered: dict[object, _Gathered] = {}
    unreadable: list[str] = []
    seen: set[str] = set()
    collecting = gc.isenabled()
    gc.disable()  # records make no cycles, but objects by the thousand
    try:
        for name, content in _files(folders):
            try:
                if isinstance(content, RecordError):
                    raise content
                run = decode(content, name=name)
                if run.run_id in seen:
                    continue
                point = _point(run, name)
            except ViltBenchError as error:
                if (strict or name in named) and not isinstance(error, InProgressError):
                    raise
                unreadable.append(str(error))
                continue
            seen.add(run.run_id)
            if run.side == "baseline":  # of a commit that its candidates tell of
                continue
            each = gathered.setdefault(key(run, "history"), _Gathered(run))
            if point.medians_s.get(WHOLE):
                each.points.append(point)
            else:
                each.failed += 1
    finally:
        if collecting:
            gc.enable()
    return {apart: each for apart, each in gathered.items() if each.points}, unreadable, len(seen) + len(unreadable)


def _files(folders: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[str, bytes | RecordError]]:
    """Returns the records of all folders; one may be empty, as a history is that has not begun, but not all."""
    empty: list[EmptyFolderError] = []
    for folder in folders:
        try:
            yield from read_folder(folder)
        except EmptyFolderError as error:
            empty.append(error)
    if empty and len(empty) == len(folders):
        raise empty[0]


def _point(run: Run, name: str) -> Point:
    medians: dict[str, list[float]] = {}
    for trial in run.trials:
        series = trial.samples
        components: dict[str, list[str]] = {}
        for stage in series.stages:
            components.setdefault(stage.partition(".")[0], []).append(stage)
        parts = {WHOLE: series.whole.latency_s}
        for component, names in components.items():  # each before its stages
            stages = {name: series.stages[name].latency_s for name in names}
            parts[component] = tuple(map(sum, zip(*stages.values(), strict=False)))
            parts |= stages
        for part, samples in parts.items():
            if not samples:
                continue
            if min(samples) < 0:
                raise RecordError(f"{name} is no valid record: {part} has times below zero")
            if value := trial_median(series) if part == WHOLE else median(samples):
                medians.setdefault(part, []).append(value)
    started_at = parse_time(run.started_at)
    if started_at is None:
        raise RecordError(f"{name} is no valid record: it started at {run.started_at!r}, which is no ISO 8601 time")
    where = run.environment
    return Point(
        run_id=run.run_id,
        started_at=started_at,
        source=run.source,
        medians_s={part: tuple(values) for part, values in medians.items()},
        setup=({} if where is None else {**where.versions, **where.settings}) | _saw(run.model),
        pixels=None if run.model is None else run.model.resolution,
        visual_tokens=None if run.model is None else run.model.visual_tokens,
    )


def _saw(model: Model | None) -> dict[str, str]:
    if model is None:
        return {}
    return {
        "pixels": "×".join(map(str, model.resolution)),
        "visual tokens": str(model.visual_tokens),
        "photographs": ", ".join(model.images),
    }


def _history(each: _Gathered, points: Sequence[Point]) -> CaseHistory:
    where = each.run.environment
    return CaseHistory(
        case=each.run.case,
        machine="unknown machine" if where is None else where.machine,
        fingerprint="" if where is None else where.fingerprint,
        device=each.run.case.device if where is None else where.device,
        threads=0 if where is None else where.threads,
        points=tuple(points),
        omp_wait_policy=None if where is None else where.omp_wait_policy,
        in_turns=each.run.side is not None,
        failed=each.failed,
    )


def _with_changes(case: CaseHistory, stages: Sequence[str]) -> CaseHistory:
    otherwise = None if case.otherwise is None else _with_changes(case.otherwise, stages)
    return replace(case, changes=_changes(case, stages), otherwise=otherwise)


def _changes(case: CaseHistory, stages: Sequence[str]) -> tuple[Change, ...]:
    """Returns the changes of the stages; all stages but the whole share one probability of a false alarm."""
    looked_at = [stage for stage in case.stages if not stages or stage in stages]
    found = []
    for stage in looked_at:
        measured = [(i, value) for i, point in enumerate(case.points) if (value := point.latency_s(stage)) is not None]
        error = ERROR if stage == WHOLE else ERROR / sum(name != WHOLE for name in looked_at)
        for shift in find_shifts([value for _, value in measured], error=error):
            index = measured[shift.index][0]
            first, last = case.points[index], case.points[measured[shift.index - 1][0]]
            found.append(
                Change(
                    stage=stage,
                    index=index,
                    ratio=shift.ratio,
                    low=shift.low,
                    high=shift.high,
                    before_s=shift.before,
                    after_s=shift.after,
                    probability=shift.probability,
                    first=first,
                    last=last,
                    differences=tuple(_differences(last.setup, first.setup)),
                )
            )
    return tuple(sorted(found, key=lambda change: change.index))


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        if name in MAY_BE_UNTOLD and not (name in before and name in after):
            continue
        if before.get(name) != after.get(name):
            yield f"{name} {before.get(name, '–')} → {after.get(name, '–')}"


def _of_embedders(gathered: list[_Gathered], embedders: Sequence[str]) -> list[_Gathered]:
    there = {name for each in gathered for name in (each.run.case.embedder, label(each.run.case))}
    if unknown := [name for name in embedders if name not in there]:
        raise ConfigError(f"no run of `embedders` {unknown[0]}; there is {', '.join(sorted(there))}")
    return [
        each for each in gathered if not embedders or {each.run.case.embedder, label(each.run.case)} & set(embedders)
    ]


def _stages(cases: Sequence[CaseHistory], stages: Sequence[str]) -> tuple[str, ...]:
    """Returns full names of the stages asked for."""
    there = dict.fromkeys(name for case in cases for name in case.stages)
    found = []
    for asked in stages:
        matches = [name for name in there if asked in (name, name.rpartition(".")[2])]
        if not matches:
            raise ConfigError(f"no run has `stages` {asked}; there is {', '.join(there)}")
        found += matches
    return tuple(dict.fromkeys(found))


def _since(since: str | datetime | None) -> datetime | None:
    if since is None or isinstance(since, datetime):
        return since if since is None or since.tzinfo else since.replace(tzinfo=UTC)
    if match := re.fullmatch(r"(\d{1,5})d", since.strip()):
        return datetime.now(UTC) - timedelta(days=int(match[1]))
    found = parse_time(since)
    if found is None:
        raise ConfigError(
            f"{since!r} is neither a date such as 2026-10-01 nor a number of days such as 90d", field="since"
        )
    return found


FIELDS = (
    "case", "embedder", "machine", "fingerprint", "device", "threads", "batch_size", "images_per_text",
    "frames", "tiles", "dtype", "height", "width", "visual_tokens", "run_id", "started_at", "committed_at", "commit",
    "branch", "dirty", "stage", "latency_s", "low_s", "high_s", "images_per_second", "images_per_second_low",
    "images_per_second_high", "trials", "change",
)  # fmt: skip


def rows(history: History) -> Iterator[dict[str, Any]]:
    """Returns one row a run and stage, with the columns of `FIELDS`; `None` is unknown."""
    for case in history.cases:
        begins = {(change.index, change.stage): change.ratio for change in case.changes}
        for index, point in enumerate(case.points):
            for stage in shown_stages(case, history):
                found = point.latency(stage)
                if found is None:
                    continue
                height, width = point.pixels or (None, None)
                rate = images_per_second(found, images_of(case.case))
                yield {
                    "case": case.name,
                    "embedder": case.embedder,
                    "machine": case.machine,
                    "fingerprint": case.fingerprint,
                    "device": case.device,
                    "threads": case.threads,
                    "batch_size": case.case.batch_size,
                    "images_per_text": case.case.images_per_text,
                    "frames": case.case.frames,
                    "tiles": case.case.tiles,
                    "dtype": case.case.dtype,
                    "height": height,
                    "width": width,
                    "visual_tokens": point.visual_tokens,
                    "run_id": point.run_id,
                    "started_at": point.started_at.isoformat(),
                    "committed_at": point.committed_at.isoformat() if point.source is not None else None,
                    "commit": point.source.commit if point.source is not None else None,
                    "branch": point.source.branch if point.source is not None else None,
                    "dirty": point.source.dirty if point.source is not None else None,
                    "stage": stage,
                    "latency_s": found.value,
                    "low_s": found.low,
                    "high_s": found.high,
                    "images_per_second": None if rate is None else rate.value,
                    "images_per_second_low": None if rate is None else rate.low,
                    "images_per_second_high": None if rate is None else rate.high,
                    "trials": found.samples,
                    "change": begins.get((index, stage)),
                }


def shown_stages(case: CaseHistory, history: History) -> list[str]:
    """Returns the stages that were asked for, of those that the case has."""
    return [stage for stage in case.stages if not history.stages or stage in history.stages]
