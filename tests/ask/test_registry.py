import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from vilt_bench.ask.registry import build, check_name, factory_file, imported_files, installed, load_factory
from vilt_bench.embedding import VisualEmbedder, stage_counts
from vilt_bench.errors import CheckpointError, EmbedderError, UnknownEmbedderError

PLUGIN = """
from typing import Literal
from torch import nn
from vilt_bench.embedding import VisualEmbedder
from vilt_bench.errors import CheckpointError

def tiny(*, hidden_size: int = 8, size: int = 4, scale: float = 1.0, mode: Literal["a", "b"] = "a",
         top: int | None = None) -> VisualEmbedder:
    embedder = VisualEmbedder({"all": nn.Identity()}, kind="linear", hidden_size=hidden_size, resolution=(size, size))
    embedder.scale = scale
    return embedder

def untyped(hidden_size, size=4):
    return tiny(hidden_size=hidden_size, size=size)

def required(*, hidden_size: int, path: str) -> VisualEmbedder: ...
def no_hidden_size() -> VisualEmbedder: ...
def raises(*, hidden_size: int) -> VisualEmbedder:
    raise KeyError("a\\nb")
def refuses(*, hidden_size: int) -> VisualEmbedder:
    raise CheckpointError("weights are of another model")
def wrong_type(*, hidden_size: int):
    return nn.Linear(1, 1)
def wrong_size(*, hidden_size: int):
    return tiny(hidden_size=hidden_size + 1)
def says(*, hidden_size: int, what: str):
    embedder = tiny(hidden_size=hidden_size)
    key, _, value = what.partition("=")
    setattr(embedder, key, eval(value))
    return embedder
def family(*, model: str, hidden_size: int = 8, size: int = 4, resolution: tuple[int, int] | None = None):
    if model != "a/b":
        raise CheckpointError(f"the family has no {model}")
    return tiny(hidden_size=hidden_size, size=size if resolution is None else resolution[0])
not_callable = 3
"""

MakePlugin = Callable[..., None]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the name of a module of embedders in the current folder, which is not on the import path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    name = f"plugin_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    return name


def test_own_embedders_come_in_by_entry_points() -> None:
    found = installed()
    assert {"patch32", "grid-r50", "region-r101-c4"} <= set(found)
    assert found["patch32"].target == "embedders.patch:patch32"
    assert found["patch32"].distribution == "vilt-bench"
    assert list(found) == sorted(found)


def test_finding_and_checking_names_imports_neither_torch_nor_embedders() -> None:
    code = (
        "import sys; from vilt_bench.ask.registry import *; installed(); check_name('patch32');"
        "check_name('embedders.patch:patch');"
        "print(any(name.startswith(('torch', 'embedders')) for name in sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


@pytest.mark.parametrize(("name", "near"), [("patch3", "patch32"), ("grid-50", "grid-r50"), ("Patch32", "patch32")])
def test_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(EmbedderError, match=f"did you mean '{near}'.*'vilt-bench list' shows all"):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("resnet50", "timm/resnet50"),
        ("clip", "transformers/clip-vit-base-patch32"),
        ("siglip", "transformers/siglip-base-patch16-224"),
        ("dinov2", "transformers/dinov2-small"),
        ("faster-rcnn", "torchvision/fasterrcnn_resnet50_fpn"),
        ("openai/clip-vit-large-patch14", "transformers/clip-vit-large-patch14"),
        ("google/siglip-so400m-patch14-384", "transformers/siglip-so400m-patch14-384"),
        ("facebook/dinov2-base", "transformers/dinov2-base"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "transformers/qwen2.5-vl-7b"),
        # What these use their own configurations say: CLIP's ViT-L at 336 pixels, EVA's ViT-g behind a Q-Former.
        ("llava-1.5", "timm/vit_large_patch14_clip_quickgelu_336.openai"),
        ("liuhaotian/llava-v1.5-7b", "timm/vit_large_patch14_clip_quickgelu_336.openai"),
        ("blip2", "timm/eva_giant_patch14_clip_224.laion400m,reduce=qformer:32"),
        ("OpenGVLab/InternVL3-8B", "timm/vit_intern300m_patch14_448.ogvl_2pt5,reduce=pixel-shuffle:2"),
    ],
)
def test_name_that_people_try_leads_to_what_exists(name: str, offered: str) -> None:
    with pytest.raises(EmbedderError, match=re.escape(f"'{offered}'")) as caught:
        check_name(name)
    assert "\n" not in str(caught.value)
    check_name(offered.partition(",")[0])


def test_name_like_no_other_is_answered_without_a_guess() -> None:
    with pytest.raises(EmbedderError) as caught:
        check_name("zzzzzz")
    assert "did you mean" not in str(caught.value)


def test_broken_plugin_is_named_by_its_distribution_and_hurts_no_other(make_plugin: MakePlugin, tmp_path: Path) -> None:
    (tmp_path / "broken_plugin_module.py").write_text("raise RuntimeError('needs\\na GPU')")
    make_plugin("broken-plugin", broken="broken_plugin_module:make", missing="no_such_module_here:make")
    with pytest.raises(EmbedderError, match=r"distribution 'broken-plugin'.*RuntimeError: needs a GPU"):
        load_factory("broken")
    with pytest.raises(EmbedderError, match="no_such_module_here"):
        load_factory("missing")
    assert callable(load_factory("patch32"))


def test_name_that_two_distributions_offer_is_refused_with_both(make_plugin: MakePlugin) -> None:
    make_plugin("first-one", twice="a:make", once="a:make")
    make_plugin("second-one", twice="b:make")
    with pytest.raises(EmbedderError, match=r"first-one, second-one.*as in a:make"):
        check_name("twice")
    check_name("once")
    check_name("patch32")


def test_module_in_the_current_folder_is_built_from(module: str) -> None:
    check_name(f"{module}:tiny")
    embedder = build(f"{module}:tiny", {"size": 6}, hidden_size=16)
    assert isinstance(embedder, VisualEmbedder)
    assert (embedder.resolution, embedder.hidden_size) == ((6, 6), 16)


def test_whole_number_is_taken_for_a_float_option(module: str) -> None:
    embedder = build(f"{module}:tiny", {"scale": 2}, hidden_size=8)
    assert isinstance(embedder.scale, float)


def test_factory_without_annotations_takes_its_options(module: str) -> None:
    assert build(f"{module}:untyped", {"size": 6}, hidden_size=8).resolution == (6, 6)


@pytest.mark.parametrize(
    ("factory", "options", "said"),
    [
        ("tiny", {"sise": 4}, "no option 'sise'; its options: size=4, scale=1.0, mode=a, top=None"),
        ("tiny", {"size": "large"}, "option 'size' must be a whole number, got 'large'"),
        ("tiny", {"size": True}, "option 'size' must be a whole number, got True"),
        ("tiny", {"mode": "c"}, "option 'mode' must be one of a, b, got 'c'"),
        ("tiny", {"top": 1.5}, "option 'top' must be int | None, got 1.5"),
        ("tiny", {"hidden_size": 4}, "give `hidden_size`"),
        ("required", {}, "needs option 'path'"),
        ("no_hidden_size", {}, "doesn't take hidden_size"),
        ("raises", {}, "can't be built: KeyError: "),
        ("wrong_type", {}, "must build a VisualEmbedder, got Linear"),
        ("wrong_size", {}, "has hidden size 9, asked was 8"),
        ("not_callable", {}, "no function"),
        ("missing", {}, "no attribute 'missing'"),
    ],
)
def test_what_goes_wrong_in_building_is_one_line_that_names_the_embedder(
    module: str, factory: str, options: dict[str, int | str], said: str
) -> None:
    with pytest.raises(EmbedderError, match=said) as caught:
        build(f"{module}:{factory}", options, hidden_size=8)
    assert f"{module}:{factory}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_that_a_user_can_act_on_pass_unchanged(module: str) -> None:
    with pytest.raises(Exception, match=r"^weights are of another model$") as caught:
        build(f"{module}:refuses", {}, hidden_size=8)
    assert type(caught.value).__name__ == "CheckpointError"


@pytest.mark.parametrize("name", ["no_such_module_here:make", "a b:make", ":make", "a:", "a..b:c", "/etc/passwd:x"])
def test_name_of_no_module_is_refused_without_importing(name: str) -> None:
    with pytest.raises(EmbedderError):
        check_name(name)


def test_a_family_offers_whatever_its_factory_knows(make_plugin: MakePlugin, tmp_path: Path) -> None:
    (tmp_path / "acme_family.py").write_text(PLUGIN)
    make_plugin("acme", **{"acme/*": "acme_family:family"})
    assert installed()["acme/*"].family
    embedder = build("acme/a/b", {"size": 16}, hidden_size=8)
    assert embedder.resolution == (16, 16)
    assert build("acme/a/b", {}, hidden_size=8, resolution=(32, 64)).resolution == (32, 32)
    with pytest.raises(CheckpointError, match="has no c"):
        build("acme/c", {}, hidden_size=8)
    for name in ("acme", "acme/", "acme/*", "nobody/a"):
        with pytest.raises(EmbedderError, match=r"no embedder named|is a family: give acme/NAME"):
            check_name(name)
    with pytest.raises(EmbedderError, match="give `resolution`"):
        build("acme/a/b", {"resolution": 3}, hidden_size=8)
    with pytest.raises(EmbedderError, match="NAME after the family's"):
        build("acme/a/b", {"model": "a/b"}, hidden_size=8)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet50", "did you mean 'timm/resnet50' or 'torchvision/resnet50'?"),
        ("clip", "did you mean 'transformers/clip-vit-base-patch32'"),
        ("clip", "'vilt-bench list clip' finds all that fit"),
        ("siglip", "did you mean 'transformers/siglip-base-patch16-224'"),
        ("openai/clip-vit-large-patch14", "did you mean 'transformers/clip-vit-large-patch14'?"),
        ("openai/clip-vit-large-patch14", "'transformers/hub:openai/clip-vit-large-patch14' fetches"),
        ("patch3", "did you mean 'patch32'?"),
        ("resnet-50", "did you mean '"),
        ("timm", "is a family: give timm/NAME"),
        ("timm/", "is a family: give timm/NAME"),
        ("transformers/", "'vilt-bench list transformers/' shows all"),
        ("detectron2", "is a family: give detectron2/NAME"),
    ],
)
def test_a_name_without_its_family_leads_to_what_exists(name, said):
    with pytest.raises(UnknownEmbedderError) as caught:
        check_name(name)
    assert said in str(caught.value)
    for each in re.findall(r"'([^']+)'", str(caught.value).partition("did you mean")[2].partition("?")[0]):
        check_name(each)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("kind=None", "its kind is None; expected one of linear, grid, region, encoder"),
        ("kind='vit'", "its kind is 'vit'; expected one of"),
        ("weights=None", "its weights is None; expected a text"),
        ("resolution=(224, 2.5)", r"its resolution is \(224, 2.5\); expected \(height, width\) in pixels"),
        ("resolution=224", "its resolution is 224"),
        ("size_divisor=0", "its size_divisor is 0; expected a whole number of pixels"),
        ("fixed_size=None", "its fixed_size is None; expected true or false"),
        ("mean=(0.5, 0.5)", "its mean is .0.5, 0.5.; expected three numbers"),
        ("std=(1.0, 0.0, 1.0)", "its std is .* not 0"),
        ("std=None", "its std is None"),
        ("notes={'all': None}", "its notes is {'all': None}; expected texts by stage"),
        ("stages=nn.ModuleDict()", "its stages is .*; expected at least one"),
    ],
)
def test_what_an_embedder_says_of_itself_is_checked_and_blamed_on_it(module: str, what: str, message: str) -> None:
    with pytest.raises(EmbedderError, match=f"^embedder '{module}:says' can't be used: {message}.*; mend its factory$"):
        build(f"{module}:says", {"what": what}, hidden_size=8)


@pytest.mark.parametrize("found", ["3", "{'kept': 'many'}", "{'kept': 2.5}"])
def test_what_a_stage_counts_must_be_whole_numbers(found: str) -> None:
    stage = nn.Identity()
    stage.counts = lambda _: eval(found)  # type: ignore[assignment]
    with pytest.raises(EmbedderError, match=r"^Identity.counts returned .*; expected whole numbers by name$"):
        stage_counts(stage, None)
    stage.counts = lambda _: {"kept": torch.tensor(3)}  # type: ignore[assignment]
    assert stage_counts(stage, None) == {"kept": 3}


def test_the_file_of_an_embedder_is_of_the_module_that_it_is_taken_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken_elsewhere.py").write_text("from embedders.patch import patch16 as build\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert factory_file("taken_elsewhere:build") == str(tmp_path / "taken_elsewhere.py")
    assert factory_file("patch16") == sys.modules["embedders.patch"].__file__


def test_imported_files_are_the_first_of_packages_and_none_of_pythons_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    monkeypatch.setitem(sys.modules, "odd", Odd())  # type: ignore[arg-type]
    found = imported_files()
    assert torch.__file__ in found
    assert sys.modules["torch.nn"].__file__ not in found
    assert re.__file__ not in found
    assert all(Path(file).is_absolute() for file in found)
