import dataclasses
import math
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from vilt_bench import rank
from vilt_bench.ask.case import Case, Sampling
from vilt_bench.judge.ranking import SWEPT, WAYS, by_rank
from vilt_bench.judge.summary import summaries, summarise
from vilt_bench.record.alike import RULES
from vilt_bench.record.run import Failure, Run, Series, Times, Trial

SURE = (1.0, 1.001, 0.999)
"""What three processes differ by: little."""
TIED = (1.0, 1.2, 0.8)


def measured(
    embedder: str, level_s: float, factors: Sequence[float] = SURE, *, group: str = "g", turns: int = 6, **case: object
) -> Run:
    series = [Series(whole=Times(wall_time_s=(level_s * factor,) * turns), blocks=(1,) * turns) for factor in factors]
    trials = tuple(
        Trial(index, f"2026-11-24T03:{index:02}:00+00:00", samples=each) for index, each in enumerate(series)
    )
    asked = Case(embedder, **case)  # type: ignore[arg-type]
    name = f"{embedder}-{level_s:g}-{group}-{case}"
    return Run(name, "2026-11-24T03:00:00+00:00", asked, Sampling(), group, trials=trials)


def names(runs: Sequence[object]) -> list[str]:
    return [run.case.embedder for run in runs]  # type: ignore[attr-defined]


def test_runs_are_ranked_by_their_ratio_to_the_fastest() -> None:
    runs = [measured("b", 2.0, (1.0, 1.001, 0.999)), measured("c", 3.0, (1.001, 0.999, 1.0)), measured("a", 1.0)]

    (ranking,) = rank(runs)

    assert names(ranking.runs) == ["a", "b", "c"]
    assert [place.ratio.value for place in ranking.places] == pytest.approx([1, 2, 3], rel=1e-3)
    assert [(place.rank, place.best, place.worst, place.count) for place in ranking.places] == [
        (1, 1, 1, 3),
        (2, 2, 2, 3),
        (3, 3, 3, 3),
    ]
    assert {place.fastest for place in ranking.places} == {runs[2].run_id}
    assert ranking.ties == []
    assert (ranking.trials, ranking.pairs) == (3, 3)


def test_drift_that_would_turn_the_order_of_absolute_times_does_not_turn_the_ranking() -> None:
    # The slower case has a trial more on the quiet machine, so that its mean is the lower.
    load = (5.0, 5.0, 1.0, 5.0)
    fast, slow = measured("fast", 1.0, load), measured("slow", 1.1, (*load, 0.1, 0.1))
    means = {run.case.embedder: summarise(run).whole.latency for run in (fast, slow)}
    assert means["fast"] is not None
    assert means["slow"] is not None
    assert means["slow"].value < means["fast"].value

    (ranking,) = rank([slow, fast])

    assert names(ranking.runs) == ["fast", "slow"]
    assert ranking.sure == {(0, 1)}
    assert ranking.places[1].ratio.value == pytest.approx(1.1)


def test_what_can_not_be_told_apart_has_ranks_from_to() -> None:
    runs = [measured("a", 1.0), measured("c", 1.01, TIED), measured("b", 1.005), measured("d", 900.0, SURE[::-1])]

    (ranking,) = rank(runs)

    assert names(ranking.runs)[-1] == "d"
    assert [(place.best, place.worst) for place in ranking.places[-1:]] == [(4, 4)]
    assert all(place.best == 1 or place.worst == 3 for place in ranking.places[:3])
    assert ranking.ties
    assert all(3 not in tie for tie in ranking.ties)


def test_orders_that_follow_from_sure_ones_are_sure() -> None:
    rng = random.Random(3)
    for _ in range(200):
        levels = [math.exp(rng.gauss(0, 0.05)) for _ in range(5)]
        runs = [
            measured(f"e{index}", level, [math.exp(rng.gauss(0, 0.01 * (1 + index))) for _ in range(4)])
            for index, level in enumerate(levels)
        ]
        (ranking,) = rank(runs)
        for one, other in ranking.sure:
            assert one < other
            assert all((one, third) in ranking.sure for second, third in ranking.sure if second == other)
        ratios = [place.ratio.value for place in ranking.places]
        assert ratios == sorted(ratios)
        assert ratios[0] == 1
        open_pairs = {pair for tie in ranking.ties for pair in pairwise(tie)}
        assert not open_pairs & ranking.sure


def test_sure_orders_of_equal_cases_are_seldom_among_all_pairs_together() -> None:
    rng = random.Random(5)
    count, wrong = 400, 0
    for _ in range(count):
        runs = [measured(f"e{case}", 1.0, [math.exp(rng.gauss(0, 0.02)) for _ in range(4)]) for case in range(5)]
        (ranking,) = rank(runs)
        wrong += bool(ranking.sure)
    assert wrong / count <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / count)


def test_intervals_of_equal_cases_hold_the_truth_though_the_fastest_is_chosen_after_the_event() -> None:
    rng = random.Random(7)
    count, held = 400, 0
    for _ in range(count):
        runs = [measured(f"e{case}", 1.0, [math.exp(rng.gauss(0, 0.02)) for _ in range(5)]) for case in range(6)]
        (ranking,) = rank(runs)
        held += sum(place.ratio.ends[0] <= 1 <= place.ratio.ends[1] for place in ranking.places[1:])
    assert held / (5 * count) >= 0.95 - 0.01


def test_runs_that_answer_other_questions_are_ranked_apart() -> None:
    runs = [
        measured(embedder, level * size, batch_size=size, dtype=dtype)
        for embedder, level in (("a", 1.0), ("b", 2.0))
        for size in (1, 4)
        for dtype in ("float32", "bfloat16")
    ]

    rankings = rank(runs)

    assert [names(ranking.runs) for ranking in rankings] == [["a", "b"]] * 4
    assert all(len({(run.case.batch_size, run.case.dtype) for run in ranking.runs}) == 1 for ranking in rankings)


def test_a_resolution_that_was_swept_is_a_question_of_its_own_and_one_that_is_an_embedders_own_is_not() -> None:
    own = [measured("a", 1.0, resolution=(224, 224)), measured("b", 2.0, resolution=(384, 640))]
    swept = [*own, measured("a", 3.0, resolution=(384, 640)), measured("b", 0.5, resolution=(224, 224))]

    assert [names(ranking.runs) for ranking in rank(own)] == [["a", "b"]]
    assert [names(ranking.runs) for ranking in rank(swept)] == [["b", "a"], ["b", "a"]]
    assert [{run.case.resolution for run in ranking.runs} for ranking in rank(swept)] == [{(224, 224)}, {(384, 640)}]


def test_the_ways_that_a_single_embedder_is_ranked_along_are_fields_of_a_case_and_facts() -> None:
    assert set(WAYS) <= {name.replace(" asked", "") for name in RULES}
    assert set(WAYS) | set(SWEPT) <= {field.name for field in dataclasses.fields(Case)}


def test_a_single_embedder_is_ranked_along_ways_to_the_same_end_and_not_along_others() -> None:
    ways = [measured("a", 2.0), measured("a", 1.0, dtype="bfloat16"), measured("a", 1.5, reduce="avg-pool:2")]

    assert [[run.case.dtype for run in ranking.runs] for ranking in rank(ways)] == [["bfloat16", "float32", "float32"]]
    backends = [measured("a", 2.0), measured("a", 1.0, backend="torch:channels_last")]
    assert [[run.case.backend for run in ranking.runs] for ranking in rank(backends)] == [
        ["torch:channels_last", backends[0].case.backend]
    ]
    assert rank([*backends, measured("b", 1.0)])[0].runs[0].case.backend == backends[0].case.backend
    assert rank([measured("a", 2.0), measured("a", 1.0, batch_size=4)]) == []
    assert rank([measured("a", 2.0), measured("a", 1.0, resolution=(224, 224))]) == []


def test_nothing_is_said_in_pairs_of_runs_that_took_no_turns() -> None:
    one, other = measured("a", 1.0), measured("b", 2.0)

    assert len(rank([one, other])) == 1
    assert rank([one, measured("b", 2.0, group="h")]) == []
    assert rank([measured("a", 1.0, group=""), measured("b", 2.0, group="")]) == []
    assert rank([one, dataclasses.replace(other, failure=Failure("error", "it broke"))]) == []
    assert rank([one, dataclasses.replace(other, side="candidate")]) == []
    assert rank([one, measured("b", 2.0, SURE[:2])]) == []
    assert rank([one, measured("b", 2.0, turns=2)]) == []
    assert rank([one]) == rank([]) == []


def test_a_run_that_took_too_few_turns_leaves_the_ranking_of_the_others() -> None:
    (ranking,) = rank([measured("c", 1.0, turns=2), measured("b", 2.0), measured("a", 1.0)])

    assert names(ranking.runs) == ["a", "b"]


def test_those_of_a_ranking_stand_together_where_the_first_of_them_was_asked_for() -> None:
    runs = [
        measured("slow", 2.0, batch_size=1),
        measured("alone", 1.0, group="h"),
        measured("slow", 4.0, batch_size=2),
        measured("fast", 1.0, batch_size=1),
        measured("fast", 3.0, batch_size=2),
    ]

    ordered = by_rank(runs)

    assert [(run.case.embedder, run.case.batch_size) for run in ordered] == [
        ("fast", 1),
        ("slow", 1),
        ("alone", 1),
        ("fast", 2),
        ("slow", 2),
    ]


def test_a_judged_run_has_its_place_among_those_it_is_shown_with() -> None:
    runs = [measured("b", 2.0), measured("a", 1.0), measured("c", 3.0)]

    judged = summaries(runs)

    assert [run.whole.place.rank for run in judged if run.whole.place is not None] == [2, 1, 3]
    assert [run.whole.place.rank for run in summaries(judged[::2]) if run.whole.place is not None] == [1, 2]
    assert summaries(judged[:1])[0].whole.place is None
    assert rank(judged)[0].places == rank(runs)[0].places
