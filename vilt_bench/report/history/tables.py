"""The tables of a history: levels by stage, and the newest runs."""

from __future__ import annotations

from statistics import median

from vilt_bench.judge.history import CaseHistory, History, shown_stages
from vilt_bench.judge.throughput import images_of, images_per_second
from vilt_bench.report.history.words import SPARK_CELLS, percent, sparkline, title
from vilt_bench.report.numbers import ABSENT, milliseconds_interval, milliseconds_of, number
from vilt_bench.report.tables import Cell, Column, Line, Table, lines, text_column

NEWEST_ROWS = 12
"""Runs that are listed one by one."""
MOST_STAGES = 5
"""Of a run that is listed."""
_WIDE = 110
"""Columns from which a terminal has room for throughput."""


def levels(case: CaseHistory, history: History, *, cells: int = SPARK_CELLS, plain: bool = False) -> Table:
    """Returns a line a stage: the newest latency and throughput, the level and its change, a sparkline.

    Args:
        case: one history.
        history: of which it is one.
        cells: of the sparkline, at most.
        plain: ASCII only.
    """
    found = []
    for stage in shown_stages(case, history):
        changes = case.changes_of(stage)
        values = [point.latency_s(stage) for point in case.points]
        known = [value for value in values if value is not None]
        level, first = (changes[-1].after_s, changes[0].before_s) if changes else (median(known), median(known))
        said: list[Cell | str] = [
            title(stage),
            milliseconds_interval(newest_s := case.points[-1].latency(stage)),
            ABSENT if (rate := images_per_second(newest_s, images_of(case.case))) is None else number(rate.value),
            milliseconds_of(level),
            percent(level / first) if changes else ABSENT,
            str(len(changes)) if case.enough else ABSENT,
            sparkline(values, cells=cells, plain=plain),
        ]
        found.append(Line(said, depth=int("." in stage), strong="." not in stage))
    columns = (
        text_column("Stage", long="fold"),
        Column("Newest", "ms", "95% interval"),
        Column("Images/s of the newest", screen="Images/s", least_width=_WIDE),
        Column("Level", "ms"),
        Column("Since first", screen="Since\nfirst"),
        Column("Changes"),
        text_column("Oldest to newest", screen="Oldest to\nnewest"),
    )
    return Table(columns, found)


def newest(case: CaseHistory, history: History) -> Table:
    """Returns the newest runs, newest first, with the whole and its components, or the stages that were asked for."""
    stages = shown_stages(case, history) if history.stages else [name for name in case.stages if "." not in name]
    stages = stages[:MOST_STAGES]
    marks = {(change.index, change.stage): "▲" if change.slower else "▼" for change in case.changes}
    shown = list(enumerate(case.points))[-NEWEST_ROWS:]
    rows = []
    for index, point in reversed(shown):
        time = point.committed_at if history.order == "commit" else point.started_at
        branch = point.source.branch if point.source is not None else None
        times = (f"{marks.get((index, stage), '')}{milliseconds_of(point.latency_s(stage))}" for stage in stages)
        rows.append([f"{time:%Y-%m-%d %H:%M}", *times, point.commit or ABSENT, branch or ABSENT])
    earlier = len(case.points) - len(shown)
    columns = (
        text_column("Commit of" if history.order == "commit" else "Run of"),
        *(Column(title(stage), "ms", screen=title(stage).replace(" ", "\n")) for stage in stages),
        text_column("Commit"),
        text_column("Branch", long="cut"),
    )
    caption = f"and {earlier} earlier runs; --format csv has all" if earlier else ""
    return Table(columns, lines(rows), caption=caption)
