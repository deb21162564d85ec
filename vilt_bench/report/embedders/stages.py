"""An embedder's stages for a terminal: shapes, parameters, FLOPs; of a model that was not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.text import Text

from vilt_bench.ask.case import LANGUAGE_MODEL, Case, case_name
from vilt_bench.judge.summary import TITLES, counted_row
from vilt_bench.record.run import Bounds, Model, Stage
from vilt_bench.report import tables
from vilt_bench.report.columns import built
from vilt_bench.report.lines import images_words, pixels
from vilt_bench.report.numbers import giga, least_milliseconds, percent
from vilt_bench.report.tables import Column, Line, Table, text_column


def show_stages(
    case: Case, model: Model, stages: Sequence[Stage], console: Console, bounds: Sequence[Bounds] = ()
) -> None:
    """Print the stages as a table, with the sum of the visual embedder's and of all, and their least times if known.

    Args:
        case: what was asked for.
        model: what it would be.
        stages: in order.
        console: where to print.
        bounds: least times, a column for each machine.
    """
    seen = f"{pixels(model)} pixels" if model.tiles is None else model.tiles
    console.print(
        Text.assemble(
            (case_name(case), "bold"),
            f" – {model.kind} visual embedder, {seen} ({_input(model)}), "
            f"{', '.join([f'batch {case.batch_size}', *images_words(case)])}: "
            f"{_tokens(model)} of width {model.hidden_size}",
        )
    )
    tables.show(_table(stages, bounds), console)
    console.print(
        "Computed on the meta device; the model was not run. FLOPs: 2 per multiply-add; NMS, RoIAlign, normalisation "
        "and activations count 0. After NMS as many regions are assumed as can be kept."
        if model.kind == "region"
        else "Computed on the meta device; the model was not run. FLOPs: 2 per multiply-add; normalisation and "
        "activations count 0.",
        style="dim",
    )
    if model.interaction.startswith(LANGUAGE_MODEL) and (sentence := _first_token(stages)):
        console.print(Text(sentence))
    for sentence in _bounds_explained(bounds):
        console.print(Text(sentence), style="dim")
    for stage in stages:
        if stage.note:
            console.print(Text(f"• {stage.name.partition('.')[2]}: {stage.note}"))


def _bounds_explained(bounds: Sequence[Bounds]) -> list[str]:
    if not bounds:
        return []
    if len(bounds) == 1 and not bounds[0].machine:
        return [
            "At least: an estimated lower bound, not a measurement of the model: FLOPs over this machine's peak, "
            f"or bytes that must be moved over its bandwidth; {bounds[0].peak}."
        ]
    return [
        "At least: an estimated lower bound from datasheets, nothing was measured: FLOPs over the stated peak, less "
        "15% for boards that clock higher, or bytes beyond the cache over the memory's bandwidth. Kernels that skip "
        "work, as Winograd's convolutions, can go below it.",
        *(f"{each.machine} – {each.peak}." for each in bounds),
    ]


def _tokens(model: Model) -> str:
    if model.is_alone:
        return f"{model.visual_tokens} visual tokens"
    return f"{model.visual_tokens} visual and {model.text_tokens} text tokens"


def _input(model: Model) -> str:
    fitted = f", --fit {model.fit}" if model.fit else ""
    return f"{', '.join(model.images)}{fitted}"


def _first_token(stages: Sequence[Stage]) -> str:
    """Returns what it takes up to a language model's first token; empty where FLOPs are not known."""
    flops = {stage.name: stage.flops for stage in stages if stage.flops is not None}
    total = sum(flops.values())
    if len(flops) < len(stages) or not total:
        return ""
    visual = sum(count for name, count in flops.items() if name.startswith("visual_embedder"))
    prefill = flops.get("modality_interaction.prefill", 0)
    return (
        f"Up to the first token: {giga(total)} GFLOPs; the visual embedder takes {percent(visual / total)}, "
        f"the prefill {percent(prefill / total)}."
    )


def _table(stages: Sequence[Stage], bounds: Sequence[Bounds]) -> Table:
    quantities = built()

    def line(title: str, chosen: Sequence[Stage], output: str = "", **look: Any) -> Line:
        row = counted_row("stage", title, None, chosen)
        least = [_least(chosen, each) for each in bounds]
        return Line([title, output, *(quantity.text(row) for quantity in quantities), *least], **look)

    lines = []
    for component, title in TITLES.items():
        own = [stage for stage in stages if stage.component == component]
        alone = [stage.name for stage in own] == [component]
        if own:
            lines.append(line(title, own, own[0].output if alone else "", strong=True))
        if not alone:
            lines += [line(stage.name.partition(".")[2], [stage], stage.output, depth=1) for stage in own]
    lines.append(line("all", stages, strong=True, apart=True))
    columns = (
        text_column("Stage"),
        text_column("Output", long="fold"),
        *(replace(quantity.column, least_width=0) for quantity in quantities),
        *(
            Column(f"At least on {each.machine}", "ms", screen=f"At least\n{each.machine}")
            if each.machine
            else Column("At least", "ms")
            for each in bounds
        ),
    )
    return Table(columns, lines)


def _least(stages: Sequence[Stage], bounds: Bounds) -> str:
    known = [bounds.seconds[stage.name] for stage in stages if stage.name in bounds.seconds]
    return least_milliseconds(sum(known) if len(known) == len(stages) else None)
