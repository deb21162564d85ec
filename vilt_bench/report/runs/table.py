"""Tables and bars for a terminal, by rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType

from vilt_bench.judge import summary
from vilt_bench.judge.remarks import (
    Computed,
    EnergyUsed,
    Failed,
    FirstCall,
    GpuBetweenBlocks,
    OutputDeviates,
    Precise,
    ProcessorTime,
    RandomWeights,
    Remark,
)
from vilt_bench.judge.summary import Summary
from vilt_bench.record.run import Component, Run
from vilt_bench.report import lines, tables, terminal
from vilt_bench.report.columns import Quantity
from vilt_bench.report.numbers import milliseconds
from vilt_bench.report.rankings import ranking_remarks
from vilt_bench.report.remarks import sentence
from vilt_bench.report.runs.tables import by_stage, side_by_side

_AT_ONCE = 20
"""Runs that are printed together."""
WIDTH = 100
"""Columns of a report that goes to a file."""
# Colour and shade, so that bars can be told apart without colour as well; the last is for ASCII-only terminals.
LOOKS = {
    "preprocessing": ("yellow", "▓", "="),
    "textual_embedder": ("green", "▒", "+"),
    "visual_embedder": ("red", "█", "#"),
    "modality_interaction": ("blue", "░", "-"),
}


def render(runs: Sequence[Summary], *, left_out: Sequence[str] = (), quantities: Sequence[Quantity] = ()) -> str:
    """Returns what a terminal would show, without colour."""
    return terminal.text(lambda console: show(runs, console, left_out=left_out, quantities=quantities), WIDTH)


def show(
    runs: Sequence[Run | Summary],
    console: Console,
    *,
    left_out: Sequence[str] = (),
    quantities: Sequence[Quantity] = (),
    notes: bool = True,
) -> None:
    """Print the runs: side by side if there are several, then each with its stages and remarks; what was left out.

    Args:
        runs: in order.
        console: where to print.
        left_out: what could not be read, a sentence each.
        quantities: instead of the usual ones.
        notes: whether remarks that warn of nothing are all told; else many of them are counted.
    """
    runs = summary.summaries(runs)
    width = console.width
    if len(runs) > 1:
        _show_bars(runs, console)
        console.print(Group(*_drawn(side_by_side(runs, quantities, narrow=True), width)))
        said = [*ranking_remarks(runs), *lines.commands(runs), *lines.comparison_remarks(runs)]
        _print(console, *(f"• {remark}" for remark in said))
    told = bool(lines.commands(runs))
    for start in range(0, len(runs), _AT_ONCE):
        some = (
            part
            for run in runs[start : start + _AT_ONCE]
            for part in _run(run, width, quantities, told=told, notes=notes)
        )
        console.print(Group(*some), crop=False)  # nothing is wider
    _print(console, *(f"• {line}" for line in left_out))


def _run(
    run: Summary, width: int, quantities: Sequence[Quantity], *, told: bool, notes: bool
) -> Iterator[RenderableType]:
    """Yields one run; `told`: the command that asked for it stands above; `notes` as for `show`."""
    below = filter(None, [lines.machine_line(run), lines.origin_line(run, without_command=told)])
    head = [(lines.name(run), "bold"), (f" – {lines.headline(run)}", "bold")]
    yield terminal.Lines([[], head, [(lines.model_line(run), "")], *([(line, "dim")] for line in below)])
    if len(run.rows) > 1 or run.timed:
        yield terminal.Lines([[]])
        yield from _drawn(by_stage(run, quantities), width)
    if throughput := lines.throughput_line(run):
        yield terminal.Lines([[(throughput, "")]])
    if overlapped := lines.pipeline_line(run):
        yield terminal.Lines([[(overlapped, "")]])
    folded = [] if notes else [remark for remark in run.remarks if isinstance(remark, _FACTS)]
    folded = folded if len(folded) > _MOST_FACTS else []
    yield terminal.Lines(
        [(f"• {sentence(remark)}", _look(remark))]
        for remark in run.remarks
        if not any(remark is each for each in folded)
    )
    if folded:
        yield terminal.Lines(
            [[(f"• {len(folded)} more notes: --notes tells them, as in 'vilt-bench report RUN --notes'.", "dim")]]
        )


_FACTS = (Computed, EnergyUsed, FirstCall, GpuBetweenBlocks, Precise, ProcessorTime, RandomWeights)
"""Remarks that warn of nothing: what else stands in the record, or above the table."""
_MOST_FACTS = 3
"""Of a run, that are told where no others were asked for."""


def _look(remark: Remark) -> str:
    """Returns how a remark stands out."""
    return "red" if isinstance(remark, Failed) else "bold red" if isinstance(remark, OutputDeviates) else ""


def _drawn(table: tables.Table, width: int) -> Iterator[RenderableType]:
    """Yields the table; where its columns have no room beside each other, in parts."""
    for number, part in enumerate(tables.in_parts(table, width)):
        if number:
            yield terminal.Lines([[]])
        yield tables.drawn(part, width)


def _print(console: Console, *texts: str) -> None:
    console.print(terminal.Lines([(text, "")] for text in texts))


def _show_bars(runs: Sequence[Summary], console: Console) -> None:
    """Print one stacked bar a run, the longest over the whole width, as in the paper's Figure 1."""
    plain, width = console.options.ascii_only, console.width
    components = summary.shown_components(runs)
    legend = [(f"{_mark(name, plain)} {summary.TITLES[name]}   ", LOOKS[name][0]) for name in components]
    alike = lines.alike(runs)
    console.print(terminal.Lines([[*legend, ("(ms)", "")], *([[(alike, "dim")]] if alike else [])]))
    longest = max(sum(_parts(run, components).values()) for run in runs)
    bars = (
        line
        for name, run in zip(lines.names(runs), runs, strict=True)
        for line in _bar(run, name, components, longest, width, plain=plain)
    )
    console.print(terminal.Lines(bars))
    console.print()


def _parts(run: Summary, components: Sequence[Component]) -> dict[Component, float]:
    found = {name: run.components[name].latency for name in components}
    return {name: part.value for name, part in found.items() if part is not None}


def _bar(
    run: Summary, name: str, components: Sequence[Component], longest: float, width: int, *, plain: bool
) -> Iterator[list[tuple[str, str]]]:
    """Yields the lines of one run: a blank one, what it is, its bar."""
    parts = _parts(run, components)
    head = [(name, "bold")]
    if run.failure is not None:
        head.append((f"  {run.verdict}: {run.failure.kind}", "bold red"))
    if size := lines.size_line(run.model):
        head.append((f"  {size}", "dim"))
    if parts:
        head.append((f"  {' + '.join(milliseconds(run.components[part].latency) for part in parts)}", ""))
    cells = _cells(list(parts.values()), longest, width)
    yield from ([], head)
    yield [(_mark(part, plain) * count, LOOKS[part][0]) for part, count in zip(parts, cells, strict=True)]


def _cells(values: Sequence[float], longest: float, width: int) -> list[int]:
    """Returns each value's cells, at least one for what is not zero; the widest gives way, so that all fit."""
    cells = [max(1, round(value / longest * width)) if value else 0 for value in values]
    if sum(cells) > width:
        cells[cells.index(max(cells))] -= sum(cells) - width
    return cells


def _mark(component: str, plain: bool) -> str:
    return LOOKS[component][2 if plain else 1]
