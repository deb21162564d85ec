"""How cases, models and machines are written, in a line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby

from vilt_bench.ask.case import ALONE, LANGUAGE_MODEL, Case, case_name, in_common
from vilt_bench.judge.pipeline import WAITS, enough_workers
from vilt_bench.judge.remarks import UNACCOUNTED, OutputDeviates
from vilt_bench.judge.summary import Summary
from vilt_bench.judge.throughput import images_per_second
from vilt_bench.record.run import NONE, Environment, Model
from vilt_bench.report.numbers import ABSENT, digits, interval, milliseconds_interval, milliseconds_of, percent
from vilt_bench.words import counted, first_few

OTHER_OUTPUT = "NOT THE SAME OUTPUT"
"""Of a run whose times are of another answer than eager float32's."""


def name(run: Summary, *, without: Collection[str] = ()) -> str:
    """Returns the run's name, if its user gave it one, the case's, and which side of a gate it was.

    Args:
        run: any.
        without: `name`, and fields of the case, that are told elsewhere.
    """
    named = case_name(run.case, without=without)
    if run.name is not None and _NAME not in without:
        named = f"{run.name}: {named}"
    return named if run.side is None else f"{named} ({run.side} of a gate)"


def names(runs: Sequence[Summary]) -> list[str]:
    """Returns the runs' names side by side: what all cases have alike is left out, see `alike`."""
    shared = _alike(runs)
    return [name(run, without=shared) for run in runs]


def alike(runs: Sequence[Summary]) -> str:
    """Returns what all cases that stand side by side have alike and unusual: `All: 800×1333, fit exact`; or nothing."""
    shared = _alike(runs)
    return f"All: {', '.join(shared.values())}" if shared else ""


def _alike(runs: Sequence[Summary]) -> dict[str, str]:
    if len(runs) < 2:
        return {}
    called = runs[0].name if len({run.name for run in runs}) == 1 else None
    return {**({} if called is None else {_NAME: called}), **in_common([run.case for run in runs])}


def pixels(model: Model | None) -> str:
    """Returns height and width of what the model saw, such as `384×640`, or `5 tiles of 336×336`."""
    if model is not None and model.tiles is not None:
        return model.tiles.partition(" (")[0]
    return ABSENT if model is None else "×".join(map(str, model.resolution))


def tokens(model: Model | None) -> str:
    """Returns the number of visual tokens."""
    return ABSENT if model is None else f"{model.visual_tokens:,}"


def text_words(case: Case) -> list[str]:
    """Returns how long the text is, nothing where there is none; and what `images_words` says."""
    return [*([] if case.interaction == ALONE else [f"{case.text_length} text tokens"]), *images_words(case)]


def images_words(case: Case) -> list[str]:
    """Returns how many images a text has, nothing where it is one; of clips how many frames they have, as well."""
    if case.frames is None:
        return [] if case.images_per_text == 1 else [f"{case.images_per_text} images a text"]
    rate = "" if case.frame_rate is None else f", {case.frame_rate:g} a second"
    frames = f"{counted(case.frames, 'frame')} a clip{rate}"
    return [frames] if case.images_per_text == 1 else [f"{case.images_per_text} clips a text", frames]


def size_line(model: Model | None) -> str:
    """Returns what the model saw, in few words: `384×640 pixels, 240 visual tokens`; empty where it is not known."""
    return "" if model is None else f"{pixels(model)} pixels, {tokens(model)} visual tokens"


def comparison_remarks(runs: Sequence[Summary], named: Sequence[str] | None = None, *, ranks: bool = True) -> list[str]:
    """Returns what must be known before runs are compared: where they saw different things, or rank two ways.

    Args:
        runs: that stand side by side.
        named: how the reader knows them; `None`: by `names`.
        ranks: whether bars of latencies are shown.
    """
    found = list(zip(named or names(runs), runs, strict=True))
    others = [name for name, run in found if has_other_output(run)]
    told = [f"{OTHER_OUTPUT} as eager float32's: {first_few(others)}. Times are of another answer."] if others else []
    return [*told, *_different_inputs(found), *(_different_ranks(found) if ranks else ()), *_enough_workers(runs)]


def _different_inputs(runs: Sequence[tuple[str, Summary]]) -> Iterator[str]:
    """Yields where inputs differ, and what makes them equal."""
    built = [(named, run.model) for named, run in runs if run.model is not None]
    fitted = _by_value((_fitted(model), named) for named, model in built)
    if len({model.resolution for _, model in built}) > 1:
        yield (
            f"Not one input: {fitted}. --resolution HxW --fit exact gives all embedders that take any size the same "
            "pixels, --fit crop those whose strides divide HxW."
        )
    elif len({model.fit for _, model in built if model.fit}) > 1:
        yield f"Photographs were fitted differently: {fitted}. Give all the same --fit."
    if len({model.images for _, model in built}) > 1:
        images = _by_value((", ".join(model.images), named) for named, model in built)
        yield f"Not the same images: {images}. Give all the same --image."
    if len({model.visual_tokens for _, model in built if not model.is_alone}) > 1:
        counts = sorted(model.visual_tokens for _, model in built if not model.is_alone)
        yield (
            f"The modality interaction gets {counts[0]:,} to {counts[-1]:,} visual tokens: its times are of different "
            "work; equal pixels and patches, or --reduce, make them equal."
        )


def _different_ranks(runs: Sequence[tuple[str, Summary]]) -> Iterator[str]:
    """Yields that the whole ranks otherwise than the sum of the stages, which bars show."""
    found = [
        (run.total.value, run.whole.latency.value, named)
        for named, run in runs
        if run.total is not None and run.whole.latency is not None
    ]
    # Of those whose sum is less, the longest whole tells.
    longest_s, otherwise = 0.0, False
    for _, equal in groupby(sorted(found), key=lambda each: each[0]):
        wholes_s = [whole_s for _, whole_s, _ in equal]
        otherwise = otherwise or longest_s > (1 + UNACCOUNTED) * min(wholes_s)
        longest_s = max(longest_s, *wholes_s)
    if otherwise:
        order = [f"{named} {milliseconds_of(whole)} ms" for _, whole, named in sorted(found, key=lambda each: each[1])]
        if len(order) > _MOST_RANKED:
            order[_MOST_RANKED:] = [f"and {len(order) - _MOST_RANKED:,} more"]
        yield f"Bars are sums of stages; the wholes, timed apart, rank otherwise: {', '.join(order)}."


_MOST_RANKED = 50
"""Runs that a sentence names."""


def _by_value(pairs: Iterable[tuple[str, str]], most: int = 4) -> str:
    """Returns what has which value: `384×640 pixels (a, b), 224×320 pixels (c and 5 more)`."""
    found: dict[str, dict[str, None]] = {}
    for value, named in pairs:
        found.setdefault(value, {})[named] = None
    told = []
    for value, own in found.items():
        more = f" and {len(own) - most} more" if len(own) > most else ""
        told.append(f"{value} ({', '.join(list(own)[:most])}{more})")
    return ", ".join(told)


def _fitted(model: Model) -> str:
    if model.tiles is not None:
        return model.tiles
    return f"{pixels(model)} pixels" + (f" by --fit {model.fit}" if model.fit else "")


def headline(run: Summary) -> str:
    """Returns what is asked first of a run, in few words: how long, what share of it is seeing, and how sure."""
    if run.failure is not None:
        said = [f"failed: {run.failure.kind}"]
    elif run.whole.latency is None:
        said = [run.verdict]
    else:
        share = None if run.model is None or run.model.is_alone else run.components["visual_embedder"].share
        said = [
            f"whole {milliseconds_interval(run.whole.latency)} ms",
            *([] if share is None else [f"visual embedder {percent(share)}"]),
            run.verdict,
        ]
    return " · ".join([*said, *([OTHER_OUTPUT] if has_other_output(run) else [])])


def has_other_output(run: Summary) -> bool:
    """Returns whether a run's output lies further from eager float32's than its precision explains."""
    return any(isinstance(remark, OutputDeviates) for remark in run.remarks)


def verdict_words(run: Summary) -> str:
    """Returns how sure a run's time is, and that it is of another answer, where it is."""
    return " · ".join([run.verdict, *([OTHER_OUTPUT] if has_other_output(run) else [])])


def model_line(run: Summary) -> str:
    """Returns what was run, in one line."""
    model, case = run.model, run.case
    if model is None:
        return ", ".join([f"batch {case.batch_size}", *images_words(case), case.dtype])
    weighed = f"{model.visual_weights} weights"
    if not model.is_alone and model.visual_weights != model.shared_weights:
        weighed = f"weights {model.visual_weights} (visual embedder), {model.shared_weights} (shared)"
    joined = "" if model.interaction == "vilt" else f" · interaction: {model.interaction}{_language_sizes(model)}"
    tokens = f"{model.visual_tokens} visual" + ("" if model.is_alone else f" + {model.text_tokens} text")
    seen = "images" if case.frames is None else "clips"
    batch = " · ".join([f"batch {case.batch_size}", *images_words(case)])
    return (
        f"{model.kind}{joined} · {_fitted(model)} · "
        f"{tokens} tokens · "
        f"{batch} · {case.dtype} · {weighed} · {seen}: {', '.join(model.images) or ABSENT}"
        + ("" if model.preprocessing is None else f", prepared by {model.preprocessing}")
        + ("" if model.is_alone else f" · text: {model.text}")
    )


def throughput_line(run: Summary) -> str:
    """Returns images or frames a second, time each and percentiles of the whole, in one line; empty without times.

    Of a single image the time is the latency itself, and not told again; texts a second only where there are fewer.
    """
    whole, found = run.whole, run.whole.passes
    rate = whole.images_per_second or whole.frames_per_second
    if rate is None:
        return ""
    said = f"{interval(rate)} {'images' if run.case.frames is None else 'frames'}/s"
    if run.case.images_per_text > 1:
        said += f" · {interval(images_per_second(whole.latency, run.case.batch_size))} texts/s"
    if run.case.frames is not None:
        said += f" · {milliseconds_interval(whole.time_per_frame)} ms a frame"
    elif run.case.images_per_pass > 1:
        said += f" · {milliseconds_interval(whole.time_per_image)} ms an image"
    if found is None:
        return said
    percentiles = {"p50": found.p50, "p90": found.p90, "p95": found.p95, "p99": found.p99}
    known = ", ".join(f"{name} {milliseconds_of(value)}" for name, value in percentiles.items() if value is not None)
    return f"{said} · {counted(found.count, 'pass', 'passes')}: {known} ms" if known else said


def pipeline_line(run: Summary) -> str:
    """Returns how fast preprocessing and model are at the same time and alone, and which of them holds the other up."""
    found = run.pipeline
    if found is None or found.pipelined is None:
        return ""
    how = f"{counted(found.workers, 'worker')}{', pinned memory' if found.pinned else ''}"
    kind = "frames" if found.of_frames else "images"
    said = [
        f"Pipelined with {how}: {interval(found.pipelined)} {kind}/s"
        if found.workers
        else f"Prepared and computed in turn: {interval(found.pipelined)} {kind}/s",
        f"preprocessing alone {interval(found.preprocessing)}",
        f"model alone {interval(found.model)}",
    ]
    if found.bottleneck is not None and found.factor is not None:
        said.append(f"bottleneck: {found.bottleneck}, by {digits(found.factor)} times")
    if found.waits is not None:
        waits = percent(max(0.0, found.waits.value))
        said.append(f"the model loses {waits} of its pace" + (" (one processor for both)" if found.on_host else ""))
    return " · ".join(said)


def _enough_workers(runs: Sequence[Summary]) -> Iterator[str]:
    """Yields from how many workers on the model does not wait, where runs differ in nothing else."""
    for found in enough_workers(runs):
        tried = [run.case.preprocessing_workers or 0 for run in found.runs]
        who = name(found.runs[0], without=("preprocessing_workers", "pin_memory"))
        told = f"{percent(WAITS)} of its pace ({tried[0]} to {tried[-1]} were tried)."
        workers = "" if found.workers is None else counted(found.workers, "preprocessing worker")
        if not found.is_sure:
            also = f" before {workers}, from which on it does not" if workers else ""
            yield f"{who}: it is open whether the model waits{also}; more time narrows the intervals."
        elif found.workers is None:
            yield f"{who}: with any number of preprocessing workers the model waits, for more than {told}"
        else:
            yield f"{who}: from {workers} on the model does not wait, for at most {told}"


def _language_sizes(model: Model) -> str:
    """Returns the sizes of a language model, whose name says less than those of the paper's interactions."""
    if not model.interaction.startswith(LANGUAGE_MODEL):
        return ""
    vocabulary = "" if model.vocabulary is None else f", vocabulary {model.vocabulary:,}"
    return f" ({model.layers} layers of width {model.hidden_size}{vocabulary})"


def machine_line(run: Summary) -> str:
    """Returns where it was run, in one line; empty where it is not known."""
    return environment_line(run.environment, computed="" if run.model is None else computed_by(run.model))


def commands(runs: Sequence[Summary]) -> list[str]:
    """Returns, in a sentence, the command that asked for all of several runs; nothing where there is no such one."""
    told = {_command(run) for run in runs}
    return [f"Asked for by: {command}."] if len(runs) > 1 and len(told) == 1 and (command := told.pop()) else []


def origin_line(run: Summary, *, without_command: bool = False) -> str:
    """Returns how a run came about, so that it can be repeated, and what the doctor says of it; empty where unknown.

    Args:
        run: any.
        without_command: as it is told for all runs at once.
    """
    told = [] if without_command else [_command(run)]
    if run.origin is not None:
        if run.origin.repeats:
            told.append(f"repeats {', '.join(each[:_ID] for each in run.origin.repeats)}")
        if run.source is not None:
            told.append(f"commit {run.source.commit[:_ID]}{' (changed)' if run.source.dirty else ''}")
    if run.doctor is not None:
        told.append(f"doctor: {'; '.join(run.doctor) or NO_OBJECTION}")
    said = " · ".join(filter(None, told))
    return f"run {run.run_id[:_ID]} · {said}" if said else ""


def _command(run: Summary) -> str:
    if run.origin is None:
        return ""
    plan = run.origin.plan
    by = "a call from Python" if run.origin.command is None else run.origin.command
    return by if plan is None else f"{by} (plan {plan.path}, SHA-256 {plan.sha256[:12]})"


_NAME = "name"
"""Among the fields of cases, which have no such one: the run's name."""
_ID = 12
"""Digits of ids that are told."""
NO_OBJECTION = "no objection"


def computed_by(model: Model) -> str:
    """Returns who computed the stages: `computed by torch`."""
    return "computed by torch" if model.linear == NONE else f"computed by {model.linear}"


def environment_line(where: Environment | None, *, computed: str = "") -> str:
    """Returns the machine and its software in one line, with who computed the stages; empty where unknown."""
    if where is None:
        return ""
    threads = counted(where.threads, "thread")
    versions = ", ".join(f"{part} {where.versions[part]}" for part in ("torch", "python") if part in where.versions)
    device = where.device if where.device_name in where.machine else f"{where.device} {where.device_name}"
    return " · ".join(part for part in (where.machine, device, threads, computed, versions) if part)
