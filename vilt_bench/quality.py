"""What a reader must know about a run before its numbers: computed from the record, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, median
from typing import Literal

from vilt_bench.config import LANGUAGE_MODEL
from vilt_bench.records import Run
from vilt_bench.statistics import WHOLE, Estimate, blocked_latency, latency, trial_medians

Verdict = Literal["precise", "noisy", "interrupted", "failed"]

UNACCOUNTED = 0.02
"""Above this share, what lies between stages is no longer small."""
LEAST_CPU_SHARE = 0.9
"""Below it, something held the threads up."""
LEAST_USED = 0.8
"""A run whose passes took this share of the time was stopped by it; the rest went between passes."""
NO_THROTTLING = frozenset({"none", "gpu_idle"})
"""What NVML gives as reasons for clocks while nothing is slowed down."""


def verdict(run: Run) -> Verdict:
    """Returns how a run ended; `precise`: the 95% interval of the whole is as narrow as was asked."""
    if run.failure is not None:
        return "failed"
    if run.interrupted:
        return "interrupted"
    whole = latency(run)
    half_width = None if whole is None else whole.half_width
    return "precise" if half_width is not None and half_width <= run.sampling.precision else "noisy"


def remarks(run: Run) -> tuple[str, ...]:
    """Returns what a reader must know, the most important first, one sentence each."""
    return (
        *_ending(run),
        *_first_token(run),
        *_precision(run),
        *_sum_of_stages(run),
        *_stages(run),
        *_start(run),
        *run.warnings,
    )


def _ending(run: Run) -> Iterator[str]:
    if run.failure is not None:
        where = f" in {run.failure.stage}" if run.failure.stage else ""
        yield f"Failed{where} ({run.failure.kind}): {run.failure.message}"
    if run.interrupted:
        yield "Interrupted: what was measured until then is shown."
    measured = len(trial_medians(run))
    if measured < run.sampling.trials:
        yield f"{measured} of {run.sampling.trials} trials measured."


def _first_token(run: Run) -> Iterator[str]:
    """Yields how long a user waits for a language model's first token, and for what."""
    whole, total = latency(run), latency(run, "")
    if run.model is None or not run.model.interaction.startswith(LANGUAGE_MODEL) or whole is None or total is None:
        return
    tokens = f"{run.model.visual_tokens} visual and {run.model.text_tokens} text tokens"
    parts = {
        "visual_embedder": "the visual embedder takes",
        "modality_interaction.connector": "the connector",
        "modality_interaction.prefill": f"the prefill of {tokens}",
        "modality_interaction.first_token": "norm, head and choice of the token",
    }
    shares = [
        f"{said} {100 * found.value / total.value:.1f}%"
        for name, said in parts.items()
        if (found := latency(run, name)) is not None and total.value
    ]
    yield f"Time to first token: {1000 * whole.value:,.1f} ms; {', '.join(shares)}."


def _precision(run: Run) -> Iterator[str]:
    whole = latency(run)
    if whole is None:
        return
    asked = f"±{100 * run.sampling.precision:.2g}%"
    evidence = f"{whole.samples} passes, {whole.units} {whole.unit}{'s' if whole.units != 1 else ''}"
    if whole.half_width is None:
        yield f"No interval: {evidence} are too few to tell the spread."
    elif whole.half_width <= run.sampling.precision:
        yield f"Precise: the whole is known to ±{100 * whole.half_width:.2g}% (asked {asked}; {evidence})."
    else:
        reasons = ", ".join(_reasons(run, whole)) or "noise"
        yield (
            f"Noisy: the whole is known to ±{100 * whole.half_width:.2g}% only (asked {asked}; {evidence}): {reasons}."
        )
    if whole.unit == "block" and whole.half_width is not None:
        yield "The interval holds for these processes only; three trials or more tell how far processes differ."


def _reasons(run: Run, whole: Estimate) -> Iterator[str]:
    if _passes_s(run) >= LEAST_USED * run.sampling.max_time_s:
        yield f"the {run.sampling.max_time_s:g} s were over"
    medians = [value for _, value in trial_medians(run)]
    spread = (max(medians) - min(medians)) / whole.value
    if spread > run.sampling.precision:
        yield f"trials differ by {100 * spread:.2g}%"
    drift = max((_drift(blocks) for blocks in blocked_latency(run)), key=abs, default=0.0)
    if abs(drift) > run.sampling.precision:
        yield f"{100 * drift:+.2g}% drift within a trial"
    yield from _disturbances(run)


def _passes_s(run: Run) -> float:
    """Returns the time that all passes took, warm-up included."""
    kinds = (
        kind
        for trial in run.trials
        for part in (trial.warmup, trial.samples)
        for kind in (part.whole, part.instrumented)
    )
    return sum(sum(times.wall_time_s or times.latency_s) for times in kinds)


def _drift(blocks: list[list[float]]) -> float:
    """Returns by what share the second half of a trial's blocks lies above the first."""
    medians = [median(block) for block in blocks]
    half = len(medians) // 2
    return fmean(medians[-half:]) / fmean(medians[:half]) - 1 if half and fmean(medians[:half]) else 0.0


def _disturbances(run: Run) -> Iterator[str]:
    shares = [share for trial in run.trials if (share := trial.conditions.cpu_share) is not None]
    if shares and min(shares) < LEAST_CPU_SHARE:
        yield f"contention (threads ran {100 * min(shares):.0f}% of the time)"
    states = [state for trial in run.trials for state in (trial.conditions.gpu_before, trial.conditions.gpu_after)]
    reasons = {reason for state in states if state is not None for reason in state.throttle_reasons or ()}
    if throttling := sorted(reasons - NO_THROTTLING):
        yield f"GPU throttling ({', '.join(throttling)})"


def _sum_of_stages(run: Run) -> Iterator[str]:
    whole, total = latency(run), latency(run, "")
    if whole is None or total is None or not whole.value:
        return
    share = total.value / whole.value - 1
    sentence = f"The sum of stages is {100 * share:+.1f}% from the whole, which is timed apart"
    if abs(share) > UNACCOUNTED:
        yield f"{sentence}: more than {100 * UNACCOUNTED:g}%, so read shares with care."
    else:
        yield f"{sentence}."


def _stages(run: Run) -> Iterator[str]:
    if run.model is not None and "random" in (run.model.visual_weights, run.model.shared_weights):
        random = {"visual embedder": run.model.visual_weights, "shared model": run.model.shared_weights}
        yield f"Random weights: {', '.join(part for part, weights in random.items() if weights == 'random')}."
    for stage in run.stages:
        found = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in stage.counts.items())
        if said := "; ".join(part for part in (found, stage.note.rstrip(".")) if part):
            yield f"{stage.name.rpartition('.')[2]}: {said}."
    if bound := _launch_bound(run):
        yield f"Host time exceeds device time in {', '.join(bound)}: launch-bound, or waiting for the host."


def _launch_bound(run: Run) -> list[str]:
    bound = []
    for name in dict.fromkeys(name for trial in run.trials for name in trial.samples.stages):
        times = [trial.samples.stages[name] for trial in run.trials if name in trial.samples.stages]
        host = [value for series in times for value in series.host_time_s or ()]
        device = [value for series in times for value in series.device_time_s or ()]
        if host and device and median(host) > median(device):
            bound.append(name.rpartition(".")[2])
    return bound


def _start(run: Run) -> Iterator[str]:
    if unsettled := sum(trial.settled is False for trial in run.trials):
        yield f"Times had not settled when warm-up ended, in {unsettled} of {len(run.trials)} trials."
    if verdict(run) == "precise" and (disturbed := ", ".join(_disturbances(run))):
        yield f"Measured under {disturbed}."
    calls = [trial.first_call_s for trial in run.trials if trial.first_call_s is not None]
    whole = latency(run, WHOLE)
    if calls and whole is not None and whole.value:
        yield f"First call: {1000 * median(calls):.4g} ms, {median(calls) / whole.value:.2g} times the latency."
