"""Which visual embedders can meet a budget, from counts and peaks alone; nothing is run.

A least time is a lower bound: a tower whose bound is above the budget can't meet it on that machine, one whose bound is
below may. Accuracy is not known here. What stands for it is size and detail: a tower is on the frontier if no other has
as many parameters and visual tokens in no more time, and more of one of them or less time.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vilt_bench.ask.catalog import Entry
from vilt_bench.ask.choice import ORDERS, Range
from vilt_bench.errors import ConfigError
from vilt_bench.words import did_you_mean, nearest

_SIGNS = frozenset("*?[")
"""By which a pattern is told from a name."""

LeastTime = Callable[[int, int], float]
"""Returns the seconds that so many FLOPs and bytes take at least."""


class Work(NamedTuple):
    """What a stage does at least."""

    flops: int
    moved_bytes: int


@dataclass(frozen=True)
class Wanted:
    """What a tower must be."""

    budget_s: float | None = None
    """For tower and interaction together; `None`: any."""
    tokens: Range = field(default_factory=Range)
    """Visual tokens."""
    parameters: Range = field(default_factory=Range)
    edge: Range = field(default_factory=Range)
    """Shorter edge of the image in pixels."""
    patterns: tuple[str, ...] = ()
    """Of names, as a shell has them, or names, or parts of names; none: all."""
    order: str = ORDERS[0]


@dataclass(frozen=True)
class Candidate:
    """A tower that may meet the budget."""

    name: str
    entry: Entry
    alike: tuple[str, ...]
    """Others with the same pixels, visual tokens, parameters and FLOPs."""
    tower_s: float
    """At least."""
    interaction_s: float | None
    """At least, with the tower's visual tokens; `None`: there is none behind it."""
    on_frontier: bool = False

    @property
    def total_s(self) -> float:
        """Of both, at least."""
        return self.tower_s + (self.interaction_s or 0)


@dataclass(frozen=True)
class Choice:
    """What may meet the budget, best first, and what was left out."""

    candidates: tuple[Candidate, ...]
    looked_at: int
    """Towers that fit what is wanted but for the budget."""
    over_budget: int
    """Of them."""
    uncounted: tuple[str, ...]
    """Of them, without FLOPs in their catalogue: no least time is known."""
    too_long: tuple[str, ...]
    """Of them, with more visual tokens than the interaction takes."""


def fitting(entries: Mapping[str, Entry], wanted: Wanted) -> dict[str, Entry]:
    """Returns the towers that fit all that is wanted but for the budget, of which a name says nothing.

    Raises:
        ConfigError: none does; says which wish leaves none, and what there is.
    """
    found = dict(entries)
    chosen: set[str] = set()
    for pattern in wanted.patterns:
        names = _named(entries, pattern)
        chosen |= names
        if not names:
            close = nearest(pattern, entries) if not _SIGNS & set(pattern) else None
            raise ConfigError(
                f"{pattern!r} fits none of {len(entries):,} names in the catalogues{did_you_mean(close)} "
                "'vilt-bench list' shows all",
                field="embedder",
            )
    if wanted.patterns:
        found = {name: entry for name, entry in found.items() if name in chosen}
    wishes: tuple[tuple[str, Range, Callable[[Entry], int], str], ...] = (
        ("tokens", wanted.tokens, lambda entry: entry.visual_tokens, "visual tokens"),
        ("parameters", wanted.parameters, lambda entry: entry.parameters, "parameters"),
        ("resolution", wanted.edge, lambda entry: min(entry.resolution), "pixels at the shorter edge"),
    )
    for name, wish, of, unit in wishes:
        left = {key: entry for key, entry in found.items() if of(entry) in wish}
        if not left:
            there = [of(entry) for entry in found.values()]
            raise ConfigError(
                f"{wish} leaves none of {len(found):,} towers: they have {min(there):,} to {max(there):,} {unit}",
                field=name,
            )
        found = left
    return found


def choose(
    towers: Mapping[str, Entry],
    wanted: Wanted,
    least_s: LeastTime,
    interaction: Mapping[int, Collection[Work]],
    *,
    scalar_bytes: int,
) -> Choice:
    """Returns the towers that may meet the budget, those on the frontier first.

    Args:
        towers: by name, of which to choose; see `fitting`.
        wanted: the budget, and what ranks.
        least_s: of the machine.
        interaction: its stages' work by the number of visual tokens; a number that it does not take is absent.
        scalar_bytes: of one number of the weights.

    Raises:
        ConfigError: none can meet the budget; says the least.
    """
    uncounted = tuple(name for name, entry in towers.items() if entry.flops is None)
    too_long = tuple(
        name for name, entry in towers.items() if entry.flops is not None and entry.visual_tokens not in interaction
    )
    behind_s = {
        tokens: math.fsum(least_s(*work) for work in stages) if stages else None
        for tokens, stages in interaction.items()
    }
    known = [
        Candidate(
            names[0],
            towers[names[0]],
            tuple(names[1:]),
            least_s(flops, scalar_bytes * parameters),
            behind_s[tokens],
        )
        for (_, tokens, parameters, flops), names in _alike(towers).items()
        if tokens in behind_s
    ]
    within = [each for each in known if wanted.budget_s is None or each.total_s <= wanted.budget_s]
    if known and not within:
        least = min(known, key=lambda each: each.total_s)
        behind = "" if least.interaction_s is None else f", {_milliseconds(least.interaction_s)} of it behind the tower"
        raise ConfigError(
            f"{_milliseconds(wanted.budget_s)} is below what each of {_counted(known):,} towers takes at least: the "
            f"least is {_milliseconds(least.total_s)} with {least.name}{behind}",
            field="budget",
        )
    if not known:
        raise ConfigError(
            f"none of {len(towers):,} towers has a least time: {len(uncounted):,} without FLOPs in their catalogue, "
            f"{len(too_long):,} with more visual tokens than the interaction takes",
            field="embedder",
        )
    ranked = sorted(_with_frontier(within), key=_rank(wanted.order))
    return Choice(tuple(ranked), len(towers), _counted(known) - _counted(within), uncounted, too_long)


def _alike(towers: Mapping[str, Entry]) -> dict[tuple[tuple[int, int], int, int, int], list[str]]:
    """Returns the names of towers with FLOPs by resolution, visual tokens, parameters and FLOPs."""
    found: dict[tuple[tuple[int, int], int, int, int], list[str]] = {}
    for name, entry in towers.items():
        if entry.flops is not None:
            key = (entry.resolution, entry.visual_tokens, entry.parameters, entry.flops)
            found.setdefault(key, []).append(name)
    return found


def _counted(candidates: Iterable[Candidate]) -> int:
    return sum(1 + len(each.alike) for each in candidates)


def _with_frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns the candidates with those marked that no other surpasses."""

    def surpassed(one: Candidate) -> bool:
        mine = _merits(one)
        return any(
            all(own <= others for own, others in zip(mine, theirs, strict=True)) and mine != theirs for theirs in merits
        )

    merits = {_merits(each) for each in candidates}
    return [
        Candidate(each.name, each.entry, each.alike, each.tower_s, each.interaction_s, not surpassed(each))
        for each in candidates
    ]


def _merits(candidate: Candidate) -> tuple[float, float, float]:
    """Returns what is better the more it is."""
    return candidate.entry.parameters, candidate.entry.visual_tokens, -candidate.total_s


def _rank(order: str) -> Callable[[Candidate], tuple[float, ...]]:
    def key(candidate: Candidate) -> tuple[float, ...]:
        parameters, tokens, spared_s = _merits(candidate)
        merits = {
            "parameters": (parameters, tokens, spared_s),
            "tokens": (tokens, parameters, spared_s),
            "time": (spared_s, parameters, tokens),
        }[order]
        return (not candidate.on_frontier, *(-merit for merit in merits))

    return key


def _named(names: Iterable[str], pattern: str) -> set[str]:
    """Returns the names that a pattern fits; without signs of one, the name itself, or all that it is a part of."""
    wanted = pattern.strip().lower()
    if _SIGNS & set(wanted):
        return {name for name in names if fnmatch.fnmatchcase(name.lower(), wanted)}
    parts = {name for name in names if wanted in name.lower()}
    return {name for name in parts if name.lower() == wanted} or parts


def _milliseconds(seconds: float | None) -> str:
    milliseconds = 1000 * (seconds or 0)
    return f"{milliseconds:,.1f} ms" if milliseconds >= 10 else f"{milliseconds:.3g} ms"
