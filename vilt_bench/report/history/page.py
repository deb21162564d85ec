"""A page: each history's runs in order with their levels, drawn and asked by stage, and what changed in words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from vilt_bench.judge.history import CaseHistory, History, shown_stages
from vilt_bench.report.history import picture
from vilt_bench.report.history.tables import levels, newest
from vilt_bench.report.history.words import (
    case_line,
    change_lines,
    date,
    machine_line,
    order_lines,
    percent,
    span_line,
    title,
)
from vilt_bench.report.numbers import milliseconds_interval
from vilt_bench.report.page import Plot, View, plain
from vilt_bench.report.page.data import Part
from vilt_bench.report.runs.document import Block, Heading, Items, Paragraph
from vilt_bench.words import counted

TITLE = "Latency over commits"


def render(history: History) -> str:
    """Returns the page."""
    pictures = [(TITLE, picture.render(history, "svg"))] if 0 < len(history.cases) <= picture.MOST_CASES else []
    machines = dict.fromkeys(map(machine_line, history.cases))
    facts = [("On", " – ".join(machines)), ("Order", f"by time of {history.order}")] if machines else []
    notes = [f"Left out: {line}" for line in history.unreadable]
    blocks = [block for case in history.cases for block in _section(case, history)]
    return plain(TITLE, blocks, pictures, lead=_lead(history), facts=facts, notes=notes).decode()


def _lead(history: History) -> list[Part]:
    if not history.cases:
        return [("There is no run on this page.", False)]
    if len(history.cases) == 1:
        (case,) = history.cases
        newest_s = case.points[-1].latency()
        takes: list[Part] = []
        if newest_s is not None:
            takes = [(" takes ", False), (f"{milliseconds_interval(newest_s)} ms", True), (" in its newest run", False)]
        return [(case.name, True), *takes, (": ", False), (change_lines(case)[-1], False)]
    changed = [case for case in history.cases if case.changes]
    told = counted(len(history.cases), "history", "histories")
    if not changed:
        return [(f"Of {told}, ", False), ("none changed its level", True), (".", False)]
    slower = [case.name for case in changed if any(change.slower for change in case.changes)]
    return [
        (f"Of {told}, ", False),
        (f"{len(changed)} changed", True),
        (f"; slower at some commit: {', '.join(slower) or 'none'}.", False),
    ]


def _section(case: CaseHistory, history: History) -> Iterator[Block | Plot]:
    yield Heading(case.name)
    yield Paragraph(f"{case_line(case)} · {machine_line(case)} · {span_line(case, history)}")
    if views := [view for stage in shown_stages(case, history) if (view := _view(case, stage)).points]:
        yield Plot(case.name, "history", f"runs by time of {history.order}", "ms", views)
    yield Items([*change_lines(case), *order_lines(case, history)])
    yield levels(case, history)
    yield newest(case, history)


def _view(case: CaseHistory, stage: str) -> View:
    points = []
    for number, point in enumerate(case.points, start=1):
        found = point.latency(stage)
        if found is None or (at := point.latency_s(stage)) is None:
            continue
        when = f"{date(point.committed_at)}{f', {point.commit}' if point.commit else ''}"
        ends = [None if end is None else 1e3 * end for end in (found.low, found.high)]
        told = f"{when}: {milliseconds_interval(found)} ms, {counted(found.units, 'trial')}"
        points.append((float(number), 1e3 * at, ends[0], ends[1], told))
    changes = case.changes_of(stage)
    edges = [0, *(change.index for change in changes), len(case.points)]
    values = [changes[0].before_s, *(change.after_s for change in changes)] if changes else []
    texts = ["", *(percent(change.ratio) for change in changes)]
    found_levels = [
        (float(start + 1), float(end), 1e3 * value, text)
        for (start, end), value, text in zip(pairwise(edges), values, texts, strict=False)
    ]
    return View(title(stage), points, found_levels)
