"""What a run says of images rather than of passes: images a second, time an image, percentiles of single passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from vilt_bench.judge.estimate import CONFIDENCE, Estimate, Samples
from vilt_bench.judge.latency import known_percentiles

if TYPE_CHECKING:
    from vilt_bench.ask.case import Case
    from vilt_bench.record.run import Run

SHARES = (0.50, 0.90, 0.95, 0.99)
"""Of single passes that take no longer: p50, p90, p95, p99."""


@dataclass(frozen=True, slots=True)
class Passes:
    """Percentiles of the latency of single uninstrumented passes, of all trials together; seconds."""

    count: int
    """Passes that they come from."""
    p50: float | None
    """`None`, here and below: so few passes do not bear it."""
    p90: float | None
    p95: float | None
    p99: float | None


def images_of(case: Case) -> int | None:
    """Returns how many images a pass has; `None` where it has frames of clips."""
    return case.images_per_pass if case.frames is None else None


def frames_of(case: Case) -> int | None:
    """Returns how many frames of clips a pass has; `None` where it has images."""
    return None if case.frames is None else case.images_per_pass * case.frames


def images_per_second(latency: Estimate | None, images: int | None) -> Estimate | None:
    """Returns the images, or frames, of a pass over its latency, with the interval that follows.

    `None` where one is not known.

    Where the latency's interval reaches zero, that of the throughput has no upper end.
    """
    if images is None or latency is None or not latency.value:
        return None
    return replace(
        latency,
        value=images / latency.value,
        low=images / latency.high if latency.high else None,
        high=images / latency.low if latency.low else None,
    )


def time_per_image(latency: Estimate | None, images: int | None) -> Estimate | None:
    """Returns the latency over the images, or frames, of a pass, its interval likewise; seconds, `None`: not known."""
    if latency is None or images == 1:
        return latency
    if images is None:
        return None
    low, high = latency.low, latency.high
    return replace(
        latency,
        value=latency.value / images,
        low=None if low is None else low / images,
        high=None if high is None else high / images,
    )


def single_passes(run: Run) -> Passes | None:
    """Returns the percentiles of the uninstrumented passes; `None` without a pass.

    They are those of all trials' passes together. Of one trial that keeps only some of its passes, the record has the
    percentiles of all; of several, those that are kept stand each for as many as there were to one.
    """
    timed = [series for trial in run.trials if (series := trial.samples).whole.latency_s]
    if not timed:
        return None
    if len(timed) == 1 and (known := known_percentiles(timed[0])) is not None:
        count, found = known.count, [known.percentile(share) for share in SHARES]
    else:
        kept = [series.whole.latency_s for series in timed]
        count = sum(map(len, kept))
        # An interrupted trial may have kept a pass that no block counts.
        stand_for = [max(1.0, series.passes / len(own)) for series, own in zip(timed, kept, strict=True)]
        if max(stand_for) == 1:  # in a quarter of the time
            every = Samples(kept)
            found = [every.percentile(share) for share in SHARES]
        else:
            found = percentiles(kept, stand_for, SHARES)
    p50, p90, p95, p99 = (
        value if count >= least_passes(share) else None for value, share in zip(found, SHARES, strict=True)
    )
    return Passes(count, p50, p90, p95, p99)


def percentiles(samples: Sequence[Sequence[float]], weights: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Returns the values below which those shares lie, between neighbours by a straight line.

    Args:
        samples: in groups; one at least.
        weights: by group, for how many samples, 1 or more, each of its own stands.
        shares: from 0 to 1, rising.
    """
    weighed = sorted((value, weight) for group, weight in zip(samples, weights, strict=True) for value in group)
    ends = list(accumulate(weight for _, weight in weighed))
    # Where each lies in the middle of those that it stands for; alone, that is its own place, from 0.
    places = [end - (weight + 1) / 2 for end, (_, weight) in zip(ends, weighed, strict=True)]
    found, above = [], 0
    for share in shares:
        place = share * (ends[-1] - 1)
        while above < len(places) - 1 and places[above] < place:
            above += 1
        below = max(0, above - 1)
        span = places[above] - places[below]
        part = min(1.0, max(0.0, (place - places[below]) / span)) if span else 0.0
        found.append(weighed[below][0] + part * (weighed[above][0] - weighed[below][0]))
    return found


@cache
def least_passes(share: float) -> int:
    """Returns from how many passes on a percentile is borne: its own 95% interval ends within them, at both ends.

    All passes lie below the percentile, or all above it, with a probability of less than 2.5%: 6 passes for the
    median, 36 for p90, 72 for p95, 368 for p99.

    Source: David and Nagaraja, Order Statistics, 2003, 7.1: intervals of quantiles that ask for no distribution.
    """
    count, missed = 1, max(share, 1 - share)
    while missed**count > (1 - CONFIDENCE) / 2:
        count += 1
    return count
