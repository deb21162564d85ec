"""Verdicts from evidence: against scipy, closed forms, and simulated noise."""

import math
import random
import re

import numpy as np
import pytest
from scipy import stats

from vilt_bench.judge.estimate import student_t
from vilt_bench.judge.significance import (
    Evidence,
    Subject,
    best_detectable,
    holm,
    judge,
    neighbour_logs,
    pair_log,
    paired,
    trimmed_mean,
    unpaired,
)
from vilt_bench.report.verdicts import words


def wall(estimate, error=0.001, **changes):
    return Evidence(
        **{"channel": "wall_time", "estimate": estimate, "error": error, "freedom": 7, "units": 12, **changes}
    )


def verdict(*evidence, tolerance=0.025, **changes):
    (found,) = judge([Subject("whole", 0.2, 0.2, evidence)], tolerance=tolerance, error=0.005, **changes)
    return found


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99, 0.998])
def test_quantiles_are_those_of_students_distribution(freedom, confidence):
    assert student_t(freedom, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


def test_two_groups_are_tested_as_scipys_trimmed_test_does():
    rng = random.Random(1)
    before, after = [rng.gauss(0, 1) for _ in range(10)], [rng.gauss(1, 2) for _ in range(15)]
    found = unpaired("cpu_time", before, after)
    expected = stats.ttest_ind(after, before, equal_var=False, trim=0.2)
    assert found.estimate / found.error == pytest.approx(expected.statistic)
    assert found.freedom == math.floor(expected.df)


def test_the_mean_leaves_out_a_fifth_at_each_end():
    values = [9.0, -50.0, 1.0, 2.0, 3.0, 1000.0]
    assert trimmed_mean(values) == pytest.approx(stats.trim_mean(values, 0.2))


def test_a_pair_comes_to_the_mean_of_the_middle_fifth_of_neighbours_of_whole_turns():
    rng = np.random.default_rng(2)
    before, after = rng.lognormal(0, 0.3, 31), rng.lognormal(0.05, 0.3, 31)
    expected = stats.trim_mean(np.log(after[:30] / before[:30]), 0.4)
    assert pair_log(neighbour_logs(before.tolist(), after.tolist())) == pytest.approx(expected)


def burst_logs(rng, pairs, slowdown=0.0):
    """Logarithms of neighbours (pairs, 30): a burst hits one of two in a quarter of cases; processes differ by 1%."""
    calm = rng.normal(math.log1p(slowdown), 0.02, (pairs, 30)) + rng.normal(0, 0.01, (pairs, 1))
    return calm + (rng.random((pairs, 30)) < 0.25) * rng.normal(0, 0.5, (pairs, 30))


def test_bursts_that_hit_one_of_two_neighbours_spread_pairs_less_than_they_do_means_of_turns():
    logs = burst_logs(np.random.default_rng(4), 2000)
    turns = logs.reshape(2000, 15, 2).mean(axis=2)
    assert np.std([pair_log(row) for row in logs.tolist()]) < 0.7 * np.std(stats.trim_mean(turns, 0.2, axis=1))


def test_bursts_on_fast_passes_raise_no_false_alarms_and_hide_no_slowdown_of_5_percent():
    rng = np.random.default_rng(5)
    found = {}
    for slowdown in (0.0, 0.05):
        numbers = [pair_log(row) for row in burst_logs(rng, 12 * 1500, slowdown).tolist()]
        gates = [paired("wall_time", numbers[begin : begin + 12]) for begin in range(0, len(numbers), 12)]
        found[slowdown] = np.mean(
            [gate.estimate > math.log1p(0.025) and gate.p_beyond(slower=True) <= 0.0025 for gate in gates]
        )
    assert found[0.0] <= 0.005
    assert found[0.05] >= 0.95


def test_pairs_without_trimming_are_a_t_test():
    logs = [0.01, 0.03, 0.02]
    found = paired("wall_time", logs)
    expected = stats.ttest_1samp(logs, 0, alternative="greater")
    assert found.p_beyond(slower=True) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("count", "share"), [(9, 0.0), (10, 0.1), (17, 0.1), (18, 0.25), (48, 0.25)])
def test_of_many_pairs_a_quarter_is_left_out_at_each_end_and_of_few_none(count, share):
    logs = np.random.default_rng(count).standard_t(2, count)
    found = paired("wall_time", logs.tolist())
    assert found.estimate == pytest.approx(stats.trim_mean(logs, share))
    kept = count - 2 * int(share * count)
    winsorised = np.asarray(stats.mstats.winsorize(logs, (share, share)))
    assert found.error == pytest.approx(math.sqrt(winsorised.var(ddof=1) * (count - 1) / (kept * (kept - 1))))
    assert found.freedom == kept - 1


def test_adjusted_probabilities_are_holms():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_chance_alone_exceeds_the_level_as_often_as_it_says():
    rng = random.Random(5)
    draws = [paired("wall_time", [rng.gauss(0, 1) for _ in range(12)]) for _ in range(4000)]
    hits = sum(each.p_beyond(slower=True) < 0.05 for each in draws)
    assert 0.04 < hits / len(draws) < 0.06


def test_slower_beyond_chance_and_tolerance_is_regressed():
    found = verdict(wall(math.log(1.06)))
    assert found.verdict == "regressed"
    assert found.ratio.value == pytest.approx(1.06)
    assert found.ratio.low < 1.06 < found.ratio.high
    assert "6.0%" in found.reason
    assert "2.5%" in found.reason


def test_slower_beyond_chance_but_within_the_tolerance_is_unchanged():
    assert verdict(wall(math.log(1.015))).verdict == "unchanged"


def test_faster_beyond_chance_and_tolerance_is_improved():
    assert verdict(wall(math.log(0.9))).verdict == "improved"


@pytest.mark.parametrize("estimate", [-0.02, 0.0, 0.02, 0.05, 0.1])
def test_noise_wider_than_the_tolerance_is_inconclusive(estimate):
    found = verdict(wall(estimate, error=0.05))
    assert found.verdict == "inconclusive"
    assert "noise" in found.reason


def test_drift_is_not_taken_for_a_change():
    assert verdict(wall(0.1, drift=0.14)).verdict == "inconclusive"
    assert verdict(wall(0.3, drift=0.14)).verdict == "regressed"


def test_cpu_time_finds_what_wall_time_is_too_noisy_for():
    found = verdict(wall(0.05, error=0.04), wall(0.05, channel="cpu_time"))
    assert (found.verdict, found.channel) == ("regressed", "cpu_time")


def test_more_cpu_time_is_no_regression_where_wall_time_has_not_grown():
    found = verdict(wall(-0.1), wall(0.1, channel="cpu_time"))
    assert (found.verdict, found.channel) == ("improved", "wall_time")
    found = verdict(wall(0.0), wall(0.1, channel="cpu_time"))
    assert found.verdict == "unchanged"
    assert "CPU time is up by 10.5%" in found.reason


def test_steady_cpu_time_does_not_pass_a_slowdown_that_only_the_wall_clock_sees():
    assert verdict(wall(0.3, error=0.1), wall(0.0, channel="cpu_time")).verdict == "inconclusive"
    assert verdict(wall(0.0, error=0.03), wall(0.0, channel="cpu_time")).verdict == "unchanged"


def test_a_stage_that_one_side_lacks_is_missing():
    (found,) = judge([Subject("visual_embedder.fpn", 0.2, None, ())], tolerance=0.025, error=0.01)
    assert found.verdict == "missing"
    assert "candidate" in found.reason


def test_without_evidence_the_verdict_is_inconclusive_and_says_why():
    (found,) = judge([Subject("whole", 0.2, 0.2, (), "one process only")], tolerance=0.025, error=0.01)
    assert (found.verdict, found.reason) == ("inconclusive", "one process only")


def test_a_stage_that_can_hardly_have_changed_the_whole_is_unchanged():
    subject = Subject("textual_embedder", 0.0002, 0.0002, (wall(0.0, error=0.05),))
    (found,) = judge([subject], tolerance=0.025, error=0.01, whole_s=0.35)
    assert found.verdict == "unchanged"


def test_many_stages_share_the_error_of_one():
    rng = random.Random(9)

    def stage(index):
        logs = [rng.gauss(0, 0.2) for _ in range(12)]
        return Subject(str(index), 0.2, 0.2, (paired("wall_time", logs),))

    rounds = [judge([stage(index) for index in range(10)], tolerance=0.025, error=0.05) for _ in range(400)]
    wrong = sum(any(each.verdict == "regressed" for each in stages) for stages in rounds)
    assert wrong <= 0.08 * len(rounds)


def test_what_is_said_to_be_detectable_is_found_in_about_95_of_100_cases():
    rng = random.Random(11)
    spread = 0.02
    known = Evidence("wall_time", 0.0, spread / math.sqrt(12), 7, 12)
    slowdown = known.detectable(tolerance=0.025, error=0.005)
    verdicts = []
    for _ in range(1000):
        logs = [math.log1p(slowdown) + rng.gauss(0, spread) for _ in range(12)]
        verdicts.append(verdict(paired("wall_time", logs)).verdict)
    assert verdicts.count("regressed") >= 900


def test_detectable_grows_with_noise_and_drift():
    quiet, noisy, drifting = wall(0.0), wall(0.0, error=0.02), wall(0.0, drift=0.15)
    quiet_s, noisy_s, drifting_s = (each.detectable(tolerance=0.025, error=0.005) for each in (quiet, noisy, drifting))
    assert 0.025 < quiet_s < noisy_s < 0.15 < drifting_s


def test_an_interval_beyond_the_tolerance_that_is_not_sure_enough_says_so():
    seen = verdict(wall(0.2, 0.05, freedom=4))
    assert seen.verdict == "inconclusive"
    assert "probably slower" in seen.reason
    assert "is asked for" in seen.reason
    assert "straddles" not in seen.reason


def test_less_cpu_time_is_no_improvement_where_wall_time_may_have_grown():
    seen = verdict(wall(-0.001, 0.15), Evidence("cpu_time", -0.2, 0.001, 9, 12))
    assert seen.verdict == "inconclusive"


CLOCKS = {"wall time": "wall_time", "CPU time": "cpu_time", "device time": "device_time"}
CHANGE = r"(?:[+-]?[\d.]+%|a factor of [\d,]+)"


def ratio_of(text):
    if not text.endswith("%"):
        return float(text.rpartition(" ")[2].replace(",", ""))
    return 1 + float(text.rstrip("%")) / 100


def told(text, log):
    """Whether a change that is told is that logarithm, but for its rounding."""
    return ratio_of(text) == pytest.approx(math.exp(log), rel=0.05 if text.startswith("a factor") else 0, abs=0.00051)


def random_evidence(rng, channel):
    return Evidence(
        channel,
        estimate=rng.choice([rng.gauss(0, 0.03), rng.gauss(0, 0.3), rng.gauss(0, 3)]),
        error=10 ** rng.uniform(-4, 1),
        freedom=rng.randint(1, 20),
        units=rng.randint(3, 24),
        drift=rng.choice([0.0, 0.0, math.log(1.15), math.log(4)]),
    )


def test_every_reason_is_true_of_the_numbers_that_decided():
    rng = random.Random(23)
    seen = dict.fromkeys(
        ("straddles", "beyond", "faster", "within", "probably", "unknown", "can't speak", "too small"), 0
    )
    for _ in range(3000):
        channels = rng.choice([("wall_time",), ("device_time",), ("wall_time", "cpu_time"), ("wall_time", "cpu_time")])
        evidence = {channel: random_evidence(rng, channel) for channel in channels}
        tolerance, first = rng.choice([0.01, 0.025, 0.05, 0.25]), channels[0]
        subject = Subject("whole", 0.2, 0.2, tuple(evidence.values()))
        (found,) = judge([subject], tolerance=tolerance, error=0.005, whole_s=rng.choice([None, 1e4]))
        reason = found.reason
        for part in seen:
            seen[part] += part in reason
        # By scipy: estimate and interval of each clock.
        middle = {channel: each.estimate for channel, each in evidence.items()}
        reach = {name: stats.t.ppf(0.975, each.freedom) * each.error + each.drift for name, each in evidence.items()}
        low, high = ({name: middle[name] + sign * reach[name] for name in channels} for sign in (-1, 1))
        named = re.match(r"[^(;]* by (\w+ time)", reason)
        by = first if named is None else CLOCKS[named[1]]
        assert found.ratio.value == pytest.approx(math.exp(middle[found.channel]))
        if found.ratio.low is not None:
            assert math.log(found.ratio.low) == pytest.approx(low[found.channel])
        assert (found.ratio.low is None) == (reach[found.channel] > math.log(10))
        if match := re.search(rf"(\w+ time) ({CHANGE}) to ({CHANGE}) straddles the tolerance of ([\d.]+)%", reason):
            clock = CLOCKS[match[1]]
            assert clock == found.channel
            assert told(match[2], low[clock])
            assert told(match[3], high[clock])
            assert ratio_of(match[2]) <= 1 + float(match[4]) / 100 <= ratio_of(match[3])
            assert float(match[4]) == pytest.approx(100 * tolerance)
        if match := re.match(rf"slower by ({CHANGE})", reason):
            assert told(match[1], middle[found.channel])
            assert ratio_of(match[1]) > 1 + tolerance
            assert found.channel == by
        if match := re.match(r"faster by ([\d.]+)%", reason):
            assert float(match[1]) == pytest.approx(100 * (1 - math.exp(middle[found.channel])), abs=0.051)
            assert found.channel == by
        if match := re.match(rf"at most ({CHANGE})", reason):
            assert told(match[1], high[found.channel])
            assert ratio_of(match[1]) < 1 + tolerance
            assert found.channel == by
        if match := re.match(rf"probably slower, (\w+ time) ({CHANGE}) to ({CHANGE}), beyond", reason):
            clock = CLOCKS[match[1]]
            assert clock == found.channel
            assert told(match[2], low[clock])
            assert told(match[3], high[clock])
            assert ratio_of(match[2]) > 1 + tolerance
        if match := re.search(rf"; CPU time, at most ({CHANGE}), can't speak", reason):
            assert told(match[1], high["cpu_time"])
        if match := re.search(rf"; CPU time is (?:probably )?up by ({CHANGE})", reason):
            assert told(match[1], middle["cpu_time"])
        if match := re.search(rf"wall time is noisier, at most ({CHANGE})", reason):
            assert told(match[1], high["wall_time"])
        if match := re.search(r"\(p ([\d.e-]+), ([\d.]+) is asked for\)", reason):
            assert float(match[1]) >= float(match[2])
        assert not re.search(r"\d{4,}\.\d%", reason)
        # What tables and comments say of it.
        said = words.size(found)
        match = re.match(r"([\d.]+)% (slower|faster)|([\d,]+) times as slow", said)
        told_ratio = 1 + float(match[1]) / 100 * (1 if match[2] == "slower" else -1) if match[1] else ratio_of(match[3])
        assert told_ratio == pytest.approx(found.ratio.value, abs=0.00051, rel=0.05)
        assert ("by CPU time" in said) == (found.channel == "cpu_time")
        numbers = re.search(r"ratio ([\d.,]+) \[([\d.,]+|–), ([\d.,]+|–)\]", said)
        for number, value in zip(numbers.groups(), (found.ratio.value, found.ratio.low, found.ratio.high), strict=True):
            assert (number == "–") == (value is None)
            assert value is None or float(number.replace(",", "")) == pytest.approx(value, abs=0.00051)
    assert all(seen.values()), seen


def test_an_undecided_verdict_tells_the_clock_that_left_it_open():
    found = verdict(wall(0.0, 0.05), Evidence("cpu_time", 0.2, 0.09, 9, 12))
    assert (found.verdict, found.channel) == ("inconclusive", "wall_time")
    assert re.match(r"noise: wall time -11\.\d% to \+12\.\d% straddles the tolerance of 2\.5%", found.reason)
    assert found.ratio.value == 1.0


def test_a_change_that_rounds_to_the_tolerance_is_told_with_the_digits_that_set_it_apart():
    assert "slower by 2.501%" in verdict(wall(math.log(1.02501), 1e-7)).reason
    assert "at most +2.49%" in verdict(wall(math.log(1.0249), 1e-7)).reason


def test_noise_that_would_tell_no_slowdown_makes_interval_and_smallest_slowdown_unknown():
    loud = wall(0.0, error=3.0)
    found = verdict(loud)
    assert (found.ratio.low, found.ratio.high) == (None, None)
    assert "unknown" in found.reason
    assert "%" not in found.reason
    assert loud.detectable(tolerance=0.025, error=0.005) is None
    assert best_detectable((loud, wall(0.0, channel="cpu_time")), tolerance=0.025, error=0.005)[1] == "cpu_time"
