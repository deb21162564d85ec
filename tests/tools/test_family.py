import csv
import importlib
import sys
from pathlib import Path

import pytest

from vilt_bench.worker.catalog import compute

ROOT = Path(__file__).parents[2]


@pytest.fixture
def family(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    for name in ("family", "marked"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("family")


@pytest.mark.parametrize("name", ["timm", "torchvision", "transformers"])
def test_a_familys_catalogue_is_written_as_it_is_kept(name, family, tmp_path):
    kept = family.table_of(name)
    with kept.open(encoding="utf-8", newline="") as file:
        rows = [row | {"told elsewhere": "x"} for row in csv.DictReader(file)]
    family.write(rows, tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_bytes() == kept.read_bytes()


def test_a_models_line_is_the_one_that_is_kept(family, tmp_path):
    names = ("dinov2-small", "vjepa2-vitl-fpc64-256")  # of images, and of clips
    family.write([family.row_of(name, compute(f"transformers/{name}")) for name in names], tmp_path / "table.csv")
    made = (tmp_path / "table.csv").read_text().splitlines()
    assert set(made) <= set(family.table_of("transformers").read_text().splitlines())
