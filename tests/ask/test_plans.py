"""Plans: what is to be measured, from a TOML file."""

import io
import os
import sys
from dataclasses import replace

import pytest

from vilt_bench.ask.axes import Swept
from vilt_bench.ask.case import Case, Sampling, ViltConfig
from vilt_bench.ask.plans import Plan, line_of, read_plan, write_plan
from vilt_bench.errors import ConfigError

FULL = """\
embedders = ["patch32"]
presets = ["own.toml"]

[axes]
batch-size = [1, 8]          # a list, or one value
resolution = ["64x64", "native"]
dtype = "bfloat16"
text_length = 8              # dashes and underscores alike

[case]
images = ["photo.jpg"]
hidden-size = 96

[[embedder]]
name = "region-r101-c4,regions=10"
options = { proposals = 300, class-agnostic = true }
batch-size = 1

[[exclude]]
embedder = "patch32"
resolution = "64x64"
batch-size = [8]

[sampling]
precision = "2%"
max-time = "1.5m"
trials = 2
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(text):
        (tmp_path / "sweep.toml").write_text(text)
        return read_plan("sweep.toml")

    return read


def test_a_plan_says_all_that_a_sweep_has(read, tmp_path):
    (tmp_path / "own.toml").write_text('[presets.mine]\nembedders = ["grid-r50,resolution=96x96"]\n')
    plan = read(FULL)
    assert plan.how() == Sampling(precision=0.02, max_time_s=90, trials=2)
    common = {
        "images": ("photo.jpg",),
        "vilt": ViltConfig(hidden_size=96),
        "dtype": "bfloat16",
        "text_length": 8,
    }
    region = {"regions": 10, "proposals": 300, "class_agnostic": True}
    assert plan.sweep().cases() == [
        Case("patch32", resolution=(64, 64), batch_size=1, **common),
        Case("patch32", fit="native", batch_size=1, **common),
        Case("patch32", fit="native", batch_size=8, **common),
        Case("grid-r50", resolution=(96, 96), batch_size=1, **common),
        Case("grid-r50", resolution=(96, 96), batch_size=8, **common),
        Case("region-r101-c4", region, resolution=(64, 64), batch_size=1, **common),
        Case("region-r101-c4", region, fit="native", batch_size=1, **common),
    ]


def test_an_embedder_may_have_images_and_sizes_of_its_own(read):
    plan = read(
        '[case]\nimages = ["all.jpg"]\nlayers = 2\n[[embedder]]\nname = "patch32"\n'
        '[[embedder]]\nname = "patch16"\nimages = "own.jpg"\nhidden-size = 96\n'
    )
    assert plan.sweep().cases() == [
        Case("patch32", images=("all.jpg",), vilt=ViltConfig(layers=2)),
        Case("patch16", images=("own.jpg",), vilt=ViltConfig(layers=2, hidden_size=96)),
    ]


MANY = (
    Case("patch32"),
    Case("patch32", batch_size=8, dtype="bfloat16", threads=2, seed=7),
    Case("patch32", fit="native", interaction="none"),
    Case("region-r101-c4", {"proposals": 300, "nms": "class-agnostic", "share": 0.1, "odd": "7", "yes": True}),
    Case("timm/vit_base_patch16_224", resolution=(224, 384), reduce="tome:8", backend="onednn", device="cuda:1"),
    Case('mine.py:"it\'s"', images=("a \\ b.jpg", "ü\t\x7f.png"), checkpoint="hub:a/b", preprocessing=True),
    Case("patch32", text_length=128, vilt=ViltConfig(layers=2, hidden_size=96, text_positions=128)),
    Case("patch32", text_length=16),
    Case("patch16", interaction="lm:SmolLM2-135M"),
)


@pytest.mark.parametrize("cases", [MANY, MANY[:1], MANY[::-1]])
def test_a_written_plan_has_exactly_these_cases_in_their_order(read, cases):
    sampling = Sampling(precision=0.025, max_time_s=0.5, trials=2, least_samples=3)
    plan = read(write_plan(cases, sampling))
    assert plan.expand().cases == tuple(cases)
    assert [dict(case.options) for case in plan.expand().cases] == [dict(case.options) for case in cases]
    assert plan.expand().notes == ()
    assert plan.how() == sampling


def test_sizes_that_are_for_python_alone_can_not_be_written_into_a_plan():
    with pytest.raises(ConfigError, match="`vocabulary` is for Python alone"):
        write_plan([Case("patch32", vilt=ViltConfig(vocabulary=1000))], Sampling())


def test_an_empty_plan_says_nothing(read):
    assert replace(read(""), sha256=None) == Plan(places=read("").places)
    assert read("").how() == Sampling()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "batch-size = [1, 8] ",
            "batchsize = [1, 8]",
            "line 5, axes.batchsize: is not known; did you mean 'batch-size'?",
        ),
        ("[sampling]", "[sampling]\nminutes = 3", "line 25, sampling.minutes: is not known"),
        ("[case]", "[caze]", "line 10, caze: is not known; did you mean 'case'?"),
        ("[1, 8] ", "[] ", "line 5, axes.batch-size: as an axis is empty"),
        ("[1, 8] ", '["1"] ', "line 5, axes.batch-size: must be a whole number, got '1'"),
        ('"native"]', '"large"]', "line 6, axes.resolution: 'large' is not HEIGHTxWIDTH"),
        ("hidden-size = 96", 'hidden-size = "96"', "line 12, case.hidden-size: must be a whole number"),
        ('images = ["photo.jpg"]', "images = 3", "line 11, case.images: must be a list of texts"),
        ('name = "region', 'title = "region', r"line 15, embedder\[1\].title: is not known"),
        ("proposals = 300", "proposals = [300]", r"line 16, embedder\[1\].options.proposals: must be a value"),
        ("batch-size = [8]", "batch-sizes = [8]", r"line 22, exclude\[1\].batch-sizes: is not known"),
        ('"2%"', '"two"', "line 25, sampling.precision: must be such as 1%"),
        ('"1.5m"', "[1]", "line 26, sampling.max-time: must be such as 90s"),
        ('presets = ["own.toml"]', 'presets = ["papr"]', "line 2, presets: no preset 'papr'; did you mean 'paper'"),
        ('embedders = ["patch32"]', 'embedders = ["patch32,x"]', "line 1, embedders: in `embedder`"),
        ('embedders = ["patch32"]', "embedders = 32", "line 1, embedders: must be a list of texts"),
        ("[axes]", "[axes", "at line 4"),
        ("dtype =", "hidden-size =", r"line 7, axes.hidden-size: is not known here; it goes under \[case\]; expected"),
        ("hidden-size = 96", "batch_size = 1", r"line 12, case.batch-size: is not known here; it goes under \[axes\]"),
        (
            'embedder = "patch32"',
            'embedder = "patch3"',
            r"line 20, exclude\[1\].embedder: .* which is not in the sweep",
        ),
    ],
)
def test_what_a_plan_can_not_say_is_told_with_line_and_key(read, tmp_path, old, new, said):
    (tmp_path / "own.toml").write_text('[presets.mine]\nembedders = ["grid-r50"]\n')
    assert old in FULL
    with pytest.raises(ConfigError, match=f"sweep.toml.*{said}") as caught:
        read(FULL.replace(old, new, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[axes]\nbatch-size = [1, 0]", "sweep.toml, line 2, axes.batch-size: `batch_size` must be between"),
        ("[sampling]\ntrials = 0", "sweep.toml, line 2, sampling.trials: `trials` must be between"),
        (
            '[axes]\ninteraction = "none"\ntext-length = [8, 9]',
            "line 3, axes.text-length: `text_length` applies to no case",
        ),
    ],
)
def test_a_value_that_no_case_can_have_is_told_with_its_line(read, text, said):
    plan = read(f"{text}\n[[embedder]]\nname = 'patch32'")
    with pytest.raises(ConfigError, match=said):
        plan.expand(), plan.how()


def test_what_is_given_beside_a_plan_takes_its_place_field_by_field(read):
    plan = read('embedders = ["patch32"]\n[axes]\nbatch-size = [0]\ndtype = ["float32"]\n[sampling]\ntrials = 5')
    given = Plan(axes={"batch_size": [2]}, sampling={"max_time_s": 3.0})
    assert plan.under(given).sweep().cases() == [Case("patch32", batch_size=2)]
    assert plan.under(given).how() == Sampling(trials=5, max_time_s=3)
    assert plan.under(Plan((Swept("patch16"),), {"batch_size": [1]})).sweep().cases() == [Case("patch16")]


def test_an_exclusion_of_an_embedder_that_was_replaced_beside_the_plan_means_nothing(read):
    plan = read('embedders = ["patch32"]\n[[exclude]]\nembedder = "patch32"\n[[exclude]]\nbatch-size = 2')
    given = Plan((Swept("patch16"),), {"batch_size": [1, 2]})
    assert plan.under(given).sweep().cases() == [Case("patch16")]


def test_a_plan_comes_from_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'embedders = ["patch32"]')))
    assert read_plan("-").sweep().cases() == [Case("patch32")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(ConfigError, match="standard input can't be read: byte 0 is no UTF-8"):
        read_plan("-")


def test_how_many_cases_may_be_alive_together_is_said_at_the_top_and_by_whoever_asks(read):
    plan = read('together = 6\nembedders = ["patch32"]')
    assert plan.together == 6
    assert plan.under(Plan()).together == 6
    assert plan.under(Plan(together=2)).together == 2
    assert read("").together is None


@pytest.mark.parametrize(
    ("value", "said"), [("0", "must be at least 1, got 0"), ('"all"', "must be a whole number, got 'all'")]
)
def test_together_is_a_number_of_cases(read, value, said):
    with pytest.raises(ConfigError, match=f"line 2, together: {said}"):
        read(f'embedders = ["patch32"]\ntogether = {value}')


@pytest.mark.parametrize("kind", ["folder", "fifo", "binary", "missing"])
def test_what_is_no_file_of_toml_is_refused_and_never_waited_for(tmp_path, kind):
    path = tmp_path / "plan.toml"
    said = {"folder": "is a folder", "fifo": "not a regular file", "binary": "no UTF-8", "missing": "not there"}[kind]
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no named pipes")
        os.mkfifo(path)
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=said):
        read_plan(str(path))


def test_the_line_of_a_key_is_found_however_it_is_written():
    text = "a = 1\n[b]\n'c' = 2\nd.e = 3\n[[f]]\ng = 4\n[[f]]\n\"g\" = 5\nh = {i = 6}\n[b.j]\nk = 7\n"
    lines = {
        ("a",): 1,
        ("b", "c"): 3,
        ("b", "d", "e"): 4,
        ("f", 0, "g"): 6,
        ("f", 1, "g"): 8,
        ("f", 1, "h", "i"): 9,
        ("b", "j", "k"): 11,
        ("b", "j"): 10,
        ("f", 1): 7,
        ("z",): None,
    }
    assert {key: line_of(text, key) for key in lines} == lines
