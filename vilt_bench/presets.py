"""Sets of embedders by name, and what vision-language models use, read from `presets.toml` of embedder packages.

    [presets.small]
    about = "what it is for"
    embedders = ["patch32", "timm/resnet50,resolution=384x384,reduce=avg-pool:2"]

    [[vlm]]
    embedder = "timm/vit_large_patch14_clip_336"
    used_by = "LLaVA-1.5"
    evidence = "where that can be read"

A text under `embedders` is what `--embedder` takes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilt_bench.errors import ConfigError
from vilt_bench.registry import installed, nearest, package_folders

FILE = "presets.toml"


@dataclass(frozen=True)
class Preset:
    """A set of embedders."""

    name: str
    about: str
    embedders: tuple[str, ...]
    """As `--embedder` takes them."""


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
    files = _files() if package is None else [folder / FILE for folder in package_folders(package)]
    return [
        Used(*(str(entry[key]) for key in ("embedder", "used_by", "evidence")))
        for path in files
        if path.is_file()
        for entry in _read(path).get("vlm", ())
    ]


def find_preset(name: str) -> tuple[str, ...]:
    """Returns the embedders of a preset, as `--embedder` takes them.

    Args:
        name: of a preset; or the path of a TOML file, whose presets are taken all.

    Raises:
        ConfigError: there is no such preset or file.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise ConfigError(f"--preset {name}: no such file; expected TOML with [presets.NAME] and embedders")
        return tuple(text for preset in _presets(Path(name)).values() for text in preset.embedders)
    known = presets()
    if name not in known:
        raise ConfigError(f"no preset {name!r}{nearest(name, list(known))} known: {', '.join(known)}, or a TOML file")
    return known[name].embedders


def _files() -> list[Path]:
    packages = dict.fromkeys(found.package for found in installed().values())
    return [path for package in packages for folder in package_folders(package) if (path := folder / FILE).is_file()]


def _presets(path: Path) -> dict[str, Preset]:
    found = {}
    for name, entry in _read(path).get("presets", {}).items():
        embedders = entry.get("embedders") if isinstance(entry, Mapping) else None
        if not isinstance(embedders, list) or not embedders or not all(isinstance(text, str) for text in embedders):
            raise ConfigError(f'{path}: [presets.{name}] needs embedders = ["NAME", …]')
        found[name] = Preset(name, str(entry.get("about", "")), tuple(embedders))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} can't be read as TOML: {' '.join(str(error).split())}") from None
