"""Passes of one process as they come in, of which a bounded number is kept, so that hours take no larger record."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import fields, replace

from vilt_bench.record.join import join_blocks
from vilt_bench.record.run import AllPasses, Series, Times

MOST_PASSES = 4096
"""Of each kind in a trial's samples: 1.4 MB with six stages. Beyond it every other pass is left out, and again, as
often as it takes; a block keeps one at least."""
MOST_WARMUP_PASSES = 1024
"""Likewise, of a trial's warm-up."""
CLOCKS = tuple(clock.name for clock in fields(Times))


class KeptPasses:
    """The blocks of one process: all passes while they are few, then of each stretch of 2, 4, 8, … one that is drawn.

    An instrumented and the uninstrumented pass beside it are kept or left out together. Which of a stretch is kept is
    drawn, so that what recurs every few passes, such as a batch, is neither favoured nor missed.
    """

    def __init__(self, most: int = MOST_PASSES) -> None:
        """There is no pass yet.

        Args:
            most: passes of each kind that are kept.
        """
        self._most = most
        self._kept: list[Series] = []
        self._sizes: list[int] = []
        self._stretch = 1
        self._passes = 0
        self._count = 0
        """Of passes of each kind that are kept."""
        self._rng = random.Random(0)

    @property
    def passes(self) -> int:
        """How many passes of each kind there were."""
        return self._passes

    @property
    def blocks(self) -> int:
        """How many blocks there were."""
        return len(self._sizes)

    @property
    def is_whole(self) -> bool:
        """Whether every pass was kept."""
        return self._stretch == 1

    @property
    def stages(self) -> Sequence[str] | None:
        """The stages' names; `None` without a block."""
        return list(self._kept[0].stages) if self._kept else None

    def add(self, block: Series) -> None:
        """Take the next block."""
        self._sizes.append(sum(block.blocks))
        self._passes += self._sizes[-1]
        self._kept.append(self._drawn(block, self._stretch))
        self._count += sum(self._kept[-1].blocks)
        while self._count > max(self._most, len(self._kept)):
            self._stretch *= 2
            self._kept = [self._drawn(each, 2) for each in self._kept]
            self._count = sum(sum(each.blocks) for each in self._kept)

    def series(self, medians_s: Sequence[float] = (), percentiles_s: Sequence[float] = ()) -> Series:
        """Returns the passes kept, and what is known of all, where some were left out.

        Args:
            medians_s: of all uninstrumented passes' latency, by block.
            percentiles_s: of all of them, 0 to 100.
        """
        joined = join_blocks(self._kept)
        if self.is_whole:
            return joined
        return replace(joined, all_passes=AllPasses(tuple(self._sizes), tuple(medians_s), tuple(percentiles_s)))

    def _drawn(self, block: Series, stretch: int) -> Series:
        size = sum(block.blocks)
        if stretch == 1 or size <= 1:
            return block
        drawn = self._rng.random
        kept = [begin + int(drawn() * min(stretch, size - begin)) for begin in range(0, size, stretch)]
        return Series(
            whole=_taken(block.whole, kept),
            stages={name: _taken(times, kept) for name, times in block.stages.items()},
            instrumented=_taken(block.instrumented, kept),
            blocks=(len(kept),),
        )


def _taken(times: Times, places: Sequence[int]) -> Times:
    columns = ((clock, getattr(times, clock)) for clock in CLOCKS)
    return Times(**{clock: tuple(map(column.__getitem__, places)) for clock, column in columns if column})
