"""The catalogue of a family of embedders: a line a model, which `vilt-bench list FAMILY/…` shows."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from marked import ROOT

from vilt_bench.ask.catalog import FAMILY_COLUMNS, FRAMES, Entry
from vilt_bench.ask.registry import FAMILY_FILE


def table_of(family: str) -> Path:
    """Returns the file."""
    return ROOT / "embedders" / FAMILY_FILE.format(family=family)


def row_of(name: str, entry: Entry) -> dict[str, Any]:
    """Returns a model's line."""
    height, width = entry.resolution
    row = (name, entry.kind, height, width, entry.visual_tokens, entry.parameters, entry.flops)
    return {**dict(zip(FAMILY_COLUMNS, row, strict=True)), FRAMES: entry.frames}


def write(rows: Iterable[Mapping[str, Any]], table: Path) -> None:
    """Write the lines; of a row only what a catalogue has is kept."""
    rows = list(rows)
    columns = (*FAMILY_COLUMNS, *([FRAMES] if any(row.get(FRAMES) for row in rows) else []))
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {table.name}", file=sys.stderr)
