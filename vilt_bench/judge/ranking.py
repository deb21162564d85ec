"""Runs that were measured in turns, ranked: how much longer than the fastest each takes, and which orders are sure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, TypeVar

from vilt_bench.ask.case import label
from vilt_bench.judge.estimate import CONFIDENCE, Estimate
from vilt_bench.judge.significance import holm
from vilt_bench.judge.turns import TurnRatio, Turns, in_turns, turns_of
from vilt_bench.record import alike
from vilt_bench.record.run import Run

if TYPE_CHECKING:
    from vilt_bench.judge.summary import Summary

Ranked = TypeVar("Ranked", "Run", "Summary")
SWEPT = ("resolution", "fit", "tiles", "reduce", "seed")
"""What may be an embedder's own; where one embedder has several values, it is an axis, and each value has a ranking."""
WAYS = ("dtype", "backend", "quantize", "threads", "tiles", "reduce")
"""Along these a single embedder's runs are ranked: other ways to the same end."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands among those that it took turns with."""

    rank: int
    """From 1, the fastest."""
    best: int
    """Rank that it has at best: so many less one are surely faster."""
    worst: int
    """Rank that it has at worst."""
    count: int
    """Runs of the ranking."""
    ratio: Estimate
    """Its latency over that of the fastest; of the fastest itself 1, without an interval."""
    fastest: str
    """The fastest's run id."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Runs that answer the same question and took turns, the fastest first.

    Intervals are each its own, at 95%, widened where several may be the fastest. An order is sure where all that are
    called so hold together, in 95 of 100 rankings.
    """

    runs: tuple[Run | Summary, ...]
    places: tuple[Place, ...]
    """Of the runs, in the same order."""
    sure: frozenset[tuple[int, int]]
    """Places, from 0, whose order is sure, the faster first."""
    trials: int
    """Of each pair of runs, at least."""

    @property
    def pairs(self) -> int:
        """How many pairs of runs there are."""
        return len(self.runs) * (len(self.runs) - 1) // 2

    @property
    def ties(self) -> list[tuple[int, ...]]:
        """Places, from 0, of runs that can't be told apart: as few sets as hold all such pairs."""
        count = len(self.runs)
        open_pairs = {pair for pair in combinations(range(count), 2) if pair not in self.sure}
        left, found = set(open_pairs), []
        for first, second in sorted(open_pairs):
            if (first, second) not in left:
                continue
            tied = [first, second]
            for other in range(count):
                if other not in tied and all((min(other, each), max(other, each)) in open_pairs for each in tied):
                    tied.append(other)
            left -= set(combinations(sorted(tied), 2))
            found.append(tuple(sorted(tied)))
        return found


def rank(runs: Iterable[Run | Summary]) -> list[Ranking]:
    """Returns the rankings of runs that were measured in turns; none where nothing can be said in pairs.

    Runs of one group are ranked within each combination of the axes that they were swept over: batch size, resolution,
    precision and whatever else makes another question. A single embedder is ranked along `WAYS`. A run that failed, or
    took too few turns beside the others, is not ranked.

    Args:
        runs: any; rankings come in the order of their first runs.
    """
    groups: dict[str, list[Run | Summary]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return [
        ranking
        for group, members in groups.items()
        if group and len(members) > 1
        for alike_runs in _alike(members)
        if (ranking := _ranking(alike_runs)) is not None
    ]


def by_rank(runs: Sequence[Ranked]) -> list[Ranked]:
    """Returns the runs with those of a ranking together, the fastest first, at the place of their first."""
    index_of = {id(run): index for index, run in enumerate(runs)}
    ranked = [[index_of[id(run)] for run in ranking.runs] for ranking in rank(runs)]
    together = {min(places): places for places in ranked}
    later = {place for places in ranked for place in places} - set(together)
    order = [place for index in range(len(runs)) if index not in later for place in together.get(index, [index])]
    return [runs[place] for place in order]


def _alike(runs: Sequence[Run | Summary]) -> list[list[Run | Summary]]:
    """Returns the runs of a group by the question that they answer."""
    told = [alike.facts(run, "rank") for run in runs]
    embedders = [label(replace(run.case, tiles=None, reduce=None)) for run in runs]
    ignored = WAYS if len(set(embedders)) == 1 else ()
    swept = [name for name in SWEPT if name not in ignored and _is_swept(runs, embedders, name)]
    found: dict[Hashable, list[Run | Summary]] = {}
    for run, facts in zip(runs, told, strict=True):
        asked = [(name, value) for name, value in sorted(facts.items()) if name not in ignored]
        own = [(name, str(getattr(run.case, name))) for name in swept]
        found.setdefault((*asked, *own), []).append(run)
    return [members for members in found.values() if len(members) > 1]


def _is_swept(runs: Sequence[Run | Summary], embedders: Sequence[str], name: str) -> bool:
    """Returns whether an embedder was asked for with several values of that field."""
    return len({(one, str(getattr(run.case, name))) for one, run in zip(embedders, runs, strict=True)}) > len(
        set(embedders)
    )


def _ranking(runs: Sequence[Run | Summary]) -> Ranking | None:
    turns = [_turns(run) for run in runs]
    found = {
        (one, other): ratio
        for one, other in combinations(range(len(runs)), 2)
        if turns[one] and turns[other] and (ratio := in_turns(turns[one], turns[other])) is not None
    }
    members = _complete(len(runs), found)
    if len(members) < 2:
        return None
    order = _in_order(members, found)
    probabilities = {
        (one, other): found[min(pair), max(pair)].probability()
        for one, other in combinations(range(len(order)), 2)
        for pair in [(order[one], order[other])]
    }
    adjusted = dict(zip(probabilities, holm(list(probabilities.values())), strict=True))
    told = {
        (one, other)
        for (one, other), probability in adjusted.items()
        # What speaks against the order that is shown is sure of nothing.
        if probability <= 1 - CONFIDENCE and _logarithm(found, order[one], order[other]) > 0
    }
    sure = _closed(told, len(order))
    return Ranking(
        runs=tuple(runs[index] for index in order),
        places=_places(order, found, sure, runs[order[0]].run_id),
        sure=frozenset(sure),
        trials=min(found[min(pair), max(pair)].trials for pair in combinations(order, 2)),
    )


def _turns(run: Run | Summary) -> Sequence[Turns]:
    return turns_of(run) if isinstance(run, Run) else run.turns


Found = Mapping[tuple[int, int], TurnRatio]
"""By the numbers of two runs, the lower first: how much longer the second took."""


def _logarithm(found: Found, one: int, other: int) -> float:
    """Returns that of other / one."""
    return found[one, other].logarithm if one < other else -found[other, one].logarithm


def _complete(count: int, found: Found) -> list[int]:
    """Returns runs that all took turns with each other: those that took too few with most are left out."""
    members = list(range(count))
    while members:
        lacking = {
            one: sum((min(one, other), max(one, other)) not in found for other in members if other != one)
            for one in members
        }
        worst = max(reversed(members), key=lacking.__getitem__)
        if not lacking[worst]:
            break
        members.remove(worst)
    return members


def _in_order(members: Sequence[int], found: Found) -> list[int]:
    """Returns the runs by how much longer they took than all others in the mean."""
    longer = {one: sum(_logarithm(found, other, one) for other in members if other != one) for one in members}
    ordered = sorted(members, key=longer.__getitem__)
    # Ratios are medians, which need not add up: what stands in the table rises all the same.
    fastest = ordered[0]
    return [fastest, *sorted(ordered[1:], key=lambda one: _logarithm(found, fastest, one))]


def _closed(sure: set[tuple[int, int]], count: int) -> set[tuple[int, int]]:
    """Returns the orders with all that follow from them: all that are sure hold together."""
    faster: list[set[int]] = []
    for later in range(count):
        direct = {one for one in range(later) if (one, later) in sure}
        faster.append(direct.union(*(faster[one] for one in direct)))
    return {(one, later) for later, before in enumerate(faster) for one in before}


def _places(order: Sequence[int], found: Found, sure: set[tuple[int, int]], fastest: str) -> tuple[Place, ...]:
    count = len(order)
    best = [1 + sum((other, place) in sure for other in range(place)) for place in range(count)]
    worst = [count - sum((place, other) in sure for other in range(place + 1, count)) for place in range(count)]
    # That the fastest is chosen after the event counts where others may as well be it.
    chosen = max(1, best.count(1) - 1)
    confidence = 1 - (1 - CONFIDENCE) / chosen
    ratios = [Estimate(1.0, None, None, samples=0, units=0, unit="trial")]
    for other in order[1:]:
        pair = (min(order[0], other), max(order[0], other))
        ratio = found[pair] if order[0] < other else found[pair].inverse()
        ratios.append(ratio.estimate(confidence))
    return tuple(Place(place + 1, best[place], worst[place], count, ratios[place], fastest) for place in range(count))
