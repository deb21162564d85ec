"""`vilt-bench completion`: a script by which a shell completes commands, options, embedders and presets, by shtab."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from vilt_bench.ask.case import REDUCTIONS, Dtype, Interaction
from vilt_bench.ask.tiles import EXAMPLES
from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from vilt_bench.cli import Add

SHELLS = ("bash", "zsh", "fish")
_FILES = ("FILE", "PATH", "SOURCE", "RUN", "RECORD")
"""What options of files are called in their help."""
_DEVICES = ("auto", "cpu", "gpu", "cuda", "cuda:0", "mps", "xpu")


def register(add: Add) -> None:
    """Add the command."""
    parser = add(
        "completion", completion, "write a script that completes commands, options and embedders in bash, zsh or fish"
    )
    parser.add_argument("shell", choices=SHELLS, help='in bash: eval "$(vilt-bench completion bash)"')


def completion(asked: argparse.Namespace) -> int:
    """Print the script."""
    from vilt_bench.cli import _parser

    try:
        import shtab
    except ImportError:
        raise ConfigError(
            "completion needs the package shtab, which is not installed; pip install 'vilt-bench[completion]'"
        ) from None
    parser = _parser()  # of its own: what is offered is not what alone may be given
    offered = _offered()
    for action in _actions(parser):
        _offer(action, offered, shtab)
    sys.stdout.write(shtab.complete(parser, asked.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action


def _offer(action: argparse.Action, offered: Mapping[str, Sequence[str]], shtab: Any) -> None:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if action.nargs == 0 or action.choices is not None:
        return
    if action.dest in offered:
        action.choices = list(offered[action.dest])
    elif metavar in _FILES or action.dest in ("runs", "records"):
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
    elif metavar.startswith("FOLDER"):
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def _offered() -> dict[str, list[str]]:
    """Returns what an option may be given, by the name that its value gets."""
    from vilt_bench.ask.presets import presets, used_by_models
    from vilt_bench.ask.registry import FAMILY, family_names, installed

    names: list[str] = []
    for name, found in installed().items():
        # Of timm's thousand those that are used: a script is read whenever a shell starts.
        if found.family:
            family = name.removesuffix(FAMILY)
            names += [] if family == "timm" else [f"{family}/{each}" for each in family_names(found.package, family)]
        else:
            names.append(name)
    sets = presets()
    used = [*(text for each in sets.values() for text in each.embedders), *(each.embedder for each in used_by_models())]
    names += [text.partition(",")[0] for text in used]
    embedders = list(dict.fromkeys(names))
    return {
        "names": embedders,
        "embedder": embedders,
        "query": embedders,
        "preset": list(sets),
        "dtype": list(get_args(Dtype)),
        "device": list(_DEVICES),
        "interaction": list(get_args(Interaction)),
        "tiles": [*EXAMPLES],
        "reduce": [f"{name}:{number}" for name, number in REDUCTIONS.items()],
    }
