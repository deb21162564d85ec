import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import get_args

import pytest

from vilt_bench.ask.case import Case, Sampling, ViltConfig
from vilt_bench.errors import ConfigError
from vilt_bench.record.alike import (
    ANY_SETTING,
    ANY_VERSION,
    MAY_BE_UNTOLD,
    RULES,
    Purpose,
    Setup,
    alike,
    check_names,
    differences,
    facts,
    key,
)
from vilt_bench.record.run import Environment, Run, Source

MakeRun = Callable[..., Run]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
CASE = {
    "embedder": {"embedder": "grid-r50"},
    "options": {"options": {"stride": 16}},
    "resolution": {"resolution": (224, 224)},
    "fit": {"fit": "exact"},
    "tiles": {"tiles": "internvl:4"},
    "reduce": {"reduce": "avg-pool:2"},
    "images": {"images": ("a.jpg",)},
    "preprocessing": {"preprocessing": True},
    "preprocessor": {"preprocessor": "torchvision"},
    "decoder": {"decoder": "torchvision"},
    "preprocessing-workers": {"preprocessing_workers": 2},
    "pin-memory": {"pin_memory": True},
    "frames": {"frames": 8},
    "frame-rate": {"frame_rate": 2.0},
    "text-length": {"text_length": 20},
    "images-per-text": {"images_per_text": 2},
    "dtype": {"dtype": "bfloat16"},
    "batch-size": {"batch_size": 2},
    "backend": {"backend": "onednn"},
    "quantize": {"quantize": "int8"},
    "checkpoint": {"checkpoint": "a.pt"},
    "interaction": {"interaction": "bert"},
    "vilt": {"vilt": ViltConfig(layers=6)},
    "seed": {"seed": 1},
    "device asked": {"device": "cpu"},
    "threads asked": {"threads": 2},
}
ENVIRONMENT = {
    "machine": {"fingerprint": "beef"},
    "device": {"device": "cuda:0"},
    "threads": {"threads": 8},
    "omp-wait-policy": {"omp_wait_policy": None},
}
VERSIONS = {"vilt-bench": "vilt-bench", "scikit-learn": "scikit-learn", ANY_VERSION: "torch"}
SETTINGS = {**{name: name for name in sorted(MAY_BE_UNTOLD)}, ANY_SETTING: "deterministic"}
RUN = {
    "sampling": {"sampling": Sampling(max_time_s=5)},
    "trials": {"sampling": Sampling(trials=9)},
    "commit": {"source": Source("c0ffee", "main", False, None)},
    "name": {"name": "before-fix"},
    "side": {"side": "candidate"},
}
PHOTOGRAPHS = ("photographs", "decoded")
TOLD = {("compare", "vilt-bench"), ("compare", "photographs")}
# Which facts keep two runs apart, in words of each purpose.
ASKED = {"device asked", "threads asked"}
WHERE = {*ENVIRONMENT, *SETTINGS}
APART: Mapping[Purpose, set[str]] = {
    "case": {*CASE},
    "join": {*RULES} - {"scikit-learn"},
    "resume": {*RULES} - {"commit", "name", "side", "scikit-learn", "photographs", "decoded"},
    "compare": {*CASE, *WHERE, ANY_VERSION, "sampling", "decoded"} - ASKED,
    "drift": {*CASE, *WHERE, ANY_VERSION, "side", "decoded"} - ASKED,
    "draw": {*WHERE, "vilt-bench", ANY_VERSION, "dtype", "batch-size", "backend", "quantize"},
    "history": {*CASE, *ENVIRONMENT, "side", "decoded"} - ASKED,
    "rank": {
        *ENVIRONMENT, "preprocessing", "text-length", "dtype", "batch-size", "backend", "quantize", "interaction",
        "vilt", "vilt-bench", "side", "preprocessor", "decoder", "preprocessing-workers",
        "pin-memory", "frames", "frame-rate", "images-per-text",
    },
}  # fmt: skip
# Where a record that does not tell a setting contradicts none.
LENIENT: Mapping[Purpose, set[str]] = {
    "resume": {*SETTINGS},
    "compare": {*MAY_BE_UNTOLD},
    "drift": {*MAY_BE_UNTOLD},
    "draw": {*MAY_BE_UNTOLD},
}


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    found: Run = make_run(source=Source("f00d", "main", False, None))
    where = found.environment
    assert where is not None
    told = dict.fromkeys(SETTINGS.values(), "usual")
    return replace(found, environment=replace(where, versions={**where.versions, "vilt-bench": "1"}, settings=told))


def otherwise(run: Run, fact: str) -> Run:
    """Returns the run with that fact, and nothing else, changed; of an older record, where it is one of those."""
    where = run.environment
    assert where is not None
    if fact in PHOTOGRAPHS:
        assert run.model is not None
        return replace(run, model=replace(run.model, images=("china.jpg", "flower.jpg")))
    if fact in CASE:
        return replace(run, case=replace(run.case, **CASE[fact]))  # type: ignore[arg-type]
    if fact in ENVIRONMENT:
        return replace(run, environment=replace(where, **ENVIRONMENT[fact]))  # type: ignore[arg-type]
    if fact in VERSIONS:
        return replace(run, environment=replace(where, versions={**where.versions, VERSIONS[fact]: "2"}))
    if fact in SETTINGS:
        return replace(run, environment=replace(where, settings={**where.settings, SETTINGS[fact]: "other"}))
    return replace(run, **RUN[fact])  # type: ignore[arg-type]


def untold(run: Run, setting: str) -> Run:
    where = run.environment
    assert where is not None
    left = {name: value for name, value in where.settings.items() if name != setting}
    return replace(run, environment=replace(where, settings=left))


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("fact", RULES)
def test_a_fact_keeps_runs_apart_for_the_purposes_that_ask_for_it(run: Run, fact: str, purpose: Purpose) -> None:
    if fact in ("decoded", "preprocessor", "decoder"):  # only where that is a part of the pass
        run = replace(run, case=replace(run.case, preprocessing=True))
    if fact == "pin-memory":  # of processes
        run = replace(run, case=replace(run.case, preprocessing_workers=1))
    if fact == "tiles":  # which the shared ViLT does not join
        run = replace(run, case=replace(run.case, interaction="none"))
    if fact.startswith("frame"):
        clips = {"images": ("a.mp4",), "frames": 4, "interaction": "none"}
        run = replace(run, case=replace(run.case, **clips))  # type: ignore[arg-type]
    other = otherwise(run, fact)
    apart = fact in APART[purpose]
    assert alike(run, run, purpose)
    assert alike(run, other, purpose) is alike(other, run, purpose) is not apart
    assert (key(run, purpose) != key(other, purpose)) == (apart or (purpose, fact) in TOLD)


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("fact", SETTINGS)
def test_a_setting_that_one_record_does_not_tell_contradicts_none_where_others_tell_fewer(
    run: Run, fact: str, purpose: Purpose
) -> None:
    apart = fact in APART[purpose] and fact not in LENIENT.get(purpose, ())
    assert alike(run, untold(run, SETTINGS[fact]), purpose) is not apart


def test_every_field_of_a_case_and_of_how_hard_to_look_is_a_fact(run: Run) -> None:
    told = {name.removesuffix(" asked").replace("-", "_") for name in facts(run, "join")}
    assert told >= {field.name for field in dataclasses.fields(Case) if field.init}
    for field in dataclasses.fields(Sampling):
        value = getattr(run.sampling, field.name)
        other = value + 1 if isinstance(value, int) else value / 2
        more = replace(run, sampling=replace(run.sampling, **{field.name: other}))
        assert not alike(run, more, "join")


def test_no_fact_of_where_a_run_was_measured_is_left_out() -> None:
    # A digest of the hardware is in the machine's name; the device's name follows from both.
    told = {name.replace("-", "_") for name in ENVIRONMENT} | {"fingerprint", "versions", "settings"}
    assert {field.name for field in dataclasses.fields(Environment)} - told == {"hardware", "device_name"}


def test_a_comparison_tells_another_version_of_this_package_and_compares(run: Run) -> None:
    (found,) = differences([run, otherwise(run, "vilt-bench")], "compare")
    assert (found.name, found.values, found.matters) == ("vilt-bench", ("1", "2"), False)


def test_a_comparison_tells_other_photographs_and_refuses_where_they_are_decoded(run: Run) -> None:
    (found,) = differences([otherwise(run, "photographs"), run], "compare")
    assert found.values == ("china.jpg, flower.jpg", "hopper-upper.jpg, hopper-lower.jpg")
    assert (found.name, found.matters) == ("photographs", False)
    decoding = replace(run, case=replace(run.case, preprocessing=True))
    found_too = differences([otherwise(decoding, "decoded"), decoding], "compare")
    assert [(each.name, each.matters) for each in found_too] == [("photographs", False), ("decoded", True)]


def test_options_in_another_order_make_no_other_run_and_a_text_that_reads_as_a_number_does(run: Run) -> None:
    def of(**options: int | str) -> Run:
        return replace(run, case=replace(run.case, options=options))

    assert alike(of(a=1, b=2), of(b=2, a=1), "join")
    assert not alike(of(a=1), of(a="1"), "compare")
    assert not alike(of(a="1", b=2), of(a="1,b=2"), "history")


def test_what_is_about_to_be_measured_is_like_a_run_of_it(run: Run) -> None:
    assert alike(run, Setup(run.case, run.sampling, run.environment), "resume")
    assert not alike(run, Setup(run.case, run.sampling, None), "resume")


def test_a_name_that_is_no_fact_can_not_be_allowed_to_differ(run: Run) -> None:
    check_names(["torch", "batch-size", "driver", "all"], [run], "draw")
    with pytest.raises(ConfigError, match=r"'tourch' is nothing that is checked; known: machine, .*torch"):
        check_names(["tourch"], [run], "draw")
    with pytest.raises(ConfigError, match="'fit' is nothing"):
        check_names(["fit"], [run], "draw")
    check_names(["fit"], [run], "compare")
