import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.record.run import (
    Component,
    Conditions,
    Environment,
    Model,
    Run,
    Series,
    Stage,
    StageMemory,
    Times,
    Trial,
)

LATENCIES_S = {
    "textual_embedder": 0.0003,
    "visual_embedder.projection": 0.0042,
    "modality_interaction": 0.0955,
}
QUIET = Conditions(cpu_share=0.99)
MakeRun = Callable[..., Run]
MakePlugin = Callable[..., None]


def series(latencies_s: Mapping[str, float], *, blocks: Sequence[int], noise: float, rng: random.Random) -> Series:
    count = sum(blocks)

    def times(latency_s: float) -> Times:
        samples = tuple(latency_s * (1 + rng.gauss(0, noise)) for _ in range(count))
        return Times(wall_time_s=samples, cpu_time_s=samples)

    total = sum(latencies_s.values())
    return Series(
        whole=times(total),
        stages={name: times(latency) for name, latency in latencies_s.items()},
        instrumented=times(total),
        blocks=tuple(blocks),
    )


@pytest.fixture
def make_run() -> MakeRun:
    """Returns a factory of synthetic runs; keyword arguments replace fields of the run."""

    def make(
        embedder: str = "patch32",
        *,
        latencies_s: Mapping[str, float] = LATENCIES_S,
        trials: int = 3,
        blocks: Sequence[int] = (10, 10, 10),
        noise: float = 0.001,
        conditions: Conditions = QUIET,
        **fields: object,
    ) -> Run:
        rng = random.Random(embedder)
        stages = tuple(
            Stage(
                name=name,
                component=_component(name),
                output="embeddings [1, 240, 768]",
                parameters=1_000_000 * (index + 1),
                flops=2_000_000_000 * (index + 1),
                memory=StageMemory(live_before_bytes=2**20, peak_bytes=2**22, live_after_bytes=2**21),
            )
            for index, name in enumerate(latencies_s)
        )
        run = Run(
            run_id="0123abcd",
            started_at="2026-11-24T03:55:00+00:00",
            case=Case(embedder),
            sampling=Sampling(),
            group="group",
            environment=Environment(
                machine="EPYC 7B13",
                fingerprint="f00d",
                device="cpu",
                device_name="EPYC 7B13",
                threads=2,
                omp_wait_policy="PASSIVE",
                versions={"torch": "2.9.0", "python": "3.12.3"},
                settings={"deterministic": "false"},
                hardware={"processor": "EPYC 7B13"},
            ),
            model=Model(
                kind="linear",
                hidden_size=768,
                layers=12,
                heads=12,
                resolution=(384, 640),
                visual_tokens=240,
                text_tokens=40,
                visual_weights="random",
                shared_weights="random",
                linear="torch",
                images=("china.jpg",),
                text="synthetic token ids",
            ),
            stages=stages,
            trials=tuple(
                Trial(
                    index=index,
                    started_at="2026-11-24T03:55:01+00:00",
                    first_call_s=0.4,
                    warmup=series(latencies_s, blocks=(3,), noise=noise, rng=rng),
                    samples=series(latencies_s, blocks=blocks, noise=noise, rng=rng),
                    settled=True,
                    conditions=conditions,
                )
                for index in range(trials)
            ),
        )
        return dataclasses.replace(run, **fields)  # type: ignore[arg-type]

    return make


def _component(name: str) -> Component:
    component = name.partition(".")[0]
    assert component in ("preprocessing", "textual_embedder", "visual_embedder", "modality_interaction")
    return component  # type: ignore[return-value]


@pytest.fixture
def make_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePlugin:
    """Returns a factory of installed distributions that offer embedders."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(distribution: str, **targets: str) -> None:
        folder = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = (f"{name.replace('_', '-')} = {target}\n" for name, target in targets.items())
        (folder / "entry_points.txt").write_text("[vilt_bench.embedders]\n" + "".join(lines))

    return make


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files of tests/test_golden.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
