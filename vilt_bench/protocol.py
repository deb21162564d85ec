"""What a measuring process and the one that directs it say to each other: a line of JSON each, over a wire (`wire`).

The director asks, the worker answers; each request has one reply. Between requests the worker waits, and while
the worker measures the director sleeps. The two may be of different versions of this package: `Hello` tells.
"""

from __future__ import annotations

from dataclasses import fields

import msgspec

from vilt_bench.ask.case import Case
from vilt_bench.record.peak import Peak
from vilt_bench.record.profile import Profile
from vilt_bench.record.run import Conditions, Energy, Environment, Failure, Model, Pipelined, Series, Stage

VERSION = 1
"""Raised with every change that an older worker or director would not understand."""


class Hello(msgspec.Struct, frozen=True, tag=True):
    """Say who you are; may come before `Prepare`. Reply: `Welcome`."""

    protocol: int = VERSION


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Build the case and make the first call; the first request. Reply: `Prepared`."""

    case: Case
    compares: bool = True
    """Outputs with eager float32's, where they are not that themselves. Older versions always do."""


class MeasurePeak(msgspec.Struct, frozen=True, tag=True):
    """Measure what the machine reaches; the only request, in place of `Prepare`. Reply: `PeakMeasured`."""

    case: Case
    """Whose device, threads, dtype and backend."""


class Count(msgspec.Struct, frozen=True, tag=True):
    """Count parameters, FLOPs and memory. Reply: `Counted`."""


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Time one block. Reply: `Measured`."""

    seconds: float
    """About as long; one pass of each kind at least."""


class Sample(msgspec.Struct, frozen=True, tag=True):
    """Time one pass. Reply: `Measured`."""

    instrumented: bool
    """With a clock between the stages; a device that has none there gives an uninstrumented pass."""


class MeasureEnergy(msgspec.Struct, frozen=True, tag=True):
    """Measure energy, where there is a counter. Reply: `EnergyMeasured`."""


class MeasurePipeline(msgspec.Struct, frozen=True, tag=True):
    """Time a round of preprocessing and model at the same time, and of each alone. Reply: `PipelineMeasured`.

    Asked only of cases with workers, which older versions do not know and refuse.
    """

    seconds: float
    """About as long each of the three."""


class ProfileBlocks(msgspec.Struct, frozen=True, tag=True):
    """Tell where within the stages the time goes. Reply: `Profiled`. Versions without it can't read it, and say so."""

    seconds: float
    """About as long."""
    depth: int
    """Levels of modules within a stage."""
    trace: str | None = None
    """A file for the last pass, in Chrome's format."""


class Finish(msgspec.Struct, frozen=True, tag=True):
    """Say what went on and end. Reply: `Finished`."""

    peak_time_s: float | None = None
    """Then measure what the machine reaches, for so long a measurement; `None`: don't. Older versions don't."""


Request = (
    Hello | Prepare | MeasurePeak | Count | Measure | Sample | MeasureEnergy | MeasurePipeline | ProfileBlocks | Finish
)


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """Who answers."""

    protocol: int
    package: str
    """Version of vilt-bench."""
    location: str
    """Folder that the package was imported from."""
    knows: tuple[str, ...] = ()
    """Fields of a case that it reads, where the rest is left out; none from versions that do not say."""


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """Ready to be timed."""

    started_at: str
    build_time_s: float
    first_call_s: float
    environment: Environment
    model: Model
    origin: str | None = None
    """File that the embedder's factory was imported from; `None` from versions that do not say."""
    modules: tuple[str, ...] = ()
    """Files of what was imported by then, packages by their first; none from versions that do not say."""
    prepare_time_s: float | None = None
    """What the backend took to prepare the stages; `None`: nothing, or of a version that does not say."""
    host_peak_bytes: int | None = None
    """The highest memory of the process so far, but for files that processes share; `None`: not told."""
    device_peak_bytes: int | None = None
    """The highest that its allocator has held of a device's own memory; `None`: there is none, or it is not told."""


class PeakMeasured(msgspec.Struct, frozen=True, tag=True):
    """What the machine has reached, and with what."""

    peak: Peak
    device: str
    threads: int


class Counted(msgspec.Struct, frozen=True, tag=True):
    """What is counted, by stage."""

    stages: tuple[Stage, ...]
    memory_method: str | None
    warnings: tuple[str, ...]


class Measured(msgspec.Struct, frozen=True, tag=True):
    """One block's samples."""

    series: Series


class EnergyMeasured(msgspec.Struct, frozen=True, tag=True):
    """Energy, or that nothing counts it."""

    energy: Energy | None


class PipelineMeasured(msgspec.Struct, frozen=True, tag=True):
    """A round."""

    pipelined: Pipelined


class Profiled(msgspec.Struct, frozen=True, tag=True):
    """Blocks and operators, by stage."""

    profile: Profile


class Finished(msgspec.Struct, frozen=True, tag=True):
    """What went on around the samples."""

    conditions: Conditions
    remarks: tuple[str, ...] = ()
    """What a reader must know of the passes; none from versions that do not say."""
    peak: Peak | None = None
    """What the machine has reached after the passes; `None`: it was not asked for, or can't be measured."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """An error that the user can act on; the worker ends."""

    error: str
    """The error's class in `vilt_bench.errors`."""
    message: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Anything else that went wrong; the worker ends."""

    failure: Failure
    traceback: str


_BEFORE = frozenset({
    "embedder", "options", "resolution", "fit", "reduce", "images", "preprocessing", "text_length", "batch_size",
    "device", "dtype", "threads", "backend", "quantize", "checkpoint", "interaction", "vilt", "seed", "linear",
})  # fmt: skip
"""Fields of a case that versions know, or refuse, that do not say what they know."""


def unknown_to(welcome: Welcome, case: Case) -> list[str]:
    """Returns what a case asks for that who answers would leave out unsaid, by the fields' names."""
    usual = Case(case.embedder)
    asked = [each.name for each in fields(Case) if getattr(case, each.name) != getattr(usual, each.name)]
    return [name for name in asked if name not in _BEFORE and name not in welcome.knows]


Reply = (
    Welcome
    | Prepared
    | PeakMeasured
    | Counted
    | Measured
    | EnergyMeasured
    | PipelineMeasured
    | Profiled
    | Finished
    | Refused
    | Failed
)


class Doing(msgspec.Struct, frozen=True, tag=True):
    """No answer, but what goes on until there is one; said only to a director that has made a wire for it."""

    phase: str
    """Such as `the first call`."""


def is_whole(series: Series) -> bool:
    """Returns whether a block's samples are what they say they are: passes there are, and each has its times."""
    count = sum(series.blocks)
    if not series.blocks or min(series.blocks) < 1:
        return False
    every = [series.whole, series.instrumented, *series.stages.values()]
    columns = [getattr(times, clock.name) for times in every for clock in fields(times)]
    return {len(column) for column in columns if column} == {count}


encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Request).decode
decode_reply = msgspec.json.Decoder(Reply | Doing).decode
