"""What is known of a case before it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vilt_bench.ask.case import Case

HOST = "host"
"""The place whose memory processes share, among places that are devices, such as `cuda:0`."""


@dataclass(frozen=True)
class Share:
    """What weights and inputs take of one place's memory at least, in bytes: an estimate from the meta device."""

    weights_bytes: int
    inputs_bytes: int


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
    needs: Mapping[str, Share] | None = None
    """What least_bytes is of, by place: the host, and the device where it has memory of its own."""


@dataclass(frozen=True)
class Outlook:
    """What is known of many cases' memory."""

    needs: tuple[Mapping[str, Share] | None, ...]
    """Of each case, by place; `None` where it was not found out."""
    free_bytes: Mapping[str, int]
    """Of each device that has memory of its own."""
