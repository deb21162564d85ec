import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vilt_bench.ask import catalog
from vilt_bench.ask.axes import Sweep
from vilt_bench.ask.case import parse_embedder
from vilt_bench.ask.presets import embedders_of, find_preset, presets, used_by_models
from vilt_bench.ask.registry import check_name
from vilt_bench.errors import ConfigError


def test_the_presets_are_there_and_name_embedders_that_are() -> None:
    assert {"tiny", "paper", "vlm-2026", "tokens-curve"} <= set(presets())
    for preset in presets().values():
        assert preset.about
        for text in preset.embedders:
            check_name(parse_embedder(text)[0])


def test_a_misspelt_preset_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        find_preset("papr")


def test_presets_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[presets.a]\nembedders = ["patch32"]\n[presets.b]\nembedders = ["patch16", "patch32"]\n')
    assert [each.embedders for each in find_preset(str(path))] == [("patch32",), ("patch16", "patch32")]


def test_axes_of_a_preset_are_its_embedders_own_unless_they_are_asked_for_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[presets.a]\nembedders = ["patch32", "patch16,reduce=avg-pool:2"]\n'
        'axes = { reduce = ["none", "avg-pool:4"], text-length = [8, 16] }\n'
    )
    lengths = Sweep(embedders_of(str(path)), {"batch_size": [1, 2]}).cases()
    assert [(case.embedder, case.reduce, case.text_length, case.batch_size) for case in lengths] == [
        *(
            ("patch32", reduce, length, batch)
            for reduce in (None, "avg-pool:4")
            for length in (8, 16)
            for batch in (1, 2)
        ),
        *(("patch16", "avg-pool:2", length, batch) for length in (8, 16) for batch in (1, 2)),
    ]
    asked = Sweep(embedders_of(str(path), asked=["text_length"]), {"text_length": [40]}).cases()
    assert {case.text_length for case in asked} == {40}


def test_the_tokens_curve_has_the_prefill_of_several_numbers_of_tokens_in_front_of_a_language_model() -> None:
    cases = Sweep(embedders_of("tokens-curve")).cases()
    assert all(case.language_model for case in cases)
    assert len({(case.resolution, case.reduce, case.tiles) for case in cases}) == len(cases)
    assert {case.tiles for case in cases} == {None, "internvl:6", "idefics3:512"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("[presets.a", "can't be read as TOML"),
        ("[presets.a]\nembedders = 3", "needs embedders"),
        ("[presets.a]\nembedders = []", "needs embedders"),
        ("[presets]\na = 3", "needs embedders"),
        ('[presets.a]\nembedders = ["patch32"]\naxes = 3', "no table"),
        ('[presets.a]\nembedders = ["patch32"]\naxes.resolutions = ["1x1"]', "no axis 'resolutions'; did you mean"),
        ('[presets.a]\nembedders = ["patch32"]\naxes.batch-size = "1"', "axes of .presets.a.: .*a list of values"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        find_preset(str(path))
    assert "\n" not in str(caught.value)


def test_packages_bring_presets(make_plugin: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "acme_presets").mkdir()
    (tmp_path / "acme_presets" / "presets.toml").write_text('[presets.acme]\nembedders = ["acme"]\n')
    make_plugin("acme", acme="acme_presets.module:factory")
    assert [each.embedders for each in find_preset("acme")] == [("acme",)]
    assert "tiny" in presets()


def test_what_models_use_can_be_read_where_it_is_said() -> None:
    libraries = {name: pytest.importorskip(name) for name in ("timm", "transformers")}
    entries, tags = used_by_models(), libraries["timm"].list_pretrained()
    towers = json.loads((Path(__file__).parents[2] / "embedders" / "towers.json").read_text())
    assert len(entries) >= 90
    for used in entries:
        place, _, rest = used.evidence.partition(" ")
        if used.evidence.startswith("timm weights "):
            assert rest.removeprefix("weights ") in tags, used
        elif place in libraries:  # a file, and none of a class's defaults
            assert (Path(libraries[place].__file__).parent / rest).is_file(), used
            assert "configuration_" not in rest, used
        elif place == "configuration":
            tower = used.embedder.removeprefix("transformers/").partition(",")[0]
            assert rest == f"of {towers[tower]['hub']}", used
        elif place.startswith("github:"):
            assert place.count("/") == 1, used
            assert rest.endswith((".py", ".sh", ".md", ".json")), used
        else:
            assert used.evidence == "ViLT paper, section 3.1"


def test_what_models_use_is_listed_once() -> None:
    entries = [(used.embedder, used.used_by) for used in used_by_models()]
    assert len(set(entries)) == len(entries)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FastVlmConfig", {"vision_config.architecture": "fastvit_mci3"}),
        ("Gemma3nVisionConfig", {"architecture": "mobilenetv5_300m_enc"}),
        ("FuyuConfig", {"patch_size": 30}),
        ("NeoMMEConfig", {"patch_size": 32}),
        ("Gemma4UnifiedVisionConfig", {"model_patch_size": 48, "mm_posemb_size": 1120}),
        (
            "LlavaConfig",
            {
                "vision_config.model_type": "clip_vision_model",
                "vision_config.image_size": 336,
                "vision_config.hidden_size": 1024,
                "vision_config.patch_size": 14,
                "vision_config.num_hidden_layers": 24,
            },
        ),
        (
            "Blip2Config",
            {"vision_config.hidden_size": 1408, "vision_config.num_hidden_layers": 39, "num_query_tokens": 32},
        ),
        (
            "LlavaOnevisionConfig",
            {
                "vision_config.image_size": 384,
                "vision_config.hidden_size": 1152,
                "vision_config.patch_size": 14,
                "vision_config.num_hidden_layers": 26,
            },
        ),
        (
            "AyaVisionConfig",
            {"vision_config.image_size": 384, "vision_config.num_hidden_layers": 26, "downsample_factor": 2},
        ),
        (
            "Cohere2VisionConfig",
            {"vision_config.image_size": 512, "vision_config.hidden_size": 1152, "downsample_factor": 2},
        ),
        ("JanusVisionConfig", {"image_size": 384, "hidden_size": 1024, "patch_size": 16, "num_hidden_layers": 24}),
        (
            "InternVLConfig",
            {"vision_config.hidden_size": 1024, "vision_config.num_hidden_layers": 24, "downsample_ratio": 0.5},
        ),
        ("GotOcr2VisionConfig", {"image_size": 1024, "hidden_size": 768, "output_channels": 256}),
    ],
)
def test_configurations_are_of_the_size_that_is_listed(name: str, expected: dict[str, object]) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    config = getattr(transformers, name)()
    for path, value in expected.items():
        found = config
        for part in path.split("."):
            found = getattr(found, part)
        assert found == value, path


def test_each_has_its_numbers_in_the_catalogue() -> None:
    kept = catalog.read("embedders")
    for used in used_by_models("embedders"):
        assert used.embedder in kept
