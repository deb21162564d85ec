"""What is kept of many passes: enough for the same answers, by numpy's of all of them."""

import dataclasses
import random
from collections import Counter
from typing import get_type_hints

import msgspec
import numpy as np
import pytest

from vilt_bench.judge.estimate import percentiles
from vilt_bench.judge.growing import GrowingBlocks
from vilt_bench.judge.latency import latency, trial_medians
from vilt_bench.record import codec
from vilt_bench.record.join import join_blocks
from vilt_bench.record.run import Run, Series, Times, Trial
from vilt_bench.record.thin import KeptPasses

MOST = 512
STAGES = {"visual_embedder.backbone": 0.2, "visual_embedder.projection": 0.1, "modality_interaction": 0.7}


def block(rng: random.Random, size: int, *, level: float = 1.0, first: int = 0) -> Series:
    """Returns passes that drift and have a tail; the CPU time of each is its number."""

    def times(share: float) -> Times:
        samples = tuple(share * level * (1 + rng.expovariate(20)) for _ in range(size))
        return Times(wall_time_s=samples, cpu_time_s=tuple(float(first + index) for index in range(size)))

    return Series(times(1.0), {name: times(share) for name, share in STAGES.items()}, times(1.01), (size,))


def blocks(seed: int, sizes: list[int]) -> list[Series]:
    rng = random.Random(seed)
    return [
        block(rng, size, level=1 + 0.001 * (index % 7), first=sum(sizes[:index])) for index, size in enumerate(sizes)
    ]


def thinned(parts: list[Series]) -> Series:
    kept, whole = KeptPasses(MOST), GrowingBlocks()
    for part in parts:
        kept.add(part)
        whole.add(part.whole.latency_s)
    return kept.series(whole.medians, percentiles(whole))


@pytest.fixture
def both(make_run):
    """Returns a factory of two runs of the same passes: all of them, and those kept."""

    def make(trials: int) -> tuple[Run, Run]:
        made = [blocks(seed, [190 + 11 * (index % 5) for index in range(40)]) for seed in range(trials)]

        def run(series: list[Series]) -> Run:
            kept = tuple(Trial(index, "2026-11-24T03:55:01+00:00", samples=each) for index, each in enumerate(series))
            return dataclasses.replace(make_run(), trials=kept)

        return run([join_blocks(parts) for parts in made]), run([thinned(parts) for parts in made])

    return make


def test_few_passes_are_all_kept() -> None:
    parts = blocks(0, [100, 100, 312])
    assert thinned(parts) == join_blocks(parts)


@pytest.mark.parametrize("sizes", [[300] * 30, [5000], [1] * 400 + [4000], [3] * 1000])
def test_many_passes_are_kept_in_a_bounded_number_from_each_block_alike(sizes: list[int]) -> None:
    series = thinned(blocks(1, sizes))
    assert series.all_passes is not None
    assert series.all_passes.blocks == tuple(sizes)
    assert series.passes == sum(sizes)
    assert MOST / 2 <= sum(series.blocks) <= max(MOST, len(sizes))
    assert min(series.blocks) >= 1
    share = max(sizes) / max(series.blocks)
    assert all(kept == pytest.approx(size / share, abs=1) for kept, size in zip(series.blocks, sizes, strict=True))


def test_passes_beside_each_other_are_kept_together_and_in_order() -> None:
    series = thinned(blocks(2, [300] * 30))
    numbers = series.whole.cpu_time_s
    assert numbers == tuple(sorted(numbers))
    assert all(times.cpu_time_s == numbers for times in (series.instrumented, *series.stages.values()))


@pytest.mark.parametrize("period", [2, 3, 4, 8])
def test_what_recurs_every_few_passes_is_neither_favoured_nor_missed(period: int) -> None:
    numbers = thinned(blocks(3, [400] * 40)).whole.cpu_time_s
    counts = Counter(number % period for number in numbers)
    expected = len(numbers) / period
    # Chi squared, of `period` - 1 degrees: below 25 with a probability of 99.9% even for eight.
    assert sum((counts[each] - expected) ** 2 / expected for each in range(period)) < 25


@pytest.mark.parametrize("trials", [1, 2, 3, 5])
def test_the_whole_is_estimated_from_all_passes_that_there_were(trials: int, both) -> None:
    full, thin = (latency(run) for run in both(trials))
    assert (thin.value, thin.samples, thin.units, thin.unit) == (full.value, full.samples, full.units, full.unit)
    assert thin.half_width == pytest.approx(full.half_width, rel=1e-12 if trials >= 3 else 0.02)
    every = [np.median(trial.samples.whole.wall_time_s) for trial in both(trials)[0].trials]
    assert [value for _, value in trial_medians(both(trials)[1])] == every


@pytest.mark.parametrize("stage", ["visual_embedder.backbone", "visual_embedder", "modality_interaction", ""])
def test_a_stages_median_from_the_passes_kept_has_nearly_the_rank_of_that_of_all(stage: str, both) -> None:
    full, thin = both(1)
    (series,) = (trial.samples for trial in full.trials)
    parts = [times.wall_time_s for name, times in series.stages.items() if name.startswith(stage)]
    rank = np.mean(np.sum(parts, axis=0) < latency(thin, stage).value)
    assert rank == pytest.approx(0.5, abs=2.58 / 2 / np.sqrt(MOST / 2))  # the binomial's 99% for as few as may be kept


def test_older_programs_read_what_is_kept_as_a_record_of_so_many_passes(both) -> None:
    _, thin = both(1)
    raw = msgspec.json.decode(codec.encode(thin))
    hints = get_type_hints(Series)
    fields = [(field.name, hints[field.name]) for field in dataclasses.fields(Series) if field.name != "all_passes"]
    older = msgspec.convert(raw["trials"][0]["samples"], dataclasses.make_dataclass("Series", fields))
    assert raw["schema_version"] == 1
    assert sum(older.blocks) == len(older.whole.wall_time_s) == len(older.instrumented.wall_time_s)
    assert codec.decode(codec.encode(thin), name="thin") == thin


def test_percentiles_that_are_not_whole_are_not_used(both) -> None:
    _, thin = both(1)
    (trial,) = thin.trials
    cut = dataclasses.replace(trial.samples.all_passes, whole_percentiles_s=(0.1, 0.2))
    samples = dataclasses.replace(trial.samples, all_passes=cut)
    found = latency(dataclasses.replace(thin, trials=(dataclasses.replace(trial, samples=samples),)))
    assert found.samples == len(samples.whole.wall_time_s)
