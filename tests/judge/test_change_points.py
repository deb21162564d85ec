"""False alarms and power by simulation, with fixed seeds; percentages are of histories."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from vilt_bench.judge.change_points import LEAST_RUNS, find_shifts

Noise = Callable[[Generator, int], NDArray[np.float64]]
PROCESS_NOISE = 0.02
"""Standard deviation of a run's latency, as a share."""


def normal(rng: Generator, count: int) -> NDArray[np.float64]:
    return rng.normal(0, PROCESS_NOISE, count)


def heavy_tailed(rng: Generator, count: int) -> NDArray[np.float64]:
    return rng.standard_t(3, count) * PROCESS_NOISE / np.sqrt(3)


def with_outliers(rng: Generator, count: int) -> NDArray[np.float64]:
    return rng.normal(0, PROCESS_NOISE, count) + (rng.random(count) < 0.05) * rng.exponential(0.3, count)


def correlated(rng: Generator, count: int) -> NDArray[np.float64]:
    steps = rng.normal(0, PROCESS_NOISE * np.sqrt(1 - 0.3**2), count)
    for place in range(1, count):
        steps[place] += 0.3 * steps[place - 1]
    return steps


NOISES = [normal, heavy_tailed, with_outliers, correlated]


@pytest.mark.parametrize("count", [12, 40])
@pytest.mark.parametrize(("noise", "most"), [*((noise, 0.02) for noise in NOISES[:3]), (correlated, 0.04)])
def test_identical_histories_are_rarely_called_changed(noise: Noise, most: float, count: int) -> None:
    rng = np.random.default_rng(7)
    called = sum(bool(find_shifts(np.exp(noise(rng, count)), least_change=0)) for _ in range(250))
    assert called <= most * 250


@pytest.mark.parametrize("noise", NOISES)
def test_a_five_percent_step_is_found_most_times_where_it_is(noise: Noise) -> None:
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(100):
        logs = noise(rng, 60)
        logs[30:] += np.log(1.05)
        found += any(abs(shift.index - 30) <= 4 and 1.03 < shift.ratio < 1.07 for shift in find_shifts(np.exp(logs)))
    assert found >= 90


def test_the_interval_holds_the_true_size_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    found = held = 0
    for _ in range(200):
        logs = normal(rng, 40)
        logs[20:] += np.log(1.10)
        for shift in find_shifts(np.exp(logs)):
            found += 1
            held += shift.low <= 1.10 <= shift.high
    assert found >= 195
    assert 0.91 * found <= held <= 0.99 * found


def test_a_slowdown_that_was_mended_is_two_changes() -> None:
    logs = normal(np.random.default_rng(1), 60)
    logs[25:40] += np.log(1.08)
    shifts = find_shifts(np.exp(logs))
    assert [shift.index for shift in shifts] == pytest.approx([25, 40], abs=1)
    assert shifts[0].ratio > 1.05
    assert shifts[1].ratio < 0.95


def test_a_step_without_any_noise_is_found_exactly() -> None:
    (shift,) = find_shifts([1.0] * 10 + [1.25] * 10)
    assert shift.index == 10
    assert (shift.ratio, shift.before, shift.after) == pytest.approx((1.25, 1.0, 1.25))


def test_one_slow_run_is_no_change_of_level() -> None:
    values = np.exp(normal(np.random.default_rng(2), 30))
    values[15] *= 3
    assert find_shifts(values) == []


def test_identical_values_and_few_values_have_no_change() -> None:
    assert find_shifts([0.5] * 50) == []
    assert find_shifts([1.0] * (LEAST_RUNS - 4) + [2.0] * 3) == []


def test_changes_too_small_to_matter_are_left_out() -> None:
    logs = normal(np.random.default_rng(3), 200) / 20
    logs[100:] += np.log(1.005)
    assert find_shifts(np.exp(logs)) == []
    assert [shift.index for shift in find_shifts(np.exp(logs), least_change=0.001)] == [100]


def test_the_proposed_segmentation_is_that_of_ruptures_for_the_same_cost_and_penalty() -> None:
    ruptures = pytest.importorskip("ruptures")
    from vilt_bench.judge.change_points import LEAST_SEGMENT, PENALTY, segment

    rng = np.random.default_rng(4)
    for _ in range(4):
        logs = normal(rng, 80) + np.repeat(rng.normal(0, 0.05, 4), 20)
        penalty = PENALTY * float((np.diff(logs) ** 2).mean()) / 2 * np.log(80)
        expected = ruptures.Pelt(model="l2", min_size=LEAST_SEGMENT, jump=1).fit(logs).predict(pen=penalty)
        assert [*segment(logs), 80] == expected
