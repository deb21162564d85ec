import dataclasses
import random
from collections.abc import Callable

import numpy
import pytest

from vilt_bench.ask.case import Case
from vilt_bench.judge.estimate import Estimate
from vilt_bench.judge.summary import summarise
from vilt_bench.judge.throughput import (
    SHARES,
    Passes,
    images_per_second,
    least_passes,
    percentiles,
    single_passes,
    time_per_image,
)
from vilt_bench.record.run import AllPasses, Run, Series, Times, Trial
from vilt_bench.record.thin import KeptPasses

MakeRun = Callable[..., Run]


def drawn(rng: random.Random, count: int) -> tuple[float, ...]:
    """Returns times as passes have them: skewed, some far out."""
    return tuple(rng.lognormvariate(-4, 0.2) * (5 if rng.random() < 0.02 else 1) for _ in range(count))


def trial_of(times_s: tuple[float, ...], index: int = 0) -> Trial:
    return Trial(index, "", samples=Series(whole=Times(wall_time_s=times_s), blocks=(len(times_s),)))


def thinned(times_s: tuple[float, ...], *, knows: bool = True) -> Trial:
    """Returns a trial that has kept some of its passes, as a long one does."""
    kept = KeptPasses()
    for begin in range(0, len(times_s), 500):
        block = times_s[begin : begin + 500]
        kept.add(Series(whole=Times(wall_time_s=block), blocks=(len(block),)))
    medians = [1.0] * kept.blocks
    found = kept.series(medians, [float(each) for each in numpy.percentile(times_s, range(101))] if knows else [])
    assert isinstance(found.all_passes, AllPasses)
    return Trial(0, "", samples=found)


def told(passes: Passes | None) -> list[float | None]:
    assert passes is not None
    return [passes.p50, passes.p90, passes.p95, passes.p99]


def test_throughput_is_the_batch_over_the_latency_and_its_interval_that_of_the_latency_turned_round() -> None:
    latency = Estimate(0.5, 0.4, 0.8, samples=30, units=3, unit="trial")
    found = images_per_second(latency, 8)
    assert found == Estimate(16.0, 10.0, 20.0, samples=30, units=3, unit="trial")
    assert time_per_image(latency, 8) == Estimate(0.0625, 0.05, 0.1, samples=30, units=3, unit="trial")


def test_throughput_has_no_upper_end_where_the_latency_may_be_nothing() -> None:
    found = images_per_second(Estimate(0.5, 0.0, 2.0, samples=3, units=3, unit="block"), 1)
    assert found is not None
    assert (found.low, found.high) == (0.5, None)


def test_what_has_no_interval_or_no_latency_has_none_for_an_image_either() -> None:
    latency = Estimate(0.5, None, None, samples=1, units=1, unit="block")
    for found in (images_per_second(latency, 2), time_per_image(latency, 2)):
        assert found is not None
        assert (found.low, found.high) == (None, None)
    assert images_per_second(None, 2) is time_per_image(None, 2) is None


def test_every_row_of_a_run_tells_of_images_by_the_batch_of_its_case(make_run: MakeRun) -> None:
    summary = summarise(make_run(case=Case("patch32", batch_size=4)))
    for row in summary.rows:
        assert row.latency is not None
        assert row.images_per_second is not None
        assert row.time_per_image is not None
        assert row.images_per_second.value == pytest.approx(4 / row.latency.value)
        assert row.time_per_image.value == pytest.approx(row.latency.value / 4)
        assert (row.passes is not None) is (row.level == "whole")


@pytest.mark.parametrize("counts", [(368,), (400, 371, 403), (1, 1000)])
@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_numpys_of_all_trials_passes_together(
    make_run: MakeRun, counts: tuple[int, ...], seed: int
) -> None:
    rng = random.Random(seed)
    trials = [drawn(rng, count) for count in counts]
    found = single_passes(make_run(trials=0))
    assert found is None
    run = dataclasses.replace(make_run(), trials=tuple(trial_of(each, index) for index, each in enumerate(trials)))
    found = single_passes(run)
    assert found is not None
    assert found.count == sum(counts)
    assert told(found) == pytest.approx(list(numpy.percentile(numpy.concatenate(trials), [50, 90, 95, 99])), rel=1e-12)


def test_a_percentile_that_so_few_passes_do_not_bear_is_absent(make_run: MakeRun) -> None:
    # With a probability of 2.5% or less all passes lie on one side of the percentile.
    least = [int(numpy.ceil(numpy.log(0.025) / numpy.log(share))) for share in SHARES]
    assert list(map(least_passes, SHARES)) == least == [6, 36, 72, 368]
    for place, count in enumerate(least):
        for passes in (count - 1, count):
            run = dataclasses.replace(make_run(), trials=(trial_of(drawn(random.Random(0), passes)),))
            known = [value is not None for value in told(single_passes(run))]
            assert known == [number < place + (passes == count) for number in range(len(SHARES))]


def test_one_trial_that_keeps_some_of_its_passes_has_the_percentiles_of_all(make_run: MakeRun) -> None:
    times_s = drawn(random.Random(1), 20_000)
    found = single_passes(dataclasses.replace(make_run(), trials=(thinned(times_s),)))
    assert found is not None
    assert found.count == 20_000
    assert told(found) == pytest.approx(list(numpy.percentile(times_s, [50, 90, 95, 99])), rel=1e-12)


@pytest.mark.parametrize("knows", [True, False])
def test_trials_that_keep_some_of_their_passes_have_percentiles_of_the_rank_that_they_state(
    make_run: MakeRun, *, knows: bool
) -> None:
    rng = random.Random(2)
    # Of unequal length and level: each counts as many passes as it had.
    long, short = drawn(rng, 20_000), tuple(1.5 * each for each in drawn(rng, 5_000))
    run = dataclasses.replace(make_run(), trials=(thinned(long, knows=knows), thinned(short, knows=knows)))
    found = single_passes(run)
    assert found is not None
    assert found.count == sum(len(trial.samples.whole.latency_s) for trial in run.trials)
    every = numpy.concatenate([long, short])
    for value, share in zip(told(found), SHARES, strict=True):
        assert value is not None
        # 2.2 points in the middle, and as much less towards the ends as a share of draws varies less there.
        assert abs(numpy.mean(every <= value) - share) < 0.022 * 2 * (share * (1 - share)) ** 0.5


def test_a_sample_that_stands_for_several_counts_as_that_many() -> None:
    once, thrice = [1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0]
    shares = [0.0, 2 / 12, 7 / 12, 10 / 12, 1.0]
    expanded = once + [each for each in thrice for _ in range(3)]
    # At the middle of those that it stands for, a sample lies where numpy has it.
    assert percentiles([once, thrice], [1, 3], [5 / 12, 8 / 12, 11 / 12]) == pytest.approx(
        list(numpy.percentile(expanded, [100 * 5 / 12, 100 * 8 / 12, 100 * 11 / 12]))
    )
    assert percentiles([once, thrice], [1, 3], shares)[::4] == [1.0, 30.0]


def test_rows_of_a_run_on_clips_tell_of_frames_and_not_of_images(make_run: MakeRun) -> None:
    run = make_run(case=Case("patch32", batch_size=2, frames=8, interaction="none"))
    for row in summarise(run).rows:
        assert row.latency is not None
        assert row.images_per_second is row.time_per_image is None
        assert row.frames_per_second is not None
        assert row.time_per_frame is not None
        assert row.frames_per_second.value == pytest.approx(16 / row.latency.value)
        assert row.time_per_frame.value == pytest.approx(row.latency.value / 16)
    assert all(row.frames_per_second is row.time_per_frame is None for row in summarise(make_run()).rows)
