"""Which cases are alive together: by closed-form examples of packing."""

import random
from itertools import chain

import pytest

from vilt_bench.ask.axes import Sweep
from vilt_bench.ask.case import Case
from vilt_bench.ask.forecast import HOST, Share
from vilt_bench.director.groups import (
    GROWTH,
    PASS,
    PROCESS_BYTES,
    UNKNOWN_BYTES,
    Ledger,
    comparison,
    plan,
    usable,
    within,
)

GPU = "cuda:0"


def sizes(*needs, room, compared=None, **options):
    """Returns the groups, as sizes, that cases of those sizes make on a host with that room."""
    groups = plan(
        range(len(needs)),
        lambda index: {HOST: needs[index]},
        {HOST: room},
        compared=(lambda index: index) if compared is None else compared.__getitem__,
        **options,
    )
    return [[needs[index] for index in group] for group in groups]


def test_cases_go_into_the_next_group_that_is_begun_and_keep_their_order():
    # Next fit: 4 + 5 fill ten, 2 fits beside no more than 7, the anchor (the least of the group before) beside it.
    assert sizes(4, 5, 3, 2, 6, room=10) == [[4, 5], [3, 2], [6]]


def test_all_that_fits_is_one_group():
    assert sizes(2, 3, 5, room=10) == [[2, 3, 5]]


def test_a_group_leaves_room_for_a_case_of_the_one_before():
    # Six halves of a room of three: without the anchor there were two groups of three.
    assert sizes(1, 1, 1, 1, 1, 1, room=3) == [[1, 1, 1], [1, 1], [1]]
    assert sizes(1, 1, 1, room=3, anchor={HOST: 1}) == [[1, 1], [1]]


def test_a_case_that_is_too_large_for_the_room_is_a_group_of_its_own():
    assert sizes(2, 30, 2, room=10) == [[2], [30], [2]]


def test_cases_to_be_compared_are_in_one_group_where_they_fit():
    # Asked for by embedder: A at batches 1, 2, 4, then B; comparisons are of a batch.
    groups = sizes(1, 2, 4, 1.5, 2.5, 4.5, room=11, compared=[1, 2, 4, 1, 2, 4])
    assert groups == [[1, 1.5, 2, 2.5], [4, 4.5]]


def test_cases_to_be_compared_that_are_too_many_are_split():
    assert sizes(5, 5, 5, 1, room=12, compared="aaab") == [[5, 5], [5, 1]]


def test_no_group_has_more_cases_than_are_to_be_alive_together():
    assert sizes(*7 * [1], room=100, together=3) == [[1, 1, 1], [1, 1, 1], [1]]
    assert sizes(1, 1, 1, room=100, together=1) == [[1], [1], [1]]


def test_groups_hold_every_case_once_within_their_room_and_are_at_most_twice_the_fewest():
    rng = random.Random(1)
    for _ in range(200):
        needs = [rng.randint(1, 50) for _ in range(rng.randint(1, 40))]
        groups = sizes(*needs, room=100)
        assert sorted(chain.from_iterable(groups)) == sorted(needs)
        beside = 0
        for group in groups:
            assert sum(group) + beside <= 100
            beside = min(group)
        # Next fit's bound, the room less by an anchor of half of it at most (two of 50 go together).
        assert len(groups) <= 2 * (sum(needs) / 50) + 1


def test_each_place_has_its_own_room_and_one_that_is_not_known_has_any():
    assert within([{HOST: 4, GPU: 1}, {HOST: 5, GPU: 8}], {HOST: 10, GPU: 9})
    assert not within([{HOST: 4, GPU: 1}, {HOST: 5, GPU: 9}], {HOST: 10, GPU: 9})
    assert within([{HOST: 4, GPU: 10**12}], {HOST: 10})


def test_a_fifth_of_what_is_free_is_left_so():
    assert usable({HOST: 1000, GPU: 50}) == {HOST: 800, GPU: 40}


def test_what_is_compared_differs_in_the_embedder_alone():
    sweep = Sweep(
        ["patch32", "patch,patch_size=16", "patch32,reduce=avg-pool:2"], {"batch_size": [1, 2], "seed": [0, 1]}
    )
    found = {}
    for case in sweep.cases():
        found.setdefault(comparison(case), []).append((case.batch_size, case.seed))
    assert sorted(found.values()) == [[(1, 0)] * 3, [(1, 1)] * 3, [(2, 0)] * 3, [(2, 1)] * 3]


def ledger(*counted):
    cases = [Case("patch32", batch_size=index + 1) for index in range(len(counted))]
    return Ledger(cases, [None if each is None else {HOST: Share(*each)} for each in counted])


def test_a_case_needs_its_process_its_weights_and_what_a_pass_takes():
    assert ledger((1000, 10)).need(0) == {HOST: PROCESS_BYTES + 1000 + PASS * 10}
    with_device = Ledger([Case("patch32")], [{HOST: Share(1000, 10), GPU: Share(500, 7)}])
    assert with_device.need(0)[GPU] > 500 + PASS * 7
    assert with_device.need(0)[HOST] > PROCESS_BYTES + 1000


def test_what_was_measured_takes_the_place_of_what_was_counted():
    known = ledger((1000, 10), (1000, 20))
    known.measured[0] = {HOST: 5000}
    assert known.need(0) == {HOST: round(GROWTH * 5000)}
    assert known.need(1) == {HOST: round(GROWTH * 5000) + PASS * 10}  # ten more bytes of inputs


def test_a_case_is_corrected_by_the_nearest_one_of_its_kind_only():
    known = ledger((1000, 10), (1000, 80), (1000, 100))
    known.measured |= {0: {HOST: 3000}, 1: {HOST: 9000}}
    assert known.need(2) == {HOST: round(GROWTH * 9000) + PASS * 20}
    others = Ledger([Case("patch32"), Case("grid-r50")], [{HOST: Share(1000, 10)}] * 2)
    others.measured[0] = {HOST: 10**10}
    assert others.need(1) == {HOST: PROCESS_BYTES + 1000 + PASS * 10}


def test_what_could_not_be_counted_is_taken_for_the_largest_that_is_known():
    assert ledger((1000, 10), None, (2000, 10)).need(1) == {HOST: PROCESS_BYTES + 2000 + PASS * 10}
    assert ledger(None, None).need(0) == {HOST: UNKNOWN_BYTES}


@pytest.mark.parametrize("measured", [1, 2**40])
def test_a_case_takes_what_counting_says_at_least(measured):
    known = ledger((10**9, 10), (10**9, 20))
    known.measured[0] = {HOST: measured}
    assert known.need(1)[HOST] >= 10**9
