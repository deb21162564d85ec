"""Histories for a terminal, and as CSV, JSON and Markdown: sparklines, levels, and where they changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vilt_bench.ask.case import Case
from vilt_bench.errors import ConfigError
from vilt_bench.judge.change_points import LEAST_RUNS
from vilt_bench.judge.history import FIELDS, CaseHistory, Change, History, Point, rows, shown_stages
from vilt_bench.report import clean, terminal
from vilt_bench.report.numbers import ABSENT, milliseconds_interval, number
from vilt_bench.words import counted

FORMATS = ("table", "csv", "json", "markdown")


PICTURES = ("svg", "png", "pdf")


WIDTH = 100
"""Columns of a table that goes to a file."""


NEWEST_ROWS = 12
"""Runs that a table lists one by one."""


MOST_CHANGES = 12
"""Changes that a table lists; the newest."""


SPARK = "▁▂▃▄▅▆▇█"


PLAIN_SPARK = "_.-=*#"


SPARK_CELLS = 24


FLAT = 0.1
"""A sparkline's full height is at least this share of the median, so that noise looks like noise."""


def render(history: History, format: str) -> str:
    """Returns the histories as text that ends in a newline.

    Raises:
        ConfigError: there is no such format.
    """
    match format:
        case "table":
            return terminal.text(lambda console: show(history, console), WIDTH)
        case "csv":
            return clean.csv_text(FIELDS, rows(history))
        case "json":
            found = [_summary(case, history) for case in history.cases]
            return clean.json_text(json.dumps(found, indent=2, ensure_ascii=False)) + "\n"
        case "markdown":
            blocks = [block for case in history.cases for block in _markdown(case, history)]
            if history.unreadable:
                blocks.append("\n".join(f"- Left out: {clean.markdown(line)}" for line in history.unreadable))
            return "\n\n".join(blocks) + "\n"
        case _:
            raise ConfigError(f"--format must be one of {', '.join(FORMATS + PICTURES)}; got {format!r}")


def show(history: History, console: Console) -> None:
    """Print each history: its levels and sparklines by stage, its changes, its newest runs."""
    plain = console.options.ascii_only
    for case in history.cases:
        console.print()
        console.print(Text.assemble((case.name, "bold"), f" – {case_line(case)}"))
        console.print(Text(f"{machine_line(case)} · {_span(case, history)}", style="dim"))
        console.print()
        console.print(_levels(case, history, plain=plain))
        for line in (*change_lines(case), *order_lines(case, history)):
            console.print(Text(f"• {line}"))
        console.print()
        console.print(_newest(case, history))
    for line in history.unreadable:
        console.print(Text(f"• Left out: {line}"))


def case_line(case: CaseHistory) -> str:
    """Returns what was run, in one line: what differs from the defaults, and batch size and precision."""
    asked, usual = case.case, Case(case.case.embedder)
    saw = dict.fromkeys((point.pixels, point.visual_tokens) for point in case.points)
    size = " / ".join(
        f"{pixels[0]}×{pixels[1]} pixels, {tokens:,} visual tokens"
        for pixels, tokens in saw
        if pixels is not None and tokens is not None
    )
    if not size and asked.resolution is not None:
        size = f"{asked.resolution[0]}×{asked.resolution[1]} pixels asked"
    parts = [size, f"batch {asked.batch_size}", f"{asked.text_length} text tokens", asked.dtype]
    told = ("fit", "linear", "interaction", "checkpoint", "seed")
    parts += [f"{name} {getattr(asked, name)}" for name in told if getattr(asked, name) != getattr(usual, name)]
    if asked.images:
        parts.append(f"images: {', '.join(asked.images)}")
    if asked.vilt != usual.vilt:
        parts.append(f"shared model {asked.vilt.layers} × {asked.vilt.hidden_size}")
    return " · ".join(part for part in parts if part)


def machine_line(case: CaseHistory) -> str:
    """Returns where it was run, in one line."""
    threads = counted(case.threads, "thread") if case.threads else ""
    machine = f"{case.machine} ({case.fingerprint})" if case.fingerprint else case.machine
    policy = f"OMP_WAIT_POLICY={case.omp_wait_policy}" if case.omp_wait_policy else ""
    in_turns = "candidates of gates" if case.in_turns else ""
    return " · ".join(part for part in (machine, case.device, threads, policy, in_turns) if part)


def change_lines(case: CaseHistory) -> list[str]:
    """Returns a sentence for each change, the newest last; or that there is none, or can be none."""
    if not case.enough:
        return [f"{too_few(case)}; {LEAST_RUNS} or more are needed."]
    if not case.changes:
        return ["No change of level."]
    groups: dict[int, list[Change]] = {}
    for change in case.changes:
        groups.setdefault(change.index, []).append(change)
    lines = [change_line(group) for group in list(groups.values())[-MOST_CHANGES:]]
    hidden = len(groups) - len(lines)
    return [f"{hidden} earlier changes; --format json has all.", *lines] if hidden else lines


def order_lines(case: CaseHistory, history: History) -> list[str]:
    """Returns a sentence where the other order of the runs tells other changes."""
    if case.otherwise is None:
        return []
    told, others = ({(change.stage, change.first.run_id) for change in each.changes} for each in (case, case.otherwise))
    if told == others:
        return []
    other = "run" if history.order == "commit" else "commit"
    return [
        f"By time of {other} instead of {history.order} it changes otherwise: "
        f"{'; '.join(change_lines(case.otherwise)).rstrip('.')}. Commits were measured in another order than they are "
        "dated: a clock was wrong, or old ones were measured late."
    ]


def too_few(case: CaseHistory) -> str:
    """Returns that a history is too short."""
    count = len(case.points)
    return f"{count} run{'s are' if count != 1 else ' is'} too few to tell a change"


def change_line(changes: Sequence[Change]) -> str:
    """Returns the changes that begin with one run: when, which commit, how much and how sure, what else changed."""
    head = changes[0]
    where = date(head.first.committed_at)
    if head.first.commit is not None:
        where += f" at {head.first.commit}"
        if head.last.commit is not None and head.last.commit != head.first.commit:
            where += f" (after {head.last.commit})"
    told = [
        f"{title(change.stage)} {_percent(change.ratio)} [{_percent(change.low)}, {_percent(change.high)}]"
        + (f", {_ms(change.before_s)} → {_ms(change.after_s)} ms" if change is head else "")
        for change in changes
    ]
    also = [f"with it {_few(head.differences)}"] if head.differences else []
    return f"{where}: {'; '.join([*told, *also])}"


def title(stage: str) -> str:
    """Returns a stage as tables show it."""
    return stage.replace("_", " ") if "." not in stage else stage.partition(".")[2]


def date(time: datetime) -> str:
    """Returns the day."""
    return f"{time:%Y-%m-%d}"


def sparkline(values: Sequence[float | None], *, cells: int = SPARK_CELLS, plain: bool = False) -> str:
    """Returns the values as a line of blocks, oldest first; a cell is the median of its runs, a gap has none.

    Args:
        values: `None` where there is none.
        cells: at most.
        plain: ASCII only.
    """
    marks = PLAIN_SPARK if plain else SPARK
    count = min(cells, len(values))
    if not count:
        return ""
    edges = [index * len(values) // count for index in range(count + 1)]
    parts = [[value for value in values[start:end] if value is not None] for start, end in pairwise(edges)]
    levels = [median(part) if part else None for part in parts]
    known = [level for level in levels if level is not None]
    if not known:
        return " " * count
    middle = (max(known) + min(known)) / 2
    height = max(max(known) - min(known), FLAT * median(known))
    low = middle - height / 2
    return "".join(
        " " if level is None else marks[min(len(marks) - 1, int((level - low) / height * len(marks)))]
        for level in levels
    )


def _levels(case: CaseHistory, history: History, *, plain: bool) -> Table:
    table = _table("Stage", "Newest (ms)\n[95% interval]", "Level\n(ms)", "Since\nfirst", "Changes")
    table.add_column("Oldest to newest", no_wrap=True, vertical="bottom")
    for stage in shown_stages(case, history):
        changes = case.changes_of(stage)
        values = [point.latency_s(stage) for point in case.points]
        known = [value for value in values if value is not None]
        level, first = (changes[-1].after_s, changes[0].before_s) if changes else (median(known), median(known))
        table.add_row(
            Text(("  " if "." in stage else "") + title(stage), style="" if "." in stage else "bold"),
            milliseconds_interval(case.points[-1].latency(stage)),
            _ms(level),
            _percent(level / first) if changes else ABSENT,
            str(len(changes)) if case.enough else ABSENT,
            Text(sparkline(values, plain=plain)),
        )
    return table


def _newest(case: CaseHistory, history: History) -> Table:
    """Returns the newest runs, newest first, with the whole and its components, or the stages that were asked for."""
    stages = shown_stages(case, history) if history.stages else [name for name in case.stages if "." not in name]
    table = _table("Commit of" if history.order == "commit" else "Run of", *(f"{title(s)}\n(ms)" for s in stages[:5]))
    table.add_column("Commit", no_wrap=True, vertical="bottom")
    table.add_column("Branch", overflow="ellipsis", vertical="bottom")
    marks = {(change.index, change.stage): "▲" if change.slower else "▼" for change in case.changes}
    newest = list(enumerate(case.points))[-NEWEST_ROWS:]
    for index, point in reversed(newest):
        time = point.committed_at if history.order == "commit" else point.started_at
        table.add_row(
            f"{time:%Y-%m-%d %H:%M}",
            *(f"{marks.get((index, stage), '')}{_ms(point.latency_s(stage))}" for stage in stages[:5]),
            Text(point.commit or ABSENT),
            Text((point.source.branch if point.source is not None else None) or ABSENT),
        )
    if earlier := len(case.points) - len(newest):
        table.caption = f"and {earlier} earlier runs; --format csv has all"
        table.caption_justify = "left"
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    table.add_column(first, no_wrap=True, vertical="bottom")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    return table


def _span(case: CaseHistory, history: History) -> str:
    times = [point.committed_at if history.order == "commit" else point.started_at for point in case.points]
    runs = counted(len(times), "run")
    failed = f", {case.failed} more failed" if case.failed else ""
    ordered = "by time of commit" if history.order == "commit" else "by time of run"
    days = " to ".join(dict.fromkeys(date(time) for time in (times[0], times[-1])))
    return f"{runs} of {days}{failed}, {ordered}"


def _summary(case: CaseHistory, history: History) -> dict[str, Any]:
    alone = History((case,), history.stages, history.order)
    stages = shown_stages(case, history)
    return {
        "name": case.name,
        "embedder": case.embedder,
        "case": case_line(case),
        "machine": case.machine,
        "fingerprint": case.fingerprint,
        "device": case.device,
        "threads": case.threads,
        "omp_wait_policy": case.omp_wait_policy,
        "in_turns": case.in_turns,
        "order": history.order,
        "enough_runs": case.enough,
        "failed": case.failed,
        "changes": [
            {
                "stage": change.stage,
                "date": change.first.committed_at.isoformat(),
                "ratio": change.ratio,
                "low": change.low,
                "high": change.high,
                "before_s": change.before_s,
                "after_s": change.after_s,
                "probability": change.probability,
                "first": _identity(change.first),
                "last_before": _identity(change.last),
                "differences": list(change.differences),
            }
            for change in case.changes
            if change.stage in stages
        ],
        "order_remarks": order_lines(case, history),
        "runs": [{key: value for key, value in row.items() if key not in _SAID_ONCE} for row in rows(alone)],
    }


_SAID_ONCE = ("case", "embedder", "machine", "fingerprint", "device")


def _identity(point: Point) -> dict[str, Any]:
    return {"run_id": point.run_id, "commit": point.source.commit if point.source is not None else None}


def _markdown(case: CaseHistory, history: History) -> Iterator[str]:
    yield f"## {clean.markdown(case.name)}"
    yield clean.markdown(f"{case_line(case)} · {machine_line(case)} · {_span(case, history)}")
    lines = ["| Stage | Newest (ms) [95% interval] | Level (ms) | Changes | |", "| --- | ---: | ---: | ---: | --- |"]
    for stage in shown_stages(case, history):
        name = clean.markdown(title(stage))
        values = [point.latency_s(stage) for point in case.points]
        changes = case.changes_of(stage)
        level = changes[-1].after_s if changes else median(value for value in values if value is not None)
        lines.append(
            f"| {name} | {milliseconds_interval(case.points[-1].latency(stage))} | {_ms(level)} "
            f"| {len(changes) if case.enough else ABSENT} | {sparkline(values)} |"
        )
    yield "\n".join(lines)
    yield "\n".join(f"- {clean.markdown(line)}" for line in (*change_lines(case), *order_lines(case, history)))


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}%"


def _few(differences: Sequence[str], most: int = 3) -> str:
    more = f" and {len(differences) - most} more" if len(differences) > most else ""
    return ", ".join(differences[:most]) + more


def _ms(seconds: float | None) -> str:
    return ABSENT if seconds is None else number(1000 * seconds)
