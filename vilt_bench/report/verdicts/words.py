"""How all formats say what a comparison found: names, numbers, sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from vilt_bench.ask.case import case_name
from vilt_bench.judge.comparison import Comparison, CountChange, Ratio, Side, StageVerdict, Verdict
from vilt_bench.judge.significance import WIDEST, clock_name
from vilt_bench.judge.summary import TITLES
from vilt_bench.judge.throughput import images_of
from vilt_bench.record.run import WHOLE
from vilt_bench.report.columns import quantity
from vilt_bench.report.lines import environment_line, text_words
from vilt_bench.report.numbers import ABSENT, decimals, number, percent, signed_percent
from vilt_bench.report.verdicts.decision import SEVERITY
from vilt_bench.words import counted


def name(comparison: Comparison) -> str:
    """Returns the embedder with all that was asked otherwise than usual."""
    return case_name(comparison.case)


def outcome(comparison: Comparison) -> str:
    """Returns the verdict with its size: `regressed: 6.1% slower, ratio 1.061 [1.052, 1.070]`."""
    verdict, whole = comparison.verdict, comparison.total
    if verdict != whole.verdict:
        worse = [stage_title(stage.name) for stage in comparison.stages if stage.verdict == verdict]
        return f"{verdict} in {listed(worse)}; whole: {size(whole)}"
    return f"{verdict}: {size(whole)}"


def size(stage: StageVerdict) -> str:
    """Returns the change in words: `6.1% slower, ratio 1.061 [1.052, 1.070]`; the reason where there is no ratio.

    The interval is the ratio's own: of a share that is faster, an end may be slower, and by more than all of it.
    """
    found = stage.ratio
    if found is None:
        return stage.reason
    word = "faster" if found.value < 1 else "slower"
    much = f"{100 * abs(found.value - 1):.1f}% {word}" if found.value < WIDEST else f"{found.value:,.0f} times as slow"
    by = " by CPU time" if _by_own_clock(stage) else ""
    return f"{much}{by}, ratio {ratio(found)}"


def ratio(found: Ratio | None) -> str:
    """Returns the ratio with its 95% interval, such as `1.061 [1.052, 1.070]`; `1.061 [–, –]` where it is unknown."""
    if found is None:
        return ABSENT
    low, high = (ABSENT if end is None or not math.isfinite(end) else f"{end:,.3f}" for end in (found.low, found.high))
    return f"{found.value:,.3f} [{low}, {high}]"


def milliseconds(stage: StageVerdict) -> tuple[str, str]:
    """Returns both sides' times in ms, by the clock that the ratio is of, with equally many decimals."""
    both = stage.baseline_s, stage.candidate_s
    if stage.ratio is not None and stage.ratio.baseline_s is not None and stage.ratio.candidate_s is not None:
        both = stage.ratio.baseline_s, stage.ratio.candidate_s
    known = [1000 * value for value in both if value is not None]
    places = min(map(decimals, known), default=0)
    baseline, candidate = (ABSENT if value is None else f"{1000 * value:,.{places}f}" for value in both)
    return baseline, candidate


def clock_mark(stage: StageVerdict) -> str:
    """Returns `(CPU time)` where times and ratio of a row are of that clock; empty where they are latencies."""
    return f"({clock_name(stage.channel)})" if _by_own_clock(stage) else ""


def _by_own_clock(stage: StageVerdict) -> bool:
    return stage.ratio is not None and stage.channel == "cpu_time"


def stage_title(stage: str) -> str:
    """Returns a stage's name as sentences have it: `backbone`, `textual embedder`, `whole`."""
    return TITLES.get(stage) or stage.partition(".")[2] or stage


def stage_rows(comparison: Comparison) -> Iterator[tuple[str, int, StageVerdict | None]]:
    """Yields each line of a table of stages: its title, its depth, its verdict; `None` is a component's heading."""
    component = ""
    for stage in comparison.stages:
        parent, _, own = stage.name.partition(".")
        if own and parent != component:
            yield stage_title(parent), 0, None
        component = parent
        yield f"{stage_title(stage.name)} {clock_mark(stage)}".rstrip(), 1 if own else 0, stage
    yield f"{WHOLE} {clock_mark(comparison.total)}".rstrip(), 0, comparison.total


def notable(comparison: Comparison) -> list[StageVerdict]:
    """Returns the stages that a reader should see at once: those that decide, those that regressed or are missing."""
    return [
        stage
        for stage in comparison.stages
        if stage.verdict in ("regressed", "missing")
        or (comparison.gate == "stages" and stage.verdict == "inconclusive")
    ]


def reasons(comparison: Comparison) -> Iterator[tuple[Verdict, str]]:
    """Yields why each verdict but unchanged, the stages of one reason together: `a and b: inconclusive: …`."""
    said: dict[tuple[Verdict, str], list[str]] = {}
    for stage in (comparison.total, *comparison.stages):
        if stage.verdict != "unchanged" and stage.reason:
            said.setdefault((stage.verdict, stage.reason), []).append(stage_title(stage.name))
    for (verdict, reason), stages in said.items():
        yield verdict, f"{listed(stages)}: {verdict}: {reason}"


def where(comparison: Comparison) -> str:
    """Returns the stage in which most of the whole's change lies; empty if its latency did not change that way."""
    if comparison.total.verdict not in ("regressed", "improved"):
        return ""
    way = 1 if comparison.total.verdict == "regressed" else -1
    changes = {stage.name: change for stage in comparison.stages if (change := _change_s(stage)) is not None}
    whole = _change_s(comparison.total)
    most = max(changes, key=lambda stage: way * changes[stage], default=None)
    # Where CPU time has decided, latencies may have gone elsewhere.
    if most is None or whole is None or way * whole <= 0 or way * changes[most] <= 0:
        return ""
    places = decimals(1000 * whole)
    part, all_of_it = (f"{1000 * change:+,.{places}f}" for change in (changes[most], whole))
    share = "Most" if abs(changes[most]) > abs(whole) / 2 else "The largest part"
    what = "change of the latency" if _by_own_clock(comparison.total) else "change"
    return f"{share} of the {what} is in {stage_title(most)}: {part} of {all_of_it} ms."


def _change_s(stage: StageVerdict) -> float | None:
    both = stage.baseline_s, stage.candidate_s
    return None if both[0] is None or both[1] is None else both[1] - both[0]


def count(change: CountChange) -> str:
    """Returns a count that changed, such as `parameters 85.06 → 85.65 M (+0.7%)`."""
    found = quantity(change.quantity)
    title, unit = found.said
    before, after = change.baseline, change.candidate
    share = f" ({_signed((after - before) / before)})" if before and after is not None else ""
    texts = found.write(before), found.write(after)
    if texts[0] == texts[1]:  # a small change of a large number
        texts = (ABSENT if before is None else f"{before:,}", ABSENT if after is None else f"{after:,}")
        unit = found.base_unit
    return f"{title} {texts[0]} → {texts[1]} {unit}".rstrip() + share


def case_line(comparison: Comparison) -> str:
    """Returns what was compared, in one line."""
    case = comparison.case
    asked = "usual resolution" if case.resolution is None else f"{case.resolution[0]}×{case.resolution[1]} pixels asked"
    device = case.device if comparison.environment is None else comparison.environment.device
    parts = [size_line(comparison) or asked, f"batch {case.batch_size}", *text_words(case), case.dtype]
    return " · ".join([*parts, device])


def size_line(comparison: Comparison) -> str:
    """Returns what the model saw, such as `384×640 pixels, 240 visual tokens`; both sides where they differ."""
    saw = [
        f"{one.pixels[0]}×{one.pixels[1]} pixels, {one.visual_tokens:,} visual tokens"
        for one in (comparison.baseline, comparison.candidate)
        if one.pixels is not None and one.visual_tokens is not None
    ]
    return " / ".join(dict.fromkeys(saw))


def images_per_second(comparison: Comparison) -> tuple[float | None, float | None]:
    """Returns the throughput of both sides: the images of a pass over the latency of the whole; `None`: unknown."""
    whole, of_case = comparison.total, images_of(comparison.case)
    sides = ((comparison.baseline, whole.baseline_s), (comparison.candidate, whole.candidate_s))
    before, after = (
        images / latency_s if (images := of_case and (side.images_per_pass or of_case)) and latency_s else None
        for side, latency_s in sides
    )
    return before, after


def short_throughput(comparison: Comparison) -> str:
    """Returns both sides' images a second, such as `2.79 → 1.25`; empty where one is not known."""
    before, after = images_per_second(comparison)
    return "" if before is None or after is None else f"{number(before)} → {number(after)}"


def throughput(comparison: Comparison) -> str:
    """Returns both sides' images a second in a sentence; empty where one is not known."""
    short = short_throughput(comparison)
    return short and f"Throughput {short} images/s: the images of a pass over its latency; the verdict is the whole's."


def machine(comparison: Comparison) -> str:
    """Returns where the candidate was measured, in one line."""
    return environment_line(comparison.environment) or "machine not recorded"


def side(one: Side) -> str:
    """Returns a side by its name and versions."""
    return f"{one.name} ({', '.join(one.versions)})" if one.versions else one.name


def method(comparison: Comparison) -> str:
    """Returns how the two were measured."""
    before, after = comparison.baseline.processes, comparison.candidate.processes
    if comparison.method == "lockstep":
        spent = "" if comparison.spent_s is None else f", {duration(comparison.spent_s)}"
        pairs = min(before, after)
        return f"measured together, sample by sample, in {counted(pairs, 'pair')} of processes{spent}"
    return f"stored records of {before} and {counted(after, 'process', 'processes')}"


def clocks(comparison: Comparison) -> str:
    """Returns what times and ratios are of, as the clock that decides need not be that of the latencies."""
    stages: dict[str, list[str]] = {}
    for stage in (comparison.total, *comparison.stages):
        if stage.ratio is not None:
            stages.setdefault(clock_name(stage.channel), []).append(stage_title(stage.name))
    if not stages:
        return ""
    told = list(stages) if len(stages) == 1 else [f"{clock} ({', '.join(names)})" for clock, names in stages.items()]
    return f"Times are medians; times and ratios are of {listed(told)}."


def rule(comparison: Comparison) -> str:
    """Returns what regressed means here, with tolerance and probability of a false alarm."""
    decides = "The whole decides" if comparison.gate == "total" else "The whole and every stage decide"
    return (
        f"Regressed: slower by more than the tolerance of {setting(comparison.tolerance)}, and beyond chance "
        f"(false alarms: at most {setting(comparison.error)}). {decides}."
    )


def detectable(comparison: Comparison) -> str:
    """Returns what could be found with this noise."""
    if comparison.detectable is None:
        return "The smallest slowdown that would be found here is not known."
    by = " of CPU time" if comparison.detectable_channel == "cpu_time" else ""
    return f"A slowdown of {percent(comparison.detectable)}{by} would be found in 95 of 100 such comparisons."


def short_size(comparison: Comparison) -> str:
    """Returns what the candidate saw, such as `384×640, 240`, or the baseline where the candidate does not tell."""
    for one in (comparison.candidate, comparison.baseline):
        if one.pixels is not None and one.visual_tokens is not None:
            return f"{one.pixels[0]}×{one.pixels[1]}, {one.visual_tokens:,}"
    return ABSENT


def different(comparison: Comparison) -> str:
    """Returns what differs between the sides and was allowed to, or what they saw; empty if nothing does."""
    before, after = comparison.baseline, comparison.candidate
    said = []
    if comparison.different:
        said.append(f"The sides differ in more than the code: {', '.join(comparison.different)}.")
    if before.pixels != after.pixels and None not in (before.pixels, after.pixels):
        said.append(f"The sides did not see the same: {size_line(comparison)}; --fit exact gives both the same pixels.")
    elif before.visual_tokens != after.visual_tokens and None not in (before.visual_tokens, after.visual_tokens):
        said.append(f"The sides make different numbers of visual tokens: {size_line(comparison)}.")
    return " ".join(said)


def tally(comparisons: Sequence[Comparison]) -> str:
    """Returns how many have which verdict, worst first: `1 of 3 regressed, 2 unchanged`."""
    counts: Mapping[Verdict, int] = {
        verdict: sum(each.verdict == verdict for each in comparisons) for verdict in SEVERITY
    }
    said = [f"{number} {verdict}" for verdict, number in counts.items() if number]
    if not said:
        return "nothing compared"
    first, *rest = said
    return ", ".join([first.replace(" ", f" of {len(comparisons)} ", 1) if len(comparisons) > 1 else first, *rest])


def duration(seconds: float) -> str:
    """Returns a time in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def listed(names: Sequence[str], *, most: int | None = None) -> str:
    """Returns names as a sentence has them: `a, b and c`; from `most` on as `a, b and 5 more`."""
    if most is not None and len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def setting(share: float) -> str:
    """Returns a share that somebody chose, as a percentage with the digits that it has."""
    return f"{100 * share:.4g}%"


def _signed(share: float) -> str:
    return f"{100 * share:+.2g}%" if 0 < abs(share) < 0.001 else signed_percent(share)
