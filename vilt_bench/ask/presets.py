"""Sets of embedders by name, and what vision-language models use, read from `presets.toml` of embedder packages.

    [presets.small]
    about = "what it is for"
    embedders = ["patch32", "timm/resnet50,resolution=384x384,reduce=avg-pool:2"]
    axes = { batch-size = [1, 8] }          # as a plan's; those that are asked for besides take their place

    [[vlm]]
    embedder = "timm/vit_large_patch14_clip_336"
    used_by = "LLaVA-1.5"
    evidence = "where that can be read"

A text under `embedders` is what `--embedder` takes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vilt_bench import files
from vilt_bench.ask.axes import Swept, axis, read_embedder, values_of
from vilt_bench.ask.registry import installed, letters, package_folders
from vilt_bench.errors import ConfigError, FileError
from vilt_bench.words import did_you_mean, nearest

FILE = "presets.toml"
LARGEST_BYTES = 1 << 24
EXPECTED = 'expected TOML with [presets.NAME] and, below it, embedders = ["NAME", …]'


@dataclass(frozen=True)
class Preset:
    """A set of embedders."""

    name: str
    about: str
    embedders: tuple[str, ...]
    """As `--embedder` takes them."""
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """What each is measured with, by field of `Case`, as fields have the values."""


@dataclass(frozen=True)
class Used:
    """An embedder that a vision-language model uses."""

    embedder: str
    """As `--embedder` takes it."""
    used_by: str
    evidence: str
    """Where that it does can be read."""


def presets() -> dict[str, Preset]:
    """Returns the presets of all packages that offer embedders, by name."""
    found: dict[str, Preset] = {}
    for path in _files():
        found |= _presets(path)
    return found


def used_by_models(package: str | None = None) -> list[Used]:
    """Returns what vision-language models use, in the packages' order.

    Args:
        package: a top-level package; `None`: all that offer embedders.
    """
    paths = _files() if package is None else [folder / FILE for folder in package_folders(package)]
    return [used for path in paths if files.is_file(path) for used in _used(path)]


def that_fit(query: str, *, embedders: bool = True) -> list[Used]:
    """Returns what vision-language models use whose names have the query's letters and digits.

    Args:
        query: part of a name, however its words are parted.
        embedders: whether an embedder's name that has them counts as well.
    """
    wanted = letters(query)
    return [
        each
        for each in used_by_models()
        if wanted in letters(each.used_by) or (embedders and wanted in letters(each.embedder))
    ]


def embedders_of(name: str, *, asked: Collection[str] = ()) -> list[Swept]:
    """Returns the embedders of a preset, each with the preset's axes.

    Args:
        name: as for `find_preset`.
        asked: axes that are asked for besides, and take the place of the preset's.

    Raises:
        ConfigError: as `find_preset`; or an embedder can't be read.
    """
    return [
        replace(swept, own={key: it for key, it in preset.axes.items() if key not in asked} | dict(swept.own))
        for preset in find_preset(name)
        for swept in map(read_embedder, preset.embedders)
    ]


def find_preset(name: str) -> tuple[Preset, ...]:
    """Returns the preset of that name.

    Args:
        name: of a preset; or the path of a TOML file, whose presets are taken all.

    Raises:
        ConfigError: there is no such preset or file.
    """
    if name.endswith(".toml"):
        try:
            files.check_regular(name)
        except FileError as error:
            problem = "no such file" if error.missing else error.reason
            raise ConfigError(f"`preset` {name}: {problem}; {EXPECTED}") from None
        own = _presets(Path(name))
        if not own:
            raise ConfigError(f"`preset` {name} has no preset; {EXPECTED}")
        return tuple(own.values())
    known = presets()
    if name not in known:
        guess = did_you_mean(nearest(name, known))
        raise ConfigError(f"no preset {name!r}{guess} known: {', '.join(known)}, or a TOML file")
    return (known[name],)


def _files() -> list[Path]:
    packages = dict.fromkeys(found.package for found in installed().values())
    return [path for package in packages for folder in package_folders(package) if files.is_file(path := folder / FILE)]


def _used(path: Path) -> list[Used]:
    keys = ("embedder", "used_by", "evidence")
    entries = _read(path).get("vlm", [])
    if not isinstance(entries, list) or not all(
        isinstance(each, Mapping) and set(keys) <= set(each) for each in entries
    ):
        raise ConfigError(f"{path}: each [[vlm]] needs {', '.join(keys)}")
    return [Used(*(str(entry[key]) for key in keys)) for entry in entries]


def _presets(path: Path) -> dict[str, Preset]:
    found = {}
    entries = _read(path).get("presets", {})
    if not isinstance(entries, Mapping):
        raise ConfigError(f"{path}: presets is no table; {EXPECTED}")
    for name, entry in entries.items():
        embedders = entry.get("embedders") if isinstance(entry, Mapping) else None
        if not isinstance(embedders, list) or not embedders or not all(isinstance(text, str) for text in embedders):
            raise ConfigError(f'{path}: [presets.{name}] needs embedders = ["NAME", …]')
        found[name] = Preset(
            name, str(entry.get("about", "")), tuple(embedders), _axes(entry.get("axes", {}), path, name)
        )
    return found


def _axes(given: object, path: Path, name: str) -> dict[str, Sequence[Any]]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{path}: axes of [presets.{name}] are no table; expected lists of values by axis")
    try:
        return {axis(key): values_of(key, values) for key, values in given.items()}
    except ConfigError as error:
        raise ConfigError(f"{path}: axes of [presets.{name}]: {error.problem}", field=error.field) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return files.read_toml(path, most=LARGEST_BYTES)
    except FileError as error:
        raise ConfigError(str(error)) from None
