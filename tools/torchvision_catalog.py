"""Counts every detector and classifier of torchvision on the meta device, and writes down what came of it.

    python tools/torchvision_catalog.py

writes `embedders/catalog-torchvision.csv`, which `vilt-bench list torchvision/…` shows. Nothing is run and nothing is
fetched; it takes some minutes on two cores.
"""

from __future__ import annotations

import csv

from marked import ROOT

TABLE = ROOT / "embedders" / "catalog-torchvision.csv"


def main() -> None:
    from torchvision import models

    from vilt_bench.ask.catalog import FAMILY_COLUMNS
    from vilt_bench.errors import EmbedderError
    from vilt_bench.worker.catalog import compute

    rows = []
    for name in [*models.list_models(module=models.detection), *models.list_models(module=models)]:
        try:
            entry = compute(f"torchvision/{name}")
        except EmbedderError as error:
            print(f"{name}: {error}", flush=True)
            continue
        rows.append((name, entry.kind, *entry.resolution, entry.visual_tokens, entry.parameters, entry.flops))
        print(*rows[-1], flush=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([FAMILY_COLUMNS, *rows])


if __name__ == "__main__":
    main()
