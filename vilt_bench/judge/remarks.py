"""What a reader must know about a run before its numbers, as values that `report.remarks` words.

Each kind of remark is a class: its name is the code that programs look for, its fields are the facts. Shares are
0 to 1, times are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vilt_bench.ask.case import LANGUAGE_MODEL
from vilt_bench.judge.drift import is_drift
from vilt_bench.judge.estimate import Estimate, mean, median
from vilt_bench.judge.latency import Latencies, blocked_latency, latencies, trial_medians
from vilt_bench.judge.limit import beaten, limits
from vilt_bench.record.peak import Peak
from vilt_bench.record.run import LEAST_CPU_SHARE, SLOWDOWNS, WHOLE, Conditions, Deviation, Energy, Run

Verdict = Literal["precise", "noisy", "interrupted", "failed"]

UNACCOUNTED = 0.02
"""Above this share, what lies between stages is no longer small."""
UNSEEN, WAKING_S = 0.05, 0.0002
"""From this share of a pass on, and these seconds, time after the last event is the device's, not the host's waking."""
KEEPS_AHEAD = 0.95
"""Of a stage's device time: a host that takes less to enqueue it runs ahead; one that takes as long is waited for."""
MARGIN = 1.1
"""On top of what all trials would have taken: later ones are not all as fast."""
MANY_SWITCHES = 10.0
"""Involuntary context switches a second: from here on it is others that the threads waited for."""
LEAST_USED = 0.8
"""A run whose passes took this share of the time was stopped by it; the rest went between passes."""
NOTABLE_STEAL = 0.01
"""Share of the processors that a hypervisor may give away before it is told."""
DEVIATIONS = {
    "int4": 0.5,
    "int8": 0.2,
    "fp8": 0.2,
    "float8": 0.2,
    "bfloat16": 0.05,
    "float16": 0.01,
    "tf32": 0.01,
    "float32": 1e-4,
}
"""By precision, the coarsest first: a relative difference from eager float32's output that rounding still explains.

About a dozen roundings, of 2⁻⁹ of a number in bfloat16, 2⁻¹² in float16 and tf32, 2⁻²⁵ in float32, add up to a tenth of
these in a transformer of twelve layers; the rest is for deeper models, and for the largest of many thousand numbers.
"""
_COARSE = DEVIATIONS["int8"]
NOTABLE_HELD_S = 0.05
"""Seconds that a quota may hold a run up before it is told: half a period of the usual quota."""


@dataclass(frozen=True, slots=True)
class Contention:
    """Other load kept the threads from running."""

    cpu_share: float
    """Of the time, how long threads ran; of the worst trial."""
    switches_per_s: float
    """Involuntary context switches; of the worst trial."""


@dataclass(frozen=True, slots=True)
class Steal:
    """A hypervisor gave processors to other machines."""

    share: float


@dataclass(frozen=True, slots=True)
class QuotaHeld:
    """A control group's quota held the process up."""

    held_s: float


@dataclass(frozen=True, slots=True)
class HotProcessor:
    """The processor slowed down against heat."""

    times: int


@dataclass(frozen=True, slots=True)
class GpuThrottled:
    """The GPU slowed down against heat or for want of power."""

    reasons: tuple[str, ...]
    """As NVML names them."""


Disturbance = Contention | Steal | QuotaHeld | HotProcessor | GpuThrottled


@dataclass(frozen=True, slots=True)
class TimeOver:
    """The time that was allowed was used up."""

    max_time_s: float


@dataclass(frozen=True, slots=True)
class TrialsDiffer:
    """Trials lie apart."""

    share: float
    """Of the latency: from the fastest to the slowest trial's median."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Times moved within a trial."""

    share: float
    """By which the second half of the blocks lies above the first."""


Reason = TimeOver | TrialsDiffer | Drift | Disturbance


@dataclass(frozen=True, slots=True)
class Failed:
    """The run failed."""

    kind: str
    message: str
    stage: str | None


@dataclass(frozen=True, slots=True)
class OutputDeviates:
    """An output lies further from eager float32's than its precision explains: the times are of another answer."""

    parts: tuple[tuple[str, float, float, str], ...]
    """Stage, or `whole`; the relative difference, by norms where the largest is within the bound; the bound; the
    precision that it is of."""


@dataclass(frozen=True, slots=True)
class OutputUncompared:
    """Outputs that could not be compared with eager float32's."""

    parts: tuple[tuple[str, str], ...]
    """Stage, or `whole`; and why."""


@dataclass(frozen=True, slots=True)
class FellBack:
    """Eager torch computed stages that the backend was asked for."""

    backend: str
    stages: tuple[tuple[str, str], ...]
    """Each with the reason."""
    is_all: bool
    """Whether nothing else was computed."""


@dataclass(frozen=True, slots=True)
class NothingQuantized:
    """The backend computed the stages, but none in the precision that was asked for by its name in the case."""

    quantize: str
    backend: str


@dataclass(frozen=True, slots=True)
class Computed:
    """Who computed the stages, and how the whole's output compares with eager float32's."""

    backend: str
    version: str
    precisions: tuple[str, ...]
    prepare_time_s: float | None
    """Median of the trials."""
    deviation: Deviation | None


@dataclass(frozen=True, slots=True)
class AccuracyUnknown:
    """Random weights do not tell what a coarse precision does to a trained model's answers."""

    precisions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The user stopped it."""


@dataclass(frozen=True, slots=True)
class TrialsLacking:
    """Fewer trials were measured than were asked for."""

    measured: int
    asked: int
    trial_s: float | None = None
    """What one takes, where only time was lacking."""
    enough_s: int | None = None
    """The time that does for all."""


@dataclass(frozen=True, slots=True)
class FirstToken:
    """How long a user waits for a language model's first token."""

    whole_s: float
    visual_tokens: int
    text_tokens: int
    shares: Mapping[str, float]
    """Of the sum of stages, by part of the model."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an interval was computed from."""

    samples: int
    units: int
    unit: Literal["trial", "block"]


@dataclass(frozen=True, slots=True)
class NoInterval:
    """Units are too few to tell the spread."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Precise:
    """The whole is known as precisely as was asked."""

    half_width: float
    asked: float
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Noisy:
    """The whole is known less precisely than was asked."""

    half_width: float
    asked: float
    evidence: Evidence
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class TheseProcessesOnly:
    """The interval tells nothing of how far processes differ."""


@dataclass(frozen=True, slots=True)
class SumOfStages:
    """How far the sum of stages lies from the whole."""

    share: float
    found: Literal["small", "unknown", "noise", "large"]
    """`unknown`: passes are too few to tell noise from a difference; `noise`: within their own spread."""

    @property
    def doubtful(self) -> bool:
        """Whether shares are to be read with care."""
        return self.found in ("unknown", "large")


@dataclass(frozen=True, slots=True)
class SlowedByClocks:
    """Passes with a clock between the stages take longer than those without."""

    share: float


@dataclass(frozen=True, slots=True)
class BoundWrong:
    """Stages take less than their least time: the bound is wrong, and what follows from it."""

    stages: tuple[tuple[str, float, float], ...]
    """Each with its measured and its least time, in seconds."""
    peak: Peak


@dataclass(frozen=True, slots=True)
class LeastTimes:
    """What least times are computed from, and how much of the limit the whole reaches."""

    peak: Peak
    device: str
    threads: int
    least_s: float | None
    """Of the whole; `None`: not known."""
    share: float | None
    """Of the limit that the whole reaches."""


@dataclass(frozen=True, slots=True)
class RandomWeights:
    """Parts of the model have random weights."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StageFound:
    """What a stage found, and what must be known to read its numbers right."""

    stage: str
    counts: Mapping[str, int]
    note: str


@dataclass(frozen=True, slots=True)
class WorkUnseen:
    """The device was still at work after the pass's own stream, whose events tell device times, had ended."""

    beyond_s: float
    """Until the device was idle, in nine of ten passes at least."""
    share: float
    """Of the pass's time on the host's clock."""


@dataclass(frozen=True, slots=True)
class LaunchBound:
    """The host took as long as the device, or longer."""

    stages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Times had not settled when warm-up ended."""

    trials: int
    measured: int


@dataclass(frozen=True, slots=True)
class Disturbed:
    """Disturbances of a run that is precise nevertheless."""

    by: tuple[Disturbance, ...]


@dataclass(frozen=True, slots=True)
class FirstCall:
    """How long the first pass took."""

    median_s: float
    ratio: float
    """To the latency."""


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """CPU time of the whole over all threads."""

    median_s: float
    threads: int


@dataclass(frozen=True, slots=True)
class EnergyUsed:
    """Energy of the whole."""

    energy: Energy


@dataclass(frozen=True, slots=True)
class GpuBetweenBlocks:
    """What the GPU said of itself between blocks: the least and the most."""

    sm_clock_hz: tuple[float, float]
    temperature_c: tuple[float, float]


@dataclass(frozen=True, slots=True)
class GroupsDiffer:
    """The machine was faster or slower than when the group before was measured."""

    groups: tuple[int, int]
    """Numbers within the sweep: the one before, and the run's own."""
    name: str
    """Of the case that was measured in both."""
    ratio: float
    """Of its latency here over there, with the ends of the 95% interval."""
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning that the measuring process gave."""

    text: str


Remark = (
    Failed
    | OutputDeviates
    | OutputUncompared
    | FellBack
    | NothingQuantized
    | Computed
    | AccuracyUnknown
    | Interrupted
    | TrialsLacking
    | FirstToken
    | NoInterval
    | Precise
    | Noisy
    | TheseProcessesOnly
    | SumOfStages
    | SlowedByClocks
    | BoundWrong
    | LeastTimes
    | RandomWeights
    | StageFound
    | WorkUnseen
    | LaunchBound
    | Unsettled
    | Disturbed
    | FirstCall
    | ProcessorTime
    | EnergyUsed
    | GpuBetweenBlocks
    | GroupsDiffer
    | Warned
)


def verdict(run: Run, found: Latencies | None = None) -> Verdict:
    """Returns how a run ended; `precise`: the 95% interval of the whole is as narrow as was asked."""
    if run.failure is not None:
        return "failed"
    if run.interrupted:
        return "interrupted"
    whole = (found or latencies(run)).whole
    return "precise" if whole is not None and whole.within(run.sampling.precision) else "noisy"


def remarks(run: Run, found: Latencies | None = None) -> tuple[Remark, ...]:
    """Returns what a reader must know, the most important first.

    Args:
        run: any run.
        found: its estimates, where they are known.
    """
    found = found or latencies(run)
    return (
        *_ending(run, found),
        *_outputs(run),
        *_computation(run),
        *_first_token(run, found),
        *_precision(run, found.whole),
        *_groups(run),
        *_unseen(run),
        *_sum_of_stages(found),
        *_limits(run, found),
        *_stages(run),
        *_start(run, found),
        *_device(run),
        *map(Warned, run.warnings),
    )


def disturbed_by(said: Sequence[Remark]) -> tuple[Disturbance, ...]:
    """Returns what disturbed a run, by its remarks."""
    reasons: list[Reason] = []
    for remark in said:
        if isinstance(remark, Noisy):
            reasons += remark.reasons
        elif isinstance(remark, Disturbed):
            reasons += remark.by
    return tuple(reason for reason in reasons if not isinstance(reason, TimeOver | TrialsDiffer | Drift))


def _ending(run: Run, found: Latencies) -> Iterator[Remark]:
    if run.failure is not None:
        yield Failed(run.failure.kind, run.failure.message, run.failure.stage or None)
    if run.interrupted:
        yield Interrupted()
    measured = sum(1 for trial in run.trials if trial.samples.whole.latency_s)
    if measured < run.sampling.trials:
        yield TrialsLacking(measured, run.sampling.trials, *_needed(run, found))


def _outputs(run: Run) -> Iterator[Remark]:
    """Yields what makes a run's times those of something else than was asked for."""
    made = run.model.computation if run.model is not None else None
    if made is None:
        return
    compared = [(stage.name, stage.deviation, stage.precision) for stage in made.stages]
    # From end to end the coarsest precision sets the bound.
    coarsest = max((stage.precision for stage in made.stages), key=largest_deviation, default="float32")
    compared.append((WHOLE, made.deviation, coarsest))
    far = [
        (name, beyond[0], bound, precision)
        for name, found, precision in compared
        for bound in [largest_deviation(precision)]
        if found is not None and (beyond := [each for each in (found.relative, found.relative_l2) if each > bound])
    ]
    if far:
        yield OutputDeviates(tuple(far))
    why = [(stage.name, stage.not_compared) for stage in made.stages] + [(WHOLE, made.not_compared)]
    if uncompared := tuple((name, reason) for name, reason in why if reason is not None):
        yield OutputUncompared(uncompared)
    if fallen := tuple((stage.name, stage.fell_back) for stage in made.stages if stage.fell_back is not None):
        yield FellBack(run.case.linear, fallen, len(fallen) == len(made.stages))
    asked = run.case.quantize
    if (
        asked is not None
        and len(fallen) < len(made.stages)
        and not any(asked in each.precision for each in made.stages)
    ):
        yield NothingQuantized(asked, run.case.backend)


def _computation(run: Run) -> Iterator[Remark]:
    model = run.model
    if model is None or model.computation is None:
        return
    made = model.computation
    precisions = tuple(dict.fromkeys(stage.precision for stage in made.stages if stage.fell_back is None))
    times = [trial.prepare_time_s for trial in run.trials if trial.prepare_time_s is not None]
    yield Computed(run.case.backend, made.version, precisions, median(times) if times else None, made.deviation)
    coarse = tuple(each for each in precisions if largest_deviation(each) >= _COARSE)
    if coarse and "random" in (model.visual_weights, model.shared_weights):
        yield AccuracyUnknown(coarse)


def largest_deviation(precision: str) -> float:
    """Returns how far outputs in a precision may lie from eager float32's, relative, before it is no more rounding.

    Args:
        precision: as a record has it, such as `bfloat16`, or `int8 weights, float32 activations`; the coarsest counts.
    """
    return next((bound for name, bound in DEVIATIONS.items() if name in precision), DEVIATIONS["float32"])


def _needed(run: Run, found: Latencies) -> tuple[float, int] | tuple[()]:
    """Returns what it takes to measure one trial, and all, where only time was lacking."""
    if run.failure is not None or run.interrupted or not run.trials or found.whole is None:
        return ()
    trial_s = (_passes_s(run) + sum(trial.first_call_s or 0.0 for trial in run.trials)) / len(run.trials)
    return trial_s, 10 * math.ceil(trial_s * run.sampling.trials * MARGIN / 10)


def _first_token(run: Run, found: Latencies) -> Iterator[Remark]:
    """Yields how long a user waits for a language model's first token, and for what."""
    whole, total = found.whole, found.total
    if run.model is None or not run.model.interaction.startswith(LANGUAGE_MODEL) or whole is None or total is None:
        return
    parts = (
        "visual_embedder",
        "modality_interaction.connector",
        "modality_interaction.prefill",
        "modality_interaction.first_token",
    )
    shares = {
        name: part.value / total.value for name in parts if (part := found.stages.get(name)) is not None and total.value
    }
    yield FirstToken(whole.value, run.model.visual_tokens, run.model.text_tokens, shares)


def _precision(run: Run, whole: Estimate | None) -> Iterator[Remark]:
    if whole is None:
        return
    asked, evidence = run.sampling.precision, Evidence(whole.samples, whole.units, whole.unit)
    if whole.half_width is None:
        yield NoInterval(evidence)
    elif whole.half_width <= asked:
        yield Precise(whole.half_width, asked, evidence)
    else:
        yield Noisy(whole.half_width, asked, evidence, tuple(_reasons(run, whole)))
    if whole.unit == "block" and whole.half_width is not None:
        yield TheseProcessesOnly()


def _reasons(run: Run, whole: Estimate) -> Iterator[Reason]:
    if _passes_s(run) >= LEAST_USED * run.sampling.max_time_s:
        yield TimeOver(run.sampling.max_time_s)
    medians = [value for _, value in trial_medians(run)]
    spread = (max(medians) - min(medians)) / whole.value
    if spread > run.sampling.precision:
        yield TrialsDiffer(spread)
    drift = max((_drift(blocks) for blocks in blocked_latency(run)), key=abs, default=0.0)
    if abs(drift) > run.sampling.precision:
        yield Drift(drift)
    yield from _disturbances(run)


def _groups(run: Run) -> Iterator[Remark]:
    anchor = run.anchor
    if anchor is not None and anchor.low is not None and anchor.high is not None and is_drift(anchor):
        yield GroupsDiffer(anchor.groups, anchor.name, anchor.ratio, anchor.low, anchor.high)


def _passes_s(run: Run) -> float:
    """Returns the time that all passes took, warm-up included."""
    return sum(
        sum(times.wall_time_s or times.latency_s) * (series.passes / sum(series.blocks) if series.all_passes else 1)
        for trial in run.trials
        for series in (trial.warmup, trial.samples)
        for times in (series.whole, series.instrumented)
    )


def _drift(blocks: Sequence[Sequence[float]]) -> float:
    """Returns by what share the second half of a trial's blocks lies above the first."""
    medians = [median(block) for block in blocks]
    half = len(medians) // 2
    return mean(medians[-half:]) / mean(medians[:half]) - 1 if half and mean(medians[:half]) else 0.0


def _disturbances(run: Run) -> Iterator[Disturbance]:
    held_up = [trial.conditions for trial in run.trials if _held_up(trial.conditions)]
    if held_up:
        least = min(conditions.cpu_share or 0.0 for conditions in held_up)
        yield Contention(least, max(_switches_per_s(conditions) for conditions in held_up))
    seen = [trial.conditions.fitness for trial in run.trials if trial.conditions.fitness is not None]
    if (steal := max((each.steal_share or 0.0 for each in seen), default=0.0)) > NOTABLE_STEAL:
        yield Steal(steal)
    if (held_s := sum(each.quota_held_s or 0.0 for each in seen)) > NOTABLE_HELD_S:
        yield QuotaHeld(held_s)
    if throttles := sum(each.thermal_throttles or 0 for each in seen):
        yield HotProcessor(throttles)
    reasons = {reason for trial in run.trials for reason in trial.conditions.throttle_reasons or ()}
    if throttling := sorted(reasons & SLOWDOWNS):
        yield GpuThrottled(tuple(throttling))


def _held_up(conditions: Conditions) -> bool:
    share = conditions.cpu_share
    return share is not None and share < LEAST_CPU_SHARE and _switches_per_s(conditions) >= MANY_SWITCHES


def _switches_per_s(conditions: Conditions) -> float:
    switches, watched_s = conditions.involuntary_context_switches, conditions.watched_s
    return switches / watched_s if switches is not None and watched_s else 0.0


def _unseen(run: Run) -> Iterator[Remark]:
    wholes = [trial.samples.whole for trial in run.trials]
    # By how much the host's clock goes on beyond both the device's last event and the host's own last launch.
    passes = [
        (wall_s - max(device_s, host_s), wall_s)
        for times in wholes
        for wall_s, device_s, host_s in zip(
            times.wall_time_s or (), times.device_time_s or (), times.host_time_s or (), strict=False
        )
    ]
    if not passes:
        return
    # Nearly all passes have it: a busy machine wakes the host late in many, the device works on in all.
    beyond_s = sorted(beyond for beyond, _ in passes)[len(passes) // 10]
    wall_s = median([wall for _, wall in passes])
    if beyond_s >= max(WAKING_S, UNSEEN * wall_s):
        yield WorkUnseen(beyond_s, beyond_s / wall_s)


def _sum_of_stages(found: Latencies) -> Iterator[Remark]:
    ratio, cost = found.sum_of_stages, found.instrumented
    if ratio is None:
        return
    share = ratio.value - 1
    # Neighbouring passes differ by chance too: what lies within their own spread is no difference.
    if abs(share) <= UNACCOUNTED:
        yield SumOfStages(share, "small")
    elif ratio.low is None or ratio.high is None:
        yield SumOfStages(share, "unknown")
    else:
        yield SumOfStages(share, "noise" if ratio.low <= 1 <= ratio.high else "large")
    if cost is not None and cost.low is not None and cost.low > 1 + UNACCOUNTED:
        yield SlowedByClocks(cost.value - 1)


def _limits(run: Run, found: Latencies) -> Iterator[Remark]:
    known = limits(run, found)
    if run.peak is None or not known or run.environment is None:
        return
    if wrong := beaten(run, found):
        yield BoundWrong(tuple((name, *times) for name, times in wrong.items()), run.peak)
    whole = known.get(WHOLE)
    told = (None, None) if whole is None else (whole.least_s, whole.share)
    yield LeastTimes(run.peak, run.environment.device, run.environment.threads, *told)


def _stages(run: Run) -> Iterator[Remark]:
    if run.model is not None:
        weights = {"visual embedder": run.model.visual_weights, "shared model": run.model.shared_weights}
        if random := tuple(part for part, source in weights.items() if source == "random"):
            yield RandomWeights(random)
    for stage in run.stages:
        if stage.counts or stage.note.rstrip("."):
            yield StageFound(stage.name, stage.counts, stage.note)
    if bound := _launch_bound(run):
        yield LaunchBound(bound)


def _launch_bound(run: Run) -> tuple[str, ...]:
    bound = []
    for name in dict.fromkeys(name for trial in run.trials for name in trial.samples.stages):
        times = [trial.samples.of(name) for trial in run.trials]
        host = [value for series in times for value in series.host_time_s or ()]
        device = [value for series in times for value in series.device_time_s or ()]
        if host and device and median(host) > KEEPS_AHEAD * median(device):
            bound.append(name)
    return tuple(bound)


def _start(run: Run, found: Latencies) -> Iterator[Remark]:
    if unsettled := sum(trial.settled is False for trial in run.trials):
        yield Unsettled(unsettled, len(run.trials))
    if verdict(run, found) == "precise" and (disturbed := tuple(_disturbances(run))):
        yield Disturbed(disturbed)
    calls = [trial.first_call_s for trial in run.trials if trial.first_call_s is not None]
    if calls and found.whole is not None and found.whole.value:
        yield FirstCall(median(calls), median(calls) / found.whole.value)


def _device(run: Run) -> Iterator[Remark]:
    """Yields what the processor or the GPU says of itself."""
    used = [value for trial in run.trials for value in trial.samples.whole.cpu_time_s or ()]
    if used and run.environment is not None and run.environment.device == "cpu":
        yield ProcessorTime(median(used), run.environment.threads)
    if run.energy is not None:
        yield EnergyUsed(run.energy)
    states = [state for trial in run.trials for state in (trial.conditions.gpu_before, trial.conditions.gpu_after)]
    clocks = [state.sm_clock_hz for state in states if state is not None and state.sm_clock_hz is not None]
    heat = [state.temperature_c for state in states if state is not None and state.temperature_c is not None]
    if clocks and heat:
        yield GpuBetweenBlocks((min(clocks), max(clocks)), (min(heat), max(heat)))
