import dataclasses
import math
import random
from collections.abc import Callable
from statistics import median

import pytest

from vilt_bench.judge.estimate import block_interval, estimate, percentile, settled
from vilt_bench.judge.latency import latency
from vilt_bench.record.run import Run, Series, Times, Trial

# Two-sided 95% quantiles of Student's t as printed in statistical tables, by degrees of freedom.
STUDENT = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 29: 2.045, 60: 2.000, 120: 1.980}


def blocks_of(samples: list[float], size: int = 10) -> list[list[float]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def correlated(rng: random.Random, count: int, *, rho: float, noise: float, level: float = 1.0) -> list[float]:
    state, samples = rng.gauss(0, 1), []
    for _ in range(count):
        state = rho * state + math.sqrt(1 - rho**2) * rng.gauss(0, 1)
        samples.append(level * math.exp(noise * state))
    return samples


def stopped_after(samples: list[float], precision: float = 0.01) -> int:
    blocks = blocks_of(samples)
    for count in range(1, len(blocks) + 1):
        found = block_interval(blocks[:count])
        if found is not None and found.half_width is not None and found.half_width <= precision:
            return count
    return len(blocks)


@pytest.mark.parametrize(("freedom", "quantile"), STUDENT.items())
def test_interval_of_trials_is_student_t_on_their_medians(freedom: int, quantile: float) -> None:
    medians = [1.0 + (-1) ** index * 0.1 for index in range(freedom + 1)]
    found = estimate([[[value, value, value]] for value in medians])
    assert found is not None
    assert found.half_width is not None
    mean = sum(medians) / len(medians)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in medians) / freedom)
    expected = quantile * deviation / math.sqrt(len(medians)) / mean
    assert found.half_width == pytest.approx(expected, rel=3e-4)
    assert (found.unit, found.units) == ("trial", freedom + 1)


def test_value_is_the_mean_of_the_trials_medians() -> None:
    found = estimate([[[1.0, 1.0, 100.0]], [[3.0, 3.0], [3.0]]])
    assert found is not None
    assert found.value == 2.0
    assert found.samples == 6


def test_two_trials_fall_back_to_blocks_as_units() -> None:
    found = estimate([blocks_of([1.0, 1.1] * 20), blocks_of([1.0, 1.1] * 20)])
    assert found is not None
    assert (found.unit, found.units) == ("block", 8)
    assert found.low is not None


def test_two_blocks_of_one_process_tell_no_interval() -> None:
    found = block_interval([[1.0, 1.0], [1.0, 1.0]])
    assert found is not None
    assert (found.low, found.high, found.half_width) == (None, None, None)


def test_nothing_measured_is_no_estimate() -> None:
    assert estimate([]) is None
    assert estimate([[[]], []]) is None


def test_interval_of_a_time_does_not_go_below_zero() -> None:
    found = estimate([[[0.1]], [[1.0]], [[5.0]]])
    assert found is not None
    assert found.low == 0
    assert found.half_width is not None
    assert found.half_width > 1


@pytest.mark.parametrize("between", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("trials", [3, 4, 5])
def test_interval_over_processes_holds_the_truth_in_95_of_100_cases(trials: int, between: float) -> None:
    rng = random.Random(trials)
    hits = 0
    for _ in range(400):
        levels = [math.exp(rng.gauss(0, between)) for _ in range(trials)]
        found = estimate([blocks_of(correlated(rng, 30, rho=0.6, noise=0.03, level=level)) for level in levels])
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1 <= found.high
    assert 0.92 <= hits / 400 <= 0.985


@pytest.mark.parametrize("rho", [0.0, 0.6])
@pytest.mark.parametrize("blocks", [3, 5, 10])
def test_interval_within_a_process_holds_the_truth_in_spite_of_correlation(blocks: int, rho: float) -> None:
    rng = random.Random(blocks)
    hits = 0
    for _ in range(300):
        found = block_interval(blocks_of(correlated(rng, 10 * blocks, rho=rho, noise=0.03)))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1 <= found.high
    assert hits / 300 >= 0.92


def test_quiet_times_stop_after_three_blocks() -> None:
    rng = random.Random(0)
    assert stopped_after([math.exp(0.002 * rng.gauss(0, 1)) for _ in range(300)]) == 3


@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_drift_of_ten_percent_does_not_pass_for_precision(noise: float) -> None:
    rng = random.Random(1)
    for _ in range(50):
        samples = [(1 + 0.1 * index / 60) * math.exp(noise * rng.gauss(0, 1)) for index in range(60)]
        assert stopped_after(samples) == 6


def test_blocks_that_agree_by_chance_do_not_hide_wide_samples() -> None:
    block = [0.5, 0.7, 1.0, 1.3, 1.5]
    found = block_interval([block, block, block])
    assert found is not None
    assert found.half_width is not None
    assert found.half_width > 0.1


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.5), (0.95, 3.85), (1.0, 4.0)])
def test_percentile_lies_on_the_line_between_neighbours(share: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == pytest.approx(value)


def test_steady_noise_settles_soon() -> None:
    rng = random.Random(2)
    assert all(settled([math.exp(0.005 * rng.gauss(0, 1)) for _ in range(9)]) for _ in range(100))


def test_trend_of_ten_percent_is_not_settled() -> None:
    rng = random.Random(3)
    for _ in range(100):
        assert not settled([(1.1 - 0.1 * index / 30) * math.exp(0.003 * rng.gauss(0, 1)) for index in range(30)])


def test_five_times_are_too_few_to_have_settled() -> None:
    assert not settled([1.0] * 5)
    assert settled([1.0] * 6)


def test_component_latency_adds_its_stages_pass_by_pass(make_run: Callable[..., Run]) -> None:
    samples = Series(
        stages={
            "visual_embedder.backbone": Times(wall_time_s=(1.0, 2.0, 3.0)),
            "visual_embedder.rpn": Times(wall_time_s=(3.0, 2.0, 1.0)),
            "modality_interaction": Times(wall_time_s=(7.0, 7.0, 7.0)),
        },
        blocks=(1, 1, 1),
    )
    run = dataclasses.replace(make_run(), trials=(Trial(index=0, started_at="", samples=samples),))
    found = latency(run, "visual_embedder")
    assert found is not None
    assert (found.value, found.low, found.high) == (4.0, 4.0, 4.0)
    everything = latency(run, "")
    assert everything is not None
    assert everything.value == 11.0
    assert latency(run) is None
    assert latency(run, "visual_embedder.back") is None


def test_device_time_goes_before_wall_time(make_run: Callable[..., Run]) -> None:
    whole = Times(wall_time_s=(9.0,) * 3, device_time_s=(5.0,) * 3)
    run = dataclasses.replace(make_run(), trials=(Trial(index=0, started_at="", samples=Series(whole=whole)),))
    found = latency(run)
    assert found is not None
    assert found.value == 5.0


def test_latency_of_a_run_is_that_of_its_samples_without_warm_up(make_run: Callable[..., Run]) -> None:
    run = make_run(trials=1)
    samples = run.trials[0].samples.whole.wall_time_s
    assert samples is not None
    found = latency(run)
    assert found is not None
    assert found.value == median(samples)
    assert found.samples == 30
