"""Measures one case in this process: times its passes in blocks, whenever it is asked to.

When to stop is decided elsewhere, by the director; what is built, observed and counted has modules of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch

from vilt_bench.ask.case import EAGER, WHOLE, Case, label, parse_backend
from vilt_bench.embedding import Mark
from vilt_bench.errors import ViltBenchError
from vilt_bench.machine.environment import torch_state
from vilt_bench.model import VisionLanguageModel, gather_stages, load_checkpoint
from vilt_bench.record.run import Model, Pipelined, Series
from vilt_bench.worker import backends
from vilt_bench.worker.build import build_inputs, build_model, check_memory, describe_model, embedder_for_input
from vilt_bench.worker.count import Counts, count
from vilt_bench.worker.failures import StageError, error_line
from vilt_bench.worker.hint import faster_products
from vilt_bench.worker.inputs import Inputs
from vilt_bench.worker.meters.latency import Forward, Interval, StagedPass, SynchronizingTimer, Timer, quiet, times
from vilt_bench.worker.observe import Observer, strange_values
from vilt_bench.worker.pipeline import Pipeline, check_pinning
from vilt_bench.worker.prepare import (
    FLOAT32,
    Computing,
    Seen,
    compare,
    in_vain,
    is_plain,
    prepare_stages,
    see,
    without_instructions,
)
from vilt_bench.worker.preprocessing import PREPROCESSING
from vilt_bench.worker.torch_state import changes, refuse_changes

OVERSHOOT = 0.5
"""A block ends when the next pair of passes would overshoot its time by more than this share of the pair."""


@dataclass
class Runner:
    """A case, built and ready to be timed."""

    case: Case
    model: VisionLanguageModel
    inputs: Inputs
    timer: Timer
    shared_weights: str
    """Where they come from."""
    observer: Observer
    """Looks at the first call."""
    computing: Computing = field(default_factory=Computing)
    """Who computes the stages."""
    reference_s: float = 0.0
    """How long it took to see what eager float32 computes, before anything was prepared."""
    torch_before: Mapping[str, str] = field(default_factory=torch_state)
    """torch's state before the embedder's code was imported; of settings that a backend has made, as it made them."""
    passes: int = 0
    token_counts: set[int] = field(default_factory=set)
    """Visual tokens that passes had."""
    overlapped: Pipeline | None = None
    """Preprocessing and model at the same time, once a round of it was measured."""
    _strange: tuple[str, ...] = ()
    """What a reader must know of the first pass's values."""

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
                refuse_changes(self.torch_before, torch_state(), name=label(self.case))  # which may be why
                raise StageError(self.observer.unreached()) from error
        refuse_changes(self.torch_before, torch_state(), name=label(self.case))
        if (tokens := self.observer.take_tokens()) is not None:  # not to be held, as memory is measured
            self._strange = strange_values(tokens, dtype=self.case.dtype)
        # A call is over when its result is there: the host's clock, the device synchronised.
        assert call.wall_time_s is not None
        return call.wall_time_s

    def compare(self) -> None:
        """Compare what the stages compute with eager float32, where they are not that themselves.

        Raises:
            StageError: an output holds NaN or infinite values where eager float32's does not.
        """
        self.computing.result = compare(self.case, self.model, self.inputs.batches[-1], self.computing)

    def remarks(self) -> tuple[str, ...]:
        """Returns what a reader must know of the passes so far, a sentence each."""
        remarks = list(self._strange)
        if isinstance(self.timer, SynchronizingTimer):
            remarks.append(
                f"{self.inputs.batches[0][0].pixels.device.type} has no clock between stages, as its events take no "
                "times: the whole was timed, stages were not."
            )
        if len(self.token_counts) > 1:
            fewest, most = min(self.token_counts), max(self.token_counts)
            remarks.append(
                f"The number of visual tokens changed from pass to pass, {fewest} to {most}: so did the work, and "
                f"{self.observer.visual_tokens} is of the first pass."
            )
        remarks.extend(
            f"Code of the embedder has set torch's {name} from {before} to {now}."
            for name, before, now in changes(self.torch_before, torch_state())
        )
        if not is_plain(self.case):
            name, _ = parse_backend(self.case.backend)
            remarks.extend(in_vain(name, self.case.quantize, self.computing.stages))
            remarks.extend(without_instructions(self.case.quantize, self._device))
            told = getattr(backends.load(name), "remarks", tuple)
            remarks.extend(told())
        return tuple(remarks)

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

    def overlap(self, seconds: float) -> Pipelined:
        """Returns one round of preprocessing and model at the same time, about `seconds` each of its three blocks."""
        if self.overlapped is None:
            self.overlapped = Pipeline.of(self.case, self.model, self.inputs)
        with quiet():
            return self.overlapped.measure(seconds)

    def close(self) -> None:
        """End the processes that prepare batches, where there are any."""
        if self.overlapped is not None:
            self.overlapped.close()

    def count(self) -> Counts:
        """Returns the stages with all that is counted, how memory was obtained, and warnings."""
        counts = count(
            self.case,
            self.model,
            self.inputs,
            self.observer,
            packed_bytes=self.computing.packed_bytes,
            allocates_elsewhere=self.computing.allocates_elsewhere,
        )
        return counts._replace(warnings=(*counts.warnings, *self._faster()))

    def _faster(self) -> Iterator[str]:
        """Yields that another backend is likely much faster, where eager torch computes as it does by default."""
        if not (self._device.type == "cpu" and is_plain(self.case) and self.case.dtype == FLOAT32):
            return
        for name in backends.names():
            if name != EAGER and (found := faster_products(self.model, backends.own_products(name))):
                product, share = min(found.items(), key=itemgetter(1))
                yield (
                    f"The largest linear layer takes {share:.2f} of eager torch's time here as {product}: "
                    f"--backend {name} is likely much faster."
                )

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters(), torch.empty(0)).device

    def run_pass(self) -> None:
        """Run one uninstrumented pass."""
        with torch.inference_mode():
            self._forward(self.passes)(None)
        self.passes += 1

    def facts(self) -> Model:
        """Returns what was built, as the first call showed it."""
        return describe_model(
            self.case,
            self.model,
            self.inputs,
            visual_tokens=self.observer.visual_tokens,
            shared_weights=self.shared_weights,
            linear=self.computing.description,
            computation=self.computing.result,
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


def prepare(case: Case, device: torch.device, timer: Timer, *, compares: bool = True) -> Runner:
    """Returns the case built on the device, weights drawn from the case's seed.

    Args:
        case: what is built.
        device: where it runs.
        timer: of that device.
        compares: whether outputs are to be compared with eager float32's, where they are not that themselves.

    Raises:
        ConfigError: no backend has the name that is asked for, or it can't be used.
        EmbedderError: the embedder is unknown, broken, or refuses its options.
        InputError: an image can't be used.
        CheckpointError: weights can't be used.
        MemoryError: weights and inputs need more than there is.
    """
    _, options = parse_backend(case.backend)
    backends.check(case.backend, device.type, case.quantize)
    check_pinning(case, device)
    before = torch_state()
    # The input first: whether it fits is told by an embedder that takes no memory and hardly any time.
    embedder = embedder_for_input(case)
    check_memory(case, embedder, device)
    inputs = build_inputs(case, embedder, device)
    model = build_model(case)
    shared_weights = "random" if case.checkpoint is None else load_checkpoint(model, case.checkpoint)
    if options.get(WHOLE):
        gather_stages(model)
    observer = Observer(case, model, inputs.preprocessing)
    begin = time.perf_counter()
    computing = Computing()
    examples = None
    if not is_plain(case) or (compares and case.dtype != FLOAT32):
        model = model.to(device)
        computing, examples = _see_eager(case, model, inputs)
    reference_s = time.perf_counter() - begin
    model = model.to(device, getattr(torch, case.dtype))
    refuse_changes(before, torch_state(), name=label(case))
    if not is_plain(case):
        assert examples is not None
        reference = computing.reference
        computing = prepare_stages(
            case,
            model,
            examples,
            device=device,
            threads=torch.get_num_threads(),
            other=reference if reference is not examples else None,
        )
        computing.reference = reference if compares else None
        before = torch_state()
    return Runner(case, model, inputs, timer, shared_weights, observer, computing, reference_s, before)


def _see_eager(case: Case, model: VisionLanguageModel, inputs: Inputs) -> tuple[Computing, Seen | None]:
    """Returns what outputs are to be compared with, and what stages are called with; of other inputs if there are any.

    What a backend has taken from its example for granted, such as a number of boxes, then shows.
    """
    computing = Computing()
    try:
        computing.reference = see(case, model, inputs.batches[-1])
    except Exception as error:
        if not is_plain(case):
            raise
        # It is torch's own, in another precision: it is measured, if not compared.
        computing.no_reference = f"eager float32 could not be run: {error_line(error.__cause__ or error)}"
        return computing, None
    if is_plain(case) or len(inputs.batches) == 1:
        return computing, computing.reference
    return computing, see(case, model, inputs.batches[0])


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
