"""Lets a backend prepare the stages of a built model, and compares what they then compute with eager float32."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from vilt_bench.ask.case import EAGER, STRICT, Case, parse_backend
from vilt_bench.embedding import ImageBatch, TextBatch
from vilt_bench.errors import ConfigError, ViltBenchError
from vilt_bench.model import VisionLanguageModel, replace_stage, stages
from vilt_bench.record.run import Computation, Deviation, PreparedStage
from vilt_bench.worker import backends
from vilt_bench.worker.deviation import NotComparableError, NotFiniteError, answer, as_in_passes, copied, deviation
from vilt_bench.worker.failures import StageError, error_line
from vilt_bench.worker.observe import Observer

FLOAT32 = "float32"


def is_plain(case: Case) -> bool:
    """Returns whether a case is computed by torch as it is built, its stages as they are."""
    name, options = parse_backend(case.backend)
    return name == EAGER and case.quantize is None and not options.keys() - {STRICT}


class Seen(NamedTuple):
    """What a pass of eager float32 showed."""

    stages: Mapping[str, tuple[Any, Any]]
    """Input and output of each stage, by its full name."""
    answer: Any
    """Of the whole."""


@dataclass
class Computing:
    """Who computes the stages of a model; as it is, eager torch."""

    description: str = EAGER
    """In a line, for the record."""
    version: str = ""
    stages: tuple[PreparedStage, ...] = ()
    packed_bytes: int = 0
    allocates_elsewhere: bool = False
    prepare_time_s: float | None = None
    reference: Seen | None = None
    """What outputs are compared with; let go of when they are."""
    no_reference: str | None = None
    """Why there is none, where there should be one."""
    result: Computation | None = field(default=None)
    """For the record, once outputs are compared."""


def prepare_stages(
    case: Case,
    model: VisionLanguageModel,
    examples: Seen,
    *,
    device: torch.device,
    threads: int,
    other: Seen | None = None,
) -> Computing:
    """Returns who computes the stages, each replaced by what the backend made of it.

    Args:
        case: whose backend it is.
        model: on the device, in the case's dtype; it is changed.
        examples: what each stage is called with.
        device: where it runs.
        threads: that torch has.
        other: what each stage is called with in another batch; `None`: there is one.

    Raises:
        ConfigError: a stage can't be prepared, and the case is strict; or the backend refuses the case.
    """
    name, asked = parse_backend(case.backend)
    backend = backends.load(name)
    options = {key: value for key, value in asked.items() if key not in backends.COMMON}
    dtype: torch.dtype = getattr(torch, case.dtype)
    made: list[PreparedStage] = []
    idle: dict[str, str] = {}
    packed_bytes, elsewhere = 0, False
    begin = time.perf_counter()
    for stage, module in list(stages(model)):
        inputs, outputs = (copied(each, dtype) for each in examples.stages[stage])
        another = None if other is None else copied(other.stages[stage], dtype)
        whole = backends.StageToPrepare(stage, module, inputs, outputs, device, dtype, threads, another, case.quantize)
        stage_begin = time.perf_counter()
        try:
            with torch.no_grad():
                ready = backend.prepare(whole, options)
        except ViltBenchError:
            raise
        except Exception as error:  # whatever a compiler or converter objects to
            why = str(error) if isinstance(error, backends.NotPreparedError) else error_line(error)
            if asked.get(STRICT):
                raise ConfigError(
                    f"{name} can't prepare {stage}: {why}; leave {STRICT} out to let eager torch compute it",
                    field="backend",
                ) from error
            made.append(PreparedStage(stage, EAGER, case.dtype, fell_back=why))
            continue
        took_s = time.perf_counter() - stage_begin
        if ready.run is not module:
            replacement = ready.run if isinstance(ready.run, nn.Module) else Running(ready.run, module)
            replace_stage(model, stage, replacement)
        packed_bytes += ready.packed_bytes
        elsewhere = elsewhere or ready.allocates_elsewhere
        made.append(PreparedStage(stage, ready.computed_by, ready.precision, took_s))
        if ready.idle is not None:
            idle[stage] = ready.idle
    if all(stage.fell_back is not None or stage.name in idle for stage in made):
        # A name that stands for nothing at all is not to stand beside the times.
        made = [
            PreparedStage(each.name, EAGER, case.dtype, fell_back=each.fell_back or idle[each.name]) for each in made
        ]
        if asked.get(STRICT) and made:
            raise ConfigError(
                f"{name} finds nothing to compute in {made[0].name}: {made[0].fell_back}, and nothing in other stages; "
                f"leave {STRICT} out to let eager torch compute it",
                field="backend",
            )
    return Computing(
        description=describe(case.linear, made),
        version=backend.version(),
        stages=tuple(made),
        packed_bytes=packed_bytes,
        allocates_elsewhere=elsewhere,
        prepare_time_s=time.perf_counter() - begin,
    )


class Running(nn.Module):
    """A stage that something else than its module computes; the module stays, for its parameters."""

    def __init__(self, run: Callable[[Any], Any], module: nn.Module) -> None:
        """Take what computes, and whose place it takes."""
        super().__init__()
        self.module = module
        self._run = run

    def forward(self, inputs: Any) -> Any:
        """Returns the stage's output."""
        return self._run(inputs)


def describe(backend: str, made: Sequence[PreparedStage]) -> str:
    """Returns who computes, in a line: the backend, and which stages it does not compute, and why."""
    fallen: dict[str, list[str]] = {}
    for stage in made:
        if stage.fell_back is not None:
            fallen.setdefault(stage.fell_back, []).append(stage.name)
    if not fallen:
        return backend
    told = "; ".join(f"{', '.join(names)}: {why}" for why, names in fallen.items())
    if all(stage.fell_back is not None for stage in made):
        why = next(iter(fallen)) if len(fallen) == 1 else told
        return f"{EAGER} ({backend} asked for, but {why})"
    return f"{backend}, except by {EAGER} {told}"


def in_vain(name: str, quantize: str | None, made: Sequence[PreparedStage]) -> Iterator[str]:
    """Yields what was asked for and has come to nothing in any stage: a backend's name, or a type to quantise to."""
    tried = [stage for stage in made if stage.fell_back is None]
    if name != EAGER and tried and all(stage.computed_by.startswith(EAGER) for stage in tried):
        yield f"{name} computes none of the stages: {', '.join(dict.fromkeys(stage.computed_by for stage in tried))}."
    if quantize is not None and made and not any(quantize in stage.precision for stage in made):
        yield f"Nothing is computed in {quantize}: {name} has quantised none of the stages."


def without_instructions(quantize: str | None, device: torch.device) -> Iterator[str]:
    """Yields that a processor has no instructions for the type that weights and activations are brought to."""
    if quantize != "int8" or device.type != "cpu":
        return
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if able.get("architecture") == "x86_64" and not any(able.get(name) for name in _FOR_INT8):
        yield "This processor has no instructions for products in int8, which may be slower than float32 here."


_FOR_INT8 = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8")
"""Of the x86 family."""


def see(case: Case, model: VisionLanguageModel, batch: tuple[ImageBatch, TextBatch]) -> Seen:
    """Returns what a pass of the model, which is in float32 on its device, shows of each stage and of the whole.

    Args:
        case: of which the model is.
        model: eager torch's.
        batch: in any dtype; it is brought to float32.

    Raises:
        ViltBenchError: the embedder breaks the contract, or a stage refuses its input.
        StageError: a stage failed otherwise.
    """
    images, text = batch
    observer = Observer(case, model)
    taken: dict[str, Any] = {}
    given: dict[str, Any] = {}

    def before(stage: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, args: taken.update({stage: copied(args[0], torch.float32)})

    def mark(stage: str, output: Any) -> None:
        observer(stage, output)
        given[stage] = copied(output, torch.float32)

    hooks = [module.register_forward_pre_hook(before(stage)) for stage, module in stages(model)]
    try:
        with torch.no_grad(), _exact():
            output = model(images._replace(pixels=images.pixels.float()), text, mark)
    except ViltBenchError:
        raise
    except Exception as error:
        raise StageError(observer.unreached()) from error
    finally:
        for hook in hooks:
            hook.remove()
    return Seen({stage: (taken[stage], made) for stage, made in given.items()}, copied(answer(output), torch.float32))


@contextmanager
def _exact() -> Iterator[None]:
    """Returns a context in which float32 is float32 on GPUs too, whose convolutions by default see 10 bits of it."""
    of_products, of_convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = of_products.allow_tf32, of_convolutions.allow_tf32
    if not torch.cuda.is_available():
        yield
        return
    of_products.allow_tf32 = of_convolutions.allow_tf32 = False
    try:
        yield
    finally:
        of_products.allow_tf32, of_convolutions.allow_tf32 = before


def compare(
    case: Case, model: VisionLanguageModel, batch: tuple[ImageBatch, TextBatch], computing: Computing
) -> Computation | None:
    """Returns what is known of the computation, each stage compared with eager float32 on the same input.

    Values that are not finite are told where torch computes as built, in a lower precision; else they are a failure.

    Args:
        case: of which the model is.
        model: prepared; it has been called.
        batch: that the reference has seen, in the case's dtype.
        computing: who computes; it lets go of the reference.

    Raises:
        StageError: a stage's output, or the whole's, holds NaN or infinite values where eager float32's does not.
    """
    reference, computing.reference = computing.reference, None
    dtype: torch.dtype = getattr(torch, case.dtype)
    made = computing.stages or tuple(PreparedStage(name, EAGER, case.dtype) for name, _ in stages(model))
    if reference is None:
        if computing.no_reference is None:
            return None
        return Computation(_version(computing), made, not_compared=computing.no_reference)
    modules = dict(stages(model))
    compared = []
    for stage in made:
        if stage.fell_back is not None and case.dtype == FLOAT32:
            compared.append(stage)  # it is eager float32 itself
            continue
        inputs, expected = reference.stages[stage.name]
        found, problem = _compared(
            stage.name, partial(modules[stage.name], as_in_passes(inputs, dtype)), expected, is_plain=is_plain(case)
        )
        compared.append(replace(stage, deviation=found, not_compared=problem))
    images, text = batch
    found, problem = _compared(None, lambda: answer(model(images, text)), reference.answer, is_plain=is_plain(case))
    return Computation(_version(computing), tuple(compared), found, problem)


def _compared(
    stage: str | None, run: Callable[[], Any], expected: Any, *, is_plain: bool
) -> tuple[Deviation | None, str | None]:
    """Returns how far what comes out lies from what was expected, or why that is not known."""
    try:
        with torch.inference_mode():
            return deviation(run(), expected), None
    except NotComparableError as error:
        return None, str(error)
    except NotFiniteError as error:
        if is_plain:
            return None, str(error)
        raise StageError(stage) from error
    except Exception as error:  # it runs in the pass; what eager float32 gave the stage it does not take
        return None, error_line(error)


def _version(computing: Computing) -> str:
    return computing.version or backends.load(EAGER).version()
