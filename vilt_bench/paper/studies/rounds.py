"""What the studies share: interleaved rounds over points, records in JSON, tables; torch only while measuring."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.judge.estimate import Estimate, percentiles
from vilt_bench.judge.growing import GrowingBlocks
from vilt_bench.judge.latency import whole_latency
from vilt_bench.record.run import Environment, Series
from vilt_bench.record.thin import KeptPasses
from vilt_bench.words import counted

if TYPE_CHECKING:
    from vilt_bench.worker.meters.latency import Interval, Timer

S = TypeVar("S")

LEAST_ROUNDS = 3
"""Fewer tell nothing of the spread between rounds."""
BLOCK_S = 0.05
"""What is faster is run several times a round, for about so long."""
MOST_PASSES = 50
"""In a round."""
LEAST_WARMUP = 3
"""Passes of what is faster than a block."""

Progress = Callable[[float], None]
"""Called after each round with the share of the time that is spent, 0 to 1."""


def check_counts(field: str, counts: Sequence[int], *, least: int, most: int) -> None:
    """Refuse a list of counts that can't be swept.

    Raises:
        ConfigError: the list is empty, names one twice, or holds one out of range.
    """
    if not counts or len(set(counts)) < len(counts) or not all(least <= count <= most for count in counts):
        shown = ",".join(map(str, counts)) or "nothing"
        raise ConfigError(f"must be different numbers between {least} and {most}, got {shown}", field=field)


def check_time(max_time_s: float, *, field: str = "max_time_s") -> None:
    """Refuse a budget that is none.

    Raises:
        ConfigError: the budget is not between 0 and a day.
    """
    if not 0 < max_time_s <= 86_400:
        raise ConfigError(f"must be between 0 and 86400 seconds, got {max_time_s:g}", field=field)


def time_in_rounds(
    passes: Sequence[Callable[[], object]],
    timer: Timer,
    *,
    max_time_s: float,
    seconds: Callable[[], float] = time.perf_counter,
    progress: Progress | None = None,
) -> list[Series]:
    """Returns the samples of each pass, a block a round; of many thousand a bounded number, and what is known of all.

    All passes have their turn in each round, forth in one and back in the next, so that drift hits all alike. A first
    round is warm-up and not kept; three are measured whatever the budget.

    Args:
        passes: what to time.
        timer: times one pass.
        max_time_s: of all rounds, the warm-up included.
        seconds: the budget's clock.
        progress: told after each round.
    """
    from vilt_bench.worker.meters.latency import quiet, times

    start = seconds()
    kept = [KeptPasses() for _ in passes]
    latencies = [GrowingBlocks() for _ in passes]
    with quiet():
        sizes = [_warm_up(timer, run) for run in passes]
    longest_s = 0.0
    while kept[0].blocks < LEAST_ROUNDS or seconds() - start + longest_s < max_time_s:
        round_start = seconds()
        order = range(len(passes)) if kept[0].blocks % 2 else reversed(range(len(passes)))
        took: dict[int, list[Interval]] = {}
        with quiet():
            for index in order:
                took[index] = [_once(timer, passes[index]) for _ in range(sizes[index])]
        for index, intervals in took.items():
            block = Series(whole=times(intervals), blocks=(len(intervals),))
            kept[index].add(block)
            latencies[index].add(block.whole.latency_s)
        longest_s = max(longest_s, seconds() - round_start)
        if progress is not None:
            progress(min(1.0, (seconds() - start) / max_time_s))
    return [
        of_pass.series() if of_pass.is_whole else of_pass.series(whole.medians, percentiles(whole))
        for of_pass, whole in zip(kept, latencies, strict=True)
    ]


def latency(samples: Series) -> Estimate:
    """Returns the median latency in seconds with its interval; the rounds of one process are the units.

    Raises:
        RecordError: there is no sample.
    """
    found = whole_latency(samples)
    if found is None:
        raise RecordError("a point of the study has no sample; measure again")
    return found


def encode(study: Any) -> bytes:
    """Returns the study as JSON."""
    return msgspec.json.format(msgspec.json.encode(study), indent=1) + b"\n"


def decode(data: bytes, kind: type[S], *, name: str) -> S:
    """Returns the study of its JSON.

    Args:
        data: the file's content.
        kind: which study.
        name: the file's name, for messages.

    Raises:
        RecordError: the file is corrupt, or of something else.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"{name} is no {kind.__name__} ({error}); measure again or restore the file") from None


def conditions(environment: Environment) -> str:
    """Returns where it was measured, in one line."""
    threads = counted(environment.threads, "thread")
    versions = [f"{part} {environment.versions[part]}" for part in ("torch",) if part in environment.versions]
    device = environment.device if environment.device_name in environment.machine else environment.device_name
    return " · ".join([environment.machine, device, threads, *versions])


def digits(value: float) -> str:
    """Returns three significant digits at least, thousands apart."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def milliseconds(estimate: Estimate) -> str:
    """Returns a latency in ms with its 95% interval, such as `512 [503, 521]`."""
    value = digits(1000 * estimate.value)
    if estimate.low is None or estimate.high is None:
        return value
    decimals = len(value.partition(".")[2])
    return f"{value} [{1000 * estimate.low:,.{decimals}f}, {1000 * estimate.high:,.{decimals}f}]"


def latency_fields(samples: Series) -> dict[str, object]:
    """Returns a latency as columns of a tidy table; seconds."""
    found = latency(samples)
    return {
        "latency_median_s": found.value,
        "latency_low_s": found.low,
        "latency_high_s": found.high,
        "samples": found.samples,
        "rounds": len(samples.blocks),
    }


def environment_fields(environment: Environment) -> dict[str, object]:
    """Returns where it was measured, as columns of a tidy table."""
    return {name: getattr(environment, name) for name in ("machine", "fingerprint", "device", "threads")}


def _once(timer: Timer, run: Callable[[], object]) -> Interval:
    return timer.whole(lambda _mark: run())


def _warm_up(timer: Timer, run: Callable[[], object]) -> int:
    """Returns how often the pass is to be run in a round."""
    shortest_s = BLOCK_S
    for _ in range(LEAST_WARMUP):
        took = _once(timer, run)
        took_s = took.device_time_s or took.wall_time_s or 0.0
        shortest_s = min(shortest_s, took_s)
        if took_s > BLOCK_S:
            break
    return max(1, min(MOST_PASSES, int(BLOCK_S / shortest_s))) if shortest_s else MOST_PASSES
