"""What `vilt-bench list` shows, read from catalogues that embedder packages carry, so that nothing is built for it.

`python -m vilt_bench.catalog [PACKAGE]` writes a package's catalogue anew: `catalog.json` in its top folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vilt_bench.errors import EmbedderError, ViltBenchError
from vilt_bench.registry import Installed, build, installed, nearest

if TYPE_CHECKING:
    from rich.console import Console

FILE = "catalog.json"
HIDDEN_SIZE = 768
"""D that the entries are for."""
_ABSENT = "–"


@dataclass(frozen=True)
class Entry:
    """What a catalogue says of an embedder with its default options, at D = 768 and for one image."""

    kind: str
    resolution: tuple[int, int]
    """Default (height, width) in pixels, cut to the multiples that the embedder asks for."""
    visual_tokens: int
    parameters: int
    flops: int
    """2 per multiply-add."""


@dataclass(frozen=True)
class ListRow:
    """An installed embedder, and its catalogue's entry if there is one."""

    name: str
    distribution: str
    entry: Entry | None


def list_rows(query: str = "") -> list[ListRow]:
    """Returns the installed embedders whose name or kind contains the query; imports none of them.

    Raises:
        EmbedderError: nothing fits the query.
    """
    offered = installed()
    catalogues = {top: read(top) for top in {_top(found) for found in offered.values()}}
    rows = [
        ListRow(found.name, found.distribution, catalogues[_top(found)].get(found.name)) for found in offered.values()
    ]
    wanted = query.strip().lower()
    hits = [row for row in rows if wanted in row.name.lower() or (row.entry is not None and wanted == row.entry.kind)]
    if not hits:
        raise EmbedderError(f"no embedder fits {query!r}{nearest(wanted, list(offered))} 'vilt-bench list' shows all")
    return hits


def render_list(rows: Sequence[ListRow], console: Console) -> None:
    """Print the embedders as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Embedder", overflow="fold")
    table.add_column("Kind")
    for title in ("Resolution", "Tokens", "Params (M)", "GFLOPs"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(Text(row.name), *_cells(row.entry))
    console.print(table)
    if unknown := [row.name for row in rows if row.entry is None]:
        console.print(Text(f"{_ABSENT}: not in a catalogue; 'vilt-bench show {unknown[0]}' computes it"))


def read(package: str) -> dict[str, Entry]:
    """Returns a package's catalogue by the embedders' names, empty if it has none; the package is not imported."""
    files = [folder / FILE for folder in _folders(package)]
    return {
        name: Entry(**{**entry, "resolution": tuple(entry["resolution"])})
        for file in files
        if file.is_file()
        for name, entry in json.loads(file.read_text(encoding="utf-8")).items()
    }


def compute(name: str) -> Entry:
    """Returns the catalogue's entry of an embedder, built on the meta device: nothing is run.

    Raises:
        EmbedderError: the embedder can't be built, or not be run on the meta device.
    """
    import torch

    from vilt_bench.embedding import ImageBatch, Mark, VisualTokens
    from vilt_bench.meters.flops import count_flops
    from vilt_bench.photographs import crop_size

    with torch.device("meta"):
        embedder = build(name, {}, hidden_size=HIDDEN_SIZE).eval()
        height, width = crop_size(embedder.resolution, size_divisor=embedder.size_divisor)
        images = ImageBatch(torch.empty(1, 3, height, width))
    outputs: list[VisualTokens] = []

    def forward(mark: Mark | None) -> None:
        outputs.append(embedder(images, mark))

    try:
        flops = count_flops(forward, embedder)
    except (RuntimeError, NotImplementedError) as error:
        raise EmbedderError(
            f"embedder {name!r} can't run on the meta device: {' '.join(str(error).split())}"
        ) from error
    return Entry(
        kind=embedder.kind,
        resolution=(height, width),
        visual_tokens=outputs[0].embeddings.shape[1],
        parameters=sum(parameter.numel() for parameter in embedder.parameters()),
        flops=sum(flops.values()),
    )


def write(package: str) -> Path:
    """Compute the entries of all embedders that are offered from a package, write its catalogue, return the path.

    Raises:
        EmbedderError: the package offers none, or one fails.
    """
    names = [found.name for found in installed().values() if _top(found) == package and not found.family]
    folders = _folders(package)
    if not names or not folders:
        raise EmbedderError(f"no installed package {package!r} offers embedders; 'vilt-bench list' shows all")
    path = folders[0] / FILE
    path.write_text(json.dumps({name: asdict(compute(name)) for name in names}, indent=2) + "\n", encoding="utf-8")
    return path


def main(arguments: Sequence[str]) -> int:
    """Write the catalogue of the package named, `embedders` by default; return the exit code."""
    try:
        print(write(*arguments[:1] or ["embedders"]))
    except ViltBenchError as error:
        print(f"vilt_bench.catalog: {error}", file=sys.stderr)
        return 2
    return 0


def _cells(entry: Entry | None) -> Sequence[str]:
    if entry is None:
        return [_ABSENT] * 5
    height, width = entry.resolution
    numbers = [f"{entry.visual_tokens}", f"{entry.parameters / 1e6:.2f}", f"{entry.flops / 1e9:.2f}"]
    return [entry.kind, f"{height}×{width}", *numbers]


def _top(found: Installed) -> str:
    return found.target.partition(":")[0].partition(".")[0]


def _folders(package: str) -> list[Path]:
    """Returns the folders of a top-level package, several for a namespace; finding it imports nothing."""
    try:
        spec = find_spec(package)
    except ValueError:  # a module without a spec, such as __main__
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
