"""Plans which cases are alive together: as many as memory holds, those that one wants to compare side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from vilt_bench.ask.case import Case, label
from vilt_bench.ask.forecast import HOST, Share

Memory = Mapping[str, int]
"""Bytes by place: the host, and devices that have memory of their own."""

MARGIN = 0.2
"""Share of the memory that is free which is left so: estimates err, and others want some."""
PASS = 6
"""Times its inputs that a case takes for them and for what a pass holds in between, until it is measured: a ResNet-50
takes five to six times its pixels, a ViT less."""
GROWTH = 1.1
"""Times what was measured at the first call: counting, and later passes, take some more."""
PROCESS_BYTES = 320 * 2**20
"""Of a process with torch imported, beside files that processes share."""
DEVICE_PROCESS_BYTES = 640 * 2**20
"""Of a process that computes on a device, on that device: context and libraries; and as much more of the host."""
UNKNOWN_BYTES = 2 * 2**30
"""Of the host, for a case of which nothing is known, and nothing of any other."""

_SIDE_BY_SIDE = ("embedder", "options", "tiles", "reduce")
"""Fields in which cases differ that one wants to compare."""


def comparison(case: Case) -> tuple[Any, ...]:
    """Returns what is equal for cases that one wants to compare: all but what is of the embedder."""
    return tuple(getattr(case, each.name) for each in fields(case) if each.name not in _SIDE_BY_SIDE)


@dataclass
class Ledger:
    """What is known of cases' memory: counted beforehand, and measured since."""

    cases: Sequence[Case]
    counted: Sequence[Mapping[str, Share] | None]
    """As counted on the meta device."""
    measured: dict[int, Memory] = field(default_factory=dict)
    """By the case's place among the cases: the peak of a process at its first call."""

    def __post_init__(self) -> None:
        """See which cases are alike."""
        self._kind = [(label(case), case.interaction, case.vilt) for case in self.cases]

    def is_known(self, index: int) -> bool:
        """Returns whether a case was counted or measured."""
        return index in self.measured or self.counted[index] is not None

    def need(self, index: int) -> Memory:
        """Returns about how much memory the process of a case takes.

        Of a case that was measured, what that took; of one like it (embedder, options, reduction, interaction), what
        the nearest took, and what counting says that they differ by; of others what counting says, and of those that
        could not be counted the most that any takes.
        """
        if (own := self.measured.get(index)) is not None:
            return _times(own, GROWTH)
        if (counted := self.counted[index]) is None:
            others = [self._counted(each) for each in self.counted if each is not None]
            return _most([*others, *(_times(each, GROWTH) for each in self.measured.values())]) or {HOST: UNKNOWN_BYTES}
        estimated = self._counted(counted)
        like = [
            other
            for other in self.measured
            if self._kind[other] == self._kind[index] and self.counted[other] is not None
        ]
        if not like:
            return estimated

        def estimate(other: int) -> Memory:
            return self._counted(self.counted[other] or {})

        nearest = min(like, key=lambda other: abs(sum(estimate(other).values()) - sum(estimated.values())))
        known, told = estimate(nearest), self.measured[nearest]
        least = self._least(counted)
        return {
            place: max(least[place], round(GROWTH * told.get(place, known.get(place, 0))) + size - known.get(place, 0))
            for place, size in estimated.items()
        }

    def _counted(self, counted: Mapping[str, Share]) -> Memory:
        return _with_process(
            {place: share.weights_bytes + PASS * share.inputs_bytes for place, share in counted.items()}
        )

    def _least(self, counted: Mapping[str, Share]) -> Memory:
        return {place: share.weights_bytes + share.inputs_bytes for place, share in counted.items()}


def plan(
    cases: Sequence[int],
    need: Callable[[int], Memory],
    room: Memory,
    *,
    compared: Callable[[int], object],
    together: int | None = None,
    anchor: Memory | None = None,
) -> list[list[int]]:
    """Returns the cases in groups that fit, each into the next group that is begun (next fit), in their order.

    Cases that one wants to compare go into one group: into the present one if all of them fit, else into the next. Only
    those that are too many for any group are split. Every group but the first has room left for its anchor, a case of
    the group before it, unless it is of one case that leaves none.

    Args:
        cases: by any number, in the order in which they were asked for.
        need: the memory that a case takes.
        room: the memory that there is; a place that is not named has any.
        compared: equal for the cases that one wants to compare.
        together: how many cases a group may have; `None`: any number.
        anchor: what the first group's anchor takes, if it has one.
    """
    sets: dict[object, list[int]] = {}
    for case in cases:
        sets.setdefault(compared(case), []).append(case)
    needs = {case: need(case) for case in cases}
    found: list[list[int]] = []
    group: list[int] = []
    beside = anchor or {}

    def fits(members: Iterable[int], beside: Memory) -> bool:
        several = list(members)
        return (together is None or len(several) <= together) and within(
            [*map(needs.__getitem__, several), beside], room
        )

    def close() -> None:
        nonlocal group, beside
        if group:
            found.append(group)
            beside = min(map(needs.__getitem__, group), key=lambda each: sum(each.values()))
            group = []

    for members in sets.values():
        if fits([*group, *members], beside):
            group += members
            continue
        close()
        for case in members:
            if group and not fits([*group, case], beside):
                close()
            group.append(case)
    close()
    return found


def within(needs: Iterable[Memory], room: Memory) -> bool:
    """Returns whether all of them together fit into what there is."""
    total: dict[str, int] = {}
    for each in needs:
        for place, size in each.items():
            total[place] = total.get(place, 0) + size
    return all(size <= room[place] for place, size in total.items() if place in room)


def usable(free: Memory) -> Memory:
    """Returns what a group may take of what is free."""
    return {place: round((1 - MARGIN) * size) for place, size in free.items()}


def _with_process(memory: Memory) -> Memory:
    devices = [place for place in memory if place != HOST]
    own = dict.fromkeys(devices, DEVICE_PROCESS_BYTES)
    own[HOST] = PROCESS_BYTES + (DEVICE_PROCESS_BYTES if devices else 0)
    return {place: memory.get(place, 0) + own[place] for place in {**memory, **own}}


def _times(memory: Memory, factor: float) -> Memory:
    return {place: round(factor * size) for place, size in memory.items()}


def _most(memories: Sequence[Memory]) -> Memory:
    places = dict.fromkeys(place for each in memories for place in each)
    return {place: max(each.get(place, 0) for each in memories) for place in places}
