import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from vilt_bench.ask.case import (
    Case,
    Option,
    Sampling,
    ViltConfig,
    case_name,
    command_line,
    label,
    parse_embedder,
    parse_frames,
    parse_option,
    parse_resolution,
    write_frames,
)
from vilt_bench.errors import ConfigError


@pytest.mark.parametrize("text", ["384x640", "384X640", " 384×640 "])
def test_resolution_reads_as_height_and_width(text: str) -> None:
    assert parse_resolution(text) == (384, 640)


@pytest.mark.parametrize(
    "text", ["", "384", "x640", "384x", "-3x5", "384.5x640", "0x640", "99999x1", "1e3x5", "9" * 99]
)
def test_malformed_or_absurd_resolution_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="`resolution`") as caught:
        parse_resolution(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("36", 36),
        ("-1", -1),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("a", "a"),
        ("nan", "nan"),
        ("-inf", "-inf"),
        ("1e999", "1e999"),
        ("9" * 400, 10**400 - 1),
    ],
)
def test_option_reads_as_the_narrowest_type(text: str, value: Option) -> None:
    read = parse_option(text)
    assert (read, type(read)) == (value, type(value))


def test_embedder_with_options_reads_as_name_and_options() -> None:
    name, options = parse_embedder("region-r101-c4,proposals=300,nms-mode=class-agnostic")
    assert (name, options) == ("region-r101-c4", {"proposals": 300, "nms_mode": "class-agnostic"})
    assert label(Case(name, options)) == "region-r101-c4,proposals=300,nms_mode=class-agnostic"


@pytest.mark.parametrize("text", ["patch,48", "patch,=48", "patch,a=1,a=2", "patch,", "patch,1a=3"])
def test_malformed_options_are_refused_with_the_text(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_embedder(text)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"embedder": ""}, "can't be empty"),
        ({"options": {"scale": float("nan")}}, "scale=nan of 'patch32' is no finite number"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"batch_size": -1}, "`batch_size`"),
        ({"batch_size": 10**9}, "`batch_size`"),
        ({"text_length": 1}, "`text_length`"),
        ({"images_per_text": 0}, "`images_per_text`"),
        ({"images_per_text": -2, "interaction": "lm:SmolLM2-135M"}, "`images_per_text`"),
        ({"images_per_text": 3}, "`images_per_text` must be 2 at most for ViLT"),
        ({"images_per_text": 2, "interaction": "lxmert"}, "must be 1 for `interaction` lxmert, got 2"),
        ({"images_per_text": 2, "interaction": "none"}, "`images_per_text` would be for; leave it out"),
        ({"images_per_text": 2, "batch_size": 65_536}, "131,072 images a pass; expected 65,536 at most"),
        ({"frames": 0, "interaction": "none"}, "`frames`"),
        ({"frames": 10**6, "interaction": "none"}, "`frames`"),
        ({"frames": 4096, "batch_size": 100, "interaction": "none"}, "are 409,600 a pass; expected 65,536 at most"),
        ({"frames": 8}, "none that `interaction` vilt joins; give `interaction` none, or lm:NAME"),
        ({"frames": 8, "fit": "native", "interaction": "none"}, "synthetic frames have no size of their own"),
        ({"frames": 8, "preprocessing": True, "interaction": "none"}, "synthetic frames are none; give `images` CLIP"),
        ({"frame_rate": 2.0}, "is of `frames`; give them as well"),
        ({"frames": 8, "frame_rate": 2.0, "interaction": "none"}, "synthetic frames have no time"),
        ({"frames": 8, "frame_rate": math.nan, "images": ("a.mp4",), "interaction": "none"}, "`frame_rate`"),
        ({"text_length": 41}, "`text_positions` 41"),
        ({"threads": 0}, "`threads`"),
        ({"device": "GPU 0"}, "no device is called 'GPU 0'"),
        ({"device": "cuda:x"}, "no device is called 'cuda:x'"),
        ({"device": "mps:1"}, "no device is called 'mps:1'"),
        ({"dtype": "int8"}, "`dtype`"),
        ({"backend": ""}, "`backend`"),
        ({"fit": "stretch"}, "`fit`"),
        ({"seed": -1}, "`seed`"),
        ({"resolution": (0, 10)}, "`resolution`"),
    ],
)
def test_impossible_case_is_refused_and_the_field_named(fields: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Case(**{"embedder": "patch32", **fields})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": 0.0},
        {"precision": 1.0},
        {"precision": float("nan")},
        {"max_time_s": 0.0},
        {"max_time_s": float("inf")},
        {"trials": 0},
        {"least_samples": 0},
    ],
)
def test_impossible_sampling_is_refused(fields: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Sampling(**fields)


@pytest.mark.parametrize("fields", [{"hidden_size": 770}, {"hidden_size": 0}, {"layers": 0}, {"mlp_size": 0}])
def test_impossible_sizes_of_the_shared_model_are_refused(fields: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Case("patch32", vilt=ViltConfig(**fields))


def test_longer_text_needs_more_positions() -> None:
    assert Case("patch32", text_length=100, vilt=ViltConfig(text_positions=100)).text_length == 100


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3", "mps", "xpu", "xpu:1", "npu", "privateuseone:0"])
def test_known_devices_are_taken(device: str) -> None:
    assert Case("patch32", device=device).device == device


def test_a_case_of_a_record_with_the_older_name_of_the_backend_is_the_same_case():
    older = msgspec.json.decode(b'{"embedder": "patch32", "linear": "onednn"}', type=Case)
    assert older == Case("patch32", backend="onednn")
    assert replace(older, backend="torch") == Case("patch32")
    assert msgspec.json.decode(msgspec.json.encode(older), type=Case) == older


def test_an_older_version_reads_the_backend_under_the_name_that_it_knows():
    told = msgspec.json.decode(msgspec.json.encode(Case("patch32", backend="torch:channels_last")))
    assert told["linear"] == "torch:channels_last"  # which it refuses in a line, as it has no such backend


def test_backends_with_the_same_options_are_the_same_backend():
    cases = [
        Case("patch32", backend=text)
        for text in ("torch:attention=math,channels_last", "torch:channels-last,attention=math,whole=false")
    ]
    assert cases[0] == cases[1]
    assert case_name(cases[0]) == "patch32 (torch:attention=math,channels_last)"
    assert "--backend torch:attention=math,channels_last" in command_line(cases[0], "run")


@pytest.mark.parametrize(("text", "read"), [("8", (8, None)), ("8@2", (8, 2.0)), ("16@0.5", (16, 0.5))])
def test_frames_read_as_their_number_and_rate(text: str, read: tuple[int, float | None]) -> None:
    assert parse_frames(text) == read
    assert write_frames(*read) == text


@pytest.mark.parametrize("text", ["", "8@", "@2", "8@2fps", "-1", "8.5", "8x2", "1e3", "all"])
def test_malformed_frames_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="N\\[@FPS\\], as in 8 or 8@2"):
        parse_frames(text)


def test_frames_name_a_case_and_are_in_its_command() -> None:
    case = Case("patch32", images=("walk.mp4",), frames=8, frame_rate=2.0, interaction="none")
    assert "frames 8, frame_rate 2.0" in case_name(case)
    assert "--frames 8@2" in command_line(case, "run")


def test_tiles_are_told_with_the_embedder_and_by_their_full_name() -> None:
    case = Case("patch32", tiles="internvl", reduce="avg-pool:2", interaction="none")
    assert case.tiles == "internvl:12"
    assert label(case) == "patch32,tiles=internvl:12,reduce=avg-pool:2"
    line = "vilt-bench run --embedder patch32,tiles=internvl:12,reduce=avg-pool:2 --interaction none"
    assert command_line(case, "run") == line


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tiles": "shrink"}, "`tiles` 'shrink' is no scheme; expected one of llava-next"),
        ({"tiles": "qwen"}, "`tiles` qwen cuts no tiles"),
        ({"interaction": "vilt"}, "`interaction` vilt does not take; give lm:NAME, or none"),
        ({"images": ("synthetic",)}, "synthetic has no size of its own to be cut; give `resolution`"),
        ({"fit": "crop"}, "`fit` crop is for `resolution` HxW, which is missing"),
        ({"reduce": "perceiver:64"}, "`reduce` perceiver:64 leaves no grid of cells, which `tiles` llava-next"),
    ],
)
def test_tiles_that_can_not_be_are_refused_in_one_line(fields: Mapping[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Case(**{"embedder": "patch32", "tiles": "llava-next", "interaction": "none", **fields})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
