"""What is told of a stage, each quantity described once: its names, its unit, where it is found, how it is written.

Tables, Markdown, LaTeX, CSV, JSON, `show` and the sentences of a comparison read it here: a new metric is a meter that
counts it into the record, and one more of `QUANTITIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vilt_bench.report.numbers import giga, mebibytes, millions, milliseconds_interval, percent
from vilt_bench.report.tables import Column

if TYPE_CHECKING:
    from vilt_bench.judge.estimate import Estimate
    from vilt_bench.judge.summary import Row
    from vilt_bench.record.run import Stage

WIDE = 90
"""Columns of a terminal from which there is room for what follows from other columns."""


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


LATENCY = Quantity(
    "latency",
    Column("Latency", "ms", "95% interval"),
    lambda row: row.latency,
    milliseconds_interval,
    fields=_latency_fields,
)
SHARE = Quantity("share", Column("Share"), lambda row: row.share, percent)
PARAMETERS = Quantity(
    "parameters",
    Column("Parameters", "M", screen="Params"),
    lambda row: row.parameters,
    millions,
    said=("parameters", "M"),
    built=True,
)
FLOPS = Quantity("flops", Column("GFLOPs"), lambda row: row.flops, giga, said=("FLOPs", "G"), built=True)
MACS = Quantity("macs", Column("GMACs", least_width=WIDE), lambda row: row.macs, giga, said=("MACs", "G"), built=True)
PEAK = Quantity(
    "peak_bytes",
    Column("Peak memory", "MiB", screen="Peak mem."),
    lambda row: row.peak_bytes,
    mebibytes,
    said=("peak memory", "MiB"),
    base_unit="B",
    fields=lambda row: {"memory_peak_bytes": row.peak_bytes},
)
QUANTITIES: Sequence[Quantity] = (LATENCY, SHARE, PARAMETERS, FLOPS, MACS, PEAK)
"""In the order of tables and of data."""


def quantity(name: str) -> Quantity:
    """Returns the quantity of that name."""
    return next(found for found in QUANTITIES if found.name == name)


def built() -> list[Quantity]:
    """Returns the quantities that are known of a model that was not run."""
    return [found for found in QUANTITIES if found.built]
