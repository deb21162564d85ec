"""Counts every bundled tower of transformers on the meta device, and writes down what came of it.

    python tools/transformers_catalog.py

writes `embedders/catalog-transformers.csv`, which `vilt-bench list transformers/…` shows, and the table of towers in
`docs/embedders.md`. Nothing is run and nothing is fetched; it takes two minutes on two cores.
"""

from __future__ import annotations

import json
from typing import Any

from family import row_of, table_of, write
from marked import ROOT, put

DOCS = ROOT / "docs" / "embedders.md"


def main() -> None:
    from vilt_bench.ask.catalog import FRAMES
    from vilt_bench.worker.catalog import compute

    towers: dict[str, dict[str, Any]] = json.loads((ROOT / "embedders" / "towers.json").read_text(encoding="utf-8"))
    rows = []
    for name in towers:
        rows.append(row_of(name, compute(f"transformers/{name}")))
        print(*rows[-1].values(), flush=True)
    write(rows, table_of("transformers"))
    lines = [
        "| name | input | tokens | parameters, M | GFLOPs | configuration of |",
        "|---|---|--:|--:|--:|---|",
        *(
            f"| `{row['name']}` | {f'{row[FRAMES]} frames of ' if row[FRAMES] else ''}{row['height']}×{row['width']} "
            f"| {row['visual_tokens']} "
            f"| {row['parameters'] / 1e6:.1f} | {row['flops'] / 1e9:.1f} | {towers[row['name']]['hub']} |"
            for row in rows
        ),
    ]
    put("\n".join(lines), "towers", DOCS)


if __name__ == "__main__":
    main()
