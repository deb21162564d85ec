"""Machines that one does not have: least times from the peaks and bandwidths that their vendors state; without torch.

What follows is an estimate, a lower bound, and never a measurement. `datasheets.toml` has the machines with their
sources; a file of the same form has others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vilt_bench import files
from vilt_bench.errors import ConfigError, FileError
from vilt_bench.record.run import Bounds, Stage
from vilt_bench.words import did_you_mean, nearest

TABLE = Path(__file__).with_name("datasheets.toml")
ENDING = ".toml"
"""Of what is a file, and no machine's name."""
DTYPES = ("float32", "tf32", "bfloat16", "float16", "float8", "int8")
"""For which a machine may have a peak."""
CLOCK_ALLOWANCE = 0.15
"""Share by which arithmetic may be faster than stated: boards clock above what their peak was computed for, an H100 by
8% (1980 MHz, its dense peaks are of 1830), a GeForce RTX 4090 by 11% and more."""
_KEYS = ("name", "also", "memory_gb_per_s", "cache_mib", "sources", "note", "tflops")
_ONE_NAME = re.compile(r"[\s_-]+")


@dataclass(frozen=True)
class Datasheet:
    """What is stated of a machine."""

    key: str
    """As `--on` takes it, such as `H100`."""
    name: str
    bytes_per_s: float
    """Of its memory."""
    cache_bytes: int
    """Of the last cache before the memory; 0: none is known."""
    flops_per_s: Mapping[str, float]
    """By dtype of `DTYPES`, 2 per multiply-add, of dense operands; one that is absent has no stated peak."""
    also: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    note: str = ""
    place: str = field(default="", compare=False)
    """The file that it is of, where that is not the package's."""

    def peak(self, dtype: str) -> float | None:
        """Returns FLOPs per second at most for operands of a dtype of torch's; `None`: none is stated.

        Convolutions in float32 run in TF32 by torch's default, and matrix products where that is allowed.
        """
        stated = [dtype, "tf32"] if dtype == "float32" else [dtype]
        return max((self.flops_per_s[name] for name in stated if name in self.flops_per_s), default=None)

    def bound_s(self, flops: int, moved_bytes: int, *, dtype: str) -> float | None:
        """Returns the seconds that so much work takes at least; `None`: no peak is stated for the dtype.

        Of the bytes, a cache may hold what was there before, and what is left there after: each once.
        """
        peak = self.peak(dtype)
        if peak is None:
            return None
        from_memory = max(0, moved_bytes - 2 * self.cache_bytes)
        return max((1 - CLOCK_ALLOWANCE) * flops / peak, from_memory / self.bytes_per_s)

    def bounds(self, stages: Iterable[Stage], *, dtype: str) -> Bounds:
        """Returns the least times of stages on the machine; of none if no peak is stated for the dtype."""
        found = {
            stage.name: self.bound_s(stage.flops, stage.moved_bytes, dtype=dtype)
            for stage in stages
            if stage.flops is not None and stage.moved_bytes is not None
        }
        return Bounds(
            peak=self.described(dtype),
            seconds={name: seconds for name, seconds in found.items() if seconds is not None},
            machine=self.key,
        )

    def described(self, dtype: str) -> str:
        """Returns what the least times are computed from, as a sentence without its end."""
        peak = self.peak(dtype)
        said = f" ({self.note})" if self.note else ""
        if peak is None:
            known = ", ".join(name for name in self.flops_per_s if name != "tf32")
            return f"{self.name} has no stated peak in {dtype}, so no least times; it has {known}{said}"
        kind = f"{dtype}, as TF32, which torch takes for convolutions" if peak != self.flops_per_s.get(dtype) else dtype
        return (
            f"{self.name}: {peak / 1e12:,.4g} TFLOP/s in {kind}, {self.bytes_per_s / 1e9:,.4g} GB/s from memory, "
            f"{self.cache_bytes / 2**20:,.4g} MiB of cache{said}"
        )


def find(text: str) -> list[Datasheet]:
    """Returns the machines of a text such as `H100,L4` or `H100,mine.toml`, each once.

    Args:
        text: names, and TOML files whose machines are taken all, with commas between them.

    Raises:
        ConfigError: a name is unknown, or a file can't be read or says what no datasheet can.
    """
    found: dict[str, Datasheet] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part:
            raise ConfigError(f"{text!r} has an empty name; {_known()}", field="on")
        sheets = read(part) if part.lower().endswith(ENDING) else [_named(part)]
        for sheet in sheets:
            if found.setdefault(sheet.key, sheet) != sheet:
                raise ConfigError(f"{text!r} has two machines {sheet.key!r}; give one another name", field="on")
    return list(found.values())


def read(path: str) -> list[Datasheet]:
    """Returns the machines in a TOML file.

    Raises:
        ConfigError: it can't be read, has none, or says what no datasheet can.
    """
    try:
        content = files.read_toml(path)
    except FileError as error:
        raise ConfigError(f"{error}; give a machine's name or a TOML file", field="on") from None
    if not content:
        raise ConfigError(f"{path} has no machine; expected a table such as [MINE] for each", field="on")
    return [_Reader(path, key).datasheet(table) for key, table in content.items()]


@cache
def machines() -> tuple[Datasheet, ...]:
    """Returns the machines that come with the package."""
    return tuple(_Reader(TABLE.name, key).datasheet(table) for key, table in files.read_toml(TABLE).items())


def listed() -> list[str]:
    """Returns a line for each machine that comes with the package: its name, what it is, its peaks."""
    lines = []
    for sheet in machines():
        peaks = ", ".join(f"{dtype} {peak / 1e12:,.4g}" for dtype, peak in sheet.flops_per_s.items())
        lines.append(f"{sheet.key:<16}{sheet.name}: {sheet.bytes_per_s / 1e9:,.4g} GB/s; TFLOP/s: {peaks}")
        lines += [f"{'':<16}  {source}" for source in sheet.sources]
    return lines


def _named(name: str) -> Datasheet:
    wanted = _alike(name)
    for sheet in machines():
        if wanted in map(_alike, (sheet.key, sheet.name, *sheet.also)):
            return sheet
    close = nearest(name, [other for sheet in machines() for other in (sheet.key, *sheet.also)])
    raise ConfigError(f"knows no machine {name!r}{did_you_mean(close)} {_known()}", field="on")


def _known() -> str:
    return f"known: {', '.join(sheet.key for sheet in machines())}, or a TOML file of your own"


def _alike(name: str) -> str:
    return _ONE_NAME.sub("", name).lower()


@dataclass(frozen=True)
class _Reader:
    """Reads one machine's table, and says of what is wrong where."""

    path: str
    key: str

    def datasheet(self, table: Any) -> Datasheet:
        if not isinstance(table, dict):
            raise self._error("", f"must be a table of {', '.join(_KEYS)}")
        self._check_keys(table, _KEYS, "")
        peaks = table.get("tflops")
        if not isinstance(peaks, dict) or not peaks:
            raise self._error("tflops", f"must be a table with a peak for each of {', '.join(DTYPES)} that it has")
        self._check_keys(peaks, DTYPES, "tflops.")
        if "memory_gb_per_s" not in table:
            raise self._error("memory_gb_per_s", "is missing; give the memory's bandwidth in GB/s")
        return Datasheet(
            key=self.key,
            name=self._text(table, "name") or self.key,
            bytes_per_s=1e9 * self._number(table["memory_gb_per_s"], "memory_gb_per_s"),
            cache_bytes=round(2**20 * self._number(table.get("cache_mib", 0), "cache_mib", zero=True)),
            flops_per_s={name: 1e12 * self._number(peak, f"tflops.{name}") for name, peak in peaks.items()},
            also=self._texts(table, "also"),
            sources=self._texts(table, "sources"),
            note=self._text(table, "note"),
            place="" if self.path == TABLE.name else self.path,
        )

    def _number(self, value: Any, name: str, *, zero: bool = False) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0 or not (value or zero) or value > 1e9:
            raise self._error(name, f"must be a number above 0, got {value!r}")
        return float(value)

    def _text(self, table: Mapping[str, Any], name: str) -> str:
        value = table.get(name, "")
        if not isinstance(value, str):
            raise self._error(name, f"must be a text, got {value!r}")
        return value

    def _texts(self, table: Mapping[str, Any], name: str) -> tuple[str, ...]:
        values = table.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self._error(name, f"must be a list of texts, got {values!r}")
        return tuple(values)

    def _check_keys(self, table: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
        for key in table:
            if key not in known:
                guess = did_you_mean(nearest(key, known))
                raise self._error(f"{prefix}{key}", f"is not known{guess} expected {', '.join(known)}")

    def _error(self, name: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.path}: {'.'.join(filter(None, [self.key, name]))} {problem}", field="on")
