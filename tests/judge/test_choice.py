import math

import pytest

from vilt_bench.ask.catalog import Entry
from vilt_bench.ask.choice import Range
from vilt_bench.errors import ConfigError
from vilt_bench.judge.choice import Choice, Wanted, Work, choose, fitting

BEHIND = {64: [Work(64, 0)], 256: [Work(256, 0)]}


def tower(parameters: int, flops: int | None, tokens: int = 64, edge: int = 224) -> Entry:
    return Entry("encoder", (edge, edge), tokens, parameters, flops)


def least_s(flops: int, moved_bytes: int) -> float:
    return max(flops / 1000, moved_bytes / 1e6)


def chosen(towers: dict[str, Entry], wanted: Wanted | None = None) -> Choice:
    return choose(towers, wanted or Wanted(), least_s, BEHIND, scalar_bytes=2)


def names(choice: Choice) -> list[str]:
    return [each.name for each in choice.candidates]


def test_a_least_time_is_the_towers_and_that_of_what_its_tokens_go_into() -> None:
    (found,) = chosen({"a": tower(10, 3000, tokens=256)}).candidates
    assert (found.tower_s, found.interaction_s, found.total_s) == pytest.approx((3.0, 0.256, 3.256))
    (by_weights,) = chosen({"a": tower(5_000_000, 3000)}).candidates
    assert by_weights.tower_s == pytest.approx(10.0)  # two bytes each, at 1e6 bytes a second


def test_a_tower_alone_has_no_time_behind_it_rather_than_none_at_all() -> None:
    (found,) = choose({"a": tower(10, 3000)}, Wanted(), least_s, {64: []}, scalar_bytes=2).candidates
    assert (found.interaction_s, found.total_s) == (None, 3.0)


def test_on_the_frontier_is_what_no_other_surpasses_in_size_tokens_and_time() -> None:
    found = chosen(
        {
            "small": tower(10, 1000),
            "large": tower(20, 2000),
            "slow": tower(10, 1500),  # small is as large, and faster
            "detailed": tower(10, 1500, tokens=256),
        }
    )
    assert {each.name: each.on_frontier for each in found.candidates} == {
        "small": True,
        "large": True,
        "slow": False,
        "detailed": True,
    }


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("parameters", ["large", "detailed", "small", "slow"]),
        ("tokens", ["detailed", "large", "small", "slow"]),
        ("time", ["small", "detailed", "large", "slow"]),
    ],
)
def test_the_frontier_is_ranked_before_the_others(order: str, expected: list[str]) -> None:
    towers = {
        "slow": tower(15, 2500),
        "small": tower(10, 1000),
        "detailed": tower(10, 1200, tokens=256),
        "large": tower(20, 2000),
    }
    assert names(chosen(towers, Wanted(order=order))) == expected


def test_towers_that_cost_the_same_are_one_row() -> None:
    (found,) = chosen({"a": tower(10, 1000), "b": tower(10, 1000), "c": tower(10, 1000)}).candidates
    assert (found.name, found.alike, found.on_frontier) == ("a", ("b", "c"), True)


def test_what_can_not_meet_the_budget_is_left_out_and_counted() -> None:
    towers = {"a": tower(10, 1000), "b": tower(30, 3000), "c": tower(30, 3000), "d": tower(20, 936)}
    found = chosen(towers, Wanted(budget_s=1.1))
    assert names(found) == ["d", "a"]
    assert (found.looked_at, found.over_budget) == (4, 2)


def test_a_budget_below_every_tower_says_the_least() -> None:
    with pytest.raises(ConfigError, match=r"500\.0 ms is below what each of 2 towers takes at least") as no:
        chosen({"a": tower(10, 1000), "b": tower(30, 3000)}, Wanted(budget_s=0.5))
    assert "the least is 1,064.0 ms with a, 64.0 ms of it behind the tower" in str(no.value)


def test_what_has_no_count_or_too_many_tokens_has_no_least_time_and_is_named() -> None:
    found = chosen({"a": tower(10, 1000), "b": tower(10, None), "c": tower(10, 1000, tokens=9999)})
    assert (names(found), found.uncounted, found.too_long) == (["a"], ("b",), ("c",))
    with pytest.raises(ConfigError, match="none of 1 towers has a least time: 1 without FLOPs"):
        chosen({"b": tower(10, None)})


def test_wishes_leave_those_within_them_and_patterns_are_a_shells_or_parts_of_names() -> None:
    towers = {
        "timm/vit_siglip_384": tower(86_000_000, 1, 576, 384),
        "timm/vit_siglip_224": tower(86_000_000, 1, 196, 224),
        "timm/resnet50": tower(25_000_000, 1, 49, 224),
        "patch32": tower(2_000_000, 1, 216, 384),
        "timm/vit_patch32": tower(88_000_000, 1, 49, 224),
    }
    assert set(fitting(towers, Wanted(patterns=("timm/*siglip*",)))) == {"timm/vit_siglip_384", "timm/vit_siglip_224"}
    assert set(fitting(towers, Wanted(patterns=("RESNET", "patch32")))) == {"timm/resnet50", "patch32"}
    assert set(fitting(towers, Wanted(tokens=Range(64, 256)))) == {"timm/vit_siglip_224", "patch32"}
    assert set(fitting(towers, Wanted(edge=Range(300, math.inf), parameters=Range(most=50e6)))) == {"patch32"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(tokens=Range(5000, 6000)), "5,000..6,000 leaves none of 2 towers: they have 64 to 64 visual tokens"),
        (Wanted(parameters=Range(most=5)), "..5 leaves none of 2 towers: they have 10 to 20 parameters"),
        (Wanted(edge=Range(100, 100)), "100 leaves none of 2 towers: they have 224 to 224 pixels at the shorter edge"),
        (Wanted(patterns=("resnet51",)), "'resnet51' fits none of 2 names in the catalogues; did you mean 'resnet50'?"),
        (Wanted(patterns=("*x*",)), "'*x*' fits none of 2 names in the catalogues; 'vilt-bench list' shows all"),
    ],
)
def test_a_wish_that_leaves_none_is_told_with_what_there_is(wanted: Wanted, said: str) -> None:
    with pytest.raises(ConfigError) as none:
        fitting({"resnet50": tower(10, 1), "vit": tower(20, 1)}, wanted)
    assert said in str(none.value)
