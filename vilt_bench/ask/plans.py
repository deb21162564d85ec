"""What is asked for as a whole: embedders, axes, what is the same for all, sampling; from a TOML file, or as flags say.

docs/sweeps.md has the schema.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from vilt_bench import files
from vilt_bench.ask.axes import AXES, Expansion, Sweep, Swept, axis, check_excluded, names_of, read_embedder, values_of
from vilt_bench.ask.case import SIZES, Case, Option, Sampling, ViltConfig
from vilt_bench.ask.effort import parse_duration_s, parse_share, parse_size_bytes
from vilt_bench.ask.presets import embedders_of
from vilt_bench.errors import ConfigError, FileError
from vilt_bench.words import dashed, did_you_mean, nearest

STANDARD_INPUT = "-"
"""As a plan's path."""
LARGEST_BYTES = 1 << 24
_SAMPLING = {"precision": "precision", "max_time": "max_time_s", "trials": "trials", "least_samples": "least_samples"}
_OF_CASE = ("images", "checkpoint", *SIZES)
"""Keys for fields of a case that are no axes."""
_NOUNS = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a table"}

Key = tuple[str | int, ...]
"""Where in a plan: tables and keys from the top, and which of an array of tables."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and how hard to look."""

    embedders: tuple[Swept, ...] = ()
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    common: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Case` that are the same for all."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Of `ViltConfig`."""
    exclude: tuple[Mapping[str, Any], ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Sampling`."""
    together: int | None = None
    """How many cases may be alive together; `None`: as many as memory holds."""
    memory_bytes: int | None = None
    """What those may take on the host; `None`: what is free."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where a field was read, as `FILE, line N`."""
    sha256: str | None = None
    """Of the file that it was read from."""

    def under(self, other: Plan) -> Plan:
        """Returns the plan with what another says in place of its own: embedders, an axis, a field each."""
        said = {*other.axes, *other.common, *other.sizes, *other.sampling}
        return Plan(
            embedders=other.embedders or self.embedders,
            axes={**{name: values for name, values in self.axes.items() if name not in other.common}, **other.axes},
            common={**self.common, **other.common},
            sizes={**self.sizes, **other.sizes},
            exclude=(*(_of_embedders(self.exclude, other.embedders)), *other.exclude),
            sampling={**self.sampling, **other.sampling},
            together=self.together if other.together is None else other.together,
            memory_bytes=self.memory_bytes if other.memory_bytes is None else other.memory_bytes,
            places={name: place for name, place in self.places.items() if name not in said},
            sha256=self.sha256 or other.sha256,
        )

    def sweep(self) -> Sweep:
        """Returns the sweep that it describes.

        Raises:
            ConfigError: a size is impossible.
        """
        with self.placed():
            common = {**self.common, **({"vilt": ViltConfig(**self.sizes)} if self.sizes else {})}
        return Sweep(self.embedders, self.axes, common, self.exclude)

    def expand(self) -> Expansion:
        """Returns the cases, and what was left out.

        Raises:
            ConfigError: as `Sweep.expand`; with the line of what was read from a file.
        """
        with self.placed():
            return self.sweep().expand()

    def how(self) -> Sampling:
        """Returns how hard to look.

        Raises:
            ConfigError: a value is impossible.
        """
        with self.placed():
            return Sampling(**self.sampling)

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Returns a context in which an error of a field that was read from a file says where."""
        try:
            yield
        except ConfigError as error:
            if error.field not in self.places:
                raise
            raise ConfigError(f"{self.places[error.field]}: {error}") from None


def _of_embedders(exclude: Sequence[Mapping[str, Any]], embedders: Sequence[Swept]) -> Iterator[Mapping[str, Any]]:
    """Yields the exclusions that can mean one of the embedders, where some have taken the place of a plan's."""
    known = {name for each in embedders for name in names_of(each)}
    for each in exclude:
        left = [name for name in each.get("embedder", ()) if name in known]
        if not known or "embedder" not in each:
            yield each
        elif left:
            yield {**each, "embedder": left}


def read_plan(path: str) -> Plan:
    """Returns the plan in a TOML file.

    Args:
        path: of the file; `-` for standard input.

    Raises:
        ConfigError: it can't be read, or says what no plan can; with line and key.
    """
    import hashlib
    import tomllib

    name, text = _text(path)
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{name} can't be read as TOML: it is nested too deep") from None
    except ValueError as error:
        raise ConfigError(f"{name} can't be read as TOML: {' '.join(str(error).split())}") from None
    return replace(_Reader(name, text).plan(content), sha256=hashlib.sha256(text.encode()).hexdigest())


def write_plan(cases: Sequence[Case], sampling: Sampling) -> str:
    """Returns a plan in TOML that has exactly these cases, in this order.

    Raises:
        ConfigError: a case has what no plan can say: sizes that are Python's alone.
    """
    effort = {key: getattr(sampling, own) for key, own in _SAMPLING.items()}
    tables = ["[sampling]", *(f"{dashed(key)} = {_toml(value)}" for key, value in effort.items())]
    for case in cases:
        tables += ["", "[[embedder]]", f"name = {_toml(case.embedder)}"]
        if case.options:
            options = ", ".join(f"{_toml(key)} = {_toml(value)}" for key, value in case.options.items())
            tables.append(f"options = {{ {options} }}")
        usual = Case(case.embedder)
        said = {name: value for name in _SAID if (value := getattr(case, name)) != getattr(usual, name)}
        sizes = {
            each.name: value for each in fields(case.vilt) if (value := getattr(case.vilt, each.name)) != each.default
        }
        if unknown := sizes.keys() - set(SIZES):
            raise ConfigError(f"`{min(unknown)}` is for Python alone; a plan can't say it")
        tables += [f"{dashed(name)} = {_toml(value)}" for name, value in (said | sizes).items()]
    return "\n".join([*tables, ""])


_SAID = (*AXES, "images", "checkpoint")
_ESCAPES = {**{chr(code): f"\\u{code:04x}" for code in (*range(32), 127)}, "\\": "\\\\", '"': '\\"'}


def _toml(value: object) -> str:
    """Returns a value as TOML writes it."""
    if isinstance(value, str):
        return f'"{"".join(_ESCAPES.get(letter, letter) for letter in value)}"'
    if isinstance(value, tuple):
        # Of numbers there are resolutions only.
        numbers = all(isinstance(each, int) for each in value)
        return _toml("x".join(map(str, value))) if numbers else f"[{', '.join(map(_toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _text(path: str) -> tuple[str, str]:
    """Returns a plan's name for messages, and its text."""
    if path != STANDARD_INPUT:
        try:
            return path, files.read_text(path, most=LARGEST_BYTES)
        except FileError as error:
            raise ConfigError(f"{error}; give a TOML file, or - for standard input", field="plan") from None
    name = "standard input"
    if sys.stdin is None or sys.stdin.closed:
        raise ConfigError(f"{name} can't be read: it is closed", field="plan")
    data = sys.stdin.buffer.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ConfigError(f"{name} can't be read: it is larger than {LARGEST_BYTES >> 20} MiB", field="plan")
    try:
        return name, data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} can't be read: byte {error.start} is no UTF-8", field="plan") from None


@dataclass(frozen=True)
class _Reader:
    """A plan's text, which knows its lines."""

    name: str
    text: str

    def plan(self, content: Mapping[str, Any]) -> Plan:
        self._check_keys(
            content,
            (),
            ("embedders", "presets", "together", "memory", "embedder", "axes", "case", "exclude", "sampling"),
        )
        axes = self._axes(self._table(content, ("axes",)), ("axes",))
        common, sizes = self._case(self._table(content, ("case",)), ("case",))
        sampling = self._table(content, ("sampling",))
        self._check_keys(sampling, ("sampling",), tuple(_SAMPLING))
        embedders = tuple(self._embedders(content, sizes, axes))
        return Plan(
            embedders=embedders,
            axes=axes,
            common=common,
            sizes=sizes,
            exclude=tuple(self._exclusions(content, embedders)),
            sampling={
                own: self._effort(value, ("sampling", name))
                for name, own in _SAMPLING.items()
                if (value := _get(sampling, name)) is not None
            },
            together=self._together(content),
            memory_bytes=self._memory(content),
            places={
                **{name: self._place(("axes", name)) for name in axes},
                **{name: self._place(("case", name)) for name in _OF_CASE},
                **{own: self._place(("sampling", name)) for name, own in _SAMPLING.items()},
            },
        )

    def _case(self, table: Mapping[str, Any], here: Key) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the fields of `Case` that a table has, and those of `ViltConfig`."""
        self._check_keys(table, here, _OF_CASE)
        common: dict[str, Any] = {}
        if (images := _get(table, "images")) is not None:
            common["images"] = tuple(self._texts(images, (*here, "images")))
        if (checkpoint := _get(table, "checkpoint")) is not None:
            common["checkpoint"] = self._of(checkpoint, (*here, "checkpoint"), str)
        sizes = {name: self._of(size, (*here, name), int) for name in SIZES if (size := _get(table, name)) is not None}
        return common, sizes

    def _together(self, content: Mapping[str, Any]) -> int | None:
        if "together" not in content:
            return None
        together: int = self._of(content["together"], ("together",), int)
        if together < 1:
            raise self._error(("together",), f"must be at least 1, got {together}")
        return together

    def _memory(self, content: Mapping[str, Any]) -> int | None:
        if "memory" not in content:
            return None
        with self._at(("memory",)):
            return parse_size_bytes(self._of(content["memory"], ("memory",), str))

    def _embedders(
        self, content: Mapping[str, Any], sizes: Mapping[str, Any], axes: Mapping[str, Any]
    ) -> Iterator[Swept]:
        for text in self._texts(content.get("embedders", []), ("embedders",)):
            with self._at(("embedders",)):
                yield read_embedder(text)
        for preset in self._texts(content.get("presets", []), ("presets",)):
            with self._at(("presets",)):
                yield from embedders_of(preset, asked=axes)
        for index, entry in enumerate(self._tables(content, "embedder")):
            here: Key = ("embedder", index)
            self._check_keys(entry, here, ("name", "options", *AXES, *_OF_CASE))
            if "name" not in entry:
                raise self._error(here, 'needs name = "NAME"')
            with self._at((*here, "name")):
                swept = read_embedder(self._of(entry["name"], (*here, "name"), str))
            given = entry.get("options", {})
            options: dict[str, Option] = {}
            for key, value in self._of(given, (*here, "options"), dict).items():
                if not isinstance(value, bool | int | float | str):
                    raise self._error((*here, "options", key), f"must be a value, got {value!r}")
                options[key.replace("-", "_")] = value
            fixed = {key: value for key, value in entry.items() if key.replace("-", "_") in _OF_CASE}
            own = {key: value for key, value in entry.items() if key not in ("name", "options", *fixed)}
            common, own_sizes = self._case(fixed, here)
            if own_sizes:
                with self._at(here):
                    common["vilt"] = ViltConfig(**{**sizes, **own_sizes})
            yield replace(
                swept,
                options={**swept.options, **options},
                own={**swept.own, **self._axes(own, here)},
                common=common,
            )

    def _exclusions(self, content: Mapping[str, Any], embedders: Sequence[Swept]) -> Iterator[Mapping[str, Any]]:
        for index, entry in enumerate(self._tables(content, "exclude")):
            here: Key = ("exclude", index)
            self._check_keys(entry, here, ("embedder", *AXES))
            if not entry:
                raise self._error(here, "names nothing, so would leave everything out; give an axis or an embedder")
            names = entry.get("embedder")
            own = {key: value for key, value in entry.items() if key != "embedder"}
            which = [] if names is None else self._texts(names, (*here, "embedder"))
            if embedders:  # else they are named beside the plan
                with self._at((*here, "embedder")):
                    check_excluded(which, embedders)
            yield {
                **({"embedder": which} if which else {}),
                **self._axes(own, here),
            }

    def _axes(self, table: Mapping[str, Any], here: Key) -> dict[str, tuple[Any, ...]]:
        if "linear" in table:
            raise self._error((*here, "linear"), "is backend by now, which is of all stages; write backend")
        self._check_keys(table, here, tuple(AXES), also=("name", "options", "embedder"))
        found = {}
        for key, value in table.items():
            with self._at((*here, key)):
                found[axis(key)] = values_of(key, value if isinstance(value, list) else [value])
        return found

    def _table(self, content: Mapping[str, Any], key: Key) -> Mapping[str, Any]:
        return self._of(content.get(str(key[-1]), {}), key, dict)  # type: ignore[no-any-return]

    def _tables(self, content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
        entries = content.get(name, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise self._error((name,), f"must be tables, each under [[{name}]]")
        return entries

    def _texts(self, value: Any, key: Key) -> list[str]:
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise self._error(key, f"must be a list of texts, got {value!r}")
        if not given and key[0] not in ("embedders", "presets"):
            raise self._error(key, "is empty; give a value, or leave it out")
        return given

    def _of(self, value: Any, key: Key, kind: type) -> Any:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._error(key, f"must be {_NOUNS[kind]}, got {value!r}")
        return value

    def _effort(self, value: Any, key: Key) -> Any:
        """Returns a number; of a text such as `1%` or `90s` what it means."""
        match str(key[-1]):
            case "precision" | "max_time" as name:
                example = "1% or 0.01" if name == "precision" else "90s, 1.5m, 2h or a number of seconds"
                try:
                    if isinstance(value, str):
                        return parse_share(value) if name == "precision" else parse_duration_s(value)
                except ConfigError:
                    pass  # told as for what is no text
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise self._error(key, f"must be such as {example}, got {value!r}")
                return float(value)
        return self._of(value, key, int)

    def _check_keys(
        self, table: Mapping[str, Any], here: Key, known: Sequence[str], *, also: Sequence[str] = ()
    ) -> None:
        for key in table:
            if key.replace("-", "_") not in (*known, *also):
                home = _home(key, here)
                guess = f" here; it goes under [{home}];" if home else did_you_mean(nearest(key, map(dashed, known)))
                raise self._error((*here, key), f"is not known{guess} expected {', '.join(map(dashed, known))}")

    @contextmanager
    def _at(self, key: Key) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            raise self._error(key, error.problem) from None

    def _error(self, key: Key, problem: str) -> ConfigError:
        return ConfigError(f"{self._place(key)}: {problem}")

    def _place(self, key: Key) -> str:
        """Returns where a key is, as `FILE, line N, axes.batch-size`."""
        number = line_of(self.text, key)
        shown = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{dashed(part)}" for part in key)
        return ", ".join(
            [self.name, *([] if number is None else [f"line {number}"]), *([shown.removeprefix(".")] if key else [])]
        )


def line_of(text: str, key: Key) -> int | None:
    """Returns the line of a key in TOML, counted from 1, or that of its table; `None`: it was not found.

    The parser of the standard library tells none; so headers and keys are looked for at the beginnings of lines.

    Args:
        text: valid TOML.
        key: tables and keys from the top; a number says which of an array of tables, from 0.
    """
    sought = [_alike(part) for part in key]
    tables = sought if isinstance(key[-1], int) else sought[:-1]
    around: int | None = None
    here: list[str | int] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[(\[?)([^\]\[]*)\]", line):
            here = [_plain(part) for part in header[2].split(".")]
            found = list(here)
            if header[1]:
                name = ".".join(map(str, here))
                counts[name] = counts.get(name, -1) + 1
                here.append(counts[name])
        elif assigned := re.match(r"""\s*([\w"'.\s-]+?)\s*=""", line):
            found = [*here, *(_plain(part) for part in assigned[1].split("."))]
        else:
            continue
        if found == sought:
            return number
        if tables and tables in (found, here) and (around is None or found == tables):
            around = number
    return around


def _home(key: str, here: Key) -> str | None:
    """Returns the table where a key of a plan belongs, if it is another one."""
    name = key.replace("-", "_")
    homes = {"axes": AXES, "case": _OF_CASE, "sampling": _SAMPLING}
    return next((home for home, keys in homes.items() if name in keys and here != (home,)), None)


def _plain(part: str) -> str:
    return part.strip().strip("\"'").replace("-", "_")


def _alike(part: str | int) -> str | int:
    return part.replace("-", "_") if isinstance(part, str) else part


def _get(table: Mapping[str, Any], name: str) -> Any:
    """Returns the value of a key, written with dashes or underscores."""
    return table.get(dashed(name), table.get(name))
