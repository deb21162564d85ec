import math

import numpy as np
import pytest
from scipy import stats

from vilt_bench.judge.detectable import detectable, pair_noise, pairs_needed, process_noise, sample_noise
from vilt_bench.judge.estimate import student_t
from vilt_bench.judge.pairs import LOOKS


def yuen(logs: np.ndarray, *, error: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, by row, the trimmed means of pairs' log ratios [B, N], whether they are above zero, and their highs."""
    count = logs.shape[1]
    cut = int((0.1 if count < 18 else 0.25) * count)
    ordered = np.sort(logs, axis=1)
    estimates = ordered[:, cut : count - cut].mean(axis=1)
    winsorized = np.clip(logs, ordered[:, [cut]], ordered[:, [count - cut - 1]])
    kept = count - 2 * cut
    errors = np.sqrt(winsorized.var(axis=1, ddof=1) * (count - 1) / (kept * (kept - 1)))
    slower = estimates > stats.t.ppf(1 - error, kept - 1) * errors
    return estimates, slower, estimates + stats.t.ppf(0.975, kept - 1) * errors


def called_slower(logs: np.ndarray, *, tolerance: float, error: float) -> np.ndarray:
    """Returns, by row, whether a gate says so at any of its looks, one that has not ended sooner."""
    found = np.zeros(len(logs), dtype=bool)
    ended = found.copy()
    spent = 0.0
    for count in [*(look for look in LOOKS if look < logs.shape[1]), logs.shape[1]]:
        share = 1.0 if count == logs.shape[1] else LOOKS[count]
        estimates, slower, high = yuen(logs[:, :count], error=error * (share - spent))
        spent = share
        found |= ~ended & slower & (estimates > math.log1p(tolerance))
        ended |= found | (high < math.log1p(tolerance))
    return found


@pytest.mark.parametrize("pairs", [8, 12, 20, 48, 96])
@pytest.mark.parametrize("noise", [0.005, 0.02, 0.08])
def test_a_slowdown_of_the_told_size_is_found_as_often_as_told(noise: float, pairs: int) -> None:
    rng = np.random.default_rng(5)
    size = detectable(noise, pairs)
    logs = rng.normal(math.log1p(size), noise, (4000, pairs))
    power = called_slower(logs, tolerance=0.025, error=0.0025).mean()
    assert 0.93 <= power <= 0.995


def test_without_noise_only_the_tolerance_counts() -> None:
    assert detectable(1e-9) == pytest.approx(0.025, rel=1e-3)


def test_more_noise_takes_more_pairs_and_at_last_too_many() -> None:
    needed = [pairs_needed(noise, 0.05) for noise in (0.005, 0.02, 0.04)]
    assert needed == sorted(needed)
    assert detectable(0.04, needed[-1]) <= 0.05 < detectable(0.04, needed[-1] - 1)
    assert pairs_needed(0.5, 0.05) is None


@pytest.mark.parametrize("freedom", [1, 2, 7, 30])
@pytest.mark.parametrize("probability", [0.5, 0.95, 0.98, 0.9999])
def test_quantiles_of_students_t_are_those_of_scipy(probability: float, freedom: int) -> None:
    assert student_t(freedom, probability) == pytest.approx(stats.t.ppf((1 + probability) / 2, freedom), rel=1e-6)


def test_noise_of_pairs() -> None:
    pairs = [([1.0] * 4, [math.exp(log)] * 4) for log in (0.0, 1.0, -1.0)]
    assert pair_noise(pairs) == pytest.approx(1.0)
    assert pair_noise(pairs[:2]) is None


def test_load_that_hits_both_processes_alike_is_no_noise_of_pairs() -> None:
    loaded = [1.0, 1.0, 3.0, 3.0, 1.0, 1.0, 2.0, 2.0]
    assert pair_noise([(loaded, loaded), (loaded[::-1], loaded[::-1]), (loaded, loaded)]) == pytest.approx(0.0)


def test_noise_of_processes_and_samples() -> None:
    assert process_noise([[1.0], [2.0], [3.0]]) == pytest.approx(0.5)
    assert sample_noise([[0.9, 1.0, 1.1], [9.0, 10.0, 11.0]]) == pytest.approx(0.1)


def test_noise_that_hides_all_but_the_tenfold_tells_no_slowdown():
    assert detectable(0.3) < 9
    assert detectable(3.0) is None
