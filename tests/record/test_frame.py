from collections.abc import Callable
from statistics import median

import pandas as pd
import pytest

from vilt_bench.judge.latency import latency
from vilt_bench.record.run import Run

MakeRun = Callable[..., Run]


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
