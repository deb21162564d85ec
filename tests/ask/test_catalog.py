import dataclasses
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from torchvision import models

from vilt_bench.ask import catalog
from vilt_bench.cli import main
from vilt_bench.errors import EmbedderError
from vilt_bench.report.embedders import listing
from vilt_bench.worker.catalog import compute, names, write

MakePlugin = Callable[..., None]


@pytest.fixture
def package(make_plugin: MakePlugin, tmp_path: Path) -> str:
    """Returns the name of an installed package that offers an embedder of three features a cell of 8×8 pixels."""
    name = f"catalogued_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "wide.py").write_text("""
from torch import nn
from vilt_bench.embedding import VisualEmbedder, VisualTokens

class Project(nn.Conv2d):
    def forward(self, images):
        return VisualTokens(super().forward(images.pixels).flatten(2).transpose(1, 2))

def wide(*, hidden_size: int = 768):
    stages = {"project": Project(3, hidden_size, 8, stride=8, bias=False)}
    return VisualEmbedder(stages, kind="linear", hidden_size=hidden_size, resolution=(20, 35), size_divisor=8)
""")
    make_plugin("wide-plugin", a_wide_one=f"{name}.wide:wide")
    return name


def line(text: str, start: str) -> str:
    return next(found for found in text.splitlines() if found.startswith(start))


def listed(found: catalog.Listing, *, query: str = "") -> str:
    file = io.StringIO()
    listing.render_list(found, Console(file=file, width=80), query=query)
    return file.getvalue()


def test_catalogue_of_an_outsider_is_written_and_read_without_importing_it(package: str) -> None:
    assert catalog.read(package) == {}
    assert "vilt-bench show a-wide-one" in listed(catalog.find("a-wide"))
    assert write(package).name == "catalog.json"
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]
    (row,) = catalog.find("a-wide").rows
    # 20×35 pixels cut to 16×32: 2 · 4 cells; 3 · 8 · 8 inputs to each of 768 outputs; 2 FLOPs a multiply-add
    assert row.entry == catalog.Entry("linear", (16, 32), 8, 192 * 768, 2 * 8 * 192 * 768, ("project",))
    assert not any(name.startswith(package) for name in sys.modules)


def test_package_without_embedders_has_no_catalogue_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "no_such_package_here"]) == 2
    assert "no_such_package_here" in capsys.readouterr().err
    assert catalog.read("no_such_package_here") == {}


def test_list_finds_by_part_of_a_name() -> None:
    assert {row.name for row in catalog.find("Patch").rows} == {"patch", "patch16", "patch32"}
    assert len(catalog.find().rows) >= 11


def test_query_without_a_hit_is_answered_with_the_nearest() -> None:
    with pytest.raises(EmbedderError, match="did you mean 'patch16'"):
        catalog.find("ptch16")


def test_list_shows_millions_and_gflops() -> None:
    entry = catalog.Entry(kind="linear", resolution=(384, 640), visual_tokens=240, parameters=2_360_064, flops=10**9)
    text = listed(catalog.Listing((catalog.ListRow("known", "a", entry), catalog.ListRow("foreign", "b", None)), {}))
    assert line(text, "known").split() == ["known", "linear", "384×640", "240", "2.36", "1.00"]
    assert line(text, "foreign").split() == ["foreign", *["–"] * 5]
    assert "vilt-bench show foreign" in text


@pytest.mark.slow
def test_catalogue_equals_what_the_code_builds() -> None:
    kept = catalog.read("embedders")
    assert list(kept) == names("embedders")
    assert {name: compute(name) for name in kept} == kept


@pytest.fixture
def family(make_plugin: MakePlugin, tmp_path: Path) -> str:
    (tmp_path / "acme_zoo").mkdir()
    (tmp_path / "acme_zoo" / "catalog-acme.csv").write_text(
        "name,kind,height,width,visual_tokens,parameters,flops\n"
        "zoo_small,grid,224,224,49,1000000,2000000000\nzoo_large,encoder,384,384,576,5000000,7000000000\n"
    )
    make_plugin("acme", **{"acme/*": "acme_zoo.module:family"})
    return "acme"


def test_a_family_lists_its_models_by_part_of_their_names(family: str) -> None:
    (row,) = catalog.find(f"{family}/small").rows
    assert row.name == "acme/zoo_small"
    assert row.entry == catalog.Entry("grid", (224, 224), 49, 1_000_000, 2_000_000_000)
    assert [row.name for row in catalog.find(f"{family}/").rows] == ["acme/zoo_small", "acme/zoo_large"]


def test_a_query_says_how_many_of_a_family_fit_too(family: str) -> None:
    found = catalog.find("zoo_")
    assert found.rows == ()
    assert found.families == {"acme": 2}
    assert "acme/NAME: 2 models; 'vilt-bench list acme/zoo_' shows them" in listed(found, query="zoo_")


def test_a_misspelt_model_of_a_family_gets_the_nearest(family: str) -> None:
    with pytest.raises(EmbedderError, match="did you mean 'acme/zoo_small'"):
        catalog.find(f"{family}/zo_smal")


def test_a_family_without_a_catalogue_says_so(make_plugin: MakePlugin) -> None:
    make_plugin("bare", **{"bare/*": "bare.module:family"})
    with pytest.raises(EmbedderError, match="there is no list of them"):
        catalog.find("bare/x")


def test_an_entry_is_computed_with_resolution_and_reduction() -> None:
    entry = compute("patch,patch_size=16,resolution=64x96,reduce=avg-pool:2")
    assert (entry.resolution, entry.visual_tokens) == ((64, 96), 2 * 3)
    assert entry.stages == ("projection", "reduction")


def test_a_kind_finds_the_families_that_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "encoder"]) == 0
    assert "timm/NAME" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/ssdlite320_mobilenet_v3_large", "timm/resnet18"])
def test_a_familys_catalogue_tells_what_its_embedder_has(name: str) -> None:
    listed = catalog.read_family("embedders", name.partition("/")[0])[name]
    assert dataclasses.replace(compute(name), stages=listed.stages) == listed


def test_torchvisions_catalogue_has_all_its_detectors_and_classifiers() -> None:
    names = {f"torchvision/{name}" for module in (models, models.detection) for name in models.list_models(module)}
    assert set(catalog.read_family("embedders", "torchvision")) == names


def test_a_family_without_a_catalogue_is_found_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "detectron2"]) == 0
    assert capsys.readouterr().out.strip() == "detectron2/NAME: any model that it knows"


@pytest.mark.parametrize("query", ["timm", "tim", "torch", "clip", "resnet50", "siglip", "encoder", "convnext"])
def test_what_list_names_next_shows_as_many_as_it_counted(query: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", query]) == 0
    told = re.findall(r"([\d,]+) models; 'vilt-bench list ([^']+)'", capsys.readouterr().out)
    assert told
    for count, following in told:
        found = catalog.find(following)
        assert len(found.rows) == int(count.replace(",", ""))
        assert not found.families
