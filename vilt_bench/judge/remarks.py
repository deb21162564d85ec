"""What a reader must know about a run before its numbers: computed from the record, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean, median
from typing import Literal

from vilt_bench.ask.case import LANGUAGE_MODEL
from vilt_bench.judge.estimate import Estimate
from vilt_bench.judge.latency import blocked_latency, instrumented, latency, sum_of_stages, trial_medians
from vilt_bench.record.run import LEAST_CPU_SHARE, SLOWDOWNS, WHOLE, Conditions, Run
from vilt_bench.words import counted

Verdict = Literal["precise", "noisy", "interrupted", "failed"]

UNACCOUNTED = 0.02
"""Above this share, what lies between stages is no longer small."""
MARGIN = 1.1
"""On top of what all trials would have taken: later ones are not all as fast."""
MANY_SWITCHES = 10.0
"""Involuntary context switches a second: from here on it is others that the threads waited for."""
LEAST_USED = 0.8
"""A run whose passes took this share of the time was stopped by it; the rest went between passes."""
NOTABLE_STEAL = 0.01
"""Share of the processors that a hypervisor may give away before it is told."""
NOTABLE_HELD_S = 0.05
"""Seconds that a quota may hold a run up before it is told: half a period of the usual quota."""


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
        *_device(run),
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
        yield f"{measured} of {run.sampling.trials} trials measured{_needed(run)}."


def _needed(run: Run) -> str:
    """Returns what it takes to measure all trials, where only time was lacking."""
    if run.failure is not None or run.interrupted or not run.trials or latency(run) is None:
        return ""
    trial_s = (_passes_s(run) + sum(trial.first_call_s or 0.0 for trial in run.trials)) / len(run.trials)
    enough_s = 10 * math.ceil(trial_s * run.sampling.trials * MARGIN / 10)
    return f": one takes about {digits(trial_s)} s, so give --max-time {enough_s} for all"


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
    asked = f"±{digits(100 * run.sampling.precision)}%"
    evidence = f"{counted(whole.samples, 'pass', 'passes')}, {counted(whole.units, whole.unit)}"
    if whole.half_width is None:
        yield f"No interval: {evidence} are too few to tell the spread."
    elif whole.half_width <= run.sampling.precision:
        yield f"Precise: the whole is known to ±{digits(100 * whole.half_width)}% (asked {asked}; {evidence})."
    else:
        reasons = ", ".join(_reasons(run, whole)) or "noise"
        known = f"±{_above(100 * whole.half_width, 100 * run.sampling.precision)}%"
        yield f"Noisy: the whole is known to {known} only (asked {asked}; {evidence}): {reasons}."
    if whole.unit == "block" and whole.half_width is not None:
        yield "The interval holds for these processes only; three trials or more tell how far processes differ."


def _reasons(run: Run, whole: Estimate) -> Iterator[str]:
    if _passes_s(run) >= LEAST_USED * run.sampling.max_time_s:
        yield f"the {run.sampling.max_time_s:g} s were over"
    medians = [value for _, value in trial_medians(run)]
    spread = (max(medians) - min(medians)) / whole.value
    if spread > run.sampling.precision:
        yield f"trials differ by {digits(100 * spread)}%"
    drift = max((_drift(blocks) for blocks in blocked_latency(run)), key=abs, default=0.0)
    if abs(drift) > run.sampling.precision:
        yield f"{'+' if drift > 0 else '-'}{digits(100 * abs(drift))}% drift within a trial"
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
    held_up = [trial.conditions for trial in run.trials if _held_up(trial.conditions)]
    if held_up:
        least = min(conditions.cpu_share or 0.0 for conditions in held_up)
        most = max(_switches_per_s(conditions) for conditions in held_up)
        yield (
            f"contention (threads ran {100 * least:.0f}% of the time, "
            f"{digits(most)} involuntary context switches a second)"
        )
    seen = [trial.conditions.fitness for trial in run.trials if trial.conditions.fitness is not None]
    if (steal := max((each.steal_share or 0.0 for each in seen), default=0.0)) > NOTABLE_STEAL:
        yield f"a hypervisor that gave {100 * steal:.2g}% of the processors to other machines"
    if (held_s := sum(each.quota_held_s or 0.0 for each in seen)) > NOTABLE_HELD_S:
        yield f"a CPU quota that held the process up for {held_s:.2g} s"
    if throttles := sum(each.thermal_throttles or 0 for each in seen):
        yield f"a hot processor (slowed down {throttles} times)"
    reasons = {reason for trial in run.trials for reason in trial.conditions.throttle_reasons or ()}
    if throttling := sorted(reasons & SLOWDOWNS):
        yield f"GPU throttling ({', '.join(throttling)})"


def _held_up(conditions: Conditions) -> bool:
    share = conditions.cpu_share
    return share is not None and share < LEAST_CPU_SHARE and _switches_per_s(conditions) >= MANY_SWITCHES


def _switches_per_s(conditions: Conditions) -> float:
    switches, watched_s = conditions.involuntary_context_switches, conditions.watched_s
    return switches / watched_s if switches is not None and watched_s else 0.0


def _sum_of_stages(run: Run) -> Iterator[str]:
    found = sum_of_stages(run)
    if found is None:
        return
    sentence = f"The sum of stages is {100 * (found.value - 1):+.1f}% from the whole, which is timed apart"
    # Neighbouring passes differ by chance too: what lies within their own spread is no difference.
    if abs(found.value - 1) <= UNACCOUNTED:
        yield f"{sentence}."
    elif found.low is None or found.high is None:
        yield f"{sentence}; passes are too few to tell noise from a difference, so read shares with care."
    elif found.low <= 1 <= found.high:
        yield f"{sentence} (within the noise)."
    else:
        yield f"{sentence}: more than {100 * UNACCOUNTED:g}%, so read shares with care."
    if (cost := instrumented(run)) is not None and cost.low is not None and cost.low > 1 + UNACCOUNTED:
        yield f"Passes with a clock between the stages take {100 * (cost.value - 1):.1f}% longer than those without."


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
        times = [trial.samples.of(name) for trial in run.trials]
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
        yield f"First call: {digits(1000 * median(calls))} ms, {digits(median(calls) / whole.value)} times the latency."


def _device(run: Run) -> Iterator[str]:
    """Yields what the processor or the GPU says of itself."""
    used = [value for trial in run.trials for value in trial.samples.whole.cpu_time_s or ()]
    if used and run.environment is not None and run.environment.device == "cpu":
        threads = counted(run.environment.threads, "thread")
        yield f"CPU time of the whole: {digits(1000 * median(used))} ms over {threads} (median)."
    energy = run.energy
    if energy is not None:
        joules, windows = energy.joules_per_pass, counted(len(energy.joules_per_pass), "window")
        idle = f"; idle {digits(energy.idle_power_w)} W" if energy.idle_power_w is not None else ""
        yield (
            f"Energy: {digits(median(joules))} J a pass ({digits(min(joules))} to {digits(max(joules))} in "
            f"{windows} of {digits(min(energy.window_s))} s or more){idle}; {energy.method}."
        )
    states = [state for trial in run.trials for state in (trial.conditions.gpu_before, trial.conditions.gpu_after)]
    clocks = [state.sm_clock_hz for state in states if state is not None and state.sm_clock_hz is not None]
    heat = [state.temperature_c for state in states if state is not None and state.temperature_c is not None]
    if clocks and heat:
        yield (
            f"GPU between blocks: {min(clocks) / 1e6:.0f} to {max(clocks) / 1e6:.0f} MHz, "
            f"{min(heat):.0f} to {max(heat):.0f} °C."
        )


def digits(value: float) -> str:
    """Returns two significant digits at least, thousands apart, never an exponent."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 10 or not size else f"{value:.2g}" if size >= 1e-4 else f"{value:f}"


def _above(value: float, limit: float) -> str:
    """Returns the value with the digits that show that it lies above the limit, as that is told."""
    told = digits(value)
    for places in range(1, 7):
        if told != digits(limit):
            break
        told = f"{value:,.{places}f}"
        if float(told.replace(",", "")) <= limit:
            told = digits(limit)
    return told
