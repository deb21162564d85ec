"""Reads shares and durations as people write them, alike on the command line and in files."""

from __future__ import annotations

import math
import re

from vilt_bench.errors import ConfigError

_UNITS_S = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_PART = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*(ms|sec|s|min|m|h)")


def parse_share(text: str) -> float:
    """Returns a share of one of a text such as `2.5%` or `0.025`.

    Raises:
        ConfigError: it is no number.
    """
    number = text.strip().removesuffix("%")
    try:
        return float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"{text!r} is no share; expected 2.5% or 0.025") from None


def parse_duration_s(text: str) -> float:
    """Returns seconds of a text such as `90`, `90s`, `1.5m`, `1m30s` or `2h`.

    Raises:
        ConfigError: it is no duration.
    """
    try:
        return float(text)
    except ValueError:
        pass
    parts, end = [], 0
    while part := _PART.match(text, end):
        parts.append(float(part[1]) * _UNITS_S[part[2]])
        end = part.end()
    if not parts or text[end:].strip():
        raise ConfigError(f"{text!r} is no duration; expected seconds, or such as 90s, 1.5m or 2h")
    return math.fsum(parts)
