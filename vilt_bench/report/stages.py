"""An embedder's stages for a terminal: shapes, parameters, FLOPs; of a model that was not run."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vilt_bench.config import Case, label
from vilt_bench.records import Model, Stage
from vilt_bench.report.rows import TITLES, giga, millions


def show_stages(case: Case, model: Model, stages: Sequence[Stage], console: Console) -> None:
    """Print the stages as a table, with the sum of the visual embedder's and of all."""
    height, width = model.resolution
    console.print(
        Text.assemble(
            (label(case), "bold"),
            f" – {model.kind} visual embedder, {height}×{width} pixels, batch {case.batch_size}: "
            f"{model.visual_tokens} visual and {model.text_tokens} text tokens of width {model.hidden_size}",
        )
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Stage", no_wrap=True)
    table.add_column("Output", overflow="fold")
    for title in ("Params (M)", "GFLOPs", "GMACs"):
        table.add_column(title, justify="right", no_wrap=True)
    for component, title in TITLES.items():
        own = [stage for stage in stages if stage.component == component]
        if not own:
            continue
        if [stage.name for stage in own] == [component]:
            table.add_row(title, Text(own[0].output), *_sizes(own))
            continue
        table.add_row(title, "", *_sizes(own))
        for stage in own:
            table.add_row(f"  {stage.name.partition('.')[2]}", Text(stage.output), *_sizes([stage]))
    table.add_section()
    table.add_row("all", "", *_sizes(stages), style="bold")
    console.print(table)
    console.print(
        "Computed on the meta device; nothing was run. FLOPs: 2 per multiply-add; NMS, RoIAlign, normalisation "
        "and activations count 0. After NMS as many regions are assumed as can be kept."
        if model.kind == "region"
        else "Computed on the meta device; nothing was run. FLOPs: 2 per multiply-add; normalisation and "
        "activations count 0.",
        style="dim",
    )
    for stage in stages:
        if stage.note:
            console.print(Text(f"• {stage.name.partition('.')[2]}: {stage.note}"))


def _sizes(stages: Sequence[Stage]) -> tuple[str, str, str]:
    flops = [stage.flops for stage in stages if stage.flops is not None]
    total = sum(flops) if len(flops) == len(stages) else None
    return (
        millions(sum(stage.parameters for stage in stages)),
        giga(total),
        giga(None if total is None else total // 2),
    )
