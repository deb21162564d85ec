"""What a comparison of baseline and candidate found: plain data, for the gate, its reports and whoever reads JSON.

Ratios are candidate / baseline: above 1 the candidate is slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vilt_bench.ask.case import Case
from vilt_bench.ask.rule import Decides
from vilt_bench.record.run import Environment

Verdict = Literal["regressed", "improved", "unchanged", "inconclusive", "missing"]
"""`regressed`: slower, beyond chance and beyond the tolerance; `missing`: one side lacks it."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Method = Literal["lockstep", "stored"]
"""`lockstep`: both sides measured together, sample by sample; `stored`: against records of another time."""
SideName = Literal["baseline", "candidate"]
Counted = Literal["parameters", "flops", "peak_bytes"]
"""What is counted, not timed, and may change from baseline to candidate."""


@dataclass(frozen=True)
class Ratio:
    """Candidate over baseline, with its 95% interval."""

    value: float
    low: float | None
    """`None`: unknown, as the noise is so large that an interval would say nothing."""
    high: float | None
    units: int
    """Independent observations behind it: process pairs, or processes of the side that has fewer."""
    baseline_s: float | None = None
    """Typical time by the clock that the ratio is of; `None` where that is the clock of the latencies."""
    candidate_s: float | None = None


@dataclass(frozen=True)
class StageVerdict:
    """The comparison of one stage, or of the whole."""

    name: str
    """`whole`, or a stage's full name, such as `visual_embedder.backbone`."""
    verdict: Verdict
    baseline_s: float | None
    """Median latency in seconds; `None` where the side lacks the stage."""
    candidate_s: float | None
    ratio: Ratio | None
    channel: str
    """The clock that the ratio is of: `wall_time`, `cpu_time` or `device_time`."""
    reason: str
    """Why, in a short phrase: `slower by 6.1%, beyond the tolerance of 2.5%`."""
    missing_from: SideName | Literal["both"] | None = None
    """Which side lacks it, where the verdict is `missing`; `both`: it could not be measured."""


@dataclass(frozen=True)
class CountChange:
    """A count that differs: exact, without an interval. `None` where a side did not count it."""

    stage: str
    quantity: Counted
    baseline: int | None
    candidate: int | None


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    name: str
    """As a reader knows it: a file, a folder, a git reference, an interpreter."""
    runs: tuple[str, ...] = ()
    """Identifiers of the runs behind it."""
    processes: int = 0
    versions: tuple[str, ...] = ()
    """What tells it from the other, such as `vilt-bench 0.1.0` or a commit."""
    pixels: tuple[int, int] | None = None
    """(height, width) of what the model saw; `None`: not known."""
    visual_tokens: int | None = None
    images_per_pass: int | None = None
    """`None`: as many as the comparison's case has."""


@dataclass(frozen=True)
class Comparison:
    """Baseline and candidate of one case, compared."""

    case: Case
    method: Method
    baseline: Side
    candidate: Side
    environment: Environment | None
    """Where the candidate was measured."""
    total: StageVerdict
    stages: tuple[StageVerdict, ...]
    counts: tuple[CountChange, ...]
    """Only what differs."""
    tolerance: float
    """Accepted slowdown, as a share: 0.025 is 2.5%."""
    error: float
    """Probability of a false alarm that the rule was set to, over all that the gate looks at."""
    gate: Decides
    """What decides; in JSON, too, by the name of the command line's option."""
    detectable: float | None
    """The smallest slowdown that would be found in 95 of 100 cases with this noise, as a share; `None`: not known."""
    spent_s: float | None
    """Time that measuring took; `None` for stored records."""
    different: tuple[str, ...] = ()
    """What differs between the sides and was allowed to, such as `torch 2.9.0 / 2.10.0`."""
    notes: tuple[str, ...] = ()
    """What a reader must know, one sentence each."""
    detectable_channel: str = ""
    """The clock by which that slowdown would be found; empty where there is one clock only."""

    @property
    def verdict(self) -> Verdict:
        """The verdict of what decides: of the whole, and of the stages where they do."""
        seen = [self.total, *(self.stages if self.gate == "stages" else ())]
        for worst in ("regressed", "missing", "inconclusive"):
            if any(stage.verdict == worst for stage in seen):
                return worst
        return self.total.verdict

    def _repr_html_(self) -> str:
        """Returns the table by stage that a notebook shows."""
        from vilt_bench.report.cells import of_comparison

        return of_comparison(self)


def missing(
    case: Case,
    method: Method,
    sides: tuple[Side, Side],
    total: StageVerdict,
    *,
    tolerance: float,
    error: float,
    gate: Decides,
    environment: Environment | None = None,
) -> Comparison:
    """Returns the comparison of a case of which there is nothing to compare, but for what its verdict says."""
    baseline, candidate = sides
    return Comparison(
        case=case,
        method=method,
        baseline=baseline,
        candidate=candidate,
        environment=environment,
        total=total,
        stages=(),
        counts=(),
        tolerance=tolerance,
        error=error,
        gate=gate,
        detectable=None,
        spent_s=None,
    )
