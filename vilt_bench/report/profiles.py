"""Where within stages the time goes, as a table, Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from vilt_bench.ask.case import Case, case_name
from vilt_bench.record.profile import Operator, Profile, ProfiledBlock, ProfiledStage
from vilt_bench.record.run import Environment
from vilt_bench.report import clean, tables
from vilt_bench.report.numbers import giga, millions, milliseconds_of, number, percent
from vilt_bench.report.tables import Column, Line, Table, text_column
from vilt_bench.words import counted

CLOCKS = {"wall_time": "by the host's clock", "device_time": "by the device's clock"}


def show(case: Case, found: Profile, where: Environment, console: Console, *, operators: int) -> None:
    """Print blocks, operators, and how it was measured.

    Args:
        case: what was asked for.
        found: of it.
        where: the machine.
        console: where to print.
        operators: how many to show.
    """
    console.print(Text(heading(case, where), style="bold"))
    tables.show(_blocks(found), console)
    if operators:
        console.print()
        tables.show(_operators(found, operators), console)
    console.print()
    for sentence in remarks(found):
        console.print(Text(f"• {sentence}"))


def render(format: str, case: Case, found: Profile, where: Environment, *, operators: int) -> str:
    """Returns it as a text; CSV and JSON have all operators, `operators` is for people."""
    match format:
        case "csv":
            return tables.csv(_rows(found))
        case "json":
            return clean.json_of(_document(case, found, where)) + "\n"
        case "markdown":
            blocks = [f"# {clean.markdown(heading(case, where))}", tables.markdown(_blocks(found))]
            blocks += [tables.markdown(_operators(found, operators))] if operators else []
            return "\n\n".join([*blocks, tables.markdown_list(remarks(found))]) + "\n"
    from vilt_bench.report.terminal import Terminal

    console = Terminal(width=120)
    with console.capture() as text:
        show(case, found, where, console, operators=operators)
    return text.get()


def heading(case: Case, where: Environment) -> str:
    """Returns what was profiled, and where."""
    return f"{case_name(case)} · {where.machine} · {where.device} · {counted(where.threads, 'thread')}"


def remarks(found: Profile) -> list[str]:
    """Returns how it was measured."""
    return [
        f"Times are {CLOCKS[found.channel]}: by stage the median of {found.passes} passes without the profiler, shared "
        f"out as {found.passes} passes with it, in turns with these, tell.",
        _slower(found.overhead),
        "Own: without the modules beneath; of all lines of a stage it adds up to the stage's time.",
    ]


def _slower(overhead: float) -> str:
    if overhead < 0:
        return (
            f"With the profiler, stages took no longer, but {percent(-overhead)} less: passes differ by more than that."
        )
    return (
        f"With the profiler, stages took {percent(overhead)} longer: what consists of many small operators shows "
        "larger than it is."
    )


def _blocks(found: Profile) -> Table:
    lines = []
    for stage in found.stages:
        for block in stage.blocks:
            name = block.name or stage.name.replace("_", " ")
            lines.append(
                Line(
                    [
                        name,
                        milliseconds_of(block.inclusive_s) if block.calls else "–",
                        milliseconds_of(block.exclusive_s) if block.calls else "–",
                        percent(block.inclusive_s / found.time_s if block.calls else None),
                        number(block.calls) if block.calls % 1 else f"{block.calls:.0f}",
                        millions(block.parameters),
                        giga(block.flops),
                    ],
                    depth=block.depth,
                    strong=not block.depth,
                )
            )
    lines.append(Line(["all stages", milliseconds_of(found.time_s), "", percent(1.0)], strong=True, apart=True))
    return Table(
        (
            text_column("Stage, module", long="fold"),
            Column("Time", "ms"),
            Column("Own", "ms"),
            Column("Share"),
            Column("Calls"),
            Column("Parameters", "M"),
            Column("GFLOPs"),
        ),
        lines,
    )


def _operators(found: Profile, most: int) -> Table:
    every: list[tuple[ProfiledStage, Operator]] = [
        (stage, operator) for stage in found.stages for operator in stage.operators
    ]
    every.sort(key=lambda each: -each[1].self_s)
    outside_s = sum(stage.outside_s for stage in found.stages)
    lines = [
        Line(
            [
                operator.name.removeprefix("aten::"),
                stage.name.replace("_", " "),
                milliseconds_of(operator.self_s),
                percent(operator.self_s / found.time_s),
                number(operator.calls) if operator.calls % 1 else f"{operator.calls:.0f}",
            ]
        )
        for stage, operator in every[:most]
    ]
    if (others_s := sum(operator.self_s for _, operator in every[most:])) > 0:
        lines.append(
            Line([f"{len(every) - most} others", "", milliseconds_of(others_s), percent(others_s / found.time_s)])
        )
    lines.append(
        Line(["outside of operators", "", milliseconds_of(outside_s), percent(outside_s / found.time_s)], apart=True)
    )
    return Table(
        (
            text_column("Operator"),
            text_column("Stage", long="fold"),
            Column("Own", "ms"),
            Column("Share"),
            Column("Calls"),
        ),
        lines,
    )


def _rows(found: Profile) -> Sequence[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for stage in found.stages:
        rows += [_row(stage, "module", block.name, block) for block in stage.blocks]
        rows += [_row(stage, "operator", operator.name, operator) for operator in stage.operators]
    return rows


def _row(stage: ProfiledStage, kind: str, name: str, of: ProfiledBlock | Operator) -> dict[str, Any]:
    block = of if isinstance(of, ProfiledBlock) else None
    return {
        "stage": stage.name,
        "kind": kind,
        "name": name,
        "depth": block and block.depth,
        "calls": of.calls,
        "inclusive_s": block and block.inclusive_s,
        "exclusive_s": of.exclusive_s if isinstance(of, ProfiledBlock) else of.self_s,
        "parameters": block and block.parameters,
        "flops": block and block.flops,
    }


def _document(case: Case, found: Profile, where: Environment) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "case": case_name(case),
        "machine": where.machine,
        "device": where.device,
        "threads": where.threads,
        "versions": dict(where.versions),
        "clock": found.channel,
        "passes": found.passes,
        "overhead_share": found.overhead,
        "stages": [{**asdict(stage), "outside_of_operators_s": stage.outside_s} for stage in found.stages],
    }
