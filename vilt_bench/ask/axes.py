"""Axes in, cases out: every combination of what is to vary with every embedder, as far as it makes a case."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

from vilt_bench.ask.case import (
    ALONE,
    LANGUAGE_MODEL,
    Case,
    Option,
    ViltConfig,
    case_name,
    parse_backend,
    parse_device,
    parse_dtype,
    parse_embedder,
    parse_frames,
    parse_resolution,
    write_backend,
    write_frames,
)
from vilt_bench.ask.tiles import parse_tiles
from vilt_bench.errors import ConfigError
from vilt_bench.words import counted, did_you_mean, nearest

MOST_COMBINATIONS = 10_000
"""Far above what can be measured in a week, far below what would fill the memory with cases."""

NATIVE = "native"
"""As a resolution: each image's own size, which is a fit."""
NONE = "none"
"""As tiles, a reduction, quantisation or frames: none."""

AXES: Mapping[str, type] = {
    "resolution": str,
    "fit": str,
    "tiles": str,
    "reduce": str,
    "preprocessing": bool,
    "preprocessor": str,
    "decoder": str,
    "pin_memory": bool,
    "preprocessing_workers": int,
    "interaction": str,
    "frames": str,
    "text_length": int,
    "images_per_text": int,
    "dtype": str,
    "backend": str,
    "quantize": str,
    "device": str,
    "threads": int,
    "batch_size": int,
    "seed": int,
}
"""Fields of a case that may vary, and what a value of theirs is; the last varies fastest."""

OWN = ("reduce", "resolution", "tiles")
"""Among the options of an embedder as a text: the case's, for it alone."""

_MOOT = {ALONE: ("text_length", "images_per_text")}
"""Axes that mean nothing behind an interaction."""
_SHOWN = 3
"""Cases named in a sentence."""
_KINDS = {str: "a text", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True)
class Swept:
    """An embedder of a sweep."""

    name: str
    options: Mapping[str, Option] = field(default_factory=dict)
    """Keyword arguments of its factory."""
    own: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values of axes for it alone, in place of the sweep's."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Case` for it alone, in place of the sweep's."""


@dataclass(frozen=True)
class Expansion:
    """The cases of a sweep, and what was left out."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()
    """A sentence each; fields of a case are in backticks, as errors have them."""


@dataclass(frozen=True)
class Sweep:
    """Every combination of the axes' values with every embedder.

    `Sweep(["patch32", "grid-r50"], {"batch_size": [1, 2, 4], "resolution": ["224x224", "384x640"]}).cases()`
    has the twelve cases: by embedder as given, and within it by axes, the last of `AXES` fastest.
    """

    embedders: Sequence[str | Swept]
    """Texts are as `--embedder` takes them; what is `OWN` in them is not multiplied by the axes'."""
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values by field of `Case`. A resolution is (height, width), `HxW`, or `native`; a reduction may be `none`."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Case` that are the same for all; an axis goes before them."""
    exclude: Sequence[Mapping[str, Any]] = ()
    """Combinations to leave out: each has values, or lists of them, by axis or `embedder`; all must fit."""

    def cases(self) -> list[Case]:
        """Returns the cases, each once.

        Raises:
            ConfigError: as `expand`.
        """
        return list(self.expand().cases)

    def _repr_html_(self) -> str:
        """Returns the cases, as a notebook shows them."""
        from vilt_bench.report.cells import of_sweep

        return of_sweep(self)

    def expand(self) -> Expansion:
        """Returns the cases, each once, and what was left out, and why.

        A combination that makes no case is left out, as long as each of its values is a part of another that does.

        Raises:
            ConfigError: there is no such axis, an axis is empty, a value is impossible with every other, there are more
                combinations than `MOST_COMBINATIONS`, or all are excluded.
        """
        given = {name: values_of(name, values) for name, values in self.axes.items()}
        embedders = [_swept(each) for each in self.embedders]
        if not embedders:
            raise ConfigError("a sweep needs an embedder; 'vilt-bench list' shows all")
        axes = _each_once(given)
        own = [_each_once({name: values_of(name, values) for name, values in each.own.items()}) for each in embedders]
        _check_count(embedders, [axes | each for each in own])
        excluded = [_Exclusion.of(each, embedders) for each in self.exclude]
        found = _Found(notes=[*_repeated(given), *_fixed(axes, embedders, own)])
        for each, fixed in zip(embedders, own, strict=True):
            found.add(each, axes | fixed, {**self.common, **each.common}, excluded)
        return found.finished(excluded)


@dataclass(frozen=True)
class _Exclusion:
    """A combination to be left out."""

    embedders: Sequence[str]
    """As `--embedder` takes them, or their names alone; none: all."""
    values: Mapping[str, Sequence[Any]]
    hit: list[int] = field(default_factory=lambda: [0])
    """How many combinations it has left out."""

    @staticmethod
    def of(given: Mapping[str, Any], embedders: Sequence[Swept]) -> _Exclusion:
        if not given:
            raise ConfigError("an exclusion names nothing, so would leave everything out; give an axis or an embedder")
        values = {key: value if _is_list(value) else [value] for key, value in given.items()}
        names = list(values.pop("embedder", ()))
        check_excluded(names, embedders)
        return _Exclusion(names, {key: values_of(key, each) for key, each in values.items()})

    def fits(self, embedder: Swept, combination: Mapping[str, Any]) -> bool:
        if self.embedders and not names_of(embedder) & set(self.embedders):
            return False
        fits = all(combination.get(name, _USUAL[name]) in values for name, values in self.values.items())
        self.hit[0] += fits
        return fits

    def __str__(self) -> str:
        parts = {**({"embedder": self.embedders} if self.embedders else {}), **self.values}
        return ", ".join(f"`{name}` {', '.join(shown(value) for value in values)}" for name, values in parts.items())


@dataclass
class _Found:
    """The cases so far."""

    notes: list[str]
    cases: dict[Any, Case] = field(default_factory=dict)
    """By what makes them one."""
    twice: list[Case] = field(default_factory=list)
    moot: dict[str, dict[str, None]] = field(default_factory=dict)
    """Interactions that do not know an axis."""
    known: set[str] = field(default_factory=set)
    """Axes that some case knows."""
    refused: dict[str, list[str]] = field(default_factory=dict)
    """Combinations by why they make no case."""
    errors: dict[tuple[str, str, Any], ConfigError] = field(default_factory=dict)
    """The first error of a value of an axis with an embedder."""
    longer: dict[int, None] = field(default_factory=dict)
    """Texts' lengths for which a table of positions was made longer."""
    taken: set[tuple[str, str, Any]] = field(default_factory=set)
    """Values of axes that are in a case."""

    def add(
        self,
        embedder: Swept,
        axes: Mapping[str, Sequence[Any]],
        common: Mapping[str, Any],
        excluded: Sequence[_Exclusion],
    ) -> None:
        ordered = {name: axes[name] for name in AXES if name in axes}
        varying = [name for name, values in ordered.items() if len(values) > 1]
        for values in product(*ordered.values()):
            combination = dict(zip(ordered, values, strict=True))
            fitting = [each.fits(embedder, combination) for each in excluded]  # each counts its own
            if any(fitting):
                self.taken |= {("", name, value) for name, value in combination.items()}
                continue
            keys = {("", name, value) for name, value in combination.items()}
            try:
                case, moot = _case(embedder, combination, common, several_lengths="text_length" in varying)
            except ConfigError as error:
                # A value that no combination takes is wrong; one that some take does not apply to the others.
                for key in keys or {("", "", None)}:
                    self.errors.setdefault(key, error)
                said = " ".join(f"`{name}` {shown(combination[name])}" for name in varying)
                self.refused.setdefault(str(error), []).append(f"{_written(embedder)} with {said}")
                continue
            self.taken |= keys | {("", "", None)}
            if case.vilt.text_positions > common.get("vilt", ViltConfig()).text_positions:
                self.longer[case.text_length] = None
            self.known |= ordered.keys() - set(moot)
            for name in moot:
                self.moot.setdefault(name, {})[case.interaction] = None
            key = _identity(case)
            if key not in self.cases:
                self.cases[key] = case
            elif not any(name in varying for name in moot):
                self.twice.append(case)

    def finished(self, excluded: Sequence[_Exclusion]) -> Expansion:
        for key, error in self.errors.items():
            if key not in self.taken:
                raise error
        if not self.cases:
            raise ConfigError("the exclusions leave no case; take one of them out")
        notes = [*self.notes]
        for name, interactions in self.moot.items():
            which = f"`interaction` {' and '.join(interactions)}"
            if name not in self.known:
                raise ConfigError(f"applies to no case, as all are of {which}; leave it out", field=name)
            notes.append(f"`{name}` does not apply to {which}, and is left out there.")
        if self.longer:
            rows = " and ".join(map(str, self.longer))
            notes.append(
                f"Texts of {rows} tokens have a position table of as many rows, as ViLT's has "
                f"{ViltConfig.text_positions}; `text_positions` gives all cases one table."
            )
        notes += [f"Left out: {_some(which)}: {why}." for why, which in self.refused.items()]
        if self.twice:
            names = dict.fromkeys(map(case_name, self.twice))
            notes.append(f"Asked for more than once, and measured once: {_some([*names])}.")
        for each in excluded:
            left = counted(each.hit[0], "combination") if each.hit[0] else "nothing"
            notes.append(f"Excluded by {each}: {left}.")
        return Expansion(tuple(self.cases.values()), tuple(notes))


def read_embedder(text: str) -> Swept:
    """Returns the embedder of a text as `--embedder` takes it.

    Raises:
        ConfigError: an option is not KEY=VALUE, or is given twice.
    """
    name, options = parse_embedder(text)
    own = {key: [str(options.pop(key))] for key in OWN if key in options}
    return Swept(name, options, own)


def shown(value: object) -> str:
    """Returns a value of an axis as it is written on the command line."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def axis(name: str) -> str:
    """Returns the axis of that name, dashes and underscores alike.

    Raises:
        ConfigError: there is none.
    """
    found = name.replace("-", "_")
    if found not in AXES:
        guess = did_you_mean(nearest(found, AXES))
        raise ConfigError(f"there is no axis {name!r}{guess} known: {', '.join(AXES)}")
    return found


_USUAL: Mapping[str, Any] = {name: getattr(Case("-"), name) for name in AXES}


def names_of(embedder: Swept) -> set[str]:
    """Returns the names by which an exclusion can mean an embedder."""
    return {embedder.name, _written(embedder)}


def check_excluded(names: Sequence[str], embedders: Sequence[Swept]) -> None:
    """Refuse an exclusion of embedders that are not in the sweep.

    Raises:
        ConfigError: one of the names is of none of them.
    """
    known = [name for each in embedders for name in (each.name, _written(each))]
    for name in names:
        if name not in known:
            guess = did_you_mean(nearest(str(name), known))
            raise ConfigError(f"an exclusion names embedder {name!r}, which is not in the sweep{guess}".rstrip(";"))


def _each_once(axes: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(dict.fromkeys(values)) for name, values in axes.items()}


def _repeated(axes: Mapping[str, tuple[Any, ...]]) -> Iterator[str]:
    """Yields which values of an axis were given more than once."""
    for name, values in axes.items():
        if again := [shown(value) for value in dict.fromkeys(values) if values.count(value) > 1]:
            yield f"`{name}` has {_some(again)} more than once; each is measured once."


def _swept(embedder: str | Swept) -> Swept:
    return read_embedder(embedder) if isinstance(embedder, str) else embedder


def values_of(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Returns the values of an axis as fields of a case have them.

    Raises:
        ConfigError: there is no such axis, it is empty, or a value is of another type.
    """
    name = axis(name)
    if not _is_list(values):
        raise ConfigError(f"as an axis is a list of values, got {values!r}", field=name)
    if not values:
        raise ConfigError("as an axis is empty; give a value, or leave it out", field=name)
    return tuple(_value(name, value) for value in values)


def _value(name: str, value: Any) -> Any:
    match name:
        case "resolution" if isinstance(value, list | tuple) and len(value) == 2:
            return tuple(value)
        case "resolution" if isinstance(value, str) and value != NATIVE:
            return parse_resolution(value)
        case "resolution" | "threads" | "tiles" | "reduce" | "frames" | "quantize" if value is None:
            return None
        case "tiles" | "reduce" | "frames" | "quantize" if value == NONE:
            return None
        case "tiles" if isinstance(value, str):
            return parse_tiles(value).name
        case "frames" if isinstance(value, int | str) and not isinstance(value, bool):
            return write_frames(*parse_frames(str(value)))
        case "dtype" if isinstance(value, str):
            return parse_dtype(value)
        case "device" if isinstance(value, str):
            return parse_device(value)
        case "backend" if isinstance(value, str):
            return write_backend(*parse_backend(value))
    kind = AXES[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"must be {_KINDS[kind]}, got {value!r}", field=name)
    return value


def _check_count(embedders: Sequence[Swept], axes: Sequence[Mapping[str, Sequence[Any]]]) -> None:
    count = sum(math.prod(map(len, each.values())) for each in axes)
    if count > MOST_COMBINATIONS:
        most = max(axes, key=lambda each: math.prod(map(len, each.values())))
        factors = [f"{len(values):,} of `{name}`" for name, values in most.items() if len(values) > 1]
        by = " × ".join([counted(len(embedders), "embedder"), *factors])
        raise ConfigError(
            f"{by} are {count:,} combinations; a sweep may have {MOST_COMBINATIONS:,} at most, so give fewer values"
        )


def _fixed(
    axes: Mapping[str, Sequence[Any]], embedders: Sequence[Swept], own: Sequence[Mapping[str, Sequence[Any]]]
) -> Iterator[str]:
    """Yields what embedders fix for themselves that varies for the others."""
    for name, values in axes.items():
        which = dict.fromkeys(_written(each) for each, fixed in zip(embedders, own, strict=True) if name in fixed)
        if which and len(values) > 1:
            has = "has its" if len(which) == 1 else "have their"
            yield f"{_some([*which])} {has} own `{name}`, which is not multiplied."


def _is_language_model(given: Mapping[str, Any]) -> bool:
    return str(given.get("interaction", "")).startswith(LANGUAGE_MODEL)


def _case(
    embedder: Swept, combination: Mapping[str, Any], common: Mapping[str, Any], *, several_lengths: bool
) -> tuple[Case, list[str]]:
    """Returns the case of a combination, and the axes that it does not know."""
    given = {**common, **combination}
    if given.get("resolution") == NATIVE:
        given |= {"resolution": None, "fit": NATIVE}
    if isinstance(frames := given.get("frames"), str):
        given["frames"], given["frame_rate"] = parse_frames(frames)
    moot = [name for name in _MOOT.get(given.get("interaction", ""), ()) if name in combination]
    for name in moot:
        del given[name]
    length, sizes = given.get("text_length", 0), given.get("vilt", ViltConfig())
    # Among several lengths the longer ones are meant: their table of positions is as long, unless one was given.
    if several_lengths and length > sizes.text_positions == ViltConfig.text_positions and not _is_language_model(given):
        given["vilt"] = replace(sizes, text_positions=length)
    return Case(embedder=embedder.name, options=embedder.options, **given), moot


def _identity(case: Case) -> tuple[Any, ...]:
    """Returns what is equal for equal cases only, and can be looked up."""
    options = frozenset((key, type(value), value) for key, value in case.options.items())
    return (options, *(getattr(case, each.name) for each in fields(case) if each.name != "options"))


def _written(embedder: Swept) -> str:
    return ",".join([embedder.name, *(f"{key}={value}" for key, value in embedder.options.items())])


def _some(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
