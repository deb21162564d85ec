"""Samples as they come in: the same as of all samples at once, by numpy and by the rule itself."""

import random

import numpy as np
import pytest

from vilt_bench.judge.estimate import block_interval, settled
from vilt_bench.judge.growing import GrowingBlocks, GrowingWarmup


def drifting(rng: random.Random, sizes: list[int], *, grain: float) -> list[list[float]]:
    """Returns blocks that drift, of a clock so coarse that many samples are equal, or so fine that none are."""
    return [
        [round((1 + 0.002 * index + abs(rng.gauss(0, 0.05))) / grain) * grain for _ in range(size)]
        for index, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("grain", [1e-9, 0.01])
@pytest.mark.parametrize("sizes", [[7] * 40, [1, 2, 300, 5, 1, 1, 64, 1000, 3, 2, 1], [1] * 25])
def test_the_interval_after_each_block_is_that_of_all_samples_so_far(sizes: list[int], grain: float) -> None:
    blocks = drifting(random.Random(1), sizes, grain=grain)
    growing = GrowingBlocks()
    for count in range(len(blocks) + 1):
        assert growing.interval() == block_interval(blocks[:count])
        if count < len(blocks):
            growing.add(blocks[count])


def test_medians_and_percentiles_are_those_that_numpy_finds_in_all_samples() -> None:
    blocks = drifting(random.Random(2), [501, 20, 333, 1, 90], grain=1e-9)
    growing, every = GrowingBlocks(), np.concatenate([np.array(block) for block in blocks])
    for block in blocks:
        growing.add(block)
    assert growing.median == np.median(every)
    assert growing.medians == [np.median(block) for block in blocks]
    for share in (0.0, 0.013, 0.25, 0.5, 0.77, 1.0):
        assert growing.percentile(share) == pytest.approx(np.quantile(every, share), rel=1e-12)


def test_whether_times_have_settled_is_what_all_times_so_far_say() -> None:
    rng, growing, times = random.Random(3), GrowingWarmup(), []
    answers = []
    for block in range(120):
        new = [1 + 5 / (1 + block) + rng.gauss(0, 0.1) for _ in range(rng.choice([1, 30, 100, 400]))]
        times += new
        growing.add(new)
        answers.append(growing.settled())
        assert answers[-1] == settled(times), len(times)
    assert {False, True} == set(answers)


def test_few_times_settle_as_they_do_at_once() -> None:
    growing = GrowingWarmup()
    for count in range(1, 9):
        growing.add([1.0])
        assert growing.settled() == settled([1.0] * count)


def test_looking_after_each_block_goes_over_no_sample_more_often_than_blocks_are_doubled() -> None:
    class Counted(float):
        compared = 0

        def __lt__(self, other: float) -> bool:
            Counted.compared += 1
            return super().__lt__(other)

    def comparisons(blocks: int) -> int:
        rng, growing, Counted.compared = random.Random(4), GrowingBlocks(), 0
        for _ in range(blocks):
            growing.add([Counted(rng.random()) for _ in range(200)])
            growing.interval()
        return Counted.compared

    few, many = comparisons(32), comparisons(128)
    assert many < 6 * few  # four times the samples; 16 times where each look goes over all
