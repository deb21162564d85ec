"""Counts what is not timed: parameters, FLOPs, bytes moved, memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch

from vilt_bench import files
from vilt_bench.ask.case import WHOLE, Case, command_line, label, parse_backend, without_preprocessing
from vilt_bench.embedding import ImageBatch, Mark, TextBatch, tensors
from vilt_bench.errors import CheckpointError, EmbedderError, FileError, InputError, ViltBenchError
from vilt_bench.model import VisionLanguageModel, gather_stages, stages
from vilt_bench.record.run import Component, Model, Stage, StageMemory
from vilt_bench.worker.build import (
    build_inputs,
    build_model,
    check_memory,
    describe_model,
    embedder_on_meta,
    without_weights,
)
from vilt_bench.worker.failures import StageError, error_line, stage_and_owner
from vilt_bench.worker.inputs import Inputs
from vilt_bench.worker.meters.flops import FlopCount, count_flops
from vilt_bench.worker.meters.memory import MemoryReading, measure_memory
from vilt_bench.worker.meters.meta import building, needs_values, without_compiler
from vilt_bench.worker.meters.offered import count_offered
from vilt_bench.worker.meters.traffic import count_traffic
from vilt_bench.worker.observe import Observer


class Counts(NamedTuple):
    """What is not timed."""

    stages: tuple[Stage, ...]
    memory_method: str | None
    """How memory was obtained; `None`: it was not."""
    warnings: tuple[str, ...]
    """What a reader must know, a sentence each."""


@dataclass(frozen=True)
class OnMeta:
    """What a pass on the meta device showed; as it is, nothing."""

    flops: FlopCount = field(default_factory=lambda: FlopCount({}, {}))
    moved_bytes: Mapping[str, int] = field(default_factory=dict)
    """By stage, at least."""


def count(
    case: Case,
    model: VisionLanguageModel,
    inputs: Inputs,
    observer: Observer,
    *,
    packed_bytes: int = 0,
    allocates_elsewhere: bool = False,
) -> Counts:
    """Returns the stages with all that is counted; what can't be counted is left out, with a warning.

    Args:
        case: what was asked for.
        model: built of it; memory is measured in a pass of it.
        inputs: of that pass.
        observer: has seen a pass of the model.
        packed_bytes: of copies of weights that no tensor shows.
        allocates_elsewhere: whether a stage allocates what torch does not see, so that memory is not known.
    """
    warnings = list(inputs.notes)
    try:
        _, _, on_meta = count_on_meta(case, inputs)
    except (StageError, ViltBenchError) as error:
        on_meta = OnMeta()
        stage = error.stage if isinstance(error, StageError) else None
        warnings.append(
            f"FLOPs were not counted: {stage_and_owner(case, stage)} can't run on the meta device "
            f"({error_line(error.__cause__ or error)})"
        )
    warnings.extend(f"FLOPs of {name} are not known: {why}" for name, why in _unknown_flops(on_meta.flops).items())
    if allocates_elsewhere:
        memory = MemoryReading({}, None)
        warnings.append(f"Memory was not measured: what backend {case.backend} allocates is not seen from here.")
    else:
        memory = _measure_memory(model, inputs, packed_bytes=packed_bytes)
    images, text = inputs.batches[0]
    offered = count_offered(lambda mark: model(images, text, mark), dict(stages(model)))
    return Counts(
        list_stages(observer, on_meta, memory.stages, offered.counts), memory.method, (*warnings, *offered.warnings)
    )


def _measure_memory(model: VisionLanguageModel, inputs: Inputs, *, packed_bytes: int) -> MemoryReading:
    images, text = inputs.batches[0]
    # Of the inputs the pass's own: the others wait for their turn only because this is a benchmark.
    resident = [*model.parameters(), *model.buffers(), *tensors(inputs.batches[0])]
    # Preprocessing is not among it: what it allocates is Pillow's, and seen by nobody.
    return measure_memory(
        lambda mark: model(images, text, mark), resident, images.pixels.device, packed_bytes=packed_bytes
    )


def count_on_meta(case: Case, inputs: Inputs) -> tuple[VisionLanguageModel, Observer, OnMeta]:
    """Returns a copy of the model on the meta device, what has seen a pass of it, and what that pass counted.

    Raises:
        ViltBenchError: the embedder breaks the contract, or a stage refuses its input.
        StageError: a stage failed otherwise, of the meta device's or a fault of its own.
    """
    try:
        with building():
            model = build_model(without_weights(case))
            if WHOLE in parse_backend(case.backend)[1]:
                gather_stages(model)
    except ViltBenchError:
        raise
    except Exception as error:
        raise StageError(None) from error
    images, text = batch_on_meta(inputs)
    scalar_bytes = getattr(torch, case.dtype).itemsize
    observer, moved_bytes = Observer(case, model), dict[str, int]()

    def forward(mark: Mark | None) -> None:
        nonlocal observer, moved_bytes
        observer = Observer(case, model)  # a pass that wanted more of the compiler is done again
        with count_traffic(model, images.pixels, scalar_bytes=scalar_bytes) as (count_moved, moved_bytes):
            model(images, text, _each(observer, count_moved, mark))

    try:
        flops = without_compiler(lambda: count_flops(forward))
    except ViltBenchError:
        raise
    except Exception as error:
        raise StageError(observer.unreached()) from error
    return model, observer, OnMeta(flops, moved_bytes)


def batch_on_meta(inputs: Inputs) -> tuple[ImageBatch, TextBatch]:
    """Returns the first batch on the meta device, in float32."""
    images, text = inputs.batches[0]
    mask = None if images.mask is None else images.mask.to("meta")
    images = images._replace(pixels=images.pixels.to("meta", torch.float32), mask=mask)
    return images, text._replace(token_ids=text.token_ids.to("meta"))


def _each(*marks: Mark | None) -> Mark:
    """Returns a mark that calls all of them in turn."""

    def mark(name: str, output: Any) -> None:
        for each in marks:
            if each is not None:
                each(name, output)

    return mark


def inspect(case: Case) -> tuple[Model, tuple[Stage, ...]]:
    """Returns what a case would be: its model, and its stages with shapes, parameters and FLOPs; nothing is run.

    Raises:
        EmbedderError: the embedder is unknown, broken, can't run on the meta device, or refuses options or input.
        InputError: the resolution does not fit.
        CheckpointError: there is no such file of weights.
    """
    weights = case.options.get("weights")
    if isinstance(weights, str) and weights and not files.is_folder(weights):
        try:
            files.check_regular(weights)
        except FileError as error:
            problem = "there is no such file" if error.missing else error.reason
            raise CheckpointError(f"weights={weights}: {problem}; give the path of a checkpoint") from None
    case = without_preprocessing(case)
    try:
        embedder = embedder_on_meta(case)
        check_memory(case, embedder, torch.device("cpu"), weights=False)
        inputs = build_inputs(case, embedder, torch.device("cpu"))
        model, observer, on_meta = count_on_meta(case, inputs)
    except MemoryError as error:
        raise InputError(f"{label(case)}: {error}") from None
    except EmbedderError as error:
        if error.__cause__ is None or not needs_values(error.__cause__):
            raise
        raise EmbedderError(_only_run(case, None, error.__cause__)) from error
    except StageError as error:
        cause = error.__cause__ or error
        if needs_values(cause):
            raise EmbedderError(_only_run(case, error.stage, cause)) from cause
        raise EmbedderError(f"{stage_and_owner(case, error.stage)} fails: {error_line(cause)}") from cause
    described = describe_model(case, model, inputs, visual_tokens=observer.visual_tokens)
    if weights:
        described = replace(described, visual_weights=f"{weights}, not loaded")
    unknown = _unknown_flops(on_meta.flops)
    return described, tuple(
        replace(stage, note="; ".join(filter(None, [stage.note, f"FLOPs are not known: {unknown[stage.name]}"])))
        if stage.name in unknown
        else stage
        for stage in list_stages(observer, on_meta, {})
    )


def _only_run(case: Case, stage: str | None, error: BaseException) -> str:
    return (
        f"{stage_and_owner(case, stage)} looks at values, which the meta device does not have ({error_line(error)}); "
        f"{command_line(case, 'run')!r} measures it for real"
    )


def _unknown_flops(flops: FlopCount) -> dict[str, str]:
    """Returns why FLOPs are not known, by stage."""
    return {name: f"there is no formula for {', '.join(operators)}" for name, operators in flops.unknown.items()}


def list_stages(
    observer: Observer,
    on_meta: OnMeta,
    memory: Mapping[str, StageMemory],
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> tuple[Stage, ...]:
    """Returns the stages in order, with all that is counted of them: a meter's result has its line here.

    Args:
        observer: has seen a pass.
        on_meta: what a pass on the meta device counted.
        memory: by stage.
        counts: of other packages' meters, by stage; on top of what stages say that they found.
    """
    return tuple(
        Stage(
            name=name,
            component=cast("Component", name.partition(".")[0]),
            output=observer.seen[name].output,
            parameters=observer.sizes[name].parameters,
            buffers=observer.sizes[name].buffers,
            flops=on_meta.flops.stages.get(name),
            moved_bytes=on_meta.moved_bytes.get(name),
            memory=memory.get(name),
            counts={**observer.seen[name].counts, **(counts or {}).get(name, {})},
            note=observer.notes.get(name, ""),
        )
        for name in observer.modules
    )
