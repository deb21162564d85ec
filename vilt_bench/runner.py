"""Measures one case in this process: builds it, times its passes in blocks, and counts what is not timed.

When to stop is decided elsewhere (`sweep`): a `Runner` makes one block whenever it is asked to.
"""

from __future__ import annotations

import gc
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from vilt_bench import files, registry
from vilt_bench.config import Case, command_line, label
from vilt_bench.contract import breaches
from vilt_bench.embedding import Mark, VisualEmbedder, VisualTokens, stage_counts, tensors
from vilt_bench.environment import available_memory_bytes, prepare_threads, resolve_device, torch_state
from vilt_bench.errors import CheckpointError, EmbedderError, FileError, InputError, ViltBenchError
from vilt_bench.inputs import Inputs, least_bytes, make_inputs
from vilt_bench.meters.flops import FlopCount, count_flops
from vilt_bench.meters.memory import measure_memory
from vilt_bench.meters.meta import building, needs_values, without_compiler
from vilt_bench.meters.parameters import count_parameters
from vilt_bench.meters.peak import Peak, measure_peak
from vilt_bench.meters.time import Forward, Interval, StagedPass, Timer
from vilt_bench.meters.traffic import count_traffic
from vilt_bench.model import (
    VisionLanguageModel,
    build_shared,
    load_checkpoint,
    pack_linear,
    packed_bytes,
    shared_sizes,
    stages,
    use_onednn,
)
from vilt_bench.preprocessing import Preprocessing
from vilt_bench.records import Bounds, Component, Failure, Model, Series, Stage, StageMemory, Times
from vilt_bench.reduction import reduced

PREPROCESSING: Component = "preprocessing"

BUSY = 0.9
"""Share of the time that threads must have had the cores for a peak to be taken for the machine's."""
ASKED_FOR = ("threads", "default_dtype", "default_device")
"""Of torch's state, what a case asks for; its record would be false."""
OVERSHOOT = 0.5
"""A block ends when the next pair of passes would overshoot its time by more than this share of the pair."""


class StageError(Exception):
    """A pass failed within a stage; the cause is chained."""

    def __init__(self, stage: str | None) -> None:
        """Name the stage."""
        super().__init__(stage)
        self.stage = stage


@dataclass(frozen=True)
class Observed:
    """What a pass showed of a stage's output."""

    output: str
    counts: dict[str, int]


class Observer:
    """A mark that looks at each stage's output; for the first pass, never for a timed one."""

    def __init__(self, case: Case, model: VisionLanguageModel, preprocessing: Preprocessing | None = None) -> None:
        """Look at nothing yet."""
        self._name = label(case)
        self._batch_size = case.batch_size
        self._hidden_size = model.vilt.visual_size
        before = {} if preprocessing is None else dict(preprocessing.stages.items())
        self.modules = {f"{PREPROCESSING}.{name}": stage for name, stage in before.items()} | dict(stages(model))
        """By the stages' full names, in the order in which they run."""
        self.notes = {
            f"{component}.{name}": note
            for component, chain in ((PREPROCESSING, preprocessing), ("visual_embedder", model.visual_embedder))
            for name, note in (chain.notes.items() if chain is not None else ())
        }
        self.last_visual_stage = f"visual_embedder.{list(model.visual_embedder.stages)[-1]}"
        self.seen: dict[str, Observed] = {}
        self.visual_tokens = 0
        self.tokens: VisualTokens | None = None
        """Of the pass, for whoever wants to look at their values."""
        self.moved: dict[str, int] = {}
        """Bytes by stage, where they were counted."""

    def __call__(self, name: str, output: Any) -> None:
        """Look at one output.

        Raises:
            EmbedderError: the embedder breaks the contract.
        """
        if isinstance(output, VisualTokens):
            check_tokens(output, name=self._name, batch_size=self._batch_size, hidden_size=self._hidden_size)
            self.visual_tokens = output.embeddings.shape[1]
            self.tokens = output
        elif name == self.last_visual_stage:
            raise EmbedderError(
                f"embedder {self._name!r} returned a {type(output).__name__}; expected VisualTokens of its last stage"
            )
        on_meta = any(tensor.is_meta for tensor in tensors(output))  # where there is nothing to count
        counts = {} if on_meta else stage_counts(self.modules[name], output)
        self.seen[name] = Observed(describe(output), counts)

    def unreached(self) -> str | None:
        """Returns the stage that no output has come from yet."""
        return next((name for name in self.modules if name not in self.seen), None)


@dataclass
class Runner:
    """A case, built and ready to be timed."""

    case: Case
    model: VisionLanguageModel
    inputs: Inputs
    timer: Timer
    linear: str
    shared_weights: str
    torch_before: Mapping[str, str] = field(default_factory=torch_state)
    """torch's state before the embedder's code was imported."""
    passes: int = 0
    token_counts: set[int] = field(default_factory=set)
    """Visual tokens that passes had."""
    _strange: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare to observe the first call."""
        self.observer = Observer(self.case, self.model, self.inputs.preprocessing)

    def first_call(self) -> float:
        """Returns the seconds of the first pass, which also shows shapes and counts.

        Raises:
            ViltBenchError: the embedder breaks the contract, or a stage refuses its input.
            StageError: a stage failed otherwise.
        """
        with quiet():
            try:
                call = self.timer.whole(lambda _: self._forward(0)(self.observer))
            except ViltBenchError:
                raise
            except Exception as error:
                check_torch(self.torch_before, torch_state(), name=label(self.case))  # which may be why
                raise StageError(self.observer.unreached()) from error
        check_torch(self.torch_before, torch_state(), name=label(self.case))
        self._look(self.observer.tokens)
        self.observer.tokens = None  # not to be held, as memory is measured
        # A call is over when its result is there: the host's clock, the device synchronised.
        assert call.wall_time_s is not None
        return call.wall_time_s

    def remarks(self) -> tuple[str, ...]:
        """Returns what a reader must know of the passes so far, a sentence each."""
        found = list(self._strange)
        if len(self.token_counts) > 1:
            fewest, most = min(self.token_counts), max(self.token_counts)
            found.append(
                f"The number of visual tokens changed from pass to pass, {fewest} to {most}: so did the work, and "
                f"{self.observer.visual_tokens} is of the first pass."
            )
        found.extend(
            f"Code of the embedder has set torch's {name} from {before} to {now}."
            for name, before, now in changes(self.torch_before, torch_state())
        )
        return tuple(found)

    def _look(self, tokens: VisualTokens | None) -> None:
        """Note what is strange in the values of visual tokens."""
        if tokens is None:
            return
        if not bool(tokens.embeddings.isfinite().all()):
            self._strange.append(
                f"Visual tokens hold NaN or infinite values in {self.case.dtype}: their times are of a pass whose "
                "answer is of no use."
            )
        if tokens.mask is not None and not bool(tokens.mask.any(dim=1).all()):
            self._strange.append("The mask of the visual tokens leaves an image without a token.")

    def block(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> Series:
        """Returns the samples of one block: instrumented and uninstrumented passes, alternating.

        Args:
            seconds: about how long; one pass of each kind at least.
            clock: seconds.
        """
        series = time_block(self._forward, self.timer, seconds=seconds, first=self.passes, clock=clock)
        self.passes += series.blocks[0]
        return series

    def sample(self, *, instrumented: bool) -> Series:
        """Returns one pass, instrumented where asked and where the device has a clock between stages."""
        forward = self._forward(self.passes)
        self.passes += 1
        with quiet():
            staged = self.timer.by_stage(forward) if instrumented else None
            if staged is None:
                return Series(whole=times([self.timer.whole(forward)]), blocks=(1,))
        stages = {name: times([interval]) for name, interval in staged.stages.items()}
        return Series(stages=stages, instrumented=times([staged.whole]), blocks=(1,))

    def count(self) -> tuple[tuple[Stage, ...], str | None, tuple[str, ...]]:
        """Returns the stages with all that is counted, how memory was obtained, and warnings."""
        warnings = list(self.inputs.notes)
        try:
            flops, _, counted = count_on_meta(self.case, self.inputs)
            self.observer.moved = counted.moved
            warnings.extend(f"FLOPs of {name} are not known: {why}" for name, why in _unknown(flops).items())
        except (StageError, ViltBenchError) as error:
            flops = FlopCount({}, {})
            stage = error.stage if isinstance(error, StageError) else None
            warnings.append(
                f"FLOPs were not counted: {_part(self.case, stage)} can't run on the meta device "
                f"({_told(error.__cause__ or error)})"
            )
        # Of the inputs the pass's own: the others wait for their turn only because this is a benchmark.
        resident = [*self.model.parameters(), *self.model.buffers(), *tensors(self.inputs.batches[0])]
        images, text = self.inputs.batches[0]
        memory = measure_memory(
            # Preprocessing is not among it: what it allocates is Pillow's, and seen by nobody.
            lambda mark: self.model(images, text, mark),
            resident,
            self.inputs.batches[0][0].pixels.device,
            packed_bytes=packed_bytes(self.model),
        )
        return list_stages(self.observer, flops.stages, memory.stages), memory.method, tuple(warnings)

    def run_pass(self) -> None:
        """Run one uninstrumented pass."""
        with torch.inference_mode():
            self._forward(self.passes)(None)
        self.passes += 1

    def facts(self) -> Model:
        """Returns what was built, as the first call showed it."""
        return replace(
            facts(self.case, self.model, self.inputs, self.observer),
            linear=self.linear,
            shared_weights=self.shared_weights,
        )

    def _forward(self, index: int) -> Forward:
        images, text = self.inputs.batches[index % len(self.inputs.batches)]
        preprocessing = self.inputs.preprocessing
        if preprocessing is None:
            return lambda mark: self.model(images, text, self._counting(mark))
        encoded = self.inputs.encoded[index % len(self.inputs.encoded)]

        def forward(mark: Mark | None) -> object:
            within = None if mark is None else lambda name, output: mark(f"{PREPROCESSING}.{name}", output)
            return self.model(preprocessing(encoded, within), text, self._counting(mark))

        return forward

    def _counting(self, mark: Mark | None) -> Mark | None:
        """Returns the mark, which then also counts the visual tokens, after it has read its clock."""
        if mark is None:
            return None
        last, add = self.observer.last_visual_stage, self.token_counts.add

        def counting(name: str, output: Any) -> None:
            mark(name, output)
            if name == last:
                add(output.embeddings.shape[1])

        return counting


def prepare(case: Case, device: torch.device, timer: Timer) -> Runner:
    """Returns the case built on the device, weights drawn from the case's seed.

    Raises:
        EmbedderError: the embedder is unknown, broken, or refuses its options.
        InputError: an image can't be used.
        CheckpointError: weights can't be used.
        MemoryError: weights and inputs need more than there is.
    """
    before = torch_state()
    # The input first: whether it fits is told by an embedder that takes no memory and hardly any time.
    embedder = _told_of(case)
    check_memory(case, embedder, device)
    inputs = _inputs(case, embedder, device)
    model = build_model(case)
    shared_weights = "random" if case.checkpoint is None else load_checkpoint(model, case.checkpoint)
    model = model.to(device, getattr(torch, case.dtype))
    linear = use_onednn(model.vilt) if case.linear == "onednn" else "torch"
    check_torch(before, torch_state(), name=label(case))
    return Runner(case, model, inputs, timer, linear, shared_weights, before)


def check_memory(
    case: Case,
    embedder: VisualEmbedder,
    device: torch.device,
    *,
    weights: bool = True,
    available: Callable[[torch.device], int | None] = available_memory_bytes,
) -> None:
    """Refuse, before anything is allocated, a case whose weights and inputs alone need more memory than there is.

    Args:
        case: what is to be built, in float32 on the host, and brought to the device in its dtype.
        embedder: the case's, on the meta device.
        device: where it is to run.
        weights: whether any are to be allocated.
        available: bytes that a device has.

    Raises:
        MemoryError: they do.
        InputError: an image can't be used.
    """
    dtype: torch.dtype = getattr(torch, case.dtype)
    inputs, beside = least_bytes(
        replace(case, fit="crop") if embedder.fixed_size else case,
        resolution=case.resolution or embedder.resolution,
        size_divisor=embedder.size_divisor,
        dtype=dtype,
    )
    built = moved = 0
    for tensor in _weights_on_meta(case, embedder) if weights else ():
        built += tensor.numel() * tensor.itemsize
        moved += tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)
    host = torch.device("cpu")
    needs = [(host, built, inputs + beside)] if device == host else [(host, built, beside), (device, moved, inputs)]
    for place, for_weights, for_inputs in needs:
        there = available(place)
        if there is not None and for_weights + for_inputs > there:
            takes = f"weights take {_in_gb(for_weights)} and inputs" if weights else "inputs take"
            raise MemoryError(f"{takes} {_in_gb(for_inputs)}, and {_in_gb(there)} of memory are available on {place}")


def _weights_on_meta(case: Case, embedder: VisualEmbedder) -> Iterator[Tensor]:
    try:
        with building():
            shared = build_shared(case.interaction, case.vilt)
    except Exception:  # it is told when the model is built for real
        shared = None
    for module in filter(None, (embedder, shared)):
        yield from module.parameters()
        yield from module.buffers()


def _in_gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def _inputs(case: Case, embedder: VisualEmbedder, device: torch.device) -> Inputs:
    if embedder.fixed_size and (case.fit == "native" or case.resolution not in (None, embedder.resolution)):
        height, width = embedder.resolution
        raise EmbedderError(
            f"{label(case)} takes images of {height}x{width} pixels only; give --resolution {height}x{width}"
        )
    return make_inputs(
        replace(case, fit="crop") if embedder.fixed_size else case,
        resolution=case.resolution or embedder.resolution,
        size_divisor=embedder.size_divisor,
        mean=embedder.mean,
        std=embedder.std,
        device=device,
        dtype=getattr(torch, case.dtype),
        vocabulary=shared_sizes(case.interaction, case.vilt).vocabulary,
    )


def _embedder_on_meta(case: Case) -> VisualEmbedder:
    with building():
        return _build_embedder(_unweighted(case), shared_sizes(case.interaction, case.vilt).hidden_size)


def _told_of(case: Case) -> VisualEmbedder:
    """Returns an embedder that says what input it takes: on the meta device, unless building it looks at values."""
    try:
        return _embedder_on_meta(case)
    except EmbedderError as error:
        if error.__cause__ is None or not needs_values(error.__cause__):
            raise
        return _build_embedder(_unweighted(case), shared_sizes(case.interaction, case.vilt).hidden_size)


def _build_embedder(case: Case, hidden_size: int) -> VisualEmbedder:
    embedder = registry.build(case.embedder, case.options, hidden_size=hidden_size, resolution=case.resolution)
    if any(nn.parameter.is_lazy(tensor) for tensor in (*embedder.parameters(), *embedder.buffers())):
        raise EmbedderError(
            f"{label(case)} has lazy layers, whose weights are not there before a pass; give their sizes"
        )
    return embedder if case.reduce is None else reduced(embedder, case.reduce)


def _unweighted(case: Case) -> Case:
    """Returns the case with random weights: on the meta device there is nothing to load into."""
    return replace(case, options={key: value for key, value in case.options.items() if key != "weights"})


def build_model(case: Case) -> VisionLanguageModel:
    """Returns the case's model with random weights from its seed, in eval mode, without gradients.

    Under `torch.device("meta")` nothing is allocated.

    Raises:
        EmbedderError: the embedder is unknown, broken, or refuses its options.
    """
    torch.manual_seed(case.seed)
    shared = build_shared(case.interaction, case.vilt)
    return VisionLanguageModel(shared, _build_embedder(case, shared.visual_size)).eval().requires_grad_(False)


def count_on_meta(case: Case, inputs: Inputs) -> tuple[FlopCount, VisionLanguageModel, Observer]:
    """Returns the FLOPs by stage, from a copy of the model on the meta device; the copy; and what it showed.

    Raises:
        ViltBenchError: the embedder breaks the contract, or a stage refuses its input.
        StageError: a stage failed otherwise, of the meta device's or a fault of its own.
    """
    try:
        with building():
            model = build_model(_unweighted(case))
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
        embedder = _embedder_on_meta(case)
        check_memory(case, embedder, torch.device("cpu"), weights=False)
        inputs = _inputs(case, embedder, torch.device("cpu"))
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
        raise EmbedderError(f"{_part(case, error.stage)} fails: {_told(cause)}") from cause
    told = facts(case, model, inputs, observer)
    if weights:
        told = replace(told, visual_weights=f"{weights}, not loaded")
    unknown = _unknown(flops)
    return told, tuple(
        replace(stage, note="; ".join(filter(None, [stage.note, f"FLOPs are not known: {unknown[stage.name]}"])))
        if stage.name in unknown
        else stage
        for stage in list_stages(observer, flops.stages, {})
    )


def _only_run(case: Case, stage: str | None, error: BaseException) -> str:
    return (
        f"{_part(case, stage)} looks at values, which the meta device does not have ({_told(error)}); "
        f"{command_line(case, 'run')!r} measures it for real"
    )


def _part(case: Case, stage: str | None) -> str:
    """Returns a stage with whose it is: the embedder's, or that of what joins the modalities."""
    if stage is None:
        return label(case)
    own = stage.startswith(("visual_embedder", PREPROCESSING))
    return f"{stage} of {label(case) if own else case.interaction}"


def _told(error: BaseException) -> str:
    """Returns an error in one line, with the place that is its author's: not torch's, and not this toolkit's."""
    said = f"{type(error).__name__}: {first_line(error)}"
    ours = (os.path.dirname(torch.__file__), os.path.dirname(__file__))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.isfile(frame.filename)
        and not frame.filename.startswith(tuple(f"{folder}{os.sep}" for folder in ours))
    ]
    if not frames:
        return said
    path = os.path.relpath(frames[-1].filename)
    return f"{said}, in {frames[-1].filename if path.startswith(os.pardir) else path}, line {frames[-1].lineno}"


def _unknown(flops: FlopCount) -> dict[str, str]:
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
    on = f"{threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else str(device)
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
    if peak.cpu_share is None or peak.cpu_share >= BUSY:
        return ""
    return f"; others kept the cores busy (ours {100 * peak.cpu_share:.0f}% of the time), so the true peak is higher"


def facts(case: Case, model: VisionLanguageModel, inputs: Inputs, observer: Observer) -> Model:
    """Returns what was built, as a pass showed it; the shared weights random, their linear layers torch's."""
    embedder = model.visual_embedder
    return Model(
        kind=embedder.kind,
        hidden_size=model.vilt.sizes.hidden_size,
        layers=model.vilt.sizes.layers,
        heads=model.vilt.sizes.heads,
        resolution=inputs.resolution,
        visual_tokens=observer.visual_tokens,
        text_tokens=case.text_length,
        visual_weights=embedder.weights,
        shared_weights="random",
        linear="torch",
        images=inputs.names,
        text=inputs.text,
        interaction=case.interaction,
        vocabulary=model.vilt.sizes.vocabulary,
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


def time_block(
    forward: Callable[[int], Forward],
    timer: Timer,
    *,
    seconds: float,
    first: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Series:
    """Returns the samples of one block of passes.

    Each pair has one instrumented and one uninstrumented pass over the same input; which comes first changes
    from pair to pair, so that neither profits from the other. The garbage collector rests in a pass.

    Args:
        forward: the pass of that index.
        timer: times one pass.
        seconds: about how long; one pair at least.
        first: index of the first pair.
        clock: seconds.
    """
    wholes: list[Interval] = []
    staged: list[StagedPass] = []
    start = clock()
    pair_s = 0.0
    with quiet():
        while not wholes or clock() - start + OVERSHOOT * pair_s < seconds:
            index = first + len(wholes)
            pair_start = clock()
            if index % 2:
                wholes.append(timer.whole(forward(index)))
            if (by_stage := timer.by_stage(forward(index))) is not None:
                staged.append(by_stage)
            if not index % 2:
                wholes.append(timer.whole(forward(index)))
            pair_s = clock() - pair_start
    names = list(staged[0].stages) if staged else []
    return Series(
        whole=times(wholes),
        stages={name: times([each.stages[name] for each in staged]) for name in names},
        instrumented=times([each.whole for each in staged]),
        blocks=(len(wholes),),
    )


def times(intervals: Sequence[Interval]) -> Times:
    """Returns the intervals, clock by clock; a clock that did not apply is absent."""
    columns: dict[str, tuple[float, ...]] = {}
    for clock in fields(Interval):
        values = [getattr(interval, clock.name) for interval in intervals]
        if values and None not in values:
            columns[clock.name] = tuple(values)
    return Times(**columns)


@contextmanager
def quiet() -> Iterator[None]:
    """Returns a context for timing: no gradients, no garbage collector; what was set before comes back."""
    collecting = gc.isenabled()
    gc.collect(0)
    gc.disable()
    try:
        with torch.inference_mode():
            yield
    finally:
        if collecting:
            gc.enable()


def check_tokens(tokens: VisualTokens, *, name: str, batch_size: int, hidden_size: int) -> None:
    """Refuse visual tokens that the transformer can't take.

    Raises:
        EmbedderError: they are not [B, N, D] in floating point, N at least 1, or what is said of them does not fit.
    """
    for breach in breaches(tokens, batch_size=batch_size, hidden_size=hidden_size):
        raise EmbedderError(f"embedder {name!r} returned no tokens that can be used: its {breach}")


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yields name, value before and value now of each of torch's settings that has changed."""
    for name, value in now.items():
        if (was := before.get(name, value)) != value:
            yield name, was, value


def check_torch(before: Mapping[str, str], now: Mapping[str, str], *, name: str) -> None:
    """Refuse an embedder that has changed for all of the process what the case asks for.

    Raises:
        EmbedderError: threads, default dtype or default device are others than before its code was imported.
    """
    changed = [f"{each} from {was} to {value}" for each, was, value in changes(before, now) if each in ASKED_FOR]
    if changed:
        raise EmbedderError(
            f"embedder {name!r} has set torch's {', '.join(changed)}, against what was asked for and is recorded; "
            "remove that from its code, and give --threads, --dtype or --device"
        )


def describe(output: Any) -> str:
    """Returns the shapes of a stage's output, such as `embeddings [1, 240, 768]`."""
    if isinstance(output, Tensor):
        return str(list(output.shape))
    if (names := getattr(output, "_fields", None)) is not None:
        named = [(name, describe(getattr(output, name))) for name in names]
        return ", ".join(f"{name} {shapes}" for name, shapes in named if shapes)
    if isinstance(output, dict):
        return describe(list(output.values()))
    return ", ".join(filter(None, map(describe, output))) if isinstance(output, tuple | list) else ""


def failure_of(error: BaseException, stage: str | None = None) -> Failure:
    """Returns what an exception of a pass means for the record."""
    if isinstance(error, StageError) and error.__cause__ is not None:
        return failure_of(error.__cause__, error.stage)
    text = first_line(error)
    if is_out_of_memory(error):
        return Failure("out-of-memory", text, stage)
    return Failure("error", f"{type(error).__name__}: {text}", stage)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception says that memory ran out, of the host or the device."""
    # The allocators of the CPU and of MPS, and CUDA's libraries, raise a plain RuntimeError.
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in said)
    )


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
