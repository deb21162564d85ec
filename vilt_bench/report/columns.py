"""What is told of a stage, each quantity described once: its names, its unit, where it is found, how it is written.

Tables, Markdown, LaTeX, CSV, JSON, `show` and the sentences of a comparison read it here: a new metric is a meter that
counts it into the record, and one more of `QUANTITIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from vilt_bench.errors import ConfigError
from vilt_bench.report.numbers import (
    ABSENT,
    bottleneck,
    count_of,
    giga,
    interval,
    limit_milliseconds,
    mebibytes,
    millions,
    milliseconds_interval,
    milliseconds_of,
    number,
    percent,
    ranks,
    ratio_interval,
    small,
)
from vilt_bench.report.tables import Column
from vilt_bench.words import did_you_mean, nearest

if TYPE_CHECKING:
    from vilt_bench.judge.estimate import Estimate
    from vilt_bench.judge.summary import Row
    from vilt_bench.record.run import Stage

WIDE = 90
"""Columns of a terminal from which there is room for what follows from other columns."""

WIDER = 120
"""From which there is room for a least time, too, which a sentence beneath tells of the whole."""


@dataclass(frozen=True)
class Quantity:
    """One thing that is measured or counted of a stage, a component or the whole."""

    name: str
    """As comparisons call it."""
    column: Column
    of: Callable[[Row], Any]
    """Returns the value of a row, in SI units or bytes; `None` where it is unknown."""
    write: Callable[[Any], str]
    """Returns the value in the column's unit."""
    said: tuple[str, str] = ("", "")
    """Name and unit in a sentence, such as `parameters` and `M`."""
    base_unit: str = ""
    """Of the value itself, where it has one."""
    built: bool = False
    """Whether it is known of a model that was not run."""
    fields: Callable[[Row], Mapping[str, Any]] | None = None
    """Returns the fields of data formats, units in their names; `None`: the value under `name`."""
    usual: bool = True
    """Whether a run's table has it without being asked for it."""
    scale: float = 1.0
    """How many of the column's unit one of the value's own is."""
    more_is_better: bool = False
    drawn: bool = True
    """Whether it is a number that pictures can show."""
    timed: bool = False
    """Whether it comes of times, which a run that failed or was interrupted does not have as asked."""

    def text(self, row: Row) -> str:
        """Returns what a table's cell says."""
        return self.write(self.of(row))

    def data(self, row: Row) -> Mapping[str, Any]:
        """Returns the fields of data formats; `None` where unknown."""
        return {self.name: self.of(row)} if self.fields is None else self.fields(row)


def total(count: Callable[[Stage], int | None]) -> Callable[[Row], int | None]:
    """Returns what adds a count up over a row's stages: a sum with an unknown part is unknown."""

    def of(row: Row) -> int | None:
        known = [found for stage in row.stages if (found := count(stage)) is not None]
        return sum(known) if known and len(known) == len(row.stages) else None

    return of


def _latency_fields(row: Row) -> dict[str, Any]:
    found: Estimate | None = row.latency
    names = ("value", "low", "high", "samples", "units", "unit")
    fields = ("latency_median_s", "latency_low_s", "latency_high_s", "samples", "interval_units", "interval_unit")
    return {field: getattr(found, name, None) for field, name in zip(fields, names, strict=True)}


def _estimate_fields(names: Sequence[str], of: Callable[[Row], Estimate | None]) -> Callable[[Row], dict[str, Any]]:
    """Returns what gives value, low and high of an estimate under those names."""
    ends = ("value", "low", "high")
    return lambda row: {name: getattr(of(row), end, None) for name, end in zip(names, ends, strict=True)}


def _pace(name: str, column: Column, of: Callable[[Row], Estimate | None], *, field: str | None = None) -> Quantity:
    """Returns how many images, or frames, there are in a second; `field`: its name in data formats, where another."""
    field = field or name
    return Quantity(
        name,
        column,
        of,
        interval,
        fields=_estimate_fields((field, f"{field}_low", f"{field}_high"), of),
        usual=False,
        more_is_better=True,
        timed=True,
    )


def _time_per(what: str, *, screen: str) -> Quantity:
    """Returns how long the whole takes for each image, or frame."""
    name = f"time_per_{what}"
    of: Callable[[Row], Estimate | None] = attrgetter(name)
    return Quantity(
        name,
        Column(f"Time per {what}", "ms", "95% interval", screen=screen),
        of,
        milliseconds_interval,
        fields=_estimate_fields((f"{name}_s", f"{name}_low_s", f"{name}_high_s"), of),
        usual=False,
        scale=1e3,
        timed=True,
    )


def _percentile(name: str) -> Quantity:
    """Returns a percentile of single passes, which only the whole has: that of a sum of stages is no sum of theirs."""

    def of(row: Row) -> float | None:
        return getattr(row.passes, name, None)

    return Quantity(
        name,
        Column(name, "ms"),
        of,
        milliseconds_of,
        fields=lambda row: {f"latency_{name}_s": of(row)},
        usual=False,
        scale=1e3,
        timed=True,
    )


LATENCY = Quantity(
    "latency",
    Column("Latency", "ms", "95% interval"),
    lambda row: row.latency,
    milliseconds_interval,
    fields=_latency_fields,
    scale=1e3,
    timed=True,
)
IMAGES_PER_SECOND = _pace(
    "images_per_second", Column("Images/s", aside="95% interval"), lambda row: row.images_per_second
)
TIME_PER_IMAGE = _time_per("image", screen="An image")
FRAMES_PER_SECOND = _pace(
    "frames_per_second", Column("Frames/s", aside="95% interval"), lambda row: row.frames_per_second
)
TIME_PER_FRAME = _time_per("frame", screen="A frame")
PASSES = Quantity(
    "passes",
    Column("Passes"),
    lambda row: None if row.passes is None else row.passes.count,
    count_of,
    fields=lambda row: {"percentile_samples": None if row.passes is None else row.passes.count},
    usual=False,
    more_is_better=True,
    timed=True,
)
PERCENTILES = tuple(map(_percentile, ("p50", "p90", "p95", "p99")))
RANK = Quantity(
    "rank",
    Column("Rank"),
    lambda row: row.place,
    lambda place: ABSENT if place is None else ranks(place.best, place.worst),
    fields=lambda row: {
        "rank": getattr(row.place, "rank", None),
        "rank_best": getattr(row.place, "best", None),
        "rank_worst": getattr(row.place, "worst", None),
        "ranked_runs": getattr(row.place, "count", None),
    },
    usual=False,
    timed=True,
    drawn=False,
)
RELATIVE_TIME = Quantity(
    "relative_time",
    Column("Relative time", aside="95% interval", screen="Relative"),
    lambda row: None if row.place is None else row.place.ratio,
    ratio_interval,
    fields=lambda row: {
        **_estimate_fields(
            ("relative_time", "relative_time_low", "relative_time_high"),
            lambda row: None if row.place is None else row.place.ratio,
        )(row),
        "relative_to": getattr(row.place, "fastest", None),
    },
    usual=False,
    timed=True,
)
SHARE = Quantity("share", Column("Share"), lambda row: row.share, percent, scale=100, timed=True)
PARAMETERS = Quantity(
    "parameters",
    Column("Parameters", "M", screen="Params"),
    lambda row: row.parameters,
    millions,
    said=("parameters", "M"),
    built=True,
    scale=1e-6,
)
FLOPS = Quantity("flops", Column("GFLOPs"), lambda row: row.flops, giga, said=("FLOPs", "G"), built=True, scale=1e-9)
MACS = Quantity(
    "macs", Column("GMACs", least_width=WIDE), lambda row: row.macs, giga, said=("MACs", "G"), built=True, scale=1e-9
)
PEAK = Quantity(
    "peak_bytes",
    Column("Peak memory", "MiB", screen="Peak mem."),
    lambda row: row.peak_bytes,
    mebibytes,
    said=("peak memory", "MiB"),
    base_unit="B",
    fields=lambda row: {"memory_peak_bytes": row.peak_bytes},
    scale=1 / 2**20,
)


def _keys_and_values(row: Row) -> int | None:
    found = [stage.counts[_CACHE] for stage in row.stages if _CACHE in stage.counts]
    return sum(found) if found else None


KEYS_AND_VALUES = Quantity(
    "keys_and_values",
    Column("Keys and values", "MiB"),
    _keys_and_values,
    mebibytes,
    base_unit="B",
    fields=lambda row: {"keys_and_values_bytes": _keys_and_values(row)},
    usual=False,
    scale=1 / 2**20,
)
PREFILL = "modality_interaction.prefill"
"""The stage of a language model's that fills a cache of keys and values."""
_CACHE = "bytes_of_keys_and_values"
"""As a stage counts them that fills a cache of a language model's."""
DIFFERENCE = Quantity(
    "difference",
    Column("Difference from eager float32", aside="relative", screen="Difference"),
    lambda row: None if row.deviation is None else row.deviation.relative,
    small,
    fields=lambda row: {
        "difference_largest": getattr(row.deviation, "largest", None),
        "difference_relative": getattr(row.deviation, "relative", None),
        "difference_relative_l2": getattr(row.deviation, "relative_l2", None),
    },
    usual=False,
)
PREPARING = Quantity(
    "prepare_time",
    Column("Preparing", "s"),
    lambda row: row.prepare_time_s,
    lambda seconds: ABSENT if seconds is None else number(seconds),
    fields=lambda row: {"prepare_time_s": row.prepare_time_s},
    usual=False,
)
COMPUTED_BY = Quantity(
    "computed_by",
    Column("Computed by", align="left", long="fold"),
    lambda row: None if row.computed is None else row.computed.computed_by,
    lambda text: text or ABSENT,
    fields=lambda row: {
        "computed_by": getattr(row.computed, "computed_by", None),
        "precision": getattr(row.computed, "precision", None),
        "fell_back": getattr(row.computed, "fell_back", None),
    },
    usual=False,
    drawn=False,
)
LIMIT = Quantity(
    "limit",
    Column("At least", "ms", "reached", least_width=WIDER),
    lambda row: row.limit,
    limit_milliseconds,
    fields=lambda row: {
        "least_time_s": getattr(row.limit, "least_s", None),
        "limit_share": getattr(row.limit, "share", None),
    },
    usual=False,
    drawn=False,
    timed=True,
)


def _rates(name: str, title: str, part: str) -> tuple[Quantity, Quantity]:
    """Returns a pace in images a second of preprocessing and model at the same time, or of one alone; that in frames.

    A run has one of both.
    """

    def pace(kind: str, name: str) -> Quantity:
        of_frames, field = kind == "frames", f"{part}_{kind}_per_second"

        def of(row: Row) -> Estimate | None:
            found = row.pipeline
            return None if found is None or found.of_frames != of_frames else getattr(found, part)

        screen = f"{name.capitalize().replace('_', ' ')}/s"
        return _pace(name, Column(f"{title} {kind}/s", aside="95% interval", screen=screen), of, field=field)

    return pace("images", name), pace("frames", f"{name}_frames")


PIPELINED, PIPELINED_FRAMES = _rates("pipelined", "Pipelined", "pipelined")
PREPARED, PREPARED_FRAMES = _rates("prepared", "Preprocessing alone", "preprocessing")
COMPUTED, COMPUTED_FRAMES = _rates("computed", "Model alone", "model")
WAITS = Quantity(
    "waits",
    Column("Model waits"),
    lambda row: None if row.pipeline is None or row.pipeline.waits is None else max(0.0, row.pipeline.waits.value),
    percent,
    fields=lambda row: {
        **_estimate_fields(
            ("model_waits_share", "model_waits_share_low", "model_waits_share_high"),
            lambda row: getattr(row.pipeline, "waits", None),
        )(row),
        "pipeline_method": getattr(row.pipeline, "method", None),
    },
    usual=False,
    scale=100,
    timed=True,
)
BOTTLENECK = Quantity(
    "bottleneck",
    Column("Bottleneck", aside="slower by", align="left"),
    lambda row: row.pipeline,
    bottleneck,
    fields=lambda row: {
        "bottleneck": getattr(row.pipeline, "bottleneck", None),
        "bottleneck_factor": getattr(row.pipeline, "factor", None),
    },
    usual=False,
    drawn=False,
    timed=True,
)
PACES_ALONE = (PREPARED, PREPARED_FRAMES, COMPUTED, COMPUTED_FRAMES)
"""Of preprocessing and model, neither beside the other."""
OF_PIPELINES = (
    *(PIPELINED, PIPELINED_FRAMES),
    *PACES_ALONE,
    *(WAITS, BOTTLENECK),
)
"""What a table of several runs tells as well of those whose preprocessing and model were measured at the same time."""
OF_BACKENDS = (DIFFERENCE, PREPARING, COMPUTED_BY)
"""What a table tells as well of runs whose record says who computed the stages."""
QUANTITIES: Sequence[Quantity] = (
    *(LATENCY, IMAGES_PER_SECOND, TIME_PER_IMAGE, FRAMES_PER_SECOND, TIME_PER_FRAME, PASSES, *PERCENTILES),
    *(RANK, RELATIVE_TIME),
    *(SHARE, PARAMETERS, FLOPS, MACS, PEAK, KEYS_AND_VALUES),
    LIMIT,
    *OF_BACKENDS,
    *OF_PIPELINES,
)
"""In the order of tables and of data."""


def quantity(name: str) -> Quantity:
    """Returns the quantity of that name."""
    return next(found for found in QUANTITIES if found.name == name)


def built() -> list[Quantity]:
    """Returns the quantities that are known of a model that was not run."""
    return [found for found in QUANTITIES if found.built]


def usual() -> list[Quantity]:
    """Returns the quantities of a run's table, unless others are chosen."""
    return [found for found in QUANTITIES if found.usual]


def chosen(names: Iterable[str]) -> list[Quantity]:
    """Returns the quantities of those names, in that order, each once; a terminal of any width shows them.

    Args:
        names: as `QUANTITIES` have them, with dashes or underscores.

    Raises:
        ConfigError: there is no such quantity, or no name.
    """
    known = {flag(each): each for each in QUANTITIES}
    asked = list(dict.fromkeys(name.strip().replace("_", "-").lower() for name in names))
    for name in asked:
        if name not in known:
            guess = nearest(name, known)
            raise ConfigError(
                f"`quantities`: nothing is known of {name!r}{did_you_mean(guess)} known are {', '.join(known)}"
            )
    if not asked:
        raise ConfigError(f"`quantities`: none is named; known are {', '.join(known)}")
    return [replace(known[name], column=replace(known[name].column, least_width=0)) for name in asked]


def flag(found: Quantity) -> str:
    """Returns the quantity's name as the command line has it."""
    return found.name.replace("_", "-")


def listed() -> list[str]:
    """Returns a line a quantity: its name, and what a table calls it."""
    wide = max(len(flag(each)) for each in QUANTITIES)
    return [f"{flag(each):{wide}}  {' '.join(each.column.heading(each.column.title))}" for each in QUANTITIES]
