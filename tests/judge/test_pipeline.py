from collections.abc import Callable
from dataclasses import replace

import pytest

from vilt_bench.ask.case import Case
from vilt_bench.judge.pipeline import enough_workers
from vilt_bench.judge.summary import Summary, summarise
from vilt_bench.record.run import Pipelined, Run
from vilt_bench.report import columns, render
from vilt_bench.report.lines import comparison_remarks, pipeline_line

MakeRun = Callable[..., Run]


def overlapped(
    make_run: MakeRun,
    workers: int,
    *,
    pipelined_s: float,
    preprocessing_s: float,
    model_s: float,
    frames: int | None = None,
) -> Summary:
    case = Case("patch32", batch_size=4, preprocessing_workers=workers)
    if frames is not None:
        case = replace(case, interaction="none", images=("walk.mp4",), frames=frames)
    run = make_run(case=case)
    trials = [
        replace(
            trial,
            pipelined=Pipelined(
                workers,
                pinned=False,
                pipelined_s=(pipelined_s,) * 3,
                preprocessing_s=(preprocessing_s,) * 3,
                model_s=(model_s,) * 3,
                batches=(5, 5, 5),
                method="torch's DataLoader",
            ),
        )
        for trial in run.trials
    ]
    return summarise(replace(run, trials=tuple(trials)))


def test_the_slower_of_both_alone_is_the_bottleneck_and_the_ratio_says_by_how_much(make_run: MakeRun) -> None:
    found = overlapped(make_run, 1, pipelined_s=0.4, preprocessing_s=0.4, model_s=0.1).pipeline
    assert found is not None
    assert found.pipelined is not None
    assert found.waits is not None
    assert (found.bottleneck, found.factor) == ("preprocessing", pytest.approx(4))
    assert found.pipelined.value == pytest.approx(4 / 0.4)  # four images a batch
    assert found.waits.value == pytest.approx(1 - 0.1 / 0.4)  # the model has work for a quarter of the time
    other = overlapped(make_run, 4, pipelined_s=0.1, preprocessing_s=0.05, model_s=0.1).pipeline
    assert other is not None
    assert (other.bottleneck, other.factor) == ("model", pytest.approx(2))


def test_a_report_says_from_how_many_workers_on_the_model_does_not_wait(make_run: MakeRun) -> None:
    paces = {0: (0.5, 0.4), 1: (0.4, 0.4), 2: (0.2, 0.2), 4: (0.104, 0.1)}
    runs = [
        overlapped(make_run, workers, pipelined_s=both, preprocessing_s=host, model_s=0.1)
        for workers, (both, host) in paces.items()
    ]
    runs = [replace(run, group="together") for run in runs]
    assert [each.workers for each in enough_workers(runs)] == [4]
    assert [each.workers for each in enough_workers(runs[:3])] == [None]
    assert enough_workers(runs[:1]) == []
    vague = runs[2].pipeline
    assert vague is not None
    assert vague.waits is not None
    open_ended = replace(runs[2], pipeline=replace(vague, waits=replace(vague.waits, low=0.01)))
    (unsure,) = enough_workers([*runs[:2], open_ended, runs[3]])
    assert (unsure.workers, unsure.is_sure) == (4, False)
    told = [line for line in comparison_remarks(runs) if "workers" in line]
    assert told == [
        "patch32 (batch_size 4): from 4 preprocessing workers on the model does not wait, for at most 5.0% of its pace "
        "(0 to 4 were tried)."
    ]
    (told_of_three,) = (line for line in comparison_remarks(runs[:3]) if "workers" in line)
    assert "with any number of preprocessing workers the model waits, for more than 5.0%" in told_of_three


def test_a_pipeline_is_told_in_a_line_and_in_columns_of_data(make_run: MakeRun) -> None:
    run = overlapped(make_run, 2, pipelined_s=0.2, preprocessing_s=0.2, model_s=0.1)
    line = pipeline_line(run)
    assert line.startswith("Pipelined with 2 workers: 20")
    assert "bottleneck: preprocessing, by 2 times · the model loses 50.0% of its pace" in line
    data = {key: value for each in columns.OF_PIPELINES for key, value in each.data(run.whole).items()}
    assert data["pipelined_images_per_second"] == pytest.approx(20)
    assert data["preprocessing_images_per_second"] == pytest.approx(20)
    assert data["model_images_per_second"] == pytest.approx(40)
    assert (data["bottleneck"], data["bottleneck_factor"]) == ("preprocessing", pytest.approx(2))
    assert data["model_waits_share"] == pytest.approx(0.5)
    serial = pipeline_line(overlapped(make_run, 0, pipelined_s=0.3, preprocessing_s=0.2, model_s=0.1))
    assert serial.startswith("Prepared and computed in turn: ")
    none = summarise(make_run())
    assert pipeline_line(none) == ""
    assert {value for each in columns.OF_PIPELINES for value in each.data(none.whole).values()} == {None}


def test_the_paces_of_clips_are_frames_a_second_and_none_of_images(make_run: MakeRun) -> None:
    run = overlapped(make_run, 2, pipelined_s=0.2, preprocessing_s=0.2, model_s=0.1, frames=8)
    assert pipeline_line(run).startswith(
        "Pipelined with 2 workers: 160.0 [160.0, 160.0] frames/s"
    )  # 4 clips of 8 in 0.2 s
    data = {key: value for each in columns.OF_PIPELINES for key, value in each.data(run.whole).items()}
    assert data["pipelined_frames_per_second"] == pytest.approx(4 * 8 / 0.2)
    assert data["preprocessing_frames_per_second"] == pytest.approx(4 * 8 / 0.2)
    assert data["model_frames_per_second"] == pytest.approx(4 * 8 / 0.1)
    assert {value for key, value in data.items() if "images" in key} == {None}
    table = render([run, run], "markdown")
    assert "Pipelined frames/s" in table
    assert "images/s" not in table
