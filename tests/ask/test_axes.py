"""Sweeps: axes in, cases out."""

import itertools

import pytest

import vilt_bench
from vilt_bench.ask.axes import MOST_COMBINATIONS, Sweep, Swept
from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.errors import ConfigError


def test_every_combination_with_every_embedder_is_a_case_in_the_order_asked_for():
    sizes, batches = [(384, 640), (224, 224)], [4, 1, 2]
    sweep = vilt_bench.Sweep(["patch32", "grid-r50"], {"batch_size": batches, "resolution": sizes})
    assert sweep.cases() == [
        Case(name, resolution=size, batch_size=batch)
        for name, size, batch in itertools.product(["patch32", "grid-r50"], sizes, batches)
    ]
    assert sweep.expand().notes == ()


def test_without_axes_an_embedder_is_a_case():
    assert Sweep(["patch32"]).cases() == [Case("patch32")]


def test_values_may_be_as_the_command_line_writes_them():
    cases = Sweep(["patch32"], {"resolution": ["64x96", "native"], "reduce": ["none", "pixel-shuffle:2"]}).cases()
    assert cases == [
        Case("patch32", resolution=(64, 96)),
        Case("patch32", resolution=(64, 96), reduce="pixel-shuffle:2"),
        Case("patch32", fit="native"),
        Case("patch32", fit="native", reduce="pixel-shuffle:2"),
    ]


def test_types_and_devices_are_understood_as_people_write_them(monkeypatch):
    sweep = Sweep(["patch32"], {"dtype": ["fp32", "BF16", "torch.float16", "half"], "device": ["GPU:1"]})
    monkeypatch.setattr("sys.platform", "linux")
    assert [(case.dtype, case.device) for case in sweep.cases()] == [
        ("float32", "cuda:1"), ("bfloat16", "cuda:1"), ("float16", "cuda:1"),
    ]  # fmt: skip
    monkeypatch.setattr("sys.platform", "darwin")
    assert {case.device for case in sweep.cases()} == {"mps"}  # of which there is one
    with pytest.raises(ConfigError, match=r"float32, bfloat16, float16 \(or fp32, bf16, fp16\); got 'int4'"):
        Sweep(["patch32"], {"dtype": ["int4"]}).cases()


def test_what_an_embedder_fixes_for_itself_is_not_multiplied():
    found = Sweep(
        ["patch32", "grid-r50,resolution=800x1184,reduce=avg-pool:2"],
        {"resolution": ["64x64", "96x96"], "reduce": ["none"], "batch_size": [1, 2]},
    ).expand()
    assert [(case.embedder, case.resolution, case.reduce) for case in found.cases if case.batch_size == 1] == [
        ("patch32", (64, 64), None),
        ("patch32", (96, 96), None),
        ("grid-r50", (800, 1184), "avg-pool:2"),
    ]
    assert found.notes == ("grid-r50 has its own `resolution`, which is not multiplied.",)


def test_duplicates_are_one_and_said():
    found = Sweep(["patch32", "patch32,reduce=pixel-shuffle:2"], {"reduce": ["none", "pixel-shuffle:2"]}).expand()
    assert [case.reduce for case in found.cases] == [None, "pixel-shuffle:2"]
    assert found.notes[1] == "Asked for more than once, and measured once: patch32,reduce=pixel-shuffle:2."
    again = Sweep(["patch32", "patch32"], {"batch_size": [2, 2, 2], "dtype": ["bf16", "bfloat16"]}).expand()
    assert again.cases == (Case("patch32", batch_size=2, dtype="bfloat16"),)
    assert again.notes == (
        "`batch_size` has 2 more than once; each is measured once.",
        "`dtype` has bfloat16 more than once; each is measured once.",
        "Asked for more than once, and measured once: patch32 (batch_size 2, bfloat16).",
    )


def test_options_that_are_equal_but_of_another_type_are_two_cases():
    assert len(Sweep([Swept("patch", {"bias": True}), Swept("patch", {"bias": 1})]).cases()) == 2


def test_what_does_not_apply_to_an_embedder_alone_is_left_out_and_said():
    axes = {"interaction": ["vilt", "none"], "text_length": [8, 40]}
    found = Sweep(["patch32"], axes).expand()
    assert list(found.cases) == [
        Case("patch32", text_length=8),
        Case("patch32", text_length=40),
        Case("patch32", interaction="none"),
    ]
    assert found.notes == ("`text_length` does not apply to `interaction` none, and is left out there.",)


def test_more_images_than_an_interaction_joins_with_a_text_are_left_out_and_said():
    axes = {"interaction": ["vilt", "lm:SmolLM2-135M", "none"], "images_per_text": [1, 2, 4]}
    found = Sweep(["patch32"], axes).expand()
    assert [(case.interaction, case.images_per_text) for case in found.cases] == [
        ("vilt", 1), ("vilt", 2), *(("lm:SmolLM2-135M", count) for count in (1, 2, 4)), ("none", 1),
    ]  # fmt: skip
    assert "Left out: patch32 with `interaction` vilt `images_per_text` 4" in " ".join(found.notes)


def test_frames_are_an_axis_as_they_are_written():
    axes = {"frames": ["none", 8, "8@2", "16@2"]}
    found = Sweep(["patch32"], axes, {"images": ("walk.mp4",), "interaction": "none"}).cases()
    assert [(case.frames, case.frame_rate) for case in found] == [(None, None), (8, None), (8, 2.0), (16, 2.0)]
    left_out = Sweep(["patch32"], {**axes, "interaction": ["vilt", "none"]}, {"images": ("walk.mp4",)}).expand()
    assert [case.frames for case in left_out.cases if case.interaction == "vilt"] == [None]
    assert "`frames` of a clip are none that `interaction` vilt joins" in " ".join(left_out.notes)


def test_longer_texts_among_several_have_a_longer_table_of_positions_unless_one_is_given():
    found = Sweep(["patch32"], {"text_length": [40, 128]}).expand()
    assert [(case.text_length, case.vilt.text_positions) for case in found.cases] == [(40, 40), (128, 128)]
    assert found.notes[0].startswith("Texts of 128 tokens have a position table of as many rows, as ViLT's has 40")
    given = Sweep(["patch32"], {"text_length": [40, 128]}, {"vilt": ViltConfig(text_positions=200)}).expand()
    assert {case.vilt.text_positions for case in given.cases} == {200}
    assert given.notes == ()
    language = Sweep(["patch32"], {"text_length": [40, 128], "interaction": ["lm:SmolLM2-135M", "none"]}).expand()
    assert {case.vilt for case in language.cases} == {ViltConfig()}


def test_an_axis_that_no_case_knows_is_refused():
    with pytest.raises(ConfigError, match="`text_length` applies to no case") as caught:
        Sweep(["patch32"], {"interaction": ["none"], "text_length": [8, 40]}).cases()
    assert caught.value.field == "text_length"


def test_a_combination_that_makes_no_case_is_left_out_and_said():
    # ViLT's sizes are none of a language model's.
    axes = {"interaction": ["vilt", "lm:SmolLM2-135M"], "batch_size": [1, 2]}
    sizes = {"vilt": ViltConfig(hidden_size=96)}
    with pytest.raises(ConfigError, match="sizes of its own"):
        Sweep(["patch32"], axes, sizes).cases()  # no case has that interaction
    native = {"fit": ["aspect", "native"], "resolution": [None, "64x64"]}
    found = Sweep(["patch32"], native).expand()
    assert list(found.cases) == [
        Case("patch32"),
        Case("patch32", fit="native"),
        Case("patch32", resolution=(64, 64)),
    ]
    (note,) = found.notes
    assert note.startswith("Left out: patch32 with `resolution` 64x64 `fit` native: ")


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"batch_size": [1, 0]}, "`batch_size` must be between 1"),
        ({"text_length": [128]}, "give `text_positions` 128"),
        ({"batch_size": []}, "`batch_size` as an axis is empty"),
        ({"batch_size": ["4"]}, "`batch_size` must be a whole number, got '4'"),
        ({"batch_size": [True]}, "must be a whole number"),
        ({"batch_size": 4}, "is a list of values"),
        ({"batchsize": [4]}, "there is no axis 'batchsize'; did you mean 'batch_size'"),
        ({"resolution": ["big"]}, "'big' is not HEIGHTxWIDTH"),
        ({"dtype": ["float32", "int8"]}, "`dtype` must be one of"),
    ],
)
def test_what_can_be_no_axis_is_refused_in_one_line(axes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        Sweep(["patch32"], axes).cases()
    assert "\n" not in str(caught.value)


def test_a_million_combinations_are_refused_before_any_is_made():
    axes = {"batch_size": range(1, 101), "seed": range(100), "text_length": range(2, 12)}
    axes = {name: list(values) for name, values in axes.items()}
    said = r"1 embedder × 100 of `batch_size` × 100 of `seed` × 10 of `text_length` are 100,000 combinations"
    with pytest.raises(ConfigError, match=said):
        Sweep(["patch32"], axes).cases()
    with pytest.raises(ConfigError, match=f"{10**6:,} combinations; a sweep may have {MOST_COMBINATIONS:,} at most"):
        Sweep([f"patch,patch_size={size}" for size in range(1, 11)], axes).cases()


def test_exclusions_leave_out_what_fits_all_that_they_say_and_tell_how_much():
    sweep = Sweep(
        ["patch32", "grid-r50"],
        {"batch_size": [1, 8], "dtype": ["float32", "bfloat16"]},
        exclude=[{"embedder": "grid-r50", "batch_size": [8]}, {"dtype": "bfloat16", "batch_size": 8}, {"seed": 7}],
    )
    found = sweep.expand()
    assert [(case.embedder, case.batch_size, case.dtype) for case in found.cases] == [
        ("patch32", 1, "float32"),
        ("patch32", 8, "float32"),
        ("patch32", 1, "bfloat16"),
        ("grid-r50", 1, "float32"),
        ("grid-r50", 1, "bfloat16"),
    ]
    assert found.notes == (
        "Excluded by `embedder` grid-r50, `batch_size` 8: 2 combinations.",
        "Excluded by `dtype` bfloat16, `batch_size` 8: 2 combinations.",
        "Excluded by `seed` 7: nothing.",
    )


@pytest.mark.parametrize(
    ("exclude", "said"),
    [
        ({}, "would leave everything out"),
        ({"embedder": "patch3"}, "'patch3', which is not in the sweep; did you mean 'patch32'?"),
        ({"batchsize": 8}, "did you mean 'batch_size'"),
        ({"batch_size": [1, 2]}, "leave no case"),
    ],
)
def test_an_exclusion_that_can_not_be_meant_is_refused(exclude, said):
    with pytest.raises(ConfigError, match=said):
        Sweep(["patch32"], {"batch_size": [1, 2]}, exclude=[exclude]).cases()


def test_tiles_are_an_axis_that_an_embedder_may_have_for_itself() -> None:
    embedders = ["patch32", "patch,tiles=llama4"]
    found = Sweep(embedders, {"tiles": ["none", "internvl"]}, common={"interaction": "none"}).expand()
    assert [(case.embedder, case.tiles) for case in found.cases] == [
        ("patch32", None), ("patch32", "internvl:12"), ("patch", "llama4:16"),
    ]  # fmt: skip
