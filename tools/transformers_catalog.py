"""Counts every bundled tower of transformers on the meta device, and writes down what came of it.

    python tools/transformers_catalog.py

writes `embedders/catalog-transformers.csv`, which `vilt-bench list transformers/…` shows, and the table of towers in
`docs/embedders.md`. Nothing is run and nothing is fetched; it takes two minutes on two cores.
"""

from __future__ import annotations

import csv
import json
from typing import Any

from marked import ROOT, put

TABLE = ROOT / "embedders" / "catalog-transformers.csv"
DOCS = ROOT / "docs" / "embedders.md"


def main() -> None:
    from vilt_bench.ask.catalog import FAMILY_COLUMNS
    from vilt_bench.worker.catalog import compute

    towers: dict[str, dict[str, Any]] = json.loads((ROOT / "embedders" / "towers.json").read_text(encoding="utf-8"))
    rows = []
    for name in towers:
        entry = compute(f"transformers/{name}")
        height, width = entry.resolution
        rows.append((name, entry.kind, height, width, entry.visual_tokens, entry.parameters, entry.flops))
        print(*rows[-1], flush=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([FAMILY_COLUMNS, *rows])
    lines = [
        "| name | input | tokens | parameters, M | GFLOPs | configuration of |",
        "|---|---|--:|--:|--:|---|",
        *(
            f"| `{name}` | {height}×{width} | {tokens} | {parameters / 1e6:.1f} | {flops / 1e9:.1f} "
            f"| {towers[name]['hub']} |"
            for name, _, height, width, tokens, parameters, flops in rows
        ),
    ]
    put("\n".join(lines), "towers", DOCS)


if __name__ == "__main__":
    main()
