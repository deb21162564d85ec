"""How numbers are written: scaled, rounded, with their interval; what is unknown as –."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vilt_bench.judge.estimate import Estimate
    from vilt_bench.judge.limit import Limit
    from vilt_bench.judge.pipeline import Pipeline

ABSENT = "–"


def small(value: float | None) -> str:
    """Returns a number far below one with two digits and its power of ten, such as `1.4e-07`; none is 0."""
    return ABSENT if value is None else "0" if value == 0 else f"{value:.1e}"


def milliseconds(estimate: Estimate | None) -> str:
    """Returns the latency in ms, such as `12.31`."""
    return ABSENT if estimate is None else number(1000 * estimate.value)


def milliseconds_of(seconds: float | None) -> str:
    """Returns seconds in ms."""
    return ABSENT if seconds is None else number(1000 * seconds)


def least_milliseconds(seconds: float | None) -> str:
    """Returns a lower bound in ms; one that rounds to zero, but is more, as `<0.0001`."""
    return "<0.0001" if seconds is not None and 0 < seconds < 5e-8 else milliseconds_of(seconds)


def limit_milliseconds(limit: Limit | None) -> str:
    """Returns a least time in ms and how much of it is reached, as `12.31 [45.0%]`; `[wrong]`: it was beaten."""
    if limit is None:
        return ABSENT
    reached = "wrong" if limit.beaten else percent(limit.share)
    return f"{least_milliseconds(limit.least_s)} [{reached}]"


def bottleneck(pipeline: Pipeline | None) -> str:
    """Returns which of preprocessing and model is the slower, and by what factor: `model 3.1×`."""
    if pipeline is None or pipeline.bottleneck is None or pipeline.factor is None:
        return ABSENT
    return f"{pipeline.bottleneck} {digits(pipeline.factor)}×"


def milliseconds_interval(estimate: Estimate | None) -> str:
    """Returns the latency in ms with its 95% interval, as `interval` does."""
    return interval(estimate, scale=1000)


def interval(estimate: Estimate | None, *, scale: float = 1) -> str:
    """Returns a value with its 95% interval, such as `12.31 [12.10, 12.60]`; no digits that it leaves open.

    An interval that reaches zero has no lower end that says anything: `12.31 [–, 30.02]`. Of what is one over such a
    value, the upper end is unknown: `0.08 [0.03, –]`.

    Args:
        estimate: any.
        scale: how many of the unit that is shown one of the estimate's own is.
    """
    if estimate is None:
        return ABSENT
    value = scale * estimate.value
    if estimate.low is None and estimate.high is None:
        return f"{number(value)} [{ABSENT}]"
    half = value - scale * (estimate.low or 0) if estimate.high is None else scale * (estimate.high - estimate.value)
    places = min(decimals(value), max(0, 1 - math.floor(math.log10(half)))) if half > 0 else decimals(value)
    low = f"{scale * estimate.low:,.{places}f}" if estimate.low is not None and estimate.low > 0 else ABSENT
    high = ABSENT if estimate.high is None else f"{scale * estimate.high:,.{places}f}"
    return f"{value:,.{places}f} [{low}, {high}]"


def ratio_interval(estimate: Estimate | None) -> str:
    """Returns a ratio with its 95% interval, such as `1.31 [1.27, 1.35]`; `1` where it is one by definition.

    Both ends have the digits of the nearer one, as they lie apart by factors, and those that part them from 1.
    """
    if estimate is not None and not estimate.units:
        return "1"
    if estimate is None or estimate.low is None or estimate.high is None:
        return interval(estimate)
    value, ends = estimate.value, (estimate.low, estimate.high)
    half = min(value - ends[0], ends[1] - value)
    places = min(decimals(value), max(0, 1 - math.floor(math.log10(half)))) if half > 0 else decimals(value)
    while places < _MOST_PLACES and any(end != 1 and float(f"{end:.{places}f}") == 1 for end in ends):
        places += 1
    low, high = (f"{end:,.{places}f}" for end in ends)
    return f"{value:,.{places}f} [{low}, {high}]"


_MOST_PLACES = 4


def ranks(best: int, worst: int) -> str:
    """Returns a rank, or from which to which it may be: `2–3`."""
    return f"{best}" if best == worst else f"{best}–{worst}"


def count_of(value: int | None) -> str:
    """Returns a count with its thousands set apart."""
    return ABSENT if value is None else f"{value:,}"


def percent(share: float | None) -> str:
    """Returns a share as `12.3%`."""
    return ABSENT if share is None else f"{100 * share:.1f}%"


def signed_percent(share: float) -> str:
    """Returns a change as `+1.3%` or `-1.3%`; one that rounds to nothing has no sign: `0.0%`."""
    told = f"{100 * share:+.1f}%"
    return told[1:] if told[1:] == "0.0%" else told


def millions(count: int | None) -> str:
    """Returns a count in millions."""
    return ABSENT if count is None else number(count / 1e6)


def giga(count: int | None) -> str:
    """Returns a count in thousands of millions, as for GFLOPs."""
    return ABSENT if count is None else number(count / 1e9)


def mebibytes(size: int | None) -> str:
    """Returns bytes in MiB."""
    return ABSENT if size is None else number(size / 2**20)


def number(value: float) -> str:
    """Returns the value with about four digits, thousands set apart."""
    return f"{value:,.{decimals(value)}f}"


def decimals(value: float) -> int:
    """Returns the decimals that leave about four digits, two at least for values of 1 to 1000."""
    size = abs(value)
    return 0 if size == 0 else 4 if size < 0.1 else 3 if size < 1 else 2 if size < 100 else 1


def digits(value: float) -> str:
    """Returns two significant digits at least, thousands apart, never an exponent."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 10 or not size else f"{value:.2g}" if size >= 1e-4 else f"{value:f}"


def digits_above(value: float, limit: float) -> str:
    """Returns the value with the digits that show that it lies above the limit, as `digits` tells that."""
    told = digits(value)
    for places in range(1, 7):
        if told != digits(limit):
            break
        told = f"{value:,.{places}f}"
        if float(told.replace(",", "")) <= limit:
            told = digits(limit)
    return told
