"""What may be asked of a choice among towers, with what is usual; no catalogue is read for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

ORDERS = ("parameters", "tokens", "time")
"""What ranks those on the frontier, and then those that are not."""
FORMATS = ("table", "markdown", "csv", "json")
SHOWN = 20
"""Rows of a table, best first, where no other number is asked for; data have all."""


@dataclass(frozen=True)
class Range:
    """Numbers from the least to the most, both within it."""

    least: float = 0
    most: float = math.inf

    def __contains__(self, value: float) -> bool:
        """Returns whether the value lies within."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        """Returns it as the command line takes it."""
        ends = ["" if end in (0, math.inf) else f"{end:,.0f}" for end in (self.least, self.most)]
        return ends[0] if self.least == self.most else "..".join(ends)
