"""`Run` and its parts: what was asked, with what, where, and every raw sample; and the samples as a tidy frame.

Units are SI base (s, B, J, FLOP) and stand in the names. What was not measured is `None`, never zero.
Summaries are computed from records on read, so that a better statistic needs no new measurement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Literal

from vilt_bench.ask.case import ALONE, Case, Fit, Sampling, case_name, label
from vilt_bench.record.peak import Peak

if TYPE_CHECKING:
    import pandas as pd


SCHEMA_VERSION = 1
"""History: 1 (0.1.0) the first."""
SLOWDOWNS = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})
"""NVML's reasons where heat or the power supply slow a GPU down; a power cap is many a card's normal state."""
WHOLE = "whole"
"""As a stage's name: the uninstrumented passes."""

LEAST_CPU_SHARE = 0.9
"""Of CPU time / (threads × wall time): below it threads waited, for others on their cores or for a stage of one thread.
"""

Component = Literal["preprocessing", "textual_embedder", "visual_embedder", "modality_interaction"]


@dataclass(frozen=True)
class Times:
    """Raw times of one stage, or of the whole, in the order of the passes; seconds."""

    wall_time_s: tuple[float, ...] | None = None
    """Host clock; the device synchronised at both ends. `None` for a stage of an asynchronous device."""
    cpu_time_s: tuple[float, ...] | None = None
    """CPU time of the process over all its threads."""
    device_time_s: tuple[float, ...] | None = None
    """Between device events."""
    host_time_s: tuple[float, ...] | None = None
    """Host clock without synchronisation, on an asynchronous device: time to enqueue, and waits."""

    @property
    def latency_s(self) -> tuple[float, ...]:
        """The samples that tables show: device time where the device keeps one, wall time elsewhere."""
        return self.device_time_s or self.wall_time_s or ()


@dataclass(frozen=True)
class AllPasses:
    """What is known of all passes of a series that keeps only some of them, so that the record stays small."""

    blocks: tuple[int, ...]
    """Passes of each kind that there were in each block; `Series.blocks` counts those kept."""
    whole_medians_s: tuple[float, ...] = ()
    """Medians of the uninstrumented passes' latency by block; none of a warm-up."""
    whole_percentiles_s: tuple[float, ...] = ()
    """Of all of them: the lowest, each hundredth, the highest, so that the middle one is the median."""


@dataclass(frozen=True)
class Series:
    """Passes of one process, in order: instrumented ones by stage, uninstrumented ones as a whole, alternating."""

    whole: Times = Times()
    stages: Mapping[str, Times] = field(default_factory=dict)
    """By the stage's full name, such as `visual_embedder.backbone`."""
    instrumented: Times = Times()
    """The instrumented passes from end to end."""
    blocks: tuple[int, ...] = ()
    """Passes of each kind in each block; their sum is the number of samples."""
    all_passes: AllPasses | None = None
    """Where there were more passes than are kept here, evenly, from each block; `None`: every pass is here."""

    @property
    def passes(self) -> int:
        """How many passes of each kind there were."""
        return sum(self.blocks if self.all_passes is None else self.all_passes.blocks)

    def of(self, stage: str) -> Times:
        """Returns the times of `whole`, or of a stage by its full name; none by any clock where it was not measured."""
        return self.whole if stage == WHOLE else self.stages.get(stage, Times())


@dataclass(frozen=True)
class GpuState:
    """What NVML says of the GPU at one moment; `None` where it does not say."""

    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttle_reasons: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Fitness:
    """Whether the machine was fit to measure on, in short; `None` where the system does not say.

    Governor, turbo, clock source and virtual machine stand in the environment's settings and hardware.
    """

    timer_resolution_s: float | None = None
    """Smallest step of the host's clock that was seen."""
    steal_share: float | None = None
    """Of the processors' time during the passes, what the hypervisor gave to other machines."""
    others_share: float | None = None
    """Of the processors' time during the passes, what other processes took."""
    quota_held_s: float | None = None
    """How long the control group's quota held this process up during the passes."""
    thermal_throttles: int | None = None
    """How often the processor slowed down against heat, from before the first to after the last pass."""
    memory_available_bytes: int | None = None
    swap_used_bytes: int | None = None


@dataclass(frozen=True)
class Conditions:
    """What went on around the samples of one process."""

    cpu_share: float | None = None
    """CPU time / (threads × wall time) during the passes; see `LEAST_CPU_SHARE`."""
    involuntary_context_switches: int | None = None
    load_average_before: float | None = None
    load_average_after: float | None = None
    resident_peak_bytes: int | None = None
    """The process's own peak, libraries and all; not a stage's memory."""
    gpu_before: GpuState | None = None
    gpu_after: GpuState | None = None
    throttle_reasons: tuple[str, ...] | None = None
    """All that NVML gave at the end of a block; `None` where there is no NVML."""
    watched_s: float | None = None
    """Time of all blocks: what the share and the switches are of."""
    fitness: Fitness | None = None


@dataclass(frozen=True)
class Pipelined:
    """How fast batches went through preprocessing and model at the same time, beside each alone, in one process.

    Seconds a batch, one a round; the three of a round were measured one after the other.
    """

    workers: int
    """Processes that prepared batches; 0: the model's own, so that one came after the other."""
    pinned: bool
    """Whether batches were in memory that an accelerator copies from while the host works."""
    pipelined_s: tuple[float, ...] = ()
    """Preprocessing and model at the same time."""
    preprocessing_s: tuple[float, ...] = ()
    """Preprocessing alone, by the same processes."""
    model_s: tuple[float, ...] = ()
    """The model alone, on batches that are on its device."""
    batches: tuple[int, ...] = ()
    """Of each round, that went through both."""
    method: str = ""
    """How it was obtained."""


@dataclass(frozen=True)
class Trial:
    """One process measuring a case."""

    index: int
    started_at: str
    """UTC, ISO 8601."""
    build_time_s: float | None = None
    """Making the model and its inputs."""
    first_call_s: float | None = None
    """The first pass: allocation, autotuning, compilation."""
    prepare_time_s: float | None = None
    """The backend's preparing of all stages, before the first call; `None`: there was nothing to prepare."""
    warmup: Series = Series()
    samples: Series = Series()
    pipelined: Pipelined | None = None
    """Preprocessing and model at the same time, after the passes; `None`: it was not asked for, or does not tell."""
    settled: bool | None = None
    """Whether warm-up ended because times had settled, not because its share of the time was over."""
    conditions: Conditions = Conditions()


@dataclass(frozen=True)
class StageMemory:
    """Memory of one stage, from a pass of its own."""

    live_before_bytes: int
    peak_bytes: int
    """Highest of live memory during the stage, what lived before it included."""
    live_after_bytes: int


@dataclass(frozen=True)
class Bounds:
    """The least time of stages on a machine, whose peak was measured or is stated: an estimate, computed on read."""

    peak: str
    """What was measured, and where; or what is stated."""
    seconds: Mapping[str, float]
    """By stage; a stage that could not be counted is absent."""
    machine: str = ""
    """A name, of one that is known by its datasheet; empty: this one, measured."""


@dataclass(frozen=True)
class Stage:
    """What is counted, not timed, of one stage."""

    name: str
    """`COMPONENT` or `COMPONENT.STAGE`, such as `visual_embedder.backbone`."""
    component: Component
    output: str
    """Shapes of the stage's output, such as `embeddings [1, 240, 768]`."""
    parameters: int
    """Learned scalars, frozen ones too; shared ones once, in the first stage that has them."""
    buffers: int = 0
    """Scalars that are kept with the weights and not learned."""
    flops: int | None = None
    """2 per multiply-add; NMS, RoIAlign, normalisation and activations count 0; `None`: not known."""
    moved_bytes: int | None = None
    """At least: weights of linear and convolutional layers, input and output, each once."""
    memory: StageMemory | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    """What the stage found, such as NMS candidates."""
    note: str = ""
    """What a reader must know to read the stage's numbers right, such as planted tensors."""

    @property
    def macs(self) -> int | None:
        """Multiply-adds: half the FLOPs."""
        return None if self.flops is None else self.flops // 2


@dataclass(frozen=True)
class Deviation:
    """How far an output lies from that of eager float32 with the same weights and inputs.

    Over all floating-point tensors of an output; whole numbers and truth values count as numbers.
    """

    largest: float
    """The largest difference, in the output's own unit."""
    relative: float
    """max |a - b| / max |b| of a tensor, b eager's; the largest of its tensors."""
    relative_l2: float
    """‖a - b‖₂ / ‖b‖₂ of a tensor; the largest of its tensors."""


@dataclass(frozen=True)
class PreparedStage:
    """Who computed a stage, and what came of it."""

    name: str
    computed_by: str
    """Such as `onednn` or `torch`; what it does, in a few words."""
    precision: str
    """In which it computed, such as `float32`, `bfloat16` or `int8`; inputs and outputs are of the case's dtype."""
    prepare_time_s: float | None = None
    """In the first trial; `None`: there was nothing to prepare."""
    fell_back: str | None = None
    """Why eager torch computed it, and not the backend; `None`: it did as asked."""
    deviation: Deviation | None = None
    """From eager float32 on the inputs that eager float32 gave it; `None`: it is that itself, or could not be compared.
    """
    not_compared: str | None = None
    """Why its output could not be compared; `None`: it was, or there was nothing to compare."""


@dataclass(frozen=True)
class Computation:
    """Who computed a run's stages, and how far the outputs lie from eager float32's."""

    version: str
    """The library that computed, with its version, such as `openvino 2025.3.0`."""
    stages: tuple[PreparedStage, ...] = ()
    deviation: Deviation | None = None
    """Of the whole's output from that of eager float32 from end to end: of the pooled output, a language model's
    logits, or the tokens of an embedder alone."""
    not_compared: str | None = None
    """Why the whole's output could not be compared."""


NONE = "none"
"""Of a model, in place of what is said of a part that it has not."""


@dataclass(frozen=True)
class Model:
    """What was built, as it turned out."""

    kind: str
    hidden_size: int
    layers: int
    heads: int
    resolution: tuple[int, int]
    """(height, width) of the pixels that the model got, after resizing."""
    visual_tokens: int
    """Of a text: those of all its images."""
    text_tokens: int
    visual_weights: str
    """`random`, or where they come from."""
    shared_weights: str
    """Likewise, of the textual embedder and the transformer."""
    linear: str
    """Who computed the stages, in a line, and why if it is not what was asked; in records of older versions, who
    computed the shared model's linear layers."""
    images: tuple[str, ...]
    """Names of the images, or `synthetic`."""
    text: str
    """What the text was, such as `synthetic token ids`."""
    memory_method: str | None = None
    """How peak memory was obtained."""
    interaction: str = "vilt"
    """What joined the modalities."""
    vocabulary: int | None = None
    """Tokens that there are; `None` in records that do not say."""
    fit: Fit | None = None
    """How images were fitted to the resolution, as it turned out; `None` in records that do not say."""
    preprocessing: str | None = None
    """Who prepared the images within the pass, with versions; `None`: nobody did, or of records that do not say."""
    computation: Computation | None = None
    """Who computed the stages, where it was not eager torch in float32; `None` as well in records that do not say."""
    tiles: str | None = None
    """What each image was cut into, such as `5 tiles of 336×336 (2×2 and a thumbnail)`; `None`: nothing."""

    @property
    def is_alone(self) -> bool:
        """Whether it is a visual embedder without text and without shared model."""
        return self.interaction == ALONE


@dataclass(frozen=True)
class Environment:
    """The machine and its software."""

    machine: str
    """A short name: processor or GPU."""
    fingerprint: str
    """Equal for machines that may be compared: a digest of the hardware fields."""
    device: str
    """`cpu`, `cuda:0`, …"""
    device_name: str
    threads: int
    omp_wait_policy: str | None
    versions: Mapping[str, str]
    """python, torch, torchvision, timm, cuda, cudnn, driver, vilt-bench, … as far as they are there."""
    settings: Mapping[str, str]
    """What changes speed: TF32, cuDNN benchmark, deterministic, governor, turbo, …"""
    hardware: Mapping[str, str]
    """processor, cores, memory, GPU, …"""


@dataclass(frozen=True)
class Energy:
    """Energy of whole passes, from the GPU's own counter."""

    joules_per_pass: tuple[float, ...]
    """One a window; nothing subtracted."""
    window_s: tuple[float, ...]
    passes: tuple[int, ...]
    idle_power_w: float | None
    method: str


@dataclass(frozen=True)
class Source:
    """The commit that was measured: of the git repository that the current directory lay in."""

    commit: str
    branch: str | None
    """`None`: a detached head, as in many CI jobs."""
    dirty: bool
    """Whether tracked files differed from the commit."""
    committed_at: str | None
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class PlanFile:
    """A plan as it was read; what it came to is the case."""

    path: str
    """As it was given; `-`: standard input."""
    sha256: str
    """Of its bytes, in hexadecimal."""


@dataclass(frozen=True)
class Origin:
    """What asked for a run."""

    command: str | None = None
    """The command line as it was typed, quoted for a POSIX shell; `None`: a function was called from Python."""
    plan: PlanFile | None = None
    repeats: tuple[str, ...] = ()
    """Ids of the runs that were measured again."""


FROM_PYTHON = Origin()
"""Of runs that no command asked for."""


@dataclass(frozen=True)
class Failure:
    """Why a case gave no, or not all, numbers."""

    kind: Literal["out-of-memory", "error", "crashed"]
    message: str
    stage: str | None = None


@dataclass(frozen=True)
class Anchor:
    """A case of the group before that was measured again, briefly, among those of a run's own group."""

    name: str
    """Of the case."""
    run_id: str
    """Of its run in the group before; the repeat makes no record."""
    ratio: float
    """Latency in this group over that in the group before: what the machine has drifted by."""
    low: float | None = None
    """Of the 95% interval; `None` where there were too few trials to tell."""
    high: float | None = None
    groups: tuple[int, int] = (1, 2)
    """Numbers of the two groups within their sweep, from 1."""


@dataclass(frozen=True)
class Run:
    """One case, measured; immutable."""

    run_id: str
    started_at: str
    """UTC, ISO 8601."""
    case: Case
    sampling: Sampling
    group: str
    """Equal for the runs that were measured together, interleaved."""
    environment: Environment | None = None
    model: Model | None = None
    stages: tuple[Stage, ...] = ()
    trials: tuple[Trial, ...] = ()
    energy: Energy | None = None
    failure: Failure | None = None
    interrupted: bool = False
    """The user stopped it; what was measured is here."""
    warnings: tuple[str, ...] = ()
    source: Source | None = None
    """`None` outside a git repository."""
    side: Literal["baseline", "candidate"] | None = None
    """Of the comparison that it was measured for, in turns with the other run of its group; `None`: of none."""
    position: int | None = None
    """Within its group, as asked, from 0; `None` in records that do not say."""
    name: str | None = None
    """What its user calls it, alike for all that was measured by one command."""
    origin: Origin | None = None
    """`None` in records that do not say."""
    doctor: tuple[str, ...] | None = None
    """What the doctor objects to, of what is known without a measurement of his own; empty: nothing; `None`: he was not
    told."""
    anchor: Anchor | None = None
    """Of a sweep's group but the first; `None`: there was none, or it could not be measured."""
    peak: Peak | None = None
    """What the machine reached in the case's dtype, on its device with its threads, after the passes of a trial of a
    run of the group, the best of them; `None`: it was not measured."""
    schema_version: int = SCHEMA_VERSION

    def to_frame(self) -> Any:
        """Returns a tidy `pandas.DataFrame`: one row a sample.

        Columns: run_id, case (its name), embedder, trial, phase (warmup, sample), block, pass, component, stage
        (`whole` for the uninstrumented pass), quantity (wall_time, cpu_time, device_time, host_time), unit, value.
        """
        return run_to_frame(self)

    def _repr_html_(self) -> str:
        """Returns the table by stage that a notebook shows."""
        from vilt_bench.report.cells import of_run

        return of_run(self)


def parse_time(text: str | None) -> datetime | None:
    """Returns the time of an ISO 8601 text, in UTC where it names no zone; `None` if it is none."""
    try:
        found = datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def whole_texts(value: Any) -> Any:
    """Returns the texts within lists and mappings with a `?` for each half of a character, which no encoder takes."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {whole_texts(key): whole_texts(each) for key, each in value.items()}
    return [whole_texts(each) for each in value] if isinstance(value, list | tuple) else value


COLUMNS = (
    "run_id", "case", "embedder", "trial", "phase", "block", "pass", "component", "stage", "quantity", "unit", "value",
)  # fmt: skip


def run_to_frame(run: Run) -> pd.DataFrame:
    """Returns one row a sample, warm-up included, with the columns of `Run.to_frame`.

    `block` and `pass` count from 0 within a trial's phase. Stages named `whole` are the uninstrumented passes,
    `instrumented` the instrumented ones from end to end; both have no component.
    """
    import pandas as pd

    rows = [
        (run.run_id, case_name(run.case), label(run.case), trial.index, phase, *row)
        for trial in run.trials
        for phase, series in (("warmup", trial.warmup), ("sample", trial.samples))
        for row in _rows(series)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"value": "float64"})


def _rows(series: Series) -> Iterator[tuple[Any, ...]]:
    blocks = list(chain.from_iterable(repeat(index, size) for index, size in enumerate(series.blocks)))
    yield from _times(None, WHOLE, series.whole, blocks)
    yield from _times(None, "instrumented", series.instrumented, blocks)
    for name, times in series.stages.items():
        yield from _times(name.partition(".")[0], name, times, blocks)


def _times(component: str | None, stage: str, times: Times, blocks: list[int]) -> Iterator[tuple[Any, ...]]:
    for quantity in fields(times):
        for index, value in enumerate(getattr(times, quantity.name) or ()):
            block = blocks[index] if index < len(blocks) else None
            yield block, index, component, stage, quantity.name.removesuffix("_s"), "s", value
