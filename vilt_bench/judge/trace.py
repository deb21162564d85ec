"""What of a run's raw samples a page draws: some of each block's passes, evenly, with the conditions of each trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vilt_bench.judge.latency import blocked_latency
from vilt_bench.judge.summary import Summary, summarise
from vilt_bench.record.run import Conditions, Run

MOST = 240
"""Passes that are kept of a run."""


@dataclass(frozen=True, slots=True)
class TrialTrace:
    """One process of a run."""

    index: int
    started_at: str
    first_call_s: float | None
    settled: bool | None
    conditions: Conditions
    passes: int
    """Uninstrumented passes that there were."""
    blocks: tuple[tuple[float, ...], ...]
    """Latencies in seconds of some of them, in their order, by block."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Passes of a run's whole over time, and where the record lies that has them all."""

    trials: tuple[TrialTrace, ...]
    record: str = ""
    """Path or URL; empty where the run was not read from one record."""

    def thinned(self, most: int) -> Trace:
        """Returns the same with at most about so many passes, at least one of each block."""
        there = sum(len(block) for trial in self.trials for block in trial.blocks)
        if there <= most:
            return self
        share = most / there
        return replace(
            self,
            trials=tuple(
                replace(trial, blocks=tuple(_some(block, share) for block in trial.blocks)) for trial in self.trials
            ),
        )


def _some(block: Sequence[float], share: float) -> tuple[float, ...]:
    """Returns that share of a block's passes, evenly."""
    count = max(1, round(len(block) * share)) if block else 0
    return tuple(block[index * len(block) // count] for index in range(count))


def trace(run: Run, record: str = "") -> Trace:
    """Returns what is drawn of a run's passes."""
    blocked = blocked_latency(run)
    trials = tuple(
        TrialTrace(
            index=trial.index,
            started_at=trial.started_at,
            first_call_s=trial.first_call_s,
            settled=trial.settled,
            conditions=trial.conditions,
            passes=trial.samples.passes,
            blocks=tuple(map(tuple, blocks)),
        )
        for trial, blocks in zip(run.trials, blocked, strict=True)
    )
    return Trace(trials, record).thinned(MOST)


def traced(run: Run, record: str = "") -> Summary:
    """Returns the run judged, with what is drawn of its passes."""
    return replace(summarise(run), trace=trace(run, record))
