"""Profiles a case: torch's profiler says what a stage's blocks and operators share, passes without it how long it is.

The profiler slows everything down, small operators most; only shares are taken from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, record_function

from vilt_bench.errors import DeviceError, ViltBenchError
from vilt_bench.model import stages
from vilt_bench.record.profile import Operator, Profile, ProfiledBlock, ProfiledStage
from vilt_bench.worker.count import batch_on_meta, count_on_meta
from vilt_bench.worker.failures import StageError
from vilt_bench.worker.meters.flops import count_flops_within
from vilt_bench.worker.meters.latency import Forward, Interval, Timer, quiet
from vilt_bench.worker.meters.meta import without_compiler
from vilt_bench.worker.prepare import Running
from vilt_bench.worker.runner import Runner

LEAST_PASSES = 3
"""Of each kind, whatever the time."""
_SEPARATOR = " / "
"""Between stage and module in a trace's names."""


@dataclass
class Span:
    """Of a block, or of an operator within a stage, over all profiled passes."""

    calls: int = 0
    inclusive_s: float = 0.0
    exclusive_s: float = 0.0


@dataclass
class Shares:
    """What profiled passes showed."""

    blocks: dict[str, Span] = field(default_factory=dict)
    """By label."""
    operators: dict[str, dict[str, Span]] = field(default_factory=dict)
    """By stage, then by name."""


def profile(runner: Runner, *, seconds: float, depth: int, trace: str | None = None) -> Profile:
    """Returns where within the stages of a case that is built the time goes.

    Args:
        runner: has made its first call.
        seconds: about how long; at least `LEAST_PASSES` of each kind.
        depth: how many levels of modules within a stage.
        trace: a file for the last pass in Chrome's format; `None`: none.

    Raises:
        DeviceError: the device has no clock between stages.
    """
    known = dict(stages(runner.model))
    modules = {
        label: module for stage, module in known.items() for label, module in modules_within(stage, module, depth)
    }
    flops = _flops(runner, depth)
    sizes = {label: sum(each.numel() for each in module.parameters()) for label, module in modules.items()}
    return profile_passes(
        runner._forward, modules, runner.timer, seconds=seconds, flops=flops, parameters=sizes, trace=trace
    )


def modules_within(stage: str, module: nn.Module, depth: int) -> Iterator[tuple[str, nn.Module]]:
    """Yields the stage and the modules within it, each with its label; lists and dictionaries of modules are none."""
    yield stage, module
    own = module.module if isinstance(module, Running) else module
    yield from _children(f"{stage}{_SEPARATOR}", own, depth)


def _children(prefix: str, module: nn.Module, depth: int) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children() if depth else ():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _children(f"{prefix}{name}.", child, depth)
        else:
            yield f"{prefix}{name}", child
            yield from _children(f"{prefix}{name}.", child, depth - 1)


def profile_passes(
    forward: Callable[[int], Forward],
    modules: Mapping[str, nn.Module],
    timer: Timer,
    *,
    seconds: float,
    flops: Mapping[str, int | None],
    parameters: Mapping[str, int],
    trace: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Profile:
    """Returns what passes with the profiler, between others without it, show of the modules.

    Args:
        forward: the pass of that index.
        modules: by label, see `modules_within`.
        timer: of passes by stage.
        seconds: about how long.
        flops: by label.
        parameters: by label.
        trace: a file for the last pass; `None`: none.
        clock: seconds.

    Raises:
        DeviceError: the device has no clock between stages.
    """
    on_device = any(parameter.device.type != "cpu" for module in modules.values() for parameter in module.parameters())
    plain: list[dict[str, Interval]] = []
    profiled: list[dict[str, Interval]] = []
    shares = Shares()
    last: Any = None
    with quiet():
        forward(0)(None)
        with _named(modules), _profiler(on_device):
            timer.by_stage(forward(0))  # to start the profiler for the first time takes seconds
        begin = clock()
        while len(plain) < LEAST_PASSES or clock() - begin < seconds:
            index = len(plain)
            plain.append(_staged(timer, forward(index)))
            with _named(modules), _profiler(on_device) as last:
                profiled.append(_staged(timer, forward(index)))
            _add(shares, last.events(), modules, on_device=on_device)
    if trace is not None:
        last.export_chrome_trace(trace)
    return Profile(
        tuple(
            _scaled(stage, [each[stage] for each in plain], [each[stage] for each in profiled], shares, modules,
                    flops, parameters)
            for stage in plain[0] if stage in modules
        ),
        len(plain),
        "device_time" if on_device else "wall_time",
    )  # fmt: skip


def _staged(timer: Timer, forward: Forward) -> dict[str, Interval]:
    staged = timer.by_stage(forward)
    if staged is None:
        raise DeviceError("the device has no clock between stages, by which a profile is scaled; use another")
    return staged.stages


def _profiler(on_device: bool) -> Any:
    activities = [ProfilerActivity.CPU]
    if on_device:
        own = ProfilerActivity.XPU if torch.accelerator.current_accelerator() == torch.device("xpu") else None
        activities.append(own or ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=activities, acc_events=True)


@contextmanager
def _named(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Returns a context in which calls of the modules have their labels in a profile."""
    opened: list[Any] = []

    def before(label: str) -> Callable[..., None]:
        def begin(_module: nn.Module, _inputs: Any) -> None:
            span: Any = record_function(label)
            span.__enter__()
            opened.append(span)

        return begin

    def after(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        opened.pop().__exit__(None, None, None)

    hooks = []
    for label, module in modules.items():
        hooks += [module.register_forward_pre_hook(before(label)), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _add(shares: Shares, events: Any, modules: Mapping[str, nn.Module], *, on_device: bool) -> None:
    """Adds one pass's events: times of blocks, less those within them, and of operators by stage."""
    for event in events:
        if event.device_type.name != "CPU":
            continue  # a kernel's times are with the operator that has launched it
        within = event.cpu_parent
        while within is not None and within.name not in modules:
            within = within.cpu_parent
        if event.name in modules:
            took_s = _inclusive_s(event, on_device=on_device)
            span = shares.blocks.setdefault(event.name, Span())
            span.calls += 1
            span.inclusive_s += took_s
            span.exclusive_s += took_s
            if within is not None:
                shares.blocks.setdefault(within.name, Span()).exclusive_s -= took_s
        elif within is not None:
            stage = within.name.partition(_SEPARATOR)[0]
            of_stage = shares.operators.setdefault(stage, {})
            span = of_stage.setdefault(event.name, Span())
            span.calls += 1
            span.exclusive_s += (event.self_device_time_total if on_device else event.self_cpu_time_total) * 1e-6


def _inclusive_s(event: Any, *, on_device: bool) -> float:
    return float(event.device_time_total if on_device else event.time_range.elapsed_us()) * 1e-6


def _scaled(
    stage: str,
    plain: list[Interval],
    profiled: list[Interval],
    shares: Shares,
    modules: Mapping[str, nn.Module],
    flops: Mapping[str, int | None],
    parameters: Mapping[str, int],
) -> ProfiledStage:
    time_s, profiled_s = median(map(_seconds, plain)), median(map(_seconds, profiled))
    passes = len(plain)
    whole = shares.blocks.get(stage, Span()).inclusive_s
    scale = time_s / whole if whole else 0.0
    blocks = []
    for label in (label for label in modules if label == stage or label.startswith(f"{stage}{_SEPARATOR}")):
        span = shares.blocks.get(label, Span())
        blocks.append(
            ProfiledBlock(
                label.partition(_SEPARATOR)[2],
                _depth(label, modules),
                span.calls / passes,
                span.inclusive_s * scale,
                span.exclusive_s * scale,
                parameters[label],
                flops.get(label),
            )
        )
    operators = (
        Operator(name, span.calls / passes, span.exclusive_s * scale)
        for name, span in shares.operators.get(stage, {}).items()
    )
    return ProfiledStage(
        stage, time_s, profiled_s, tuple(blocks), tuple(sorted(operators, key=lambda each: -each.self_s))
    )


def _depth(label: str, modules: Mapping[str, nn.Module]) -> int:
    """Returns how many of the modules are around one."""
    stage, parted, name = label.partition(_SEPARATOR)
    parts = name.split(".")
    around = (f"{stage}{_SEPARATOR}{'.'.join(parts[:count])}" for count in range(1, len(parts)))
    return 1 + sum(each in modules for each in around) if parted else 0


def _seconds(interval: Interval) -> float:
    took_s = interval.wall_time_s if interval.device_time_s is None else interval.device_time_s
    assert took_s is not None
    return took_s


def _flops(runner: Runner, depth: int) -> dict[str, int | None]:
    """Returns FLOPs by label; empty where the model can't run on the meta device."""
    try:
        model, _, _ = count_on_meta(runner.case, runner.inputs)
        images, text = batch_on_meta(runner.inputs)
        modules = {label: each for stage, found in stages(model) for label, each in modules_within(stage, found, depth)}
        return without_compiler(lambda: count_flops_within(lambda: model(images, text), modules))
    except (StageError, ViltBenchError):
        return {}
