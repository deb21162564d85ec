"""Counts what is not timed: parameters, FLOPs, memory, least times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from vilt_bench import files
from vilt_bench.ask.case import Case, command_line, label
from vilt_bench.embedding import Mark
from vilt_bench.errors import CheckpointError, EmbedderError, FileError, InputError, ViltBenchError
from vilt_bench.machine.device import prepare_threads, resolve_device
from vilt_bench.model import VisionLanguageModel
from vilt_bench.record.run import LEAST_CPU_SHARE, Bounds, Component, Model, Stage, StageMemory
from vilt_bench.words import counted
from vilt_bench.worker.backends.onednn import pack_linear
from vilt_bench.worker.build import build_inputs, build_model, check_memory, embedder_on_meta, without_weights
from vilt_bench.worker.failures import StageError, cause_of
from vilt_bench.worker.inputs import Inputs
from vilt_bench.worker.meters.flops import FlopCount, count_flops
from vilt_bench.worker.meters.meta import building, needs_values, without_compiler
from vilt_bench.worker.meters.parameters import count_parameters
from vilt_bench.worker.meters.peak import Peak, measure_peak
from vilt_bench.worker.meters.traffic import count_traffic
from vilt_bench.worker.observe import PREPROCESSING, Observer


def count_on_meta(case: Case, inputs: Inputs) -> tuple[FlopCount, VisionLanguageModel, Observer]:
    """Returns the FLOPs by stage, from a copy of the model on the meta device; the copy; and what it showed.

    Raises:
        ViltBenchError: the embedder breaks the contract, or a stage refuses its input.
        StageError: a stage failed otherwise, of the meta device's or a fault of its own.
    """
    try:
        with building():
            model = build_model(without_weights(case))
    except ViltBenchError:
        raise
    except Exception as error:
        raise StageError(None) from error
    observer = Observer(case, model)
    images, text = inputs.batches[0]
    mask = None if images.mask is None else images.mask.to("meta")
    images = images._replace(pixels=images.pixels.to("meta", torch.float32), mask=mask)
    text = text._replace(token_ids=text.token_ids.to("meta"))

    scalar_bytes = getattr(torch, case.dtype).itemsize

    def forward(mark: Mark | None) -> None:
        observer.seen.clear()  # of a pass that wanted more of the compiler

        def observe(name: str, output: Any) -> None:
            observer(name, output)
            count_moved(name, output)
            if mark is not None:
                mark(name, output)

        with count_traffic(model, images.pixels, scalar_bytes=scalar_bytes) as (count_moved, observer.moved):
            model(images, text, observe)

    try:
        return without_compiler(lambda: count_flops(forward)), model, observer
    except ViltBenchError:
        raise
    except Exception as error:
        raise StageError(observer.unreached()) from error


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
    case = replace(case, preprocessing=False)  # the model's shapes are the same without
    try:
        embedder = embedder_on_meta(case)
        check_memory(case, embedder, torch.device("cpu"), weights=False)
        inputs = build_inputs(case, embedder, torch.device("cpu"))
        flops, model, observer = count_on_meta(case, inputs)
    except MemoryError as error:
        raise InputError(f"{label(case)}: {error}; give a smaller --resolution or --batch-size") from None
    except EmbedderError as error:
        if error.__cause__ is None or not needs_values(error.__cause__):
            raise
        raise EmbedderError(_only_run(case, None, error.__cause__)) from error
    except StageError as error:
        cause = error.__cause__ or error
        if needs_values(cause):
            raise EmbedderError(_only_run(case, error.stage, cause)) from cause
        raise EmbedderError(f"{part_of(case, error.stage)} fails: {cause_of(cause)}") from cause
    told = facts(case, model, inputs, observer)
    if weights:
        told = replace(told, visual_weights=f"{weights}, not loaded")
    unknown = unknown_flops(flops)
    return told, tuple(
        replace(stage, note="; ".join(filter(None, [stage.note, f"FLOPs are not known: {unknown[stage.name]}"])))
        if stage.name in unknown
        else stage
        for stage in list_stages(observer, flops.stages, {})
    )


def _only_run(case: Case, stage: str | None, error: BaseException) -> str:
    return (
        f"{part_of(case, stage)} looks at values, which the meta device does not have ({cause_of(error)}); "
        f"{command_line(case, 'run')!r} measures it for real"
    )


def part_of(case: Case, stage: str | None) -> str:
    """Returns a stage with whose it is: the embedder's, or that of what joins the modalities."""
    if stage is None:
        return label(case)
    own = stage.startswith(("visual_embedder", PREPROCESSING))
    return f"{stage} of {label(case) if own else case.interaction}"


def unknown_flops(flops: FlopCount) -> dict[str, str]:
    """Returns why FLOPs are not known, by stage."""
    return {name: f"there is no formula for {', '.join(operators)}" for name, operators in flops.unknown.items()}


def bound(case: Case, stages: Sequence[Stage]) -> Bounds:
    """Returns the least times of a case's stages on this machine, whose peak is measured for it.

    Raises:
        DeviceError: the case's device is not there.
    """
    device = resolve_device(case.device)
    threads = prepare_threads(case.threads)
    packed = {"a matrix product by oneDNN with a prepacked weight": pack_linear} if device.type == "cpu" else {}
    peak = measure_peak(device, getattr(torch, case.dtype), packed=packed)
    on = counted(threads, "thread") if device.type == "cpu" else str(device)
    return Bounds(
        peak=f"{peak.flops_per_s / 1e9:,.0f} GFLOP/s by {peak.kernel} in {case.dtype}, "
        f"{peak.bytes_per_s / 1e9:,.0f} GB/s from memory, up to {max(peak.bandwidths.values()) / 1e9:,.0f} from caches "
        f"by a copy or sum, measured just now on {on}{_busy(peak)}",
        seconds={
            stage.name: peak.bound_s(stage.flops, stage.moved_bytes)
            for stage in stages
            if stage.flops is not None and stage.moved_bytes is not None
        },
    )


def _busy(peak: Peak) -> str:
    if peak.cpu_share is None or peak.cpu_share >= LEAST_CPU_SHARE:
        return ""
    return f"; others kept the cores busy (ours {100 * peak.cpu_share:.0f}% of the time), so the true peak is higher"


def facts(case: Case, model: VisionLanguageModel, inputs: Inputs, observer: Observer) -> Model:
    """Returns what was built, as a pass showed it; the shared weights random, their linear layers torch's."""
    embedder = model.visual_embedder
    return Model(
        kind=embedder.kind,
        hidden_size=model.shared.sizes.hidden_size,
        layers=model.shared.sizes.layers,
        heads=model.shared.sizes.heads,
        resolution=inputs.resolution,
        visual_tokens=observer.visual_tokens,
        text_tokens=case.text_length,
        visual_weights=embedder.weights,
        shared_weights="random",
        linear="torch",
        images=inputs.names,
        text=inputs.text,
        interaction=case.interaction,
        vocabulary=model.shared.sizes.vocabulary,
        fit=inputs.fit,
    )


def list_stages(
    observer: Observer, flops: Mapping[str, int | None], memory: Mapping[str, StageMemory]
) -> tuple[Stage, ...]:
    """Returns the stages in order, with all that is counted of them."""
    sizes = count_parameters(observer.modules.items())
    return tuple(
        Stage(
            name=name,
            component=cast("Component", name.partition(".")[0]),
            output=observer.seen[name].output,
            parameters=sizes[name].parameters,
            buffers=sizes[name].buffers,
            flops=flops.get(name),
            moved_bytes=observer.moved.get(name),
            memory=memory.get(name),
            counts=observer.seen[name].counts,
            note=observer.notes.get(name, ""),
        )
        for name in observer.modules
    )
