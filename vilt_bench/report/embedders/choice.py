"""Shows which visual embedders may meet a budget: estimates as a table, Markdown, CSV, JSON; then what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vilt_bench.ask.case import ALONE
from vilt_bench.ask.catalog import HIDDEN_SIZE
from vilt_bench.ask.choice import SHOWN
from vilt_bench.judge.choice import Candidate, Choice, Wanted
from vilt_bench.judge.latency import latency
from vilt_bench.report import clean, tables
from vilt_bench.report.columns import FLOPS, PARAMETERS
from vilt_bench.report.numbers import (
    ABSENT,
    count_of,
    digits,
    giga,
    least_milliseconds,
    millions,
    milliseconds_interval,
)
from vilt_bench.report.tables import Column, Line, Table, text_column
from vilt_bench.words import first_few

if TYPE_CHECKING:
    from rich.console import Console

    from vilt_bench.record.run import Run

FRONTIER = "●"
_BETTER = {
    "parameters": "the largest first, then the most visual tokens",
    "tokens": "the most visual tokens first, then the largest",
    "time": "the least time first",
}


@dataclass(frozen=True)
class Context:
    """What a choice was made for."""

    interaction: str
    text_length: int
    dtype: str
    machine: str
    """What the least times are computed from, as a sentence without its end."""
    wanted: Wanted
    offered: int
    """Towers in all catalogues."""
    width: int = HIDDEN_SIZE
    """Of the tokens that the interaction takes."""
    busy: bool = False
    """Whether others kept the machine busy while its peak was measured, so that the least times are too high."""


def show(choice: Choice, context: Context, console: Console, *, most: int | None = None) -> None:
    """Print the table and what a reader must know."""
    from rich.text import Text

    tables.show(_table(choice, most), console)
    for sentence in sentences(choice, context, most=most):
        console.print(Text(f"• {sentence}"))


def render(choice: Choice, context: Context, format: str, *, most: int | None = None) -> str:
    """Returns the choice as text of a format; `most` rows, as `None` as many as are usual there."""
    if format == "json":
        return clean.json_of(_document(choice, context, most)) + "\n"
    if format == "csv":
        return tables.csv([_fields(*ranked) for ranked in _ranked(choice, most)], _FIELDS)
    said = sentences(choice, context, most=most)
    return f"{tables.markdown(_table(choice, most))}\n\n{tables.markdown_list(said)}\n"


def sentences(choice: Choice, context: Context, *, most: int | None = None) -> list[str]:
    """Returns what a reader must know, a sentence or a few each."""
    alone = context.interaction == ALONE
    behind = "nothing behind it" if alone else f"of {context.interaction} with {context.text_length} text tokens"
    narrow = (
        f"; those that {context.interaction} takes have {context.width}, so a tower's last layer, which is much of the "
        "smallest ones, takes less than is told here"
        if context.width < HIDDEN_SIZE
        else ""
    )
    count = sum(1 + len(each.alike) for each in choice.candidates)
    hidden = len(choice.candidates) - (SHOWN if most is None else most)
    rest = f" {hidden:,} more {'row' if hidden == 1 else 'rows'}: --limit, or --format csv." if hidden > 0 else ""
    said = [
        "Estimated lower bounds; nothing was measured, and real times lie above: of the tower for one image at its own "
        f"resolution, and {behind}. {context.machine}.",
        f"{_met(choice, context, count)}{rest}",
        f"{FRONTIER}: on the frontier, as no other has as many parameters and visual tokens in as little time. "
        f"Ranked: the frontier, then the others; {_BETTER[context.wanted.order]}. Size and tokens are no accuracy, "
        "which is not known here: try the finalists on your task.",
        f"Parameters and FLOPs are the catalogues', for tokens of width {HIDDEN_SIZE}{narrow}.",
    ]
    if choice.uncounted:
        said.append(f"No FLOPs are known, so no least time, of {first_few(choice.uncounted)}.")
    if choice.too_long:
        said.append(f"{context.interaction} does not take the visual tokens of {first_few(choice.too_long)}.")
    return said


def _met(choice: Choice, context: Context, count: int) -> str:
    budget_s = context.wanted.budget_s
    if budget_s is None:
        return f"{count:,} of {context.offered:,} towers in the catalogues, without a --budget."
    met = f"{count:,} of {choice.looked_at:,} towers that were asked for may meet {1000 * budget_s:,.4g} ms"
    if not choice.over_budget:
        return f"{met}."
    if context.busy:
        return f"{met}; the others can't at the peak above, which is too low: on a quiet machine, more may."
    return f"{met}; {choice.over_budget:,} can't, on this machine and in {context.dtype}."


def show_measured(candidates: Sequence[Candidate], runs: Mapping[str, Run], console: Console) -> None:
    """Print the least times beside what was measured; a tower that was not measured has none."""
    from rich.text import Text

    rows = []
    for each in candidates:
        run = runs.get(each.name)
        visual, whole = (latency(run, name) if run else None for name in ("visual_embedder", "whole"))
        rows.append(
            Line(
                [
                    each.name,
                    least_milliseconds(each.tower_s),
                    milliseconds_interval(visual),
                    least_milliseconds(each.total_s),
                    milliseconds_interval(whole),
                    ABSENT if whole is None or not each.total_s else f"{digits(whole.value / each.total_s)}×",
                ]
            )
        )
    columns = (
        text_column("Embedder", long="fold"),
        Column("Visual embedder, at least", "ms", screen="Visual\nat least"),
        Column("measured", "ms", "95% interval"),
        Column("Whole, at least", "ms", screen="Whole\nat least"),
        Column("measured", "ms", "95% interval"),
        Column("measured to least", screen="to\nleast"),
    )
    tables.show(Table(columns, rows, "Estimated lower bounds beside what was measured"), console)
    console.print(Text("At least: an estimated lower bound. Measured: the medians of the records that were saved."))


def _table(choice: Choice, most: int | None) -> Table:
    rows = [
        Line(
            [
                FRONTIER if each.on_frontier else "",
                tables.Cell(each.name, after=f" +{len(each.alike)} alike" if each.alike else ""),
                "×".join(map(str, each.entry.resolution)),
                count_of(each.entry.visual_tokens),
                millions(each.entry.parameters),
                giga(each.entry.flops),
                least_milliseconds(each.tower_s),
                least_milliseconds(each.interaction_s),
                least_milliseconds(each.total_s),
            ]
        )
        for each in choice.candidates[: SHOWN if most is None else most]
    ]
    columns = (
        text_column("Frontier", screen=""),
        text_column("Embedder", long="fold"),
        Column("Pixels"),
        Column("Visual tokens", screen="Visual\ntokens"),
        PARAMETERS.column,
        FLOPS.column,
        Column("Tower, at least", "ms", screen="Tower,\nat least"),
        Column("Interaction, at least", "ms", screen="Inter-\naction"),
        Column("Both, at least", "ms", screen="Both"),
    )
    return Table(columns, rows, names=2)


def _ranked(choice: Choice, most: int | None) -> list[tuple[int, Candidate]]:
    return list(enumerate(choice.candidates[:most], start=1))


def _fields(rank: int, each: Candidate) -> dict[str, Any]:
    return {
        "rank": rank,
        "embedder": each.name,
        "kind": each.entry.kind,
        "image_height": each.entry.resolution[0],
        "image_width": each.entry.resolution[1],
        "visual_tokens": each.entry.visual_tokens,
        "parameters": each.entry.parameters,
        "flops": each.entry.flops,
        "visual_embedder_least_s": each.tower_s,
        "interaction_least_s": each.interaction_s,
        "least_s": each.total_s,
        "on_frontier": each.on_frontier,
        "alike": " ".join(each.alike),
    }


_FIELDS = (
    "rank", "embedder", "kind", "image_height", "image_width", "visual_tokens", "parameters", "flops",
    "visual_embedder_least_s", "interaction_least_s", "least_s", "on_frontier", "alike",
)  # fmt: skip


def _document(choice: Choice, context: Context, most: int | None) -> dict[str, Any]:
    return {
        "estimated": True,
        "interaction": context.interaction,
        "text_tokens": None if context.interaction == "none" else context.text_length,
        "dtype": context.dtype,
        "budget_s": context.wanted.budget_s,
        "machine": context.machine,
        "over_budget": choice.over_budget,
        "uncounted": list(choice.uncounted),
        "too_many_tokens": list(choice.too_long),
        "notes": sentences(choice, context, most=len(choice.candidates) if most is None else most),
        "candidates": [_fields(*ranked) | {"alike": list(ranked[1].alike)} for ranked in _ranked(choice, most)],
    }
