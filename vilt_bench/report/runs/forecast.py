"""Cases before they are measured, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from vilt_bench.ask.case import Sampling, case_name
from vilt_bench.ask.forecast import Forecast
from vilt_bench.report import tables, terminal
from vilt_bench.report.numbers import ABSENT, mebibytes
from vilt_bench.report.tables import Column, Line, Table
from vilt_bench.words import counted


def show(
    found: Sequence[Forecast],
    sampling: Sampling,
    console: Console,
    *,
    groups: Sequence[Sequence[int]] = (),
    notes: Sequence[str] = (),
) -> None:
    """Print the cases with what is known of each, how long they take at most, and what was left out of them.

    Args:
        found: what is known of each case.
        sampling: how hard to look.
        console: where to.
        groups: the cases that would be measured together, by their places; told where there are several.
        notes: sentences on what was left out.
    """
    group_of = {place: number for number, group in enumerate(groups, start=1) for place in group}
    names = [case_name(each.case) for each in found]
    columns = [
        Column("Case", align="left", long="fold"),
        Column("Pixels"),
        Column("Visual tokens", screen="Visual\ntokens"),
        Column("Memory, at least", "MiB", screen="At least"),
        *([Column("Group")] if len(groups) > 1 else []),
    ]
    lines = [
        Line([
            name,
            ABSENT if each.resolution is None else "×".join(map(str, each.resolution)),
            ABSENT if each.visual_tokens is None else f"{each.visual_tokens:,}",
            mebibytes(each.least_bytes),
            *([str(group_of[place])] if len(groups) > 1 else []),
        ])
        for place, (name, each) in enumerate(zip(names, found, strict=True))
    ]  # fmt: skip
    tables.show(Table(columns, lines), console)
    wrong = [
        f"{name} can't be measured so: {each.problem}" for name, each in zip(names, found, strict=True) if each.problem
    ]
    unseen = sum(each.resolution is None and not each.problem for each in found)
    late = [f"{counted(unseen, 'case')} not looked at, as that took too long."] if unseen else []
    said = [
        _time(len(found), sampling),
        "At least: an estimate from the meta device, weights and inputs alone; what a pass holds in between is more.",
        *_groups(groups),
        "Nothing was measured and nothing is saved.",
    ]
    console.print(terminal.Lines([(f"• {line}", "")] for line in (*wrong, *late, *notes, *said)))


def _groups(groups: Sequence[Sequence[int]]) -> list[str]:
    if len(groups) < 2:
        return []
    return [
        f"{len(groups)} groups, one after the other; the cases of a group are alive together and measured in turns. "
        "They are planned by the memory that is free now, and anew by what processes then take."
    ]


def _time(count: int, sampling: Sampling) -> str:
    total_s = count * sampling.max_time_s
    total = f"{total_s:.0f} s" if total_s < 120 else f"{total_s / 60:,.0f} min"
    return (
        f"{counted(count, 'case')}: at most {total} of measuring, {sampling.max_time_s:g} s each in "
        f"{counted(sampling.trials, 'trial')} or more, and what building and counting take."
    )
