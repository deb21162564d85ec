import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from vilt_bench.ask.axes import Sweep
from vilt_bench.ask.case import Case
from vilt_bench.record.run import Failure, Run

PER_IMAGE_S = {"patch32": 0.001, "grid-r50": 0.008, "region-grid": 0.03}
"""For 64×64 pixels."""
OVERHEAD_S = 0.002
STEPS = 0.004
"""How far the trials of a case lie apart, as a share."""
AXES = {"batch_size": (1, 2, 4, 8), "resolution": ((64, 64), (128, 128))}


def latency_s(case: Case) -> float:
    """The closed form of the sweep's latencies."""
    height, width = case.resolution or (64, 64)
    return OVERHEAD_S + PER_IMAGE_S[case.embedder] * case.batch_size * height * width / 4096


MakeRun = Callable[..., Run]
MakeSweep = Callable[..., list[Run]]


@pytest.fixture
def make_sweep(make_run: MakeRun) -> MakeSweep:
    """Returns a factory of the records of a sweep; latencies are those of `latency_s`, by stage 1 to 3."""

    def make(
        embedders: Sequence[str] = ("patch32", "grid-r50"),
        axes: Mapping[str, Sequence[Any]] = AXES,
        *,
        failed: Callable[[Case], bool] = lambda case: False,
        stopped: Callable[[Case], bool] = lambda case: False,
        left_out: Callable[[Case], bool] = lambda case: False,
        **fields: object,
    ) -> list[Run]:
        runs = []
        cases = [case for case in Sweep(embedders, axes).cases() if not left_out(case)]
        for index, case in enumerate(cases):
            whole = latency_s(case)
            height, width = case.resolution or (64, 64)
            stages = {"textual_embedder": 0.0, "visual_embedder.backbone": 0.25 * whole,
                      "visual_embedder.projection": 0.5 * whole, "modality_interaction": 0.25 * whole}  # fmt: skip
            del stages["textual_embedder"]
            run = make_run(case.embedder, case=case, latencies_s=stages, noise=0, run_id=f"run-{index}")
            assert run.model is not None
            assert run.environment is not None
            tokens = height * width // 1024 // (4 if case.reduce else 1)
            model = dataclasses.replace(run.model, resolution=(height, width), visual_tokens=tokens)
            environment = dataclasses.replace(run.environment, threads=case.threads or 2)
            run = dataclasses.replace(run, model=model, environment=environment, interrupted=stopped(case))
            run = dataclasses.replace(run, trials=tuple(map(spread, run.trials, (1 - STEPS, 1, 1 + STEPS))))
            if failed(case):
                failure = Failure("out-of-memory", "2 GiB", "visual_embedder.backbone")
                run = dataclasses.replace(run, trials=(), failure=failure)
            runs.append(dataclasses.replace(run, **fields))  # type: ignore[arg-type]
        return runs

    return make


def spread(trial: Any, factor: float) -> Any:
    def scaled(times: Any) -> Any:
        wall = tuple(factor * value for value in times.wall_time_s)
        return dataclasses.replace(times, wall_time_s=wall, cpu_time_s=wall)

    samples = dataclasses.replace(
        trial.samples,
        whole=scaled(trial.samples.whole),
        instrumented=scaled(trial.samples.instrumented),
        stages={name: scaled(times) for name, times in trial.samples.stages.items()},
    )
    return dataclasses.replace(trial, samples=samples)
