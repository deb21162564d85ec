"""Finds the embedders that installed packages offer, and builds one by name; without torch until then."""

from __future__ import annotations

import csv
import functools
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from vilt_bench import files
from vilt_bench.ask.case import Option
from vilt_bench.errors import EmbedderError, UnknownEmbedderError, ViltBenchError
from vilt_bench.words import did_you_mean, nearest

if TYPE_CHECKING:
    from vilt_bench.embedding import VisualEmbedder

GROUP = "vilt_bench.embedders"
"""The entry points' group; an entry point's name is the embedder's, or a family's."""

FAMILY = "/*"
"""How the entry point of a family ends: `timm/*` offers `timm/NAME` for whatever NAME its factory knows.

The factory gets NAME as the keyword argument `model`, and says itself what it does not know.
"""

OWN_MODULE = "module/"
"""How the name of a module begins that a program has in hand and sends to the processes that measure it."""
_OWN_MODULES = "vilt_bench.embedding.modules:sent"

FAMILY_FILE = "catalog-{family}.csv"
"""In a package's top folder: what a family of it offers, a row a name."""

GIVEN = {"hidden_size": "`hidden_size`", "resolution": "`resolution`", "model": "NAME after the family's"}
"""Keyword arguments of a factory that are no options, and what they come from."""


@dataclass(frozen=True)
class Installed:
    """An embedder that an installed distribution offers."""

    name: str
    target: str
    """`module.path:factory`"""
    distribution: str
    rivals: tuple[str, ...] = ()
    """Other distributions that offer the same name for something else; it then can't be used."""

    @property
    def package(self) -> str:
        """The top-level package that it comes from."""
        return self.target.partition(":")[0].partition(".")[0]

    @property
    def family(self) -> bool:
        """Whether it offers many, as `FAMILY` says."""
        return self.name.endswith(FAMILY)


def installed() -> dict[str, Installed]:
    """Returns all offered embedders by name, in alphabetical order; imports none of them."""
    return dict(_installed_in(tuple((path, _changed(path)) for path in sys.path)))


@functools.lru_cache(maxsize=1)
def _installed_in(_import_path: tuple[tuple[str, int | None], ...]) -> Mapping[str, Installed]:
    """Returns what is offered, looked up once for an import path whose folders have not changed since."""
    found: dict[str, Installed] = {}
    for name, target, distribution in sorted(_offers()):
        first = found.setdefault(name, Installed(name, target, distribution))
        if target != first.target:
            found[name] = replace(first, rivals=(*first.rivals, distribution))
    return found


def _changed(folder: str) -> int | None:
    """Returns when something came into a folder or went, in ns; `None`: it is not there."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return None


def check_name(name: str) -> None:
    """Refuse a name that can't be loaded, without importing the embedder.

    Args:
        name: of an installed embedder, of a family's, or `module.path:factory`. Which names a family has is known
            to its factory alone.

    Raises:
        EmbedderError: nothing has that name, or two distributions offer it.
    """
    if ":" not in name.partition("/")[0]:
        _find(name)
        return
    module, _, factory = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *factory.split(".")]):
        raise EmbedderError(f"embedder {name!r} is not module.path:factory, as in my_package.embedder:build")
    top = module.partition(".")[0]
    if top not in sys.modules and find_spec(top) is None and PathFinder.find_spec(top, [os.getcwd()]) is None:
        raise UnknownEmbedderError(
            f"embedder {name!r}: no module {top!r} here or installed; run where it lies or install it"
        )


def load_factory(name: str) -> Callable[..., VisualEmbedder]:
    """Returns an embedder's factory, its module imported.

    Args:
        name: of an installed embedder, or `module.path:factory`, which may lie in the current folder.

    Raises:
        EmbedderError: nothing has that name, it fails to import, or it is no function.
    """
    check_name(name)
    model = None
    if ":" in name.partition("/")[0]:
        target, origin = name, ""
        # At the end: a file here must not shadow an installed module. It stays, as the module may import more later.
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
    else:
        entry = _find(name)
        target, origin = entry.target, f" of distribution {entry.distribution!r}"
        model = name.partition("/")[2] if entry.family else None
    module, _, path = target.partition(":")
    try:
        factory: Any = importlib.import_module(module)
        for attribute in path.split("."):
            factory = getattr(factory, attribute)
    except Exception as error:  # whatever an outsider's module does on import
        raise EmbedderError(
            f"embedder {name!r}{origin} can't be imported: {_one_line(error)}; mend or remove it, --debug shows where"
        ) from error
    if not callable(factory):
        raise EmbedderError(
            f"embedder {name!r}{origin} is {target}, which is no function that returns an embedder; "
            "give module.path:factory"
        )
    if model is not None:
        return functools.partial(factory, model=model)
    return factory  # type: ignore[no-any-return]  # what it returns is checked when it is called


def factory_file(name: str) -> str | None:
    """Returns the file of the module that an embedder's factory is taken from; `None` where Python does not tell.

    Raises:
        EmbedderError: as `load_factory`.
    """
    load_factory(name)
    target = name if ":" in name.partition("/")[0] else _find(name).target
    return getattr(sys.modules.get(target.partition(":")[0]), "__file__", None)


def imported_files() -> tuple[str, ...]:
    """Returns the files of the modules that are imported: of a package its first, of Python's own none."""
    found = {name: file for name, each in sys.modules.copy().items() if (file := _file_of(each)) is not None}
    return tuple(
        sorted(
            file
            for name, file in found.items()
            if name.partition(".")[0] not in sys.stdlib_module_names and name.rpartition(".")[0] not in found
        )
    )


def _file_of(module: object) -> str | None:
    try:
        file = getattr(module, "__file__", None)
    except Exception:  # whatever stands in for a module
        return None
    return file if isinstance(file, str) and os.path.isabs(file) else None


def build(
    name: str, options: Mapping[str, Option], *, hidden_size: int, resolution: tuple[int, int] | None = None
) -> VisualEmbedder:
    """Returns the embedder that the factory of that name builds.

    Args:
        name: of an installed embedder, of a family's, or `module.path:factory`.
        options: keyword arguments of the factory.
        hidden_size: D of the tokens.
        resolution: (height, width) that was asked for, for a factory that takes it: position tables may depend on
            it; `None`: the embedder's own.

    Raises:
        EmbedderError: nothing has that name, an option is unknown or of the wrong type, building fails, or what is
            built says of itself what nobody can use.
    """
    import torch

    from vilt_bench.embedding import VisualEmbedder
    from vilt_bench.embedding.breaches import misdescribed

    factory = load_factory(name)
    arguments = {**_checked(name, factory, options), "hidden_size": hidden_size}
    if "resolution" in inspect.signature(factory).parameters:
        arguments["resolution"] = resolution
    try:
        embedder = factory(**arguments)
    except (ViltBenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever an outsider's factory does
        raise EmbedderError(f"embedder {name!r} can't be built: {_one_line(error)}") from error
    if not isinstance(embedder, VisualEmbedder):
        raise EmbedderError(f"embedder {name!r} must build a VisualEmbedder, got {type(embedder).__name__}")
    if embedder.hidden_size != hidden_size:
        raise EmbedderError(f"embedder {name!r} has hidden size {embedder.hidden_size}, asked was {hidden_size}")
    if wrong := list(misdescribed(embedder)):
        raise EmbedderError(f"embedder {name!r} can't be used: its {'; its '.join(wrong)}; mend its factory")
    return embedder


def package_folders(package: str) -> list[Path]:
    """Returns the folders of a top-level package, several for a namespace; finding it imports nothing."""
    try:
        spec = find_spec(package)
    except ValueError:  # a module without a spec, such as __main__
        return []
    # A checkout that is installed and worked in is on the import path twice, and with it a namespace's folder.
    return [Path(folder) for folder in dict.fromkeys(spec.submodule_search_locations or ())] if spec is not None else []


def family_names(package: str, family: str) -> list[str]:
    """Returns the names in the catalogue of a family, without the family's own; none where it has no catalogue."""
    found = []
    for folder in package_folders(package):
        path = folder / FAMILY_FILE.format(family=family)
        if files.is_file(path):
            found += [row["name"] for row in csv.DictReader(files.read_text(path).splitlines())]
    return found


def guess(name: str, *, most: int = 3) -> str:
    """Returns `; did you mean 'NAME'?` for what a user may mean who gave no embedder's name, else `;`.

    A misspelt name; the name of a family's model without the family; part of a name; a repository of the hub; a
    vision-language model, of which the visual embedder is meant.
    """
    offered = installed()
    plain = [each for each, found in offered.items() if not found.family]
    close = nearest(name, plain, cutoff=0.6)
    part = name.rpartition("/")[2].partition(",")[0].lower()
    known = {
        f"{family}/{model}": model.lower()
        for family, found in ((each.removesuffix(FAMILY), found) for each, found in offered.items() if found.family)
        for model in family_names(found.package, family)
    }
    fits = [
        [full for full, model in known.items() if model == part],
        [full for full, model in known.items() if model.startswith(part)] if part else [],
        [full for full, model in known.items() if part in model] if part else [],
    ]
    best = next((each for each in fits if each), []) if close is None else [close]
    hub = ""
    if "/" in name and ":" not in name and f"transformers{FAMILY}" in offered:
        hub = f" 'transformers/hub:{name}' fetches what the hub has of that name;"
    if not best:
        query, used = _used(part)
        if used:
            shown = f"'vilt-bench list --vlm {query}' shows them"
            return f"; vision-language models of that name use {listed(used[:most])}: {shown};{hub}"
    if not best and (plainly := letters(part)):
        best = [full for full, model in known.items() if plainly in letters(model)]
        part = plainly
    if not best:
        fallback = nearest(part, known.values(), cutoff=0.7)
        best = [full for full, model in known.items() if model == fallback]
    if not best:
        return f"{did_you_mean(nearest(name, plain))}{hub}"
    finds = len(best) > most and any(part in known.get(each, "") for each in best)
    more = f" 'vilt-bench list {part}' finds all that fit;" if finds else ""
    return f"; did you mean {listed(best[:most])}?{hub}{more}"


def _used(name: str) -> tuple[str, list[str]]:
    """Returns what vision-language models of that name use, and as much of the name as theirs has.

    A repository's name says more than a model's: sizes and versions at its end.
    """
    from vilt_bench.ask import presets  # which looks into packages by this module

    parts = name.split("-")
    for count in range(len(parts), 0, -1):
        query = "-".join(parts[:count])
        if len(letters(query)) >= _LEAST_LETTERS and (found := presets.that_fit(query, embedders=False)):
            return query, list(dict.fromkeys(each.embedder for each in found))
    return name, []


_LEAST_LETTERS = 3
"""Of what is looked for in the names of models."""


def letters(text: str) -> str:
    """Returns the letters and digits, by which names are alike however they are parted."""
    return re.sub(r"[\W_]+", "", text.lower())


def listed(names: Sequence[str]) -> str:
    """Returns `'a', 'b' or 'c'`."""
    *most, last = map(repr, names)
    return f"{', '.join(most)} or {last}" if most else last


def _offers() -> Iterator[tuple[str, str, str]]:
    """Yields name, target and distribution of each entry point.

    Most distributions offer none: of those neither metadata nor entry points are parsed, which would take as long as
    all else that `vilt-bench list` does.
    """
    seen = set()
    for distribution in distributions():
        if GROUP not in (distribution.read_text("entry_points.txt") or ""):
            continue
        name = distribution.name
        if name not in seen:  # the first on the import path hides others of its name
            seen.add(name)
            yield from ((point.name, point.value, name) for point in distribution.entry_points if point.group == GROUP)


def _find(name: str) -> Installed:
    if name.startswith(OWN_MODULE):
        return Installed(f"{OWN_MODULE}*", _OWN_MODULES, "vilt-bench")
    offered = installed()
    family, _, model = name.partition("/")
    entry = offered.get(f"{family}{FAMILY}" if model else name)
    if not model and (of := offered.get(f"{family}{FAMILY}")) is not None and entry is None:
        names = family_names(of.package, family)
        shown = f", such as {family}/{names[0]}; 'vilt-bench list {family}/' shows all" if names else ""
        raise UnknownEmbedderError(f"embedder {name!r} is a family: give {family}/NAME{shown}")
    if entry is None or model == "*":
        raise UnknownEmbedderError(f"no embedder named {name!r}{guess(name)} 'vilt-bench list' shows all")
    if entry.rivals:
        raise EmbedderError(
            f"embedder {name!r} is offered by distributions {', '.join([entry.distribution, *entry.rivals])}; "
            f"uninstall all but one, or give module.path:factory, as in {entry.target}"
        )
    return entry


def _checked(name: str, factory: Callable[..., Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """Returns the options in the factory's types."""
    try:
        parameters = dict(inspect.signature(factory, eval_str=True).parameters)
    except (NameError, TypeError, ValueError):  # annotations that can't be evaluated: names and defaults still hold
        parameters = dict(inspect.signature(factory).parameters)
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if "hidden_size" not in parameters and not takes_all:
        raise EmbedderError(f"embedder {name!r} doesn't take hidden_size; its factory must, by keyword")
    known = {
        key: parameter
        for key, parameter in parameters.items()
        if key not in GIVEN and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    for key in options:
        if key in GIVEN:
            raise EmbedderError(f"embedder {name!r}: {key} is no option of its own; give {GIVEN[key]}")
        if key not in known and not takes_all:
            offered = ", ".join(_shown(parameter) for parameter in known.values()) or "none"
            raise UnknownEmbedderError(f"embedder {name!r} has no option {key!r}; its options: {offered}")
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in options:
            raise EmbedderError(f"embedder {name!r} needs option {key!r}, as in `embedder` '{name},{key}=VALUE'")
    return {key: _converted(name, known[key], value) if key in known else value for key, value in options.items()}


def _converted(name: str, parameter: inspect.Parameter, value: Option) -> Any:
    import msgspec

    if parameter.annotation is parameter.empty:
        return value
    try:
        return msgspec.convert(value, parameter.annotation)
    except msgspec.ValidationError:
        raise EmbedderError(
            f"embedder {name!r}: option {parameter.name!r} must be {_expected(parameter.annotation)}, got {value!r}"
        ) from None
    except TypeError:  # a type that has no check
        return value


def _expected(annotation: Any) -> str:
    """Returns a type in words."""
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    named = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return named.get(annotation) or inspect.formatannotation(annotation).replace("typing.", "")


def _shown(parameter: inspect.Parameter) -> str:
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default}"


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
