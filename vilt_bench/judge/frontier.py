"""The Pareto frontier: points that no other is better than in one quantity without being worse in the other."""

from __future__ import annotations

from collections.abc import Sequence


def frontier(points: Sequence[tuple[float, float]], *, more_is_better: tuple[bool, bool]) -> list[int]:
    """Returns the indices of the points of the frontier, from the best to the worst in the first quantity.

    A point is on it unless another is at least as good in both quantities and better in one; equal points are on it
    together.

    Args:
        points: two quantities each.
        more_is_better: of each quantity, whether more is better than less.
    """
    signs = [-1.0 if more else 1.0 for more in more_is_better]
    costs = [(signs[0] * first, signs[1] * second) for first, second in points]
    found: list[int] = []
    best = None
    for index in sorted(range(len(costs)), key=costs.__getitem__):
        if best is None or costs[index][1] < best[1] or costs[index] == best:
            found.append(index)
            best = costs[index]
    return found
