import dataclasses
import json
import math
from collections.abc import Callable
from statistics import median

import pandas as pd
import pytest

from vilt_bench.ask.case import Case, Option
from vilt_bench.errors import RecordError
from vilt_bench.judge.latency import latency
from vilt_bench.record.codec import decode, encode
from vilt_bench.record.join import join_cases
from vilt_bench.record.run import SCHEMA_VERSION, Energy, Failure, GpuState, Run, Series, Stage, Times, Trial

MakeRun = Callable[..., Run]


def test_run_survives_json(make_run: MakeRun) -> None:
    run = make_run(
        case=Case("patch", options={"patch_size": 48, "scale": 0.5, "weights": "a.pt", "flag": True}),
        failure=Failure("out-of-memory", "tried to allocate 2 GiB", "visual_embedder.backbone"),
        energy=Energy((1.5,), (5.0,), (50,), None, "NVML"),
        warnings=("a warning – with a dash",),
    )
    assert decode(encode(run), name="run.json") == run


def test_unknown_is_null_in_the_file_and_none_on_reading(make_run: MakeRun) -> None:
    raw = json.loads(encode(make_run(environment=None, energy=None)))
    assert raw["environment"] is None
    assert raw["energy"] is None
    assert decode(json.dumps(raw).encode(), name="run.json").energy is None
    assert GpuState().power_w is None


def test_options_keep_their_types(make_run: MakeRun) -> None:
    options: dict[str, Option] = {"a": True, "b": 1, "c": 1.5, "d": "1"}
    read = decode(encode(make_run(case=Case("patch", options=options))), name="run.json").case.options
    assert [(value, type(value)) for value in read.values()] == [(value, type(value)) for value in options.values()]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b'{"schema_version": 1, "run_id": "x', "not a whole record"),
        (b"\x89PNG\r\n", "not a whole record"),
        (b"[]", "no vilt-bench record"),
        (b'{"model": "x"}', "no vilt-bench record"),
        (b'{"schema_version": "1"}', "no vilt-bench record"),
        (b'{"schema_version": 1}', "no valid record"),
        (b'{"schema_version": 0}', "unknown schema version"),
        (json.dumps({"schema_version": SCHEMA_VERSION + 1}).encode(), "upgrade vilt-bench"),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(data: bytes, said: str) -> None:
    with pytest.raises(RecordError, match=said) as caught:
        decode(data, name="odd.json")
    assert str(caught.value).startswith("odd.json ")
    assert "\n" not in str(caught.value)


def test_record_with_a_text_for_a_number_is_refused_with_its_place(make_run: MakeRun) -> None:
    raw = json.loads(encode(make_run()))
    raw["trials"][0]["samples"]["whole"]["wall_time_s"][0] = "fast"
    with pytest.raises(RecordError, match="wall_time_s"):
        decode(json.dumps(raw).encode(), name="run.json")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_number_that_is_not_finite_is_never_written(make_run: MakeRun, value: float) -> None:
    trial = Trial(index=0, started_at="", samples=Series(whole=Times(wall_time_s=(0.1, value))))
    with pytest.raises(RecordError, match=r"trials\[0\].*wall_time_s\[1\]"):
        encode(dataclasses.replace(make_run(), trials=(trial,)))


def test_macs_are_half_the_flops_and_unknown_with_them() -> None:
    stage = Stage(name="a", component="visual_embedder", output="", parameters=0, flops=10)
    assert stage.macs == 5
    assert dataclasses.replace(stage, flops=None).macs is None


def test_a_run_can_not_be_changed(make_run: MakeRun) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_run().run_id = "other"  # type: ignore[misc]


def test_runs_of_one_case_and_machine_are_joined_and_others_are_not(make_run: MakeRun) -> None:
    first = make_run(trials=1)
    assert first.environment is not None
    elsewhere = dataclasses.replace(first.environment, fingerprint="beef")
    other = make_run(trials=1, environment=elsewhere)
    joined = join_cases([first, make_run("grid-r50"), make_run(trials=2), other])
    assert [(run.case.embedder, len(run.trials)) for run in joined] == [("patch32", 3), ("grid-r50", 3), ("patch32", 1)]
    assert [trial.index for trial in joined[0].trials] == [0, 1, 2]
    assert joined[0].sampling.trials == 6  # asked of both, though one has fewer


def test_a_series_hands_out_the_whole_a_stage_and_no_times_of_what_was_not_measured() -> None:
    whole, backbone = Times(wall_time_s=(0.2,)), Times(device_time_s=(0.1,))
    series = Series(whole=whole, stages={"visual_embedder.backbone": backbone})
    assert series.of("whole") is whole
    assert series.of("visual_embedder.backbone") is backbone
    assert series.of("visual_embedder") == series.of("backbone") == Times()


def test_frame_has_a_row_for_every_sample(make_run: MakeRun) -> None:
    frame = make_run(trials=2, blocks=(4, 5)).to_frame()
    # 2 trials × (3 warm-up + 9 sampled passes) × (3 stages + whole + instrumented) × (wall and CPU time)
    assert len(frame) == 2 * (3 + 9) * 5 * 2
    assert list(frame.columns) == [
        "run_id", "case", "embedder", "trial", "phase", "block", "pass", "component", "stage", "quantity", "unit",
        "value",
    ]  # fmt: skip
    assert set(frame["phase"]) == {"warmup", "sample"}
    assert set(frame["quantity"]) == {"wall_time", "cpu_time"}
    assert set(frame["unit"]) == {"s"}


def test_frame_gives_the_same_median_as_the_tables(make_run: MakeRun) -> None:
    run = make_run(noise=0.05)
    frame = run.to_frame()
    kept = frame.query("phase == 'sample' and quantity == 'wall_time' and stage == 'visual_embedder.projection'")
    found = latency(run, "visual_embedder.projection")
    assert found is not None
    assert kept.groupby("trial")["value"].median().mean() == pytest.approx(found.value)
    assert median(kept["value"]) > 0


def test_blocks_and_passes_count_from_zero(make_run: MakeRun) -> None:
    frame = make_run(trials=1, blocks=(2, 3)).to_frame()
    kept = frame.query("phase == 'sample' and quantity == 'wall_time' and stage == 'whole'")
    assert list(kept["block"]) == [0, 0, 1, 1, 1]
    assert list(kept["pass"]) == [0, 1, 2, 3, 4]


def test_whole_has_no_component(make_run: MakeRun) -> None:
    frame = make_run().to_frame()
    assert frame.loc[frame["stage"] == "whole", "component"].isna().all()
    assert set(frame.loc[frame["stage"] == "visual_embedder.projection", "component"]) == {"visual_embedder"}


def test_run_without_samples_is_an_empty_frame_with_columns(make_run: MakeRun) -> None:
    frame = make_run(trials=0).to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert frame.empty
    assert "value" in frame.columns
