"""Least times beside measured ones: closed forms of FLOPs and bytes over a scripted peak."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from vilt_bench.judge import remarks as of
from vilt_bench.judge.latency import latencies
from vilt_bench.judge.limit import Limit, limits
from vilt_bench.judge.remarks import remarks
from vilt_bench.judge.summary import summarise
from vilt_bench.record import codec
from vilt_bench.record.peak import Peak
from vilt_bench.record.run import Computation, PreparedStage, Run, Stage
from vilt_bench.report import render
from vilt_bench.report.columns import LIMIT
from vilt_bench.report.remarks import sentences

MakeRun = Callable[..., Run]

PROJECTION, TRANSFORMER = "visual_embedder.projection", "modality_interaction.transformer"
TOKENS, WIDTH, LAYERS = 281, 768, 12
PROJECTION_FLOPS = 2 * 240 * (3 * 32 * 32) * WIDTH
"""Of 240 patches of 32×32 pixels, a row of the matrix each."""
TRANSFORMER_FLOPS = LAYERS * (24 * TOKENS * WIDTH**2 + 4 * TOKENS**2 * WIDTH)
"""Vaswani et al. (2017): queries, keys, values and output 8nd², MLP of four times the width 16nd², attention 4n²d."""
TRANSFORMER_BYTES = 4 * (LAYERS * 12 * WIDTH**2 + 2 * TOKENS * WIDTH)
PEAK = Peak(250e9, ((2**26, 40e9),), "the best", 1.0, "float32", 0.8)
FLOPS = {PROJECTION: PROJECTION_FLOPS, TRANSFORMER: TRANSFORMER_FLOPS}
BYTES = {PROJECTION: 4 * 240 * (3 * 32 * 32 + WIDTH), TRANSFORMER: TRANSFORMER_BYTES}
TIMES_S = {PROJECTION: 0.009, TRANSFORMER: 0.350}
LEAST_S = {name: 0.95 * flops / 250e9 for name, flops in FLOPS.items()}


@pytest.fixture
def measured(make_run: MakeRun) -> Callable[..., Run]:
    def make(times_s: Mapping[str, float] = TIMES_S, *, peak: Peak | None = PEAK, **of_stages: object) -> Run:
        run = make_run(latencies_s=times_s, noise=0.0)
        stages = tuple(
            replace(each, flops=FLOPS[each.name], moved_bytes=BYTES[each.name], **of_stages)  # type: ignore[arg-type]
            for each in run.stages
        )
        return replace(run, stages=stages, peak=peak)

    return make


def limit_of(run: Run, name: str) -> Limit | None:
    return limits(run, latencies(run)).get(name)


def test_a_stage_has_its_least_time_by_flops_over_the_peak_and_the_share_that_it_reaches(
    measured: Callable[..., Run],
) -> None:
    found = limit_of(measured(), TRANSFORMER)
    assert found is not None
    assert found.least_s == pytest.approx(LEAST_S[TRANSFORMER])
    assert found.share == pytest.approx(LEAST_S[TRANSFORMER] / 0.350, rel=1e-3)
    assert not found.beaten


def test_a_stage_that_moves_more_than_it_computes_is_bound_by_bytes(measured: Callable[..., Run]) -> None:
    slow = replace(PEAK, bandwidths=((2**26, 1e9),))
    found = limit_of(measured(peak=slow), TRANSFORMER)
    assert found is not None
    assert found.least_s == pytest.approx(0.95 * TRANSFORMER_BYTES / 1e9)


def test_the_whole_and_a_component_take_at_least_what_their_stages_do_together(measured: Callable[..., Run]) -> None:
    run = measured()
    rows = {row.name: row.limit for row in summarise(run).rows}
    assert rows["whole"] is not None
    assert rows["whole"].least_s == pytest.approx(sum(LEAST_S.values()))
    assert rows["whole"].share == pytest.approx(sum(LEAST_S.values()) / 0.359, rel=2e-2)
    assert rows["visual_embedder"] is not None
    assert rows["visual_embedder"].least_s == pytest.approx(LEAST_S[PROJECTION])


def test_what_is_not_known_has_no_least_time(measured: Callable[..., Run]) -> None:
    run = measured()
    assert limits(measured(peak=None), latencies(run)) == {}
    assert limits(measured(peak=replace(PEAK, dtype="bfloat16")), latencies(run)) == {}
    unknown = replace(run, stages=(replace(run.stages[0], flops=None), *run.stages[1:]))
    found = limits(unknown, latencies(unknown))
    assert TRANSFORMER in found
    assert not {PROJECTION, "visual_embedder", "whole"} & found.keys()


def test_pillows_work_has_no_least_time_and_neither_has_a_whole_with_it(make_run: MakeRun) -> None:
    run = make_run(latencies_s={"preprocessing.decode": 0.002, **TIMES_S})
    stages = tuple(
        replace(each, flops=FLOPS.get(each.name, 0), moved_bytes=BYTES.get(each.name, 0)) for each in run.stages
    )
    run = replace(run, stages=stages, peak=PEAK)
    assert limit_of(run, TRANSFORMER) is not None
    assert limit_of(run, "preprocessing.decode") is None
    assert limit_of(run, "whole") is None


@pytest.mark.parametrize(
    ("precision", "known"),
    [
        ("float32", True),
        ("tf32", True),
        ("float32, convolutions in tf32", True),
        ("bfloat16", False),
        ("int8", False),
        ("float32 and int8", False),
    ],
)
def test_a_stage_in_another_precision_than_the_peaks_has_no_least_time(
    measured: Callable[..., Run], precision: str, known: bool
) -> None:
    run = measured()
    assert run.model is not None
    made = Computation("a library", (PreparedStage(TRANSFORMER, "a library", precision),))
    run = replace(run, model=replace(run.model, computation=made))
    assert (limit_of(run, TRANSFORMER) is not None) == known
    assert limit_of(run, PROJECTION) is not None


def test_a_stage_that_beats_its_least_time_shows_that_the_bound_is_wrong(measured: Callable[..., Run]) -> None:
    run = measured({**TIMES_S, TRANSFORMER: 0.100})
    assert limit_of(run, TRANSFORMER) == Limit(pytest.approx(LEAST_S[TRANSFORMER]), None, beaten=True)
    for name in ("whole", "modality_interaction"):
        row = next(row for row in summarise(run).rows if row.name == name)
        assert row.limit is not None
        assert row.limit.share is None
    (wrong,) = [remark for remark in remarks(run) if isinstance(remark, of.BoundWrong)]
    assert [name for name, _, _ in wrong.stages] == [TRANSFORMER]
    (told,) = sentences([wrong])
    assert "A LEAST TIME IS WRONG: transformer took 100 ms, not 192 or more" in told
    assert "[wrong]" in render([run], "markdown", quantities=["limit"])
    assert "%" not in LIMIT.text(next(row for row in summarise(run).rows if row.name == "whole"))
    busy = replace(run, peak=replace(PEAK, cpu_share=0.5))
    assert any("others kept the cores busy (ours 50% of the time)" in each for each in sentences(remarks(busy)))
    assert not any(isinstance(remark, of.BoundWrong) for remark in remarks(measured()))


def test_every_format_has_least_times_and_says_what_they_are_computed_from(measured: Callable[..., Run]) -> None:
    run = measured()
    written = f"{1000 * LEAST_S[TRANSFORMER]:.1f} [{100 * LEAST_S[TRANSFORMER] / 0.350:.1f}%]"
    for format in ("table", "markdown"):
        assert written in render([run], format, quantities=["limit"])
    for format in ("csv", "json"):
        text = render([run], format, quantities=["limit"])
        assert "least_time_s" in text
        assert str(LEAST_S[TRANSFORMER])[:10] in text
    (told,) = [text for text in sentences(remarks(run)) if text.startswith("At least")]
    for part in ("an estimated bound, not a measurement", "250 GFLOP/s by the best in float32", "on 2 threads"):
        assert part in told


def test_a_record_keeps_the_peak_and_one_without_it_stays_readable(measured: Callable[..., Run]) -> None:
    run = measured()
    kept = codec.decode(codec.encode(run), name="a record")
    assert kept.peak == PEAK
    assert limits(kept, latencies(kept)) == limits(run, latencies(run))
    assert codec.decode(codec.encode(replace(run, peak=None)).replace(b'"peak": null,', b""), name="").peak is None


def test_a_stage_without_work_takes_no_time_at_least(make_run: MakeRun) -> None:
    run = make_run(latencies_s={"visual_embedder.class_nms": 0.01})
    nothing: tuple[Stage, ...] = tuple(replace(each, flops=0, moved_bytes=0) for each in run.stages)
    assert limit_of(replace(run, stages=nothing, peak=PEAK), "visual_embedder.class_nms") == Limit(0.0, 0.0)
