import dataclasses
import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import median

import pytest

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.judge.turns import TurnRatio, Turns, in_turns, turns_of
from vilt_bench.record.run import AllPasses, Failure, Run, Series, Times, Trial

START = datetime(2026, 11, 24, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def trials(*medians_s: Sequence[float], first: int = 0, start: datetime = START) -> tuple[Turns, ...]:
    return tuple(Turns(index, start + index * MINUTE, first, tuple(each)) for index, each in enumerate(medians_s))


def steady(*levels: float, turns: int = 6) -> tuple[Turns, ...]:
    return trials(*([level] * turns for level in levels))


def recorded(*series: Series, warmup: int = 0, **fields: object) -> Run:
    warm = Series(whole=Times(wall_time_s=(9.0,) * warmup), blocks=(1,) * warmup)
    made = tuple(
        Trial(index, (START + index * MINUTE).isoformat(), warmup=warm, samples=each)
        for index, each in enumerate(series)
    )
    run = Run(run_id="a", started_at=START.isoformat(), case=Case("patch32"), sampling=Sampling(), group="g")
    return dataclasses.replace(run, trials=made, **fields)  # type: ignore[arg-type]


def passes(*blocks: Sequence[float]) -> Series:
    times = tuple(time for block in blocks for time in block)
    return Series(whole=Times(wall_time_s=times), blocks=tuple(map(len, blocks)))


def test_the_ratio_is_the_mean_over_trials_with_the_interval_of_students_t() -> None:
    found = in_turns(steady(1, 1, 1), steady(1.2, 1.3, 1.4))

    assert found is not None
    logs = [math.log(ratio) for ratio in (1.2, 1.3, 1.4)]
    mean = sum(logs) / 3
    error = math.sqrt(sum((log - mean) ** 2 for log in logs) / 2 / 3)
    told = found.estimate()
    assert told.value == pytest.approx(math.exp(mean))
    # 4.303: Student's two-sided 95% quantile at 2 degrees of freedom, as printed.
    assert (told.low, told.high) == pytest.approx(
        (math.exp(mean - 4.303 * error), math.exp(mean + 4.303 * error)), rel=1e-3
    )
    assert (told.units, told.unit, told.samples) == (3, "trial", 18)
    # 9.925: the 99% quantile.
    assert TurnRatio(9.925, 1.0, trials=3, turns=9).probability() == pytest.approx(0.01, rel=1e-3)


def test_what_hits_both_alike_cancels() -> None:
    load = [1.0, 1.5, 3.0, 2.0, 1.1, 1.0]
    slower = [2 * load for load in load]

    found = in_turns(trials(load, load[::-1], load), trials(slower, slower[::-1], slower))

    assert found is not None
    assert found.estimate().ends == pytest.approx((2.0, 2.0))
    assert found.probability() == 0


def test_a_turn_in_which_one_was_disturbed_does_not_move_the_ratio() -> None:
    calm, disturbed = [1.0] * 7, [1.0, 1.0, 40.0, 1.0, 1.0, 1.0, 1.0]

    found = in_turns(trials(calm, calm, calm), trials(disturbed, disturbed, disturbed))

    assert found is not None
    assert found.logarithm == 0
    assert found.probability() == 1


def test_turns_are_matched_by_round_when_one_took_longer_to_warm_up() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]

    found = in_turns(trials(*[drift] * 3), trials(*[drift[3:]] * 3, first=3))

    assert found is not None
    assert (found.logarithm, found.turns) == (0, 3 * 4)


def test_rounds_that_only_one_of_them_took_tell_nothing() -> None:
    assert in_turns(trials(*[[1.0] * 6] * 3), trials(*[[1.0] * 6] * 3, first=6)) is None
    assert in_turns(trials(*[[1.0] * 6] * 3), trials(*[[1.0] * 6] * 3, first=4)) is None  # two turns: too few
    assert in_turns(trials(*[[1.0] * 6] * 3), trials(*[[1.0] * 6] * 3, first=3)) is not None


def test_fewer_than_three_trials_tell_nothing() -> None:
    assert in_turns(steady(1, 1), steady(1, 1, 1)) is None


def test_trials_of_another_time_are_not_beside_each_other() -> None:
    monday = trials(*[[1.0] * 6] * 4)
    tuesday = trials(*[[1.0] * 6] * 4, start=START + timedelta(days=1))
    joined = (*monday[:2], *tuesday[2:])

    assert in_turns(monday, tuesday) is None
    assert in_turns(monday, joined) is None
    assert in_turns(monday, monday) is not None


def test_times_that_no_clock_should_give_tell_nothing() -> None:
    assert in_turns(steady(1, 1, 1), steady(1, 0, 1)) is None


def test_trials_that_agree_by_chance_do_not_pass_for_precision() -> None:
    rng = random.Random(0)
    noisy = [math.exp(rng.gauss(0, 0.1)) for _ in range(12)]

    found = in_turns(steady(1, 1, 1, turns=12), trials(noisy, noisy, noisy))

    assert found is not None
    centre = median(noisy)
    spread = 1.4826 * median([abs(math.log(value / centre)) for value in noisy])
    assert found.error == pytest.approx(math.sqrt(math.pi / 2) * spread / math.sqrt(12 * 3), rel=0.02)


def test_the_medians_of_a_record_are_those_of_its_blocks_and_rounds_count_from_the_warm_up() -> None:
    series = passes([1.0, 9.0, 2.0], [4.0, 5.0], [3.0])

    (first, *_) = turns_of(recorded(series, series, series, warmup=2))

    assert (first.trial, first.first, first.medians_s) == (0, 2, (2.0, 4.5, 3.0))


def test_passes_after_the_last_block_are_no_turn() -> None:
    series = dataclasses.replace(passes([1.0], [2.0], [3.0]), blocks=(1, 1))

    assert turns_of(recorded(series, series, series))[0].medians_s == (1.0, 2.0)


def test_of_a_thinned_record_the_medians_are_those_of_all_passes() -> None:
    every = AllPasses((4, 4), whole_medians_s=(7.0, 8.0), whole_percentiles_s=(1.0,) * 101)
    series = dataclasses.replace(passes([1.0], [2.0]), all_passes=every)

    assert turns_of(recorded(series, series, series))[0].medians_s == (7.0, 8.0)


@pytest.mark.parametrize("fields", [{"failure": Failure("error", "it broke")}, {"side": "baseline"}])
def test_a_run_that_failed_or_is_a_side_of_a_gate_has_no_turns(fields: dict[str, object]) -> None:
    series = passes([1.0], [1.0], [1.0])

    assert len(turns_of(recorded(series, series, series))) == 3
    assert turns_of(recorded(series, series, series, **fields)) == ()


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_the_interval_of_a_ratio_holds_the_truth_in_95_of_100_cases(count: int, drift: float) -> None:
    rng = random.Random(1)
    truth, hits, widths, cases = math.log(1.1), 0, [], 500
    for _ in range(cases):
        found = in_turns(*_measured(rng, count, truth, drift))
        assert found is not None
        told = found.estimate()
        assert told.low is not None
        assert told.high is not None
        hits += told.low <= math.exp(truth) <= told.high
        widths.append(math.log(told.high / told.low))
    # Of 500 the share lies within 3 standard errors of 95%, or above where three trials agree by chance.
    assert hits / cases >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / cases)
    # Processes differ by 1%: what the machine does meanwhile adds little to what that alone would give.
    quantile = {3: 4.303, 5: 2.776}[count]
    assert median(widths) < 1.5 * 2 * quantile * 0.01 * math.sqrt(2 / count)


def _measured(
    rng: random.Random, count: int, truth: float, drift: float, rounds: int = 10
) -> tuple[tuple[Turns, ...], tuple[Turns, ...]]:
    """Returns two cases' turns on a machine that drifts, and is at times twice as slow, by processes that differ."""
    sides: tuple[list[list[float]], list[list[float]]] = ([], [])
    for _ in range(count):
        slope, offsets = rng.gauss(0, drift), [rng.gauss(0, 0.01) for _ in sides]
        begin = rng.randrange(2 * rounds)
        busy = range(begin, begin + rng.randrange(1, 6)) if drift else range(0)
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(2 * rounds):
            level = slope * turn / (2 * rounds) + 0.7 * (turn in busy) + truth * (turn % 2) + offsets[turn % 2]
            times[turn % 2].append(math.exp(level + rng.gauss(0, 0.005)))
        for side, own in zip(sides, times, strict=True):
            side.append(own)
    return trials(*sides[0]), trials(*sides[1])
