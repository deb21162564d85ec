"""Finds configurations and weights of models: in a bundled table, a folder, or the hub where the user asks for it.

Shared by embedders and language models that are built from a configuration; no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vilt_bench import files
from vilt_bench.errors import CheckpointError, ConfigError, EmbedderError, FileError, ViltBenchError
from vilt_bench.words import did_you_mean, nearest

HUB = "hub:"
"""Prefix of a source on the Hugging Face Hub: the user asks for the network."""
CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files that tell how images are prepared; the first that is there counts."""
LARGEST_BYTES = 1 << 26
"""Of a configuration: real ones have some kilobytes."""

MOST = {r"(layers?|depths?|blocks)$": 1000, r"experts$": 16_384}
"""Of what a module is made for each: by a pattern of the key, what no model comes near."""
QUANTISED = ("quantization_config", "compression_config")

INSTALL = "install it: python -m pip install 'transformers>=5.24'"
"""Of transformers, as the extra `transformers` asks for it."""

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
    processor: dict[str, Any] = field(default_factory=dict)
    """As in a preprocessor_config.json; empty: there was none."""


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
    if name == HUB:
        raise ConfigError(f"{family}{HUB} needs a repository, as in {family}{HUB}ORGANISATION/NAME")
    if name.startswith(HUB):
        place = fetch(name.removeprefix(HUB), [CONFIG, *PROCESSORS])
        return _read_folder(Path(place), hub=name.removeprefix(HUB))
    if "/" in name:
        folder = os.path.expanduser(name)
        if files.is_folder(folder):
            return _read_folder(Path(folder))
        if files.is_file(folder) and Path(folder).name == CONFIG:  # itself, not its folder
            return _read_folder(Path(folder).parent)
        raise _no_folder(name, read_table(table), family)
    entries = read_table(table)
    if name not in entries:
        within = (each for each in entries if name and name.lower() in each.lower())
        close = nearest(name, entries) or next(within, None)
        guess = did_you_mean(close and f"{family}{close}")
        shown = listing or f"known: {', '.join(entries)}"
        raise ConfigError(
            f"no bundled configuration {name!r}{guess} {shown}; "
            f"or give a folder with a {CONFIG}, as in {family}./NAME, or {family}{HUB}ORGANISATION/NAME of the network"
        )
    return entries[name]


def _no_folder(name: str, entries: Iterable[str], family: str) -> CheckpointError:
    """Returns what to say of a path that is no folder, and perhaps was meant as a repository's name."""
    if os.path.lexists(os.path.expanduser(name)):
        return CheckpointError(f"{name} is no folder; give the folder that has the model's {CONFIG}")
    problem = f"no {CONFIG} in {name}, as there is no such folder"
    if name.startswith((".", "~", "/")) or name.count("/") != 1:
        return CheckpointError(f"{problem}; expected a folder that has a model's")
    part = name.rpartition("/")[2].lower()
    close = nearest(part, entries, cutoff=0.6)
    guess = did_you_mean(close and f"{family}{close}")
    return CheckpointError(f"{problem}{guess} '{family}{HUB}{name}' fetches what the hub has of that name")


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
        raise CheckpointError(
            f"{HUB}{name} needs huggingface_hub; install it: python -m pip install huggingface_hub"
        ) from None
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


@contextmanager
def explained(
    name: str, kind: str = "", *, library: str, error: type[ViltBenchError] = EmbedderError
) -> Iterator[None]:
    """Turns whatever a library raises in the block into a sentence that says what of a model is not known here.

    What a user can act on, and that memory ran out, goes through as it is.

    Args:
        name: of the model, as it was asked for.
        kind: its type, in the library's words; empty: the name says it.
        library: whose model it is; a package's name.
        error: what is raised.
    """
    try:
        yield
    except (ViltBenchError, MemoryError):
        raise
    except Exception as caught:  # libraries have errors of all kinds
        if "memory" in str(caught):
            raise
        what = f"{name} is a {kind!r} of {_versioned(library)}, which" if kind else f"{name} of {_versioned(library)}"
        raise error(f"{what} can't be built here: {unknown(caught)}; choose another model") from caught


def unknown(error: Exception) -> str:
    """Returns what a library's error says is not as expected, in words."""
    if isinstance(error, AttributeError):
        owner, attribute = type(error.obj).__name__, error.name
        if not attribute and (told := re.search(r"'([\w.]+)' object has no attribute '(\w+)'", str(error))):
            owner, attribute = told[1], told[2]
        if attribute:
            return f"its {owner} has no {attribute!r}"
    if isinstance(error, KeyError) and error.args:
        return f"it has no {error.args[0]!r}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        outer, _, inner = error.name.rpartition(".")
        return f"{outer} has no {inner}" if outer else f"it needs {inner}, which is not installed"
    if isinstance(error, NotImplementedError) and not str(error):
        return "a part of it is not implemented"
    return f"{one_line([error])} ({type(error).__name__})" if str(error) else type(error).__name__


def _versioned(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return library


def one_line(texts: Iterable[object], *, most: int = 240) -> str:
    """Returns the texts as one line that is not too long."""
    line = " ".join(" ".join(str(text).split()) for text in texts)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _read_folder(folder: Path, *, hub: str = "") -> Configuration:
    config = _read_json(folder / CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{folder / CONFIG} has no model_type; expected a model's configuration")
    _check_sizes(config, str(folder / CONFIG))
    processor: dict[str, Any] = {}
    for name in PROCESSORS:
        if os.path.lexists(folder / name):  # of whatever kind: not to be passed over
            processor = _read_json(folder / name)
            inner = processor.get("image_processor")  # as transformers writes it since release 5
            processor = inner if isinstance(inner, dict) else processor
            break
    return Configuration(
        config,
        hub=hub,
        folder=str(folder),
        resolution=_size(processor.get("crop_size")) or _size(processor.get("size")),
        mean=_rgb(processor.get("image_mean")),
        std=_rgb(processor.get("image_std")),
        processor=processor,
    )


def _check_sizes(config: Any, path: str) -> None:
    """Refuse, wherever in a configuration it stands, what can't be built or would not be what it says.

    Raises:
        CheckpointError: there are more layers or experts than any model has, or the weights are to be quantised.
    """
    if isinstance(config, list):
        for each in config:
            _check_sizes(each, path)
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        for pattern, most in MOST.items():
            counts = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)]
            if re.search(pattern, key) and (len(counts) > most or any(count > most for count in counts)):
                raise CheckpointError(
                    f"{path}: {key} is {one_line([value], most=40)}; expected at most {most}: no model has more"
                )
        if key in QUANTISED and value:
            how = value.get("quant_method", "") if isinstance(value, dict) else ""
            raise CheckpointError(
                f"{path} asks for quantised weights ({key}{f': {how}' if how else ''}), which are not built here; take "
                f"{key} out of it to measure the model in `dtype` instead"
            )
        _check_sizes(value, path)


def _size(values: Any) -> tuple[int, int] | None:
    """Returns (height, width) of a processor that makes all images of one size; `None`: it does not."""
    if not isinstance(values, dict):
        return None
    height, width = values.get("height"), values.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 else None


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
