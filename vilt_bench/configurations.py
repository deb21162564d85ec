"""Finds configurations and weights of models: in a bundled table, a folder, or the hub where the user asks for it.

Shared by embedders and language models that are built from a configuration; no torch.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilt_bench import files
from vilt_bench.errors import CheckpointError, ConfigError, FileError

HUB = "hub:"
"""Prefix of a source on the Hugging Face Hub: the user asks for the network."""
CONFIG = "config.json"
LARGEST_BYTES = 1 << 26
"""Of a configuration: real ones have some kilobytes."""

Rgb = tuple[float, float, float]
HALF: Rgb = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Configuration:
    """What a model is built from."""

    config: dict[str, Any]
    """As in a config.json; `model_type` says whose."""
    hub: str = ""
    """ORGANISATION/NAME of the weights; empty: not known."""
    folder: str = ""
    """Where it was read; empty: in a table."""
    resolution: tuple[int, int] | None = None
    """Default (height, width) of the images, in pixels; `None`: the configuration's own."""
    mean: Rgb = HALF
    """Of the pixels' normalisation, for RGB in 0 to 1."""
    std: Rgb = HALF
    """Likewise."""


def find_configuration(name: str, table: Path, *, family: str, listing: str = "") -> Configuration:
    """Returns the configuration of that name.

    Args:
        name: in the table; a folder with a config.json (with a `/`, such as `./NAME`); or `hub:ORGANISATION/NAME`.
        table: JSON, a configuration a name.
        family: what is written before the name, for messages.
        listing: how to see the table's names, for messages; empty: the message has them.

    Raises:
        ConfigError: the table has no such name.
        CheckpointError: the configuration can't be fetched or read.
    """
    if name.startswith(HUB):
        place = fetch(name.removeprefix(HUB), [CONFIG, "preprocessor_config.json"])
        return _read_folder(Path(place), hub=name.removeprefix(HUB))
    if "/" in name:
        return _read_folder(Path(name).expanduser())
    entries = read_table(table)
    if name not in entries:
        close = difflib.get_close_matches(name.lower(), entries, n=1, cutoff=0.5)
        guess = f"; did you mean '{family}{close[0]}'?" if close else ";"
        shown = listing or f"known: {', '.join(entries)}"
        raise ConfigError(
            f"no bundled configuration {name!r}{guess} {shown}; "
            f"or give a folder with a {CONFIG}, as in {family}./NAME, or {family}{HUB}ORGANISATION/NAME of the network"
        )
    return entries[name]


def read_table(table: Path) -> dict[str, Configuration]:
    """Returns a table's configurations by name."""
    return {
        name: Configuration(
            config=entry["config"],
            hub=entry["hub"],
            resolution=tuple(entry["resolution"]) if "resolution" in entry else None,
            mean=tuple(entry.get("mean", HALF)),
            std=tuple(entry.get("std", HALF)),
        )
        for name, entry in files.read_json(table).items()
    }


def find_weights(found: Configuration, *, name: str) -> str:
    """Returns the folder of a configuration's weights, fetched where it is of the hub.

    Raises:
        CheckpointError: there is none, or it can't be fetched.
    """
    if found.hub:
        return fetch_weights(found.hub)
    if found.folder:
        return found.folder
    raise CheckpointError(f"{name} has no weights of its own; give weights=FILE")


def fetch_weights(name: str) -> str:
    """Returns the folder with a repository's weights, as safetensors where it has them.

    Raises:
        CheckpointError: it can't be fetched.
    """
    folder = fetch(name, [CONFIG, "model*.safetensors*"])
    if any(Path(folder).glob("model*.safetensors")):
        return folder
    return fetch(name, [CONFIG, "pytorch_model*.bin*"])


def fetch(name: str, patterns: Sequence[str]) -> str:
    """Returns the folder of a repository of the Hugging Face Hub, with files fetched that are not here yet.

    Raises:
        CheckpointError: the network or the hub refuses, or the hub's client is missing.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError:
        raise CheckpointError(f"{HUB}{name} needs huggingface_hub; pip install 'vilt-bench[hub]'") from None
    try:
        return str(snapshot_download(name, allow_patterns=list(patterns)))
    except GatedRepoError:
        reason, advice = "it is gated", "accept its terms on the hub and log in with 'hf auth login'"
    except RepositoryNotFoundError:
        reason, advice = "there is no such repository, or it is private", "check the name"
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        reason, advice = first.partition(". ")[0], "check name and network"
    raise CheckpointError(f"{HUB}{name} can't be fetched ({reason}); {advice}, or give a folder that has it")


def one_line(texts: Iterable[object], *, most: int = 240) -> str:
    """Returns the texts as one line that is not too long."""
    line = " ".join(" ".join(str(text).split()) for text in texts)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _read_folder(folder: Path, *, hub: str = "") -> Configuration:
    config = _read_json(folder / CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{folder / CONFIG} has no model_type; expected a model's configuration")
    processor: dict[str, Any] = {}
    if os.path.lexists(folder / "preprocessor_config.json"):  # of whatever kind: not to be passed over
        processor = _read_json(folder / "preprocessor_config.json")
    return Configuration(
        config,
        hub=hub,
        folder=str(folder),
        mean=_rgb(processor.get("image_mean")),
        std=_rgb(processor.get("image_std")),
    )


def _rgb(values: Any) -> Rgb:
    if not isinstance(values, list) or len(values) != 3:
        return HALF
    red, green, blue = map(float, values)
    return red, green, blue


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = files.read_json(path, most=LARGEST_BYTES)
    except FileError as error:
        if error.missing:
            raise CheckpointError(f"no {path.name} in {path.parent}; expected a folder that has a model's") from None
        raise CheckpointError(f"{error}; expected a model's {path.name}, whole") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no configuration; expected a JSON object")
    return content
