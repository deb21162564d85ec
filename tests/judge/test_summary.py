import gc
import weakref
from collections.abc import Callable
from pathlib import Path

from vilt_bench.judge.latency import latency
from vilt_bench.judge.summary import summarise
from vilt_bench.record import load, store
from vilt_bench.record.join import join_cases
from vilt_bench.record.run import Run, Series

MakeRun = Callable[..., Run]


def test_records_are_judged_one_at_a_time_and_their_samples_let_go(make_run: MakeRun, tmp_path: Path) -> None:
    for index in range(3):
        store.save(make_run(run_id=str(index)), tmp_path)
    alive: list[weakref.ref[Series]] = []
    most = 0

    def keep(run: Run, _: object) -> object:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        alive.extend(weakref.ref(trial.samples) for trial in run.trials)
        return summarise(run)

    found = load.load_each([tmp_path], keep)
    gc.collect()
    assert len(found) == 3
    assert most <= 3  # the trials of the one before
    assert not any(ref() for ref in alive)


def test_joined_records_are_as_joined_runs(make_run: MakeRun, tmp_path: Path) -> None:
    for index, embedder in enumerate(["patch32", "grid-r50", "patch32", "patch32"]):
        store.save(make_run(embedder, run_id=str(index), noise=0.01), tmp_path)
    expected = [summarise(run) for run in join_cases(load.load_all([tmp_path]))]
    assert load.load_joined([tmp_path], summarise) == expected
    assert [each.trials for each in expected] in ([9, 3], [3, 9])


def test_a_summarys_rows_are_the_estimates_of_its_run(make_run: MakeRun) -> None:
    stages = {"textual_embedder": 0.1, "visual_embedder.backbone": 0.3, "visual_embedder.projection": 0.1}
    run = make_run(latencies_s=stages, noise=0.01)
    found = summarise(run)
    assert [row.name for row in found.rows] == [
        "textual_embedder", "visual_embedder", "visual_embedder.backbone", "visual_embedder.projection", "whole",
    ]  # fmt: skip
    assert all(row.latency == latency(run, row.name) for row in found.rows)
    assert found.total == latency(run, "")
    assert sum(row.share or 0 for row in found.components.values()) > 0.99
