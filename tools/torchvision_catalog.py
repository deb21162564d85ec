"""Counts every detector and classifier of torchvision on the meta device, and writes down what came of it.

    python tools/torchvision_catalog.py

writes `embedders/catalog-torchvision.csv`, which `vilt-bench list torchvision/…` shows. Nothing is run and nothing is
fetched; it takes some minutes on two cores.
"""

from __future__ import annotations

from family import row_of, table_of, write


def main() -> None:
    from torchvision import models

    from vilt_bench.errors import EmbedderError
    from vilt_bench.worker.catalog import compute

    rows = []
    for name in [*models.list_models(module=models.detection), *models.list_models(module=models)]:
        try:
            entry = compute(f"torchvision/{name}")
        except EmbedderError as error:
            print(f"{name}: {error}", flush=True)
            continue
        rows.append(row_of(name, entry))
        print(*rows[-1].values(), flush=True)
    write(rows, table_of("torchvision"))


if __name__ == "__main__":
    main()
