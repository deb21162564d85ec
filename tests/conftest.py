import dataclasses
import math
import random
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.judge.comparison import Comparison, CountChange, Ratio, Side, StageVerdict, Verdict
from vilt_bench.record import store
from vilt_bench.record.run import (
    Component,
    Conditions,
    Environment,
    Model,
    Run,
    Series,
    Source,
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
MakeClip = Callable[..., str]
STEP = 30
"""Of gray from frame to frame of a clip, far above what its codec changes."""
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As a shell has it for what it starts in the background: processes that a test interrupts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
                images=("hopper-upper.jpg", "hopper-lower.jpg"),
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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Returns the endpoint of a server on this machine that speaks S3's protocol."""
    server = pytest.importorskip("moto.moto_server.threaded_moto_server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Returns the URL of a folder in a new bucket, and makes this environment reach its server."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "anyone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/sweep"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files of tests/test_golden.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


FIRST_COMMIT = datetime(2026, 9, 1, tzinfo=UTC)
HISTORY_S = {"textual_embedder": 0.0003, "visual_embedder.backbone": 0.17, "modality_interaction": 0.0955}


@pytest.fixture
def save_history(make_run: MakeRun) -> Callable[..., None]:
    """Returns a function that saves runs of successive commits; `slower` from `since` on in the backbone."""

    def save(folder: Path, count: int, *, since: int = 10**6, slower: float = 1.0, name: str = "patch32") -> None:
        rng = random.Random(name)
        for index in range(count):
            noise = math.exp(rng.gauss(0, 0.01))
            backbone = slower if index >= since else 1.0
            time = FIRST_COMMIT + timedelta(days=index)
            run = make_run(
                name,
                latencies_s={
                    stage: value * noise * (backbone if stage.endswith("backbone") else 1)
                    for stage, value in HISTORY_S.items()
                },
                run_id=f"{name}-{index}",
                started_at=time.isoformat(),
                source=Source(
                    f"{index + 1:08x}" + 32 * "0", "main", index == 3, (time - timedelta(hours=1)).isoformat()
                ),
            )
            store.save(run, folder)

    return save


# Comparisons as the gate makes them, for tests of what prints, files and hands them on.

MakeComparison = Callable[..., Comparison]

PATCH = {
    "textual_embedder": 0.000241,
    "visual_embedder.projection": 0.00911,
    "modality_interaction.concatenation": 0.000852,
    "modality_interaction.transformer": 0.3481,
    "modality_interaction.pooler": 0.00038,
}
REGION = {
    "textual_embedder": 0.00466,
    "visual_embedder.backbone": 2.0437,
    "visual_embedder.proposal_nms": 0.03328,
    "visual_embedder.roi_head": 10.8322,
    "visual_embedder.class_nms": 0.01534,
    "modality_interaction": 0.1906,
}
EPYC = Environment(
    machine="AMD EPYC 7B13",
    fingerprint="f00d",
    device="cpu",
    device_name="AMD EPYC 7B13",
    threads=2,
    omp_wait_policy="PASSIVE",
    versions={"torch": "2.14.1", "python": "3.12.3"},
    settings={},
    hardware={},
)
REASONS = {
    "regressed": "slower by {change:.1%}, beyond the tolerance of 2.5%",
    "improved": "faster by {change:.1%}",
    "unchanged": "within the tolerance of 2.5%",
    "inconclusive": "the interval holds the tolerance of 2.5% when the time was over",
}


def stage_verdict(
    name: str, baseline_s: float, ratio: float, half_width: float, verdict: Verdict | None = None
) -> StageVerdict:
    low, high = ratio - half_width, ratio + half_width
    found: Verdict = verdict or (
        "regressed" if low > 1.025 else "improved" if high < 0.975 else "unchanged" if high < 1.025 else "inconclusive"
    )
    return StageVerdict(
        name=name,
        verdict=found,
        baseline_s=baseline_s,
        candidate_s=baseline_s * ratio,
        ratio=Ratio(ratio, low, high, units=12),
        channel="wall_time",
        reason=REASONS[found].format(change=abs(ratio - 1)),
    )


@pytest.fixture
def make_comparison() -> MakeComparison:
    """Returns a factory of comparisons as the gate makes them; ratios by stage, the whole's follows from them."""

    def make(
        embedder: str = "patch32",
        *,
        latencies_s: Mapping[str, float] = PATCH,
        ratios: Mapping[str, float] = {},
        half_width: float = 0.009,
        case: Case | None = None,
        total: StageVerdict | None = None,
        stages: Sequence[StageVerdict] | None = None,
        **fields: object,
    ) -> Comparison:
        parts = [
            stage_verdict(name, latency_s, ratios.get(name, 0.998), half_width)
            for name, latency_s in latencies_s.items()
        ]
        before = sum(latencies_s.values())
        after = sum(latency_s * ratios.get(name, 0.998) for name, latency_s in latencies_s.items())
        given = {
            "case": case or Case(embedder),
            "method": "lockstep",
            "baseline": Side("main", ("0123",), 12, ("commit 3f2c1ab",)),
            "candidate": Side("this branch", ("4567",), 12, ("commit 9ab77de",)),
            "environment": EPYC,
            "total": total or stage_verdict("whole", before, after / before, half_width),
            "stages": tuple(parts if stages is None else stages),
            "counts": (),
            "tolerance": 0.025,
            "error": 0.01,
            "gate": "total",
            "detectable": 0.038,
            "spent_s": 254.0,
        }
        return Comparison(**(given | fields))  # type: ignore[arg-type]

    return make


@pytest.fixture
def regressed(make_comparison: MakeComparison) -> Comparison:
    return make_comparison(
        ratios={"modality_interaction.transformer": 1.064},
        counts=(
            CountChange("modality_interaction.transformer", "parameters", 85_054_464, 85_645_056),
            CountChange("modality_interaction.transformer", "flops", 46_090_000_000, 46_480_000_000),
            CountChange("visual_embedder.projection", "peak_bytes", 467_000_000, None),
        ),
        notes=("Random weights: visual embedder, shared model.",),
    )


@pytest.fixture
def improved(make_comparison: MakeComparison) -> Comparison:
    return make_comparison(
        "grid-r50",
        latencies_s={"textual_embedder": 0.00029, "visual_embedder.backbone": 1.7287, "modality_interaction": 0.3328},
        ratios={"visual_embedder.backbone": 0.91},
        notes=("Random weights: visual embedder, shared model.",),
    )


@pytest.fixture
def unchanged(make_comparison: MakeComparison) -> Comparison:
    return make_comparison(
        "patch32",
        case=Case("patch32", resolution=(384, 640), batch_size=8),
        notes=("Random weights: visual embedder, shared model.",),
    )


@pytest.fixture
def inconclusive(make_comparison: MakeComparison) -> Comparison:
    return make_comparison(
        "region-r101-c4",
        latencies_s=REGION,
        ratios={"visual_embedder.roi_head": 1.02, "visual_embedder.class_nms": 1.31},
        half_width=0.06,
        detectable=0.14,
        spent_s=300.0,
        notes=(
            "Random weights: visual embedder, shared model.",
            "class_nms: planted logits (seed 0): 40 objects of 18 classes, 4 near-synonyms each.",
        ),
    )


@pytest.fixture
def without_baseline(make_comparison: MakeComparison) -> Comparison:
    lacking = StageVerdict(
        "whole", "missing", None, 0.0123, None, "wall_time", "no baseline: main has no such embedder", "baseline"
    )
    return make_comparison("patch64", total=lacking, stages=(), detectable=None)


@pytest.fixture
def all_kinds(
    unchanged: Comparison,
    regressed: Comparison,
    improved: Comparison,
    inconclusive: Comparison,
    without_baseline: Comparison,
) -> list[Comparison]:
    return [unchanged, regressed, improved, inconclusive, without_baseline]


@pytest.fixture
def clip(tmp_path: Path) -> MakeClip:
    """Returns what writes a clip whose frames are lighter and lighter, and returns its path."""
    av = pytest.importorskip("av")
    np = pytest.importorskip("numpy")

    def make(
        count: int,
        *,
        rate: int = 10,
        name: str = "clip.mp4",
        times: Sequence[int] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> str:
        path = tmp_path / name
        with av.open(str(path), "w", options=dict(options or {})) as container:
            stream = container.add_stream("mpeg4", rate=rate)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * STEP, dtype=np.uint8))
                if times is not None:
                    frame.pts = times[index]
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return str(path)

    return make
