"""What is known of embedders without building them: finds and reads the catalogues that packages ship."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from vilt_bench import files
from vilt_bench.ask.registry import FAMILY, FAMILY_FILE, guess, installed, package_folders
from vilt_bench.errors import EmbedderError
from vilt_bench.words import did_you_mean, nearest

FILE = "catalog.json"
"""In a package's top folder: an entry for each of its embedders, by name."""
FAMILY_COLUMNS = ("name", "kind", "height", "width", "visual_tokens", "parameters", "flops")
"""Of a family's catalogue, see `FAMILY_FILE`."""
FRAMES = "frames"
"""One more of these, where some of a family take clips."""
HIDDEN_SIZE = 768
"""D that the entries are for."""


@dataclass(frozen=True)
class Entry:
    """What a catalogue says of an embedder as it is named, at D = 768 and for one image, or one clip."""

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
    frames: int | None = None
    """Of the clip; `None`: it takes images."""


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


def find(query: str = "") -> Listing:
    """Returns the installed embedders whose name or kind contains the query; imports none of them.

    Args:
        query: part of a name, or a kind; `FAMILY/` and part of a name looks into that family.

    Raises:
        EmbedderError: nothing fits the query.
    """
    offered = installed()
    wanted = query.strip().lower()
    families = {name.removesuffix(FAMILY): offer for name, offer in offered.items() if offer.family}
    family, slash, part = wanted.partition("/")
    if slash and family in families:
        offer = families[family]
        rows = [
            ListRow(name, offer.distribution, entry)
            for name, entry in read_family(offer.package, family).items()
            if part in name.partition("/")[2].lower() or part == entry.kind
        ]
        if not rows:
            known = [name.partition("/")[2] for name in read_family(offer.package, family)]
            if not known:
                raise EmbedderError(f"{family}/NAME is of names that only {family} knows; there is no list of them")
            close = nearest(part, known)
            meant = did_you_mean(close and f"{family}/{close}")
            raise EmbedderError(f"no embedder fits {query!r}{meant} 'vilt-bench list {family}/' shows all")
        return Listing(tuple(rows), {})
    hits = [
        ListRow(name, offer.distribution, entry)
        for name, offer in offered.items()
        if not offer.family
        for entry in [catalogue(offer.package).get(name)]
        if wanted in name.lower() or (entry is not None and wanted == entry.kind)
    ]
    more = {
        name: count
        for name, offer in families.items()
        if (
            count := sum(
                wanted in f"{name}/" or wanted in each.partition("/")[2].lower() or wanted == entry.kind
                for each, entry in read_family(offer.package, name).items()
            )
        )
        or wanted in f"{name}/"  # a family may have no catalogue
    }
    if not hits and not more:
        raise EmbedderError(f"no embedder fits {query!r}{guess(wanted)} 'vilt-bench list' shows all")
    return Listing(tuple(hits), more)


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
                frames = int(row[FRAMES]) if row.get(FRAMES) else None
                found[f"{family}/{row['name']}"] = Entry(row["kind"], size, tokens, parameters, flops, frames=frames)
    return found


def entries() -> dict[str, Entry]:
    """Returns all that the installed packages' catalogues have, by name, the members of families too."""
    found: dict[str, Entry] = {}
    for name, offer in installed().items():
        if offer.family:
            found |= read_family(offer.package, name.removesuffix(FAMILY))
        elif (entry := catalogue(offer.package).get(name)) is not None:
            found[name] = entry
    return found


@cache
def catalogue(package: str) -> Mapping[str, Entry]:
    """Returns a package's catalogue, read once."""
    return read(package)


def _entry(entry: Mapping[str, Any]) -> Entry:
    return Entry(**{**entry, "resolution": tuple(entry["resolution"]), "stages": tuple(entry.get("stages", ()))})
