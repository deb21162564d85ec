"""How fast preprocessing and model are at the same time, which of them holds the other up, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from vilt_bench.judge.estimate import Estimate, estimate
from vilt_bench.judge.throughput import frames_of, images_of, images_per_second

if TYPE_CHECKING:
    from vilt_bench.judge.summary import Summary
    from vilt_bench.record.run import Pipelined, Run

_OWN = ("preprocessing_workers", "pin_memory")
"""Of a case's fields, those that runs differ in whose paces are compared: no processes have no pinned memory."""
WAITS = 0.05
"""A model that runs at this much less than its own pace, or less, does not wait."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What was measured of a run, judged; images a second, of clips frames."""

    workers: int
    pinned: bool
    of_frames: bool
    """Whether its paces are of frames."""
    on_host: bool
    """Whether the model shares the processor with what prepares its images."""
    pipelined: Estimate | None
    """Preprocessing and model at the same time."""
    preprocessing: Estimate | None
    """Alone, by the same processes."""
    model: Estimate | None
    """Alone, on images that are on its device."""
    waits: Estimate | None
    """Share of the time, 0 to 1, by which the model is slower at the same time than alone, round by round."""
    method: str

    @property
    def bottleneck(self) -> Literal["preprocessing", "model"] | None:
        """The slower of both alone; `None`: not known."""
        if self.preprocessing is None or self.model is None:
            return None
        return "preprocessing" if self.preprocessing.value < self.model.value else "model"

    @property
    def factor(self) -> float | None:
        """How many times as fast as the bottleneck the other is alone."""
        if self.preprocessing is None or self.model is None:
            return None
        slower, faster = sorted((self.preprocessing.value, self.model.value))
        return faster / slower

    @property
    def is_waiting(self) -> bool | None:
        """Whether the model waits, at more than `WAITS` of its pace; `None`: the interval leaves it open."""
        if self.waits is None or self.waits.low is None or self.waits.high is None:
            return None
        return True if self.waits.low > WAITS else False if self.waits.high <= WAITS else None


def pipeline(run: Run) -> Pipeline | None:
    """Returns what was measured of a run's pipeline; `None`: nothing."""
    found = [trial.pipelined for trial in run.trials if trial.pipelined is not None]
    if not found:
        return None

    seen = images_of(run.case) or frames_of(run.case)

    def rate(seconds: Callable[[Pipelined], Sequence[float]]) -> Estimate | None:
        return images_per_second(_estimated([seconds(each) for each in found]), seen)

    waits = _estimated(
        [[1 - model / both for model, both in zip(each.model_s, each.pipelined_s, strict=False)] for each in found]
    )
    return Pipeline(
        workers=found[0].workers,
        pinned=found[0].pinned,
        of_frames=run.case.frames is not None,
        on_host=run.environment is not None and run.environment.device == "cpu",
        pipelined=rate(lambda each: each.pipelined_s),
        preprocessing=rate(lambda each: each.preprocessing_s),
        model=rate(lambda each: each.model_s),
        waits=waits,
        method=found[0].method,
    )


def _estimated(trials: Sequence[Sequence[float]]) -> Estimate | None:
    """Returns the estimate of rounds, each of which is a block."""
    return estimate([[[value] for value in rounds] for rounds in trials])


@dataclass(frozen=True, slots=True)
class Enough:
    """From how many processes on the model does not wait, among runs that differ in nothing else."""

    runs: tuple[Summary, ...]
    """By the number of processes."""
    workers: int | None
    """`None`: with none of those that were measured, as far as that is known."""
    is_sure: bool
    """Whether the intervals leave no other answer."""


def enough_workers(runs: Sequence[Summary]) -> list[Enough]:
    """Returns, for runs that differ in the number of processes alone, from how many on the model does not wait."""
    groups: dict[object, dict[int, Summary]] = {}
    for run in runs:
        if run.pipeline is not None:
            of_case = {each.name: getattr(run.case, each.name) for each in fields(run.case)}
            alike = repr([value for name, value in of_case.items() if name not in _OWN])
            groups.setdefault((alike, run.group), {})[run.pipeline.workers] = run
    found = []
    for group in groups.values():
        if len(group) > 1:
            ordered = [group[workers] for workers in sorted(group)]
            found.append(_enough(ordered))
    return found


def _enough(ordered: Sequence[Summary]) -> Enough:
    waits = [run.pipeline.is_waiting for run in ordered if run.pipeline is not None]
    begin = len(ordered)
    while begin and waits[begin - 1] is False:
        begin -= 1
    workers = [run.pipeline.workers for run in ordered if run.pipeline is not None]
    # That one fewer is too few is known where it is sure to wait.
    return Enough(
        tuple(ordered),
        workers[begin] if begin < len(ordered) else None,
        is_sure=begin == 0 or waits[begin - 1] is True,
    )
