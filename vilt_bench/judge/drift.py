"""Whether the machine is as fast as it was, by a case that was measured then and is measured now."""

from __future__ import annotations

import math

from vilt_bench.judge.latency import trial_medians
from vilt_bench.judge.significance import unpaired
from vilt_bench.record.run import Anchor, Run

TOLERATED = 0.05
"""Share by which latency may move between two groups before that is told: short runs differ by a few per cent."""


def drift(there: Run, here: Run, *, name: str, groups: tuple[int, int]) -> Anchor | None:
    """Returns how long a case takes now over what it took; `None` where either has no latency.

    The process is the unit: with fewer than three trials on a side, or zeros, there is no interval. Source: Yuen 1974.

    Args:
        there: the run that was measured first.
        here: its repeat.
        name: how the case is told of.
        groups: the numbers of the two groups, from 1.
    """
    before, now = ([value for _, value in trial_medians(run)] for run in (there, here))
    if not before or not now or min(*before, *now) <= 0:
        return None
    logs = [[math.log(value) for value in each] for each in (before, now)]
    found = unpaired("whole", *logs)
    if found is None:
        ratio, low, high = math.exp(math.fsum(logs[1]) / len(now) - math.fsum(logs[0]) / len(before)), None, None
    else:
        ratio = math.exp(found.estimate)
        low, high = (math.exp(found.low), math.exp(found.high)) if found.known else (None, None)
    return Anchor(name, there.run_id, ratio, low, high, groups)


def is_drift(anchor: Anchor) -> bool:
    """Returns whether the interval lies beyond what is tolerated, to either side."""
    return (anchor.low is not None and anchor.low > 1 + TOLERATED) or (
        anchor.high is not None and anchor.high < 1 / (1 + TOLERATED)
    )
