"""What `vilt-bench list` shows, read from catalogues that embedder packages carry, so that nothing is built for it.

`python -m vilt_bench.catalog [PACKAGE]` writes a package's catalogue anew: `catalog.json` in its top folder. The
catalogue of a family is a file of its own, `catalog-FAMILY.csv`, which the package makes as it likes.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vilt_bench import files
from vilt_bench.config import parse_embedder, parse_resolution
from vilt_bench.errors import EmbedderError, ViltBenchError
from vilt_bench.presets import Preset, Used, used_by_models
from vilt_bench.registry import FAMILY, FAMILY_FILE, build, guess, installed, load_factory, nearest, package_folders

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vilt_bench.embedding import VisualEmbedder

FILE = "catalog.json"
FAMILY_COLUMNS = ("name", "kind", "height", "width", "visual_tokens", "parameters", "flops")
HIDDEN_SIZE = 768
"""D that the entries are for."""
_ABSENT = "–"


@dataclass(frozen=True)
class Entry:
    """What a catalogue says of an embedder as it is named, at D = 768 and for one image."""

    kind: str
    resolution: tuple[int, int]
    """Default (height, width) in pixels, cut to the multiples that the embedder asks for."""
    visual_tokens: int
    parameters: int
    flops: int | None
    """2 per multiply-add; `None`: the embedder runs an operator without a formula."""
    stages: tuple[str, ...] = ()
    about: str = ""
    """The first sentence of the factory's documentation."""


@dataclass(frozen=True)
class ListRow:
    """An installed embedder, and its catalogue's entry if there is one."""

    name: str
    distribution: str
    entry: Entry | None


@dataclass(frozen=True)
class Listing:
    """What fits a query."""

    rows: tuple[ListRow, ...]
    families: Mapping[str, int]
    """By the family's name, such as `timm`: how many more of its catalogue fit, which are not among the rows."""


def list_rows(query: str = "") -> list[ListRow]:
    """Returns the installed embedders whose name or kind contains the query, as `find`."""
    return list(find(query).rows)


def find(query: str = "") -> Listing:
    """Returns the installed embedders whose name or kind contains the query; imports none of them.

    Args:
        query: part of a name, or a kind; `FAMILY/` and part of a name looks into that family.

    Raises:
        EmbedderError: nothing fits the query.
    """
    offered = installed()
    wanted = query.strip().lower()
    families = {name.removesuffix(FAMILY): found for name, found in offered.items() if found.family}
    family, slash, part = wanted.partition("/")
    if slash and family in families:
        found = families[family]
        rows = [
            ListRow(name, found.distribution, entry)
            for name, entry in read_family(found.package, family).items()
            if part in name.partition("/")[2].lower() or part == entry.kind
        ]
        if not rows:
            known = [name.partition("/")[2] for name in read_family(found.package, family)]
            if not known:
                raise EmbedderError(f"{family}/NAME is of names that only {family} knows; there is no list of them")
            raise EmbedderError(
                f"no embedder fits {query!r}{nearest(part, known)} 'vilt-bench list {family}/' shows all"
            )
        return Listing(tuple(rows), {})
    hits = [
        ListRow(name, found.distribution, entry)
        for name, found in offered.items()
        if not found.family
        for entry in [_catalogue(found.package).get(name)]
        if wanted in name.lower() or (entry is not None and wanted == entry.kind)
    ]
    more = {
        name: count
        for name, found in families.items()
        if (
            count := sum(
                wanted in f"{name}/" or wanted in each.partition("/")[2].lower() or wanted == entry.kind
                for each, entry in read_family(found.package, name).items()
            )
        )
        or wanted in f"{name}/"  # a family may have no catalogue
    }
    if not hits and not more:
        raise EmbedderError(f"no embedder fits {query!r}{guess(wanted)} 'vilt-bench list' shows all")
    return Listing(tuple(hits), more)


def render_list(listing: Listing | Sequence[ListRow], console: Console, *, query: str = "") -> None:
    """Print the embedders as a table."""
    from rich.text import Text

    rows, families = (listing.rows, listing.families) if isinstance(listing, Listing) else (listing, {})
    if rows:
        table = _table("Embedder")
        for row in rows:
            table.add_row(Text(row.name), *_cells(row.entry))
        console.print(table)
    if unknown := [row.name for row in rows if row.entry is None]:
        console.print(Text(f"{_ABSENT}: not in a catalogue; 'vilt-bench show {unknown[0]}' computes it"))
    for family, count in families.items():
        counted = f"{count:,} models" if count else "any model that it knows"
        part = "" if query.strip().lower() in f"{family}/" else query.strip()  # which is not in its models' names
        shown = f"; 'vilt-bench list {family}/{part}' shows them" if count else ""
        console.print(Text(f"{family}/NAME: {counted}{shown}"))


def render_used(entries: Sequence[Used], console: Console) -> None:
    """Print what vision-language models use: who uses it and what it costs, its name, and where the use can be read."""
    from rich.text import Text

    catalogues: dict[str, Entry] = {}
    for package in dict.fromkeys(found.package for found in installed().values()):
        catalogues |= _catalogue(package)
    titles = ("Kind", "Resolution", "Tokens", "Params (M)", "GFLOPs")
    console.print(Text(_line("Used by", titles), style="bold"))
    for used in entries:
        console.print(Text(_line(used.used_by, _cells(catalogues.get(used.embedder)))))
        console.print(Text(f"  {used.embedder}"))
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


def read(package: str) -> dict[str, Entry]:
    """Returns a package's catalogue by the embedders' names, empty if it has none; the package is not imported."""
    places = [folder / FILE for folder in package_folders(package)]
    return {
        name: _entry(entry) for file in places if files.is_file(file) for name, entry in files.read_json(file).items()
    }


def read_family(package: str, family: str) -> dict[str, Entry]:
    """Returns a family's catalogue by full name, such as `timm/resnet50`; empty if it has none."""
    found = {}
    for folder in package_folders(package):
        path = folder / FAMILY_FILE.format(family=family)
        if files.is_file(path):
            for row in csv.DictReader(files.read_text(path).splitlines()):
                size = (int(row["height"]), int(row["width"]))
                tokens, parameters = int(row["visual_tokens"]), int(row["parameters"])
                flops = int(row["flops"]) if row["flops"] else None
                found[f"{family}/{row['name']}"] = Entry(row["kind"], size, tokens, parameters, flops)
    return found


def compute(text: str) -> Entry:
    """Returns the catalogue's entry of an embedder, built on the meta device: nothing is run.

    Args:
        text: as `--embedder` takes it, with `resolution=` and `reduce=` where they are not the embedder's own.

    Raises:
        EmbedderError: the embedder can't be built, or not be run on the meta device.
    """
    from vilt_bench.meters.meta import building
    from vilt_bench.reduction import reduced

    name, options = parse_embedder(text)
    reduce = options.pop("reduce", None)
    asked = options.pop("resolution", None)
    resolution = None if asked is None else parse_resolution(str(asked))
    with building():
        embedder = build(name, options, hidden_size=HIDDEN_SIZE, resolution=resolution)
        if reduce is not None:
            embedder = reduced(embedder, str(reduce))
    return replace(entry_of(embedder, resolution, name=text), about=_about(text))


def entry_of(embedder: VisualEmbedder, resolution: tuple[int, int] | None = None, *, name: str) -> Entry:
    """Returns the catalogue's entry of an embedder that is on the meta device.

    Args:
        embedder: of width `HIDDEN_SIZE`.
        resolution: (height, width) in pixels; `None`: the embedder's own.
        name: for messages.

    Raises:
        EmbedderError: the embedder fails, or looks at values, which the meta device does not have.
    """
    import torch

    from vilt_bench.embedding import ImageBatch, Mark, VisualTokens
    from vilt_bench.meters.flops import count_flops
    from vilt_bench.meters.meta import needs_values
    from vilt_bench.photographs import crop_size

    height, width = crop_size(resolution or embedder.resolution, size_divisor=embedder.size_divisor)
    images = ImageBatch(torch.empty(1, 3, height, width, device="meta"))
    outputs: list[VisualTokens] = []

    def forward(mark: Mark | None) -> None:
        outputs.append(embedder(images, mark))

    try:
        embedder.eval()
        flops = count_flops(forward).total
    except ViltBenchError:
        raise
    except Exception as error:  # of an outsider's forward pass
        fails = "looks at values, which the meta device does not have" if needs_values(error) else "fails"
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise EmbedderError(f"embedder {name!r} {fails}: {told}") from error
    return Entry(
        kind=embedder.kind,
        resolution=(height, width),
        visual_tokens=outputs[0].embeddings.shape[1],
        parameters=sum(parameter.numel() for parameter in embedder.parameters()),
        flops=flops,
        stages=tuple(embedder.stages),
    )


def names(package: str) -> list[str]:
    """Returns what a package's catalogue holds: the embedders that it offers, and those that models use."""
    own = [found.name for found in installed().values() if found.package == package and not found.family]
    return list(dict.fromkeys([*own, *(used.embedder for used in used_by_models(package))])) if own else []


def write(package: str) -> Path:
    """Compute the entries of all embedders that are offered from a package, write its catalogue, return the path.

    Raises:
        EmbedderError: the package offers none, or one fails.
    """
    wanted, folders = names(package), package_folders(package)
    if not wanted or not folders:
        raise EmbedderError(f"no installed package {package!r} offers embedders; 'vilt-bench list' shows all")
    path = folders[0] / FILE
    content = json.dumps({name: asdict(compute(name)) for name in wanted}, indent=1) + "\n"
    files.write_bytes(path, content.encode())
    _catalogue.cache_clear()
    return path


def markdown(package: str) -> str:
    """Returns the embedders that a package offers by name as a table of Markdown, from its catalogue."""
    lines = [
        "| name | kind | what it is | stages | pixels | tokens | parameters (M) | GFLOPs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    offered = installed()
    for name, entry in read(package).items():
        if name in offered:
            kind, *numbers = _cells(entry)
            lines.append(f"| {' | '.join([f'`{name}`', kind, entry.about, ', '.join(entry.stages), *numbers])} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the catalogue of the package named, `embedders` by default; return the exit code."""
    try:
        print(write(*arguments[:1] or ["embedders"]))
    except ViltBenchError as error:
        print(f"vilt_bench.catalog: {error}", file=sys.stderr)
        return 2
    return 0


@cache
def _catalogue(package: str) -> Mapping[str, Entry]:
    return read(package)


def _entry(entry: Mapping[str, Any]) -> Entry:
    return Entry(**{**entry, "resolution": tuple(entry["resolution"]), "stages": tuple(entry.get("stages", ()))})


def _about(name: str) -> str:
    import inspect

    if name not in installed():
        return ""
    first = (inspect.getdoc(load_factory(name)) or "").partition("\n")[0].partition(";")[0]
    return first.removeprefix("Returns ").rstrip(".")


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(title, overflow="fold")
    table.add_column("Kind")
    for title in ("Resolution", "Tokens", "Params (M)", "GFLOPs"):
        table.add_column(title, justify="right")
    return table


def _line(name: str, cells: Sequence[str]) -> str:
    kind, *numbers = cells
    return f"{name:<43} {kind:<8}" + "".join(f"{number:>11}" for number in numbers)


def _cells(entry: Entry | None) -> Sequence[str]:
    if entry is None:
        return [_ABSENT] * 5
    height, width = entry.resolution
    flops = _ABSENT if entry.flops is None else f"{entry.flops / 1e9:,.2f}"
    return [entry.kind, f"{height}×{width}", f"{entry.visual_tokens:,}", f"{entry.parameters / 1e6:,.2f}", flops]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
