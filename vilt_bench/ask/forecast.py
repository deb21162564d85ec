"""What is known of a case before it is measured."""

from __future__ import annotations

from dataclasses import dataclass

from vilt_bench.ask.case import Case


@dataclass(frozen=True)
class Forecast:
    """What a case would be; `None` where that was not found out."""

    case: Case
    resolution: tuple[int, int] | None = None
    """(height, width) of the pixels, after resizing."""
    visual_tokens: int | None = None
    least_bytes: int | None = None
    """An estimate: weights and inputs alone, on the case's device."""
    problem: str = ""
    """Why it can't be measured as asked."""
