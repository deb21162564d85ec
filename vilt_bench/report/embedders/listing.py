"""Lists embedders, what models use, and presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vilt_bench.ask.axes import shown
from vilt_bench.ask.catalog import HIDDEN_SIZE, Entry, Listing, catalogue, read
from vilt_bench.ask.presets import Preset, Used
from vilt_bench.ask.registry import installed
from vilt_bench.report import tables
from vilt_bench.report.columns import FLOPS, PARAMETERS
from vilt_bench.report.numbers import ABSENT
from vilt_bench.report.tables import Cell, Column, Table, lines, text_column

if TYPE_CHECKING:
    from rich.console import Console

_FIGURES = (Column("Resolution"), Column("Tokens"), PARAMETERS.column, FLOPS.column)


def render_list(listing: Listing, console: Console, *, query: str = "") -> None:
    """Print the embedders that fit the query as a table, then the families that have more."""
    from rich.text import Text

    if listing.rows:
        found = lines([row.name, *_cells(row.entry)] for row in listing.rows)
        columns = (text_column("Embedder", long="fold"), text_column("Kind"), *_FIGURES)
        tables.show(Table(columns, found, gap=3), console)
    if unknown := [row.name for row in listing.rows if row.entry is None]:
        console.print(Text(f"{ABSENT}: not in a catalogue; 'vilt-bench show {unknown[0]}' computes it"))
    for family, count in listing.families.items():
        counted = f"{count:,} models" if count else "any model that it knows"
        part = "" if query.strip().lower() in f"{family}/" else query.strip()  # which is not in its models' names
        shown = f"; 'vilt-bench list {family}/{part}' shows them" if count else ""
        console.print(Text(f"{family}/NAME: {counted}{shown}"))


def render_used(entries: Sequence[Used], console: Console) -> None:
    """Print what vision-language models use: who uses it and what it costs, its name, and where the use can be read."""
    from rich.text import Text

    catalogues: dict[str, Entry] = {}
    for package in dict.fromkeys(found.package for found in installed().values()):
        catalogues |= catalogue(package)
    titles = ("Kind", "Resolution", "Tokens", "Params (M)", "GFLOPs")
    is_wide = console.width >= len(_line("", titles))
    if is_wide:
        console.print(Text(_line("Used by", titles), style="bold"))
    for used in entries:
        cells = _cells(catalogues.get(used.embedder))
        console.print(Text(_line(used.used_by, cells) if is_wide else used.used_by, style="" if is_wide else "bold"))
        console.print(Text(f"  {used.embedder}"))
        if not is_wide and cells[0] != ABSENT:
            kind, size, tokens, parameters, flops = cells
            console.print(Text(f"  {kind}, {size}, {tokens} tokens, {parameters} M parameters, {flops} GFLOPs"))
        console.print(Text(f"  {used.evidence}", style="dim"))
    console.print()
    console.print(
        Text(f"Computed from the code at D = {HIDDEN_SIZE}: the visual embedder with its projection, for one image.")
    )


def render_presets(presets: Mapping[str, Preset], console: Console) -> None:
    """Print the presets with their embedders."""
    from rich.text import Text

    for preset in presets.values():
        console.print(Text.assemble((preset.name, "bold"), f": {preset.about}" if preset.about else ""))
        for embedder in preset.embedders:
            console.print(Text(f"  {embedder}"))
        for name, values in preset.axes.items():
            console.print(Text(f"  --{name.replace('_', '-')} {','.join(map(shown, values))}"))


def markdown(package: str) -> str:
    """Returns the embedders that a package offers by name as a table of Markdown, from its catalogue."""
    offered = installed()
    rows: list[list[Cell | str]] = []
    for name, entry in read(package).items():
        if name in offered:
            kind, *figures = _cells(entry)
            rows.append([Cell(name, code=True), kind, entry.about, ", ".join(entry.stages), *figures])
    columns = (*map(text_column, ("Name", "Kind", "What it is", "Stages")), *_FIGURES)
    return tables.markdown(Table(columns, lines(rows))) + "\n"


def _line(name: str, cells: Sequence[str]) -> str:
    kind, *numbers = cells
    return f"{name:<43} {kind:<8}" + "".join(f"{number:>11}" for number in numbers)


def _cells(entry: Entry | None) -> Sequence[str]:
    if entry is None:
        return [ABSENT] * 5
    height, width = entry.resolution
    flops = ABSENT if entry.flops is None else f"{entry.flops / 1e9:,.2f}"
    size = f"{height}×{width}" if entry.frames is None else f"{entry.frames} frames of {height}×{width}"
    return [entry.kind, size, f"{entry.visual_tokens:,}", f"{entry.parameters / 1e6:,.2f}", flops]
