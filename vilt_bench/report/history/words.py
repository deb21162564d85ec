"""How all formats say what a history holds: names, sentences, sparklines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median

from vilt_bench.judge.change_points import LEAST_RUNS
from vilt_bench.judge.history import CaseHistory, Change, History
from vilt_bench.report.lines import text_words
from vilt_bench.report.numbers import milliseconds_of, signed_percent
from vilt_bench.words import counted, first_few

MOST_CHANGES = 12
"""Changes that are told in words; the newest."""
SPARK = "▁▂▃▄▅▆▇█"
PLAIN_SPARK = "_.-=*#"
SPARK_CELLS = 24
FLAT = 0.1
"""A sparkline's full height is at least this share of the median, so that noise looks like noise."""


def case_line(case: CaseHistory) -> str:
    """Returns what was run, in one line, whether it is usual or not; what else is unusual is in the case's name."""
    asked = case.case
    saw = dict.fromkeys((point.pixels, point.visual_tokens) for point in case.points)
    size = " / ".join(
        f"{pixels[0]}×{pixels[1]} pixels, {tokens:,} visual tokens"
        for pixels, tokens in saw
        if pixels is not None and tokens is not None
    )
    if not size and asked.resolution is not None:
        size = f"{asked.resolution[0]}×{asked.resolution[1]} pixels asked"
    parts = [size, f"batch {asked.batch_size}", *text_words(asked), asked.dtype]
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
        f"{title(change.stage)} {percent(change.ratio)} [{percent(change.low)}, {percent(change.high)}]"
        + (f", {milliseconds_of(change.before_s)} → {milliseconds_of(change.after_s)} ms" if change is head else "")
        for change in changes
    ]
    also = [f"with it {first_few(head.differences)}"] if head.differences else []
    return f"{where}: {'; '.join([*told, *also])}"


def title(stage: str) -> str:
    """Returns a stage as tables show it."""
    return stage.replace("_", " ") if "." not in stage else stage.partition(".")[2]


def date(time: datetime) -> str:
    """Returns the day."""
    return f"{time:%Y-%m-%d}"


def span_line(case: CaseHistory, history: History) -> str:
    """Returns how many runs there are, of which days, in which order."""
    times = [point.committed_at if history.order == "commit" else point.started_at for point in case.points]
    runs = counted(len(times), "run")
    failed = f", {case.failed} more failed" if case.failed else ""
    ordered = "by time of commit" if history.order == "commit" else "by time of run"
    days = " to ".join(dict.fromkeys(date(time) for time in (times[0], times[-1])))
    return f"{runs} of {days}{failed}, {ordered}"


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


def percent(ratio: float) -> str:
    """Returns a ratio as a change, such as `+1.3%`."""
    return signed_percent(ratio - 1)
