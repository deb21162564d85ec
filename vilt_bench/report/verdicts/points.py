"""What a comparison gives to a dashboard: the candidate's latencies, and the ratios to the baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from vilt_bench.judge.comparison import Comparison
from vilt_bench.report.dashboards import Point
from vilt_bench.report.verdicts import words


def points(comparisons: Iterable[Comparison]) -> Iterator[Point]:
    """Yields latency and ratio of the whole and of each stage, as far as they are known.

    The interval is the ratio's: what a comparison knows of the candidate's own latency is its median.
    """
    for comparison in comparisons:
        for stage in (comparison.total, *comparison.stages):
            name = f"{words.name(comparison)} / {stage.name}"
            where = [words.size_line(comparison), words.machine(comparison)]
            said = "\n".join(filter(None, [f"{stage.verdict}: {words.size(stage)}", words.method(comparison), *where]))
            if stage.candidate_s is not None:
                yield Point(name, stage.candidate_s, None, None, said)
            if (ratio := stage.ratio) is not None:
                low, high = (end if end is not None and math.isfinite(end) else None for end in (ratio.low, ratio.high))
                yield Point(name, ratio.value, low, high, said, ratio=True)
