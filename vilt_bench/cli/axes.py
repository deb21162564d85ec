"""Reads options that may be lists, and makes a plan of what was asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vilt_bench.ask.axes import NONE
from vilt_bench.ask.case import parse_dtype, parse_frames, parse_resolution, write_frames
from vilt_bench.cli import values
from vilt_bench.cli.flags import in_flags
from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from vilt_bench.ask.case import Case
    from vilt_bench.ask.plans import Plan

Read = Callable[[str], Any]

NATIVE = "native"
LISTS = (
    "batch_size", "resolution", "dtype", "text_length", "images_per_text", "frames", "tiles", "reduce", "threads",
    "interaction", "backend", "quantize", "preprocessor", "decoder", "preprocessing_workers",
)  # fmt: skip
"""Axes that are options of their own; a plan knows more."""
SINGLE = ("fit", "preprocessing", "pin_memory", "device", "seed")
"""Fields of a case of which the command line takes one value."""


def number(text: str) -> int:
    """Returns a whole number.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None


dtype = values.read_by(parse_dtype)
frames = values.read_by(lambda text: text if text == NONE else write_frames(*parse_frames(text)))
"""Reads N[@FPS], or `none`."""


def resolution(text: str) -> tuple[int, int] | str:
    """Returns (height, width), or `native`.

    Raises:
        ArgumentTypeError: it is neither.
    """
    if text == NATIVE:
        return NATIVE
    try:
        return parse_resolution(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(in_flags(error.problem)) from None  # argparse puts the flag before it


def one(read: Read) -> Read:
    """Returns what reads one value, and says of a list who takes it."""

    def value(text: str) -> Any:
        if "," in text:
            raise argparse.ArgumentTypeError(f"{text!r} is a list, which only 'vilt-bench run' takes; give one value")
        return read(text)

    return value


def several(read: Read) -> Read:
    """Returns what reads values with commas between them."""

    def values(text: str) -> list[Any]:
        found = [part.strip() for part in text.split(",")]
        if "" in found:
            raise argparse.ArgumentTypeError(f"{text!r} has an empty value; expected values with commas between them")
        return [read(part) for part in found]

    return values


def text(given: str) -> str:
    """Returns it as it is."""
    return given


def backends(text: str) -> list[str]:
    """Returns backends with commas between them, each `NAME[:KEY=VALUE,…]`.

    Commas are between options as well: behind `NAME:`, what is no backend's name is another option of it.
    """
    from vilt_bench.worker.backends import names

    known = names()
    found: list[str] = []
    for part in text.split(","):
        begins = part.partition(":")[0].strip() in known and "=" not in part.partition(":")[0]
        if found and ":" in found[-1] and not begins:
            found[-1] = f"{found[-1]},{part}"
        else:
            found.append(part)
    return found


def backend(text: str) -> str:
    """Returns one backend.

    Raises:
        ArgumentTypeError: there are several.
    """
    found = backends(text)
    if len(found) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is a list, which only 'vilt-bench run' takes; give one value")
    return found[0]


class Renamed(argparse.Action):
    """An option of another name by now: says which."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Tell what to write."""
        parser.error(f"{option_string} is --backend by now, which is of all stages; write --backend {values}")


def check_backends(cases: Iterable[Case]) -> None:
    """Refuse a backend that is not there, or that lacks an option.

    Raises:
        ConfigError: one of the cases asks for it.
    """
    from vilt_bench.worker.backends import check

    for asked in dict.fromkeys((case.backend, case.device, case.quantize) for case in cases):
        check(*asked)


def plan(asked: argparse.Namespace) -> Plan:
    """Returns what the options say; those that were not given, or that the command does not take, it does not have.

    Raises:
        ConfigError: a value is impossible.
    """
    from vilt_bench.ask.axes import read_embedder
    from vilt_bench.ask.case import SIZES, Case
    from vilt_bench.ask.plans import Plan
    from vilt_bench.ask.presets import embedders_of

    def given(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(asked, name, None)) is not None}

    lists = {
        name: value if isinstance(value, list) else [value]
        for name, value in given(*LISTS, *SINGLE).items()
        # Commands without plans have the usual values where none is given: an embedder alone knows no text's length.
        if hasattr(asked, "plan") or value != getattr(Case, name)
    }
    embedders = [read_embedder(each) for each in (*asked.names, *(asked.embedder or ()))]
    for name in getattr(asked, "preset", None) or ():
        embedders += embedders_of(name, asked=lists)
    if (weights := given("weights").get("weights")) is not None:
        if len({(each.name, frozenset(each.options.items())) for each in embedders}) != 1:
            example = embedders[0].name if embedders else "NAME"
            raise ConfigError(f"--weights is of one embedder; with several, write --embedder {example},weights=PATH")
        embedders = [replace(each, options={**each.options, "weights": weights}) for each in embedders]
    images = getattr(asked, "image", None)
    return Plan(
        embedders=tuple(embedders),
        axes=lists,
        common=given("checkpoint") | ({"images": tuple(images)} if images else {}),
        sizes=given(*SIZES),
    )
