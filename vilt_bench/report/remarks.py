"""Words of remarks: a sentence each; nothing looks for what it means in them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from vilt_bench.judge import remarks as of
from vilt_bench.report import limits
from vilt_bench.report.numbers import digits, digits_above, percent, signed_percent, small
from vilt_bench.words import counted

_PARTS = {
    "visual_embedder": "the visual embedder takes",
    "modality_interaction.connector": "the connector",
    "modality_interaction.prefill": "the prefill of",
    "modality_interaction.first_token": "norm, head and choice of the token",
}
"""Of a language model that waits for an image."""


def sentences(remarks: Sequence[of.Remark]) -> list[str]:
    """Returns the remarks as sentences, in their order."""
    return list(map(sentence, remarks))


def sentence(remark: of.Remark) -> str:
    """Returns the remark in one sentence."""
    match remark:
        case of.Failed(kind, message, stage):
            return f"Failed{f' in {stage}' if stage else ''} ({kind}): {message}"
        case of.OutputDeviates(parts):
            told = ", ".join(
                f"{_short(name)} by {small(relative)} where {precision} explains {small(bound)}"
                for name, relative, bound, precision in parts
            )
            return f"NOT THE SAME OUTPUT as eager float32's: {told} (relative). Its times are of another answer."
        case of.OutputUncompared(parts):
            told = "; ".join(f"{_short(name)}: {why}" for name, why in parts)
            return f"Not compared with eager float32's output: {told}."
        case of.FellBack():
            return _fell_back(remark)
        case of.NothingQuantized(quantize, backend):
            return f"NOTHING was computed in {quantize}: {backend} has no product in it that it brings to that."
        case of.Computed():
            return _computed(remark)
        case of.AccuracyUnknown(precisions):
            return (
                f"With random weights the difference in {', '.join(precisions)} is that of these weights: what it does "
                "to a trained model's answers they can't tell."
            )
        case of.Interrupted():
            return "Interrupted: what was measured until then is shown."
        case of.TrialsLacking(measured, asked, trial_s, enough_s):
            needed = (
                f": one takes about {digits(trial_s)} s, so give --max-time {enough_s} for all"
                if trial_s is not None and enough_s is not None
                else ""
            )
            return f"{measured} of {asked} trials measured{needed}."
        case of.FirstToken():
            return _first_token(remark)
        case of.NoInterval(evidence):
            return f"No interval: {_evidence(evidence)} are too few to tell the spread."
        case of.Precise(half_width, asked, evidence):
            return (
                f"Precise: the whole is known to ±{digits(100 * half_width)}% "
                f"(asked ±{digits(100 * asked)}%; {_evidence(evidence)})."
            )
        case of.Noisy(half_width, asked, evidence, reasons):
            return (
                f"Noisy: the whole is known to ±{digits_above(100 * half_width, 100 * asked)}% only "
                f"(asked ±{digits(100 * asked)}%; {_evidence(evidence)}): {', '.join(map(phrase, reasons)) or 'noise'}."
            )
        case of.TheseProcessesOnly():
            return "The interval holds for these processes only; three trials or more tell how far processes differ."
        case of.SumOfStages(share, found):
            ends = {
                "small": ".",
                "unknown": "; passes are too few to tell noise from a difference, so read shares with care.",
                "noise": " (within the noise).",
                "large": f": more than {100 * of.UNACCOUNTED:g}%, so read shares with care.",
            }
            return f"The sum of stages is {signed_percent(share)} from the whole, which is timed apart{ends[found]}"
        case of.SlowedByClocks(share):
            return f"Passes with a clock between the stages take {100 * share:.1f}% longer than those without."
        case of.BoundWrong(stages, peak):
            told = ", ".join(
                f"{_short(name)} took {digits(1000 * measured_s)} ms, not {digits(1000 * least_s)} or more"
                for name, measured_s, least_s in stages
            )
            return (
                f"A LEAST TIME IS WRONG: {told}; a kernel skips work, as Winograd's convolutions do, or the peak was "
                f"measured too low{limits.busy(peak)}."
            )
        case of.LeastTimes():
            return _least_times(remark)
        case of.RandomWeights(parts):
            return f"Random weights: {', '.join(parts)}."
        case of.StageFound(stage, counts, note):
            told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
            return f"{_short(stage)}: {'; '.join(part for part in (told, note.rstrip('.')) if part)}."
        case of.WorkUnseen(beyond_s, share):
            return (
                f"The device went on for {digits(1000 * beyond_s)} ms, {100 * share:.1f}% of the pass, after the "
                "pass's own stream had ended: work on other streams is in no device time, of stages or the whole."
            )
        case of.LaunchBound(stages):
            bound = ", ".join(map(_short, stages))
            return f"The host takes as long as the device or longer in {bound}: launch-bound, or waiting for the host."
        case of.Unsettled(trials, measured):
            return f"Times had not settled when warm-up ended, in {trials} of {measured} trials."
        case of.Disturbed(by):
            return f"Measured under {', '.join(map(phrase, by))}."
        case of.FirstCall(median_s, ratio):
            return f"First call: {digits(1000 * median_s)} ms, {digits(ratio)} times the latency."
        case of.ProcessorTime(median_s, threads):
            over = counted(threads, "thread")
            return f"CPU time of the whole: {digits(1000 * median_s)} ms over {over} (median)."
        case of.EnergyUsed(energy):
            joules, windows = energy.joules_per_pass, counted(len(energy.joules_per_pass), "window")
            idle = f"; idle {digits(energy.idle_power_w)} W" if energy.idle_power_w is not None else ""
            return (
                f"Energy: {digits(median(joules))} J a pass ({digits(min(joules))} to {digits(max(joules))} in "
                f"{windows} of {digits(min(energy.window_s))} s or more){idle}; {energy.method}."
            )
        case of.GpuBetweenBlocks((slowest, fastest), (coolest, hottest)):
            return (
                f"GPU between blocks: {slowest / 1e6:.0f} to {fastest / 1e6:.0f} MHz, "
                f"{coolest:.0f} to {hottest:.0f} °C."
            )
        case of.GroupsDiffer((before, own), name, ratio, low, high):
            return (
                f"Drift between groups {before} and {own}: {name} took {ratio:.2f} [{low:.2f}, {high:.2f}] times as "
                f"long here, in group {own}; compare times of the two groups with that in mind."
            )
        case of.Warned(text):
            return text


def phrase(reason: of.Reason) -> str:
    """Returns a reason of noise in a few words."""
    match reason:
        case of.TimeOver(max_time_s):
            return f"the {max_time_s:g} s were over"
        case of.TrialsDiffer(share):
            return f"trials differ by {digits(100 * share)}%"
        case of.Drift(share):
            return f"{'+' if share > 0 else '-'}{digits(100 * abs(share))}% drift within a trial"
        case of.Contention(cpu_share, switches_per_s):
            return (
                f"contention (threads ran {100 * cpu_share:.0f}% of the time, "
                f"{digits(switches_per_s)} involuntary context switches a second)"
            )
        case of.Steal(share):
            return f"a hypervisor that gave {100 * share:.2g}% of the processors to other machines"
        case of.QuotaHeld(held_s):
            return f"a CPU quota that held the process up for {held_s:.2g} s"
        case of.HotProcessor(times):
            return f"a hot processor (slowed down {times} times)"
        case of.GpuThrottled(reasons):
            return f"GPU throttling ({', '.join(reasons)})"


def _first_token(remark: of.FirstToken) -> str:
    tokens = f" {remark.visual_tokens} visual and {remark.text_tokens} text tokens"
    shares = [
        f"{_PARTS[name]}{tokens if name.endswith('prefill') else ''} {100 * share:.1f}%"
        for name, share in remark.shares.items()
    ]
    return f"Time to first token: {1000 * remark.whole_s:,.1f} ms; {', '.join(shares)}."


def _fell_back(remark: of.FellBack) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, why in remark.stages:
        by_reason.setdefault(why, []).append(_short(name))
    told = "; ".join(f"{', '.join(names)} ({why})" for why, names in by_reason.items())
    if remark.is_all:
        return f"NOTHING was computed by {remark.backend}, all by eager torch: {told}."
    return f"Computed by eager torch: {told}."


def _computed(remark: of.Computed) -> str:
    parts = [f"Computed by {remark.backend} ({remark.version}), in {', '.join(remark.precisions) or 'float32'}"]
    if remark.prepare_time_s is not None:
        parts.append(f"prepared in {digits(remark.prepare_time_s)} s")
    if (found := remark.deviation) is not None and not found.largest:
        parts.append("the output is eager float32's, to the bit")
    elif found is not None:
        parts.append(
            f"the output lies {small(found.relative)} from eager float32's, relative to its largest number "
            f"({small(found.relative_l2)} by norms; {small(found.largest)} at most)"
        )
    return f"{'; '.join(parts)}."


def _least_times(remark: of.LeastTimes) -> str:
    told = "" if remark.least_s is None else f" {digits(1000 * remark.least_s)} ms for the whole"
    told += "" if remark.share is None else f", {percent(remark.share)} of it reached"
    return (
        f"At least{told} (an estimated bound, not a measurement): FLOPs over "
        f"{limits.described(remark.peak, device=remark.device, threads=remark.threads)}, measured after the passes"
        f"{limits.busy(remark.peak)}."
    )


def _evidence(evidence: of.Evidence) -> str:
    return f"{counted(evidence.samples, 'pass', 'passes')}, {counted(evidence.units, evidence.unit)}"


def _short(stage: str) -> str:
    return stage.rpartition(".")[2]
