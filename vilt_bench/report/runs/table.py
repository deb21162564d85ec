"""Tables and bars for a terminal, by rich."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vilt_bench.judge import summary
from vilt_bench.judge.remarks import Failed
from vilt_bench.judge.summary import Summary
from vilt_bench.record.run import Run
from vilt_bench.report import lines, terminal
from vilt_bench.report.numbers import giga, mebibytes, millions, milliseconds, milliseconds_interval, percent
from vilt_bench.report.remarks import sentence

WIDTH = 100
"""Columns of a report that goes to a file."""
WIDE = 90
"""Columns from which the stages' MACs have room; and side by side what each run's own table has as well."""
# Colour and shade, so that bars can be told apart without colour as well; the last is for ASCII-only terminals.
LOOKS = {
    "preprocessing": ("yellow", "▓", "="),
    "textual_embedder": ("green", "▒", "+"),
    "visual_embedder": ("red", "█", "#"),
    "modality_interaction": ("blue", "░", "-"),
}


def render(runs: Sequence[Summary], *, left_out: Sequence[str] = ()) -> str:
    """Returns what a terminal would show, without colour."""
    return terminal.text(lambda console: show(runs, console, left_out=left_out), WIDTH)


def show(runs: Sequence[Run | Summary], console: Console, *, left_out: Sequence[str] = ()) -> None:
    """Print the runs: side by side if there are several, then each with its stages and remarks; what was left out."""
    runs = summary.summaries(runs)
    if len(runs) > 1:
        _show_bars(runs, console)
        console.print(_comparison(runs, wide=console.width >= WIDE))
        for remark in lines.comparison_remarks(runs):
            console.print(Text(f"• {remark}"))
    for run in runs:
        _show_run(run, console)
    for line in left_out:
        console.print(Text(f"• {line}"))


def _show_run(run: Summary, console: Console) -> None:
    console.print()
    console.print(Text.assemble((lines.name(run), "bold"), f" – {lines.model_line(run)}"))
    if machine := lines.machine_line(run):
        console.print(Text(machine, style="dim"))
    found = run.rows
    if len(found) > 1 or found[0].latency is not None:
        console.print()
        console.print(_stages(found, macs=console.width >= WIDE))
    for remark in run.remarks:
        console.print(Text(f"• {sentence(remark)}", style="red" if isinstance(remark, Failed) else ""))


def _stages(found: Sequence[summary.Row], *, macs: bool) -> Table:
    counts = ["Params\n(M)", "GFLOPs", *(["GMACs"] if macs else []), "Peak mem.\n(MiB)"]
    table = _table("Stage", "Latency (ms)\n[95% interval]", "Share", *counts)
    inner = {row.component for row in found if row.level == "component"}
    for row in found:
        indent = "  " if row.level == "stage" and row.component in inner else ""
        if row.level == "whole":
            table.add_section()
        table.add_row(
            Text(indent + row.title),
            Text(milliseconds_interval(row.latency)),
            percent(row.share),
            millions(row.parameters),
            giga(row.flops),
            *([giga(row.macs)] if macs else []),
            mebibytes(row.peak_bytes),
            style="" if indent else "bold",
        )
    return table


def _comparison(runs: Sequence[Summary], *, wide: bool) -> Table:
    components = summary.shown_components(runs)
    before = ["Preproc.\n(ms)"] if summary.OPTIONAL in components else []
    titles = [
        "Pixels",
        "Visual\ntokens",
        *before,
        "Textual\n(ms)",
        "Visual\n(ms)",
        "Interact.\n(ms)",
        "Whole\n(ms)",
        *(["Visual\nshare", "Params\n(M)", "GFLOPs"] if wide else []),
    ]
    table = _table("Embedder", *titles)
    for name, run in zip(lines.names(runs), runs, strict=True):
        parts = [run.components[component] for component in components]
        whole = run.whole
        failed = "failed" if run.failure is not None and whole.latency is None else None
        more = [
            percent(run.components["visual_embedder"].share),
            millions(whole.parameters),
            giga(whole.flops),
        ]
        table.add_row(
            Text(name),
            lines.pixels(run.model),
            lines.tokens(run.model),
            *(milliseconds(part.latency) for part in parts),
            failed or milliseconds(whole.latency),
            *(more if wide else []),
        )
    return table


def _show_bars(runs: Sequence[Summary], console: Console) -> None:
    """Print one stacked bar a run, the longest over the whole width, as in the paper's Figure 1."""
    plain = console.options.ascii_only
    components = summary.shown_components(runs)
    legend = Text.assemble(
        *((f"{_mark(name, plain)} {summary.TITLES[name]}   ", LOOKS[name][0]) for name in components), "(ms)"
    )
    console.print(legend)
    if alike := lines.alike(runs):
        console.print(Text(alike, style="dim"))
    measured = [{name: run.components[name].latency for name in components} for run in runs]
    bars = [{name: part.value for name, part in parts.items() if part is not None} for parts in measured]
    longest = max(sum(bar.values()) for bar in bars)
    for name, run, parts, bar in zip(lines.names(runs), runs, measured, bars, strict=True):
        console.print()
        head = Text(name, style="bold")
        if run.failure is not None:
            head.append(f"  {run.verdict}: {run.failure.kind}", style="red")
        if size := lines.size_line(run.model):
            head.append(f"  {size}", style="not bold dim")
        if bar:
            head.append(f"  {' + '.join(milliseconds(parts[part]) for part in bar)}", style="not bold")
        console.print(head)
        line = Text()
        for part, width in zip(bar, _cells(list(bar.values()), longest, console.width), strict=True):
            line.append(_mark(part, plain) * width, style=LOOKS[part][0])
        console.print(line)
    console.print()


def _cells(values: Sequence[float], longest: float, width: int) -> list[int]:
    """Returns each value's cells, at least one for what is not zero; the widest gives way, so that all fit."""
    cells = [max(1, round(value / longest * width)) if value else 0 for value in values]
    if sum(cells) > width:
        cells[cells.index(max(cells))] -= sum(cells) - width
    return cells


def _mark(component: str, plain: bool) -> str:
    return LOOKS[component][2 if plain else 1]


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    table.add_column(first, overflow="fold", vertical="bottom")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True, vertical="bottom")
    return table
