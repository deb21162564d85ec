"""An embedder's stages for a terminal: shapes, parameters, FLOPs; of a model that was not run."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vilt_bench.ask.case import LANGUAGE_MODEL, Case, case_name
from vilt_bench.judge.summary import TITLES
from vilt_bench.record.run import Bounds, Model, Stage
from vilt_bench.report.numbers import giga, millions, milliseconds_of, percent


def show_stages(
    case: Case, model: Model, stages: Sequence[Stage], console: Console, bounds: Bounds | None = None
) -> None:
    """Print the stages as a table, with the sum of the visual embedder's and of all, and their least times if known."""
    height, width = model.resolution
    console.print(
        Text.assemble(
            (case_name(case), "bold"),
            f" – {model.kind} visual embedder, {height}×{width} pixels ({_input(model)}), batch {case.batch_size}: "
            f"{_tokens(model)} of width {model.hidden_size}",
        )
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Stage", no_wrap=True)
    table.add_column("Output", overflow="fold")
    for title in ("Params (M)", "GFLOPs", "GMACs", *(["At least (ms)"] if bounds else [])):
        table.add_column(title, justify="right")

    def sizes(chosen: Sequence[Stage]) -> tuple[str, ...]:
        return (*_sizes(chosen), *([_least(chosen, bounds)] if bounds else []))

    for component, title in TITLES.items():
        own = [stage for stage in stages if stage.component == component]
        if not own:
            continue
        if [stage.name for stage in own] == [component]:
            table.add_row(title, Text(own[0].output), *sizes(own))
            continue
        table.add_row(title, "", *sizes(own))
        for stage in own:
            table.add_row(f"  {stage.name.partition('.')[2]}", Text(stage.output), *sizes([stage]))
    table.add_section()
    table.add_row("all", "", *sizes(stages), style="bold")
    console.print(table)
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
    if bounds:
        console.print(
            Text(
                "At least: an estimated lower bound, not a measurement of the model: FLOPs over this machine's peak, "
                f"or bytes that must be moved over its bandwidth; {bounds.peak}.",
            ),
            style="dim",
        )
    for stage in stages:
        if stage.note:
            console.print(Text(f"• {stage.name.partition('.')[2]}: {stage.note}"))


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


def _least(stages: Sequence[Stage], bounds: Bounds) -> str:
    known = [bounds.seconds[stage.name] for stage in stages if stage.name in bounds.seconds]
    return milliseconds_of(sum(known) if len(known) == len(stages) else None)


def _sizes(stages: Sequence[Stage]) -> tuple[str, str, str]:
    flops = [stage.flops for stage in stages if stage.flops is not None]
    total = sum(flops) if len(flops) == len(stages) else None
    return (
        millions(sum(stage.parameters for stage in stages)),
        giga(total),
        giga(None if total is None else total // 2),
    )
