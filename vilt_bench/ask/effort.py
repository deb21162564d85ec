"""Reads shares, durations and sizes as people write them, alike on the command line and in files."""

from __future__ import annotations

import math
import re

from vilt_bench.errors import ConfigError

_UNITS_S = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_UNITS_BYTES: dict[str, int] = {
    f"{letter}{binary}b": (1024 if binary else 1000) ** power
    for power, letter in enumerate("kmgt", 1)
    for binary in ("", "i")
} | {"": 1, "b": 1}
_PART = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*(ms|sec|s|min|m|h)")

_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)")


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


def parse_size_bytes(text: str) -> int:
    """Returns bytes of a text such as `6GB`, `6 GiB` or `500MB`.

    Raises:
        ConfigError: it is no size, or zero.
    """
    size = _SIZE.fullmatch(text.strip().lower())
    if size is None or size[2] not in _UNITS_BYTES:
        raise ConfigError(f"{text!r} is no size of memory; expected such as 6GB, 5.5GiB or 500MB")
    if (found := round(float(size[1]) * _UNITS_BYTES[size[2]])) < 1:
        raise ConfigError(f"must be more than nothing, got {text!r}")
    return found
