"""Which machine measures which cases, and what becomes of those of a machine that leaves."""

from itertools import chain

from vilt_bench.ask.case import Case
from vilt_bench.engines.allotment import Allotment

CASES = [Case("patch32", batch_size=size) for size in range(1, 13)]


def sizes(cases):
    return [case.batch_size for case in cases]


def finish(allotment, machine, cases):
    for case in cases:
        assert allotment.measured(machine, case)


def test_each_machine_measures_every_case():
    allotment = Allotment(CASES)
    for machine in ("a", "b"):
        allotment.join(machine)
        assert allotment.take(machine) == CASES
        finish(allotment, machine, CASES)
        assert allotment.take(machine) == []
    assert allotment.waiting() == []


def test_anywhere_each_case_is_measured_once_and_machines_take_few_at_once():
    allotment = Allotment(CASES, anywhere=True)
    for machine in "abc":
        allotment.join(machine)
    taken = []
    while group := allotment.take("abc"[len(taken) % 3]):
        finish(allotment, "abc"[len(taken) % 3], group)
        taken.append(sizes(group))
    assert sorted(chain.from_iterable(taken)) == list(range(1, 13))
    assert list(map(len, taken)) == [2, 2, 2, 1, 1, 1, 1, 1, 1]


def test_what_was_measured_before_is_not_taken():
    allotment = Allotment(CASES)
    allotment.join("a", CASES[:10])
    assert sizes(allotment.take("a")) == [11, 12]


def test_a_machine_that_leaves_gives_back_what_it_has_not_measured():
    allotment = Allotment(CASES, anywhere=True)
    allotment.join("a")
    allotment.join("b")
    first = allotment.take("a")
    assert sizes(first) == [1, 2, 3]
    finish(allotment, "a", first[:1])
    allotment.leave("a")
    assert not allotment.measured("a", first[1]), "comes too late: it is another's now"
    rest = []
    while group := allotment.take("b"):
        finish(allotment, "b", group)
        rest += sizes(group)
    assert sorted(rest) == list(range(2, 13))


def test_a_machine_that_comes_back_goes_on_where_it_was():
    allotment = Allotment(CASES)
    allotment.join("a")
    finish(allotment, "a", allotment.take("a")[:5])
    allotment.leave("a")
    assert sizes(allotment.waiting(["a"])) == list(range(6, 13))
    allotment.join("a")
    assert sizes(allotment.take("a")) == list(range(6, 13))


def test_of_cases_over_which_a_process_died_each_is_measured_alone_and_given_up_after_two_deaths():
    allotment = Allotment(CASES[:3])
    allotment.join("a")
    deadly, lost, turns = CASES[1], [], []
    while group := allotment.take("a"):
        turns.append(sizes(group))
        if deadly in group:
            finish(allotment, "a", [case for case in group if case is CASES[0]])
            lost += allotment.died("a")
        else:
            finish(allotment, "a", group)
    assert lost == [deadly]
    assert turns == [[1, 2, 3], [2], [2], [3]]


def test_what_others_share_goes_on_beside_a_case_that_is_suspected():
    allotment = Allotment(CASES[:3], anywhere=True)
    allotment.join("a")
    assert sizes(allotment.take("a")) == [1, 2]
    assert allotment.died("a") == []
    assert sizes(allotment.take("a")) == [3], "what is not suspected comes first"
    finish(allotment, "a", [CASES[2]])
    assert sizes(allotment.take("a")) == [1]
