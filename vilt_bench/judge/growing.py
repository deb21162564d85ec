"""Samples that come in block by block: what `estimate` and `settled` say of them, without going over all of them anew.

Each sample is sorted once, within its block, and then merged a few times, as the blocks of equal size that a binary
counter adds up: all looks together take a time that grows with the samples, not with samples times looks.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import sub
from statistics import median

from vilt_bench.judge.estimate import Estimate, agree, estimate_of, windows

CHUNK = 256
"""Samples that are sorted at once where any stretch may be asked for."""


class GrowingBlocks:
    """One process's samples by block, as they come in; a `Distribution`."""

    def __init__(self) -> None:
        """There is no sample yet."""
        self.count = 0
        self.medians: list[float] = []
        self._runs: list[list[float]] = []
        """Sorted, each of twice as many blocks as the next one or more."""
        self._blocks: list[int] = []
        """By run: how many."""
        self._found: Estimate | None = None
        self._is_found = False

    @property
    def median(self) -> float:
        """The middle of all samples."""
        low, high = ranked(self._runs, (self.count - 1) // 2)
        return low if self.count % 2 else (low + high) / 2

    def add(self, block: Sequence[float]) -> None:
        """Take the next block; one without a sample counts for nothing."""
        if not block:
            return
        run, blocks = sorted(block), 1
        self.count += len(run)
        self.medians.append(median(run))
        self._is_found = False
        while self._blocks and self._blocks[-1] == blocks:
            run = sorted(self._runs.pop() + run)  # two sorted stretches, which Python merges
            blocks += self._blocks.pop()
        self._runs.append(run)
        self._blocks.append(blocks)

    def percentile(self, share: float) -> float:
        """Returns the value below which that share (0 to 1) of the samples lies, as `estimate.percentile`."""
        position = share * (self.count - 1)
        below = math.floor(position)
        low, high = ranked(self._runs, below)
        return low + (position - below) * (high - low)

    def interval(self) -> Estimate | None:
        """Returns what `estimate.block_interval` finds in the blocks; `None` without a sample."""
        if not self._is_found:
            self._found, self._is_found = estimate_of([self] if self.count else []), True
        return self._found


class GrowingWarmup:
    """The times of a warm-up, as they come in: have they settled?"""

    def __init__(self) -> None:
        """There is no time yet."""
        self._times: list[float] = []
        self._sorted: list[list[list[float]]] = []
        """By level: stretches of `CHUNK` × 2^level times, sorted, side by side from the first time on."""

    def add(self, times: Sequence[float]) -> None:
        """Take the next times."""
        self._times += times
        while (len(self._sorted[0]) + 1 if self._sorted else 1) * CHUNK <= len(self._times):
            start = len(self._sorted[0]) * CHUNK if self._sorted else 0
            stretch, level = sorted(self._times[start : start + CHUNK]), 0
            while True:
                if level == len(self._sorted):
                    self._sorted.append([])
                self._sorted[level].append(stretch)
                if len(self._sorted[level]) % 2:
                    break
                stretch, level = sorted(self._sorted[level][-2] + stretch), level + 1

    def settled(self) -> bool:
        """Returns what `estimate.settled` says of all times so far."""
        found = windows(len(self._times))
        return found is not None and agree(*(self._median(begin, end) for begin, end in found))

    def _median(self, begin: int, end: int) -> float:
        runs, count = list(self._stretches(begin, end)), end - begin
        low, high = ranked(runs, (count - 1) // 2)
        return low if count % 2 else (low + high) / 2

    def _stretches(self, begin: int, end: int) -> Iterator[list[float]]:
        """Yields sorted stretches that together are the times from one index up to another."""
        while begin < end:
            start, offset = divmod(begin, CHUNK)
            level, size = -1, CHUNK
            while (
                not offset
                and level + 1 < len(self._sorted)
                and start % 2 ** (level + 1) == 0
                and start >> level + 1 < len(self._sorted[level + 1])
                and begin + CHUNK * 2 ** (level + 1) <= end
            ):
                level += 1
            if level < 0:
                size = min(CHUNK - offset, end - begin)
                yield sorted(self._times[begin : begin + size])
            else:
                size = CHUNK * 2**level
                yield self._sorted[level][start >> level]
            begin += size


def ranked(runs: Sequence[Sequence[float]], rank: int) -> tuple[float, float]:
    """Returns the values of that rank, from 0, and of the next, among all that the sorted runs hold.

    The highest value is its own next.
    """
    lows, highs = [0] * len(runs), [len(run) for run in runs]
    while True:
        widths = list(map(sub, highs, lows))
        widest = widths.index(max(widths))
        pivot = runs[widest][(lows[widest] + highs[widest]) // 2]
        below = [bisect_left(run, pivot, *ends) for run, *ends in zip(runs, lows, highs, strict=True)]
        if rank < sum(below):
            highs = below
            continue
        through = [bisect_right(run, pivot, *ends) for run, *ends in zip(runs, below, highs, strict=True)]
        before = sum(through)
        if rank + 1 < before:
            return pivot, pivot
        if rank < before:
            return pivot, min(
                (run[end] for run, end in zip(runs, through, strict=True) if end < len(run)), default=pivot
            )
        lows = through
