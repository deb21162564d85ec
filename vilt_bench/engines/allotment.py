"""Which cases a machine is to measure next, and which were measured, given back, or given up."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from vilt_bench.ask.case import Case, case_name

MOST_DEATHS = 2
"""Processes that may die over a case that they had alone before it is given up."""
_LARGEST_GROUP = 8
"""Cases that one of several machines takes at once from what all share: what a machine that leaves gives back."""


@dataclass
class Allotment:
    """The cases of a sweep, by the machines that are to measure them: each of them, or any."""

    cases: Sequence[Case]
    anywhere: bool = False
    _open: dict[str, list[str]] = field(default_factory=dict)
    """Cases that wait, by whose they are."""
    _taken: dict[str, list[str]] = field(default_factory=dict)
    """By machine."""
    _deaths: dict[tuple[str, str], int] = field(default_factory=dict)
    """Of processes that measured a case alone."""
    _suspects: dict[str, set[str]] = field(default_factory=dict)
    """Cases that were being measured when a process died: each is measured alone from then on."""
    _machines: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make what all machines share."""
        self._by_name = {case_name(case): case for case in self.cases}
        if self.anywhere:
            self._open[""] = list(self._by_name)

    def join(self, machine: str, measured: Collection[Case] = ()) -> None:
        """Let a machine take part.

        Args:
            machine: its name.
            measured: what need not be measured again: there; or, where any machine serves, at all.
        """
        self._machines.add(machine)
        names = set(map(case_name, measured))
        whose = self._whose(machine)
        self._open[whose] = [name for name in self._open.get(whose, self._by_name) if name not in names]

    def take(self, machine: str) -> list[Case]:
        """Returns what a machine is to measure next, together; nothing is left for it where that is empty."""
        whose = self._whose(machine)
        waiting = self._open.get(whose, [])
        suspects = self._suspects.get(whose, set())
        healthy = [name for name in waiting if name not in suspects]
        if not self.anywhere:
            group = healthy or waiting[:1]
        else:
            fair = math.ceil(len(healthy) / (2 * len(self._machines)))
            group = healthy[: min(fair, _LARGEST_GROUP)] or waiting[:1]
        self._open[whose] = [name for name in waiting if name not in group]
        self._taken[machine] = group
        return [self._by_name[name] for name in group]

    def holds(self, machine: str) -> list[Case]:
        """Returns what a machine has taken, and not measured yet."""
        return [self._by_name[name] for name in self._taken.get(machine, [])]

    def measured(self, machine: str, case: Case) -> bool:
        """Returns whether a machine has measured what it had taken, and counts it as done."""
        taken, name = self._taken.get(machine, []), case_name(case)
        if name not in taken:
            return False
        taken.remove(name)
        return True

    def give_back(self, machine: str) -> None:
        """Put back what a machine has taken and not measured, as it has left."""
        whose = self._whose(machine)
        names = self._taken.pop(machine, [])
        if names:
            self._open[whose] = [name for name in self._by_name if name in {*names, *self._open.get(whose, [])}]

    def died(self, machine: str) -> list[Case]:
        """Put back what a process has not measured, as it died; returns what is given up, as it died over it before."""
        whose, names = self._whose(machine), list(self._taken.get(machine, []))
        lost = []
        if len(names) == 1 and names[0] in self._suspects.get(whose, set()):
            self._deaths[whose, names[0]] = self._deaths.get((whose, names[0]), 0) + 1
            if self._deaths[whose, names[0]] >= MOST_DEATHS:
                lost = self.give_up(machine)
        self._suspects.setdefault(whose, set()).update(names)
        self.give_back(machine)
        return lost

    def give_up(self, machine: str) -> list[Case]:
        """Returns what a machine had taken and will not measure."""
        return [self._by_name[name] for name in self._taken.pop(machine, [])]

    def leave(self, machine: str) -> None:
        """Let a machine take part no longer."""
        self.give_back(machine)
        self._machines.discard(machine)

    def waiting(self, machines: Iterable[str] | None = None) -> list[Case]:
        """Returns what is not taken by any machine, or by some of them."""
        whose = set(self._open) if machines is None else {self._whose(each) for each in machines}
        return [self._by_name[name] for each in sorted(whose) for name in self._open.get(each, [])]

    def _whose(self, machine: str) -> str:
        return "" if self.anywhere else machine
