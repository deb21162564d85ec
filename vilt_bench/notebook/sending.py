"""Sends a module or a function that a program has in hand to the processes that measure it."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vilt_bench.ask.registry import OWN_MODULE
from vilt_bench.errors import ConfigError, ViltBenchError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vilt_bench.embedding.modules import Sent

MOST_STAGES = 24
"""Children that become stages by themselves: more rows are no overview."""


@dataclass(frozen=True)
class Subject:
    """A module as it is to be measured."""

    name: str
    """Of the embedder that stands for it in cases and records."""
    structure: str
    """A digest of what it consists of, alike for modules that are alike but for their weights."""
    sent: Sent


def subject(
    measured: Callable[..., Any],
    *,
    size: tuple[int, int] | None,
    stages: Sequence[str] | None = None,
    example: Any = None,
) -> Subject:
    """Returns how a module or a function is measured; it is called once, to see what it returns.

    Args:
        measured: an `nn.Module`, or any callable.
        size: (height, width) of its images; `None`: its own, where it tells that.
        stages: names of its submodules; `None`: its children, where it can be cut into them.
        example: tensors that it is called with; `None`: images.

    Raises:
        ConfigError: it can't be called so, or cut so, or does not return a tensor.
    """
    import torch
    from torch import nn

    from vilt_bench.embedding import VisualEmbedder
    from vilt_bench.embedding.modules import Function, Sent, as_tokens, default_stages, stages_of

    name = _name(measured)
    tensors = _tensors(example)
    module = measured if isinstance(measured, nn.Module) else Function(measured)
    if not tensors and size is None and (size := _own_size(module)) is None:
        raise ConfigError(f"{name} does not say which images it takes; give `image_size`, as in image_size=224")
    size = size or (1, 1)
    if isinstance(module, VisualEmbedder):
        found = Sent(module, (), size, module.hidden_size, "")
        return Subject(f"{OWN_MODULE}{name}", _structure(module, tuple(module.stages)), found)
    first = next(module.parameters(), torch.empty(0))
    called = tensors or (torch.zeros(1, 3, *size, device=first.device, dtype=first.dtype),)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            tokens = as_tokens(module(*called))
    except Exception as error:  # whatever a user's module does
        shapes = " and ".join(str(list(each.shape)) for each in called)
        raise ConfigError(
            f"{name} can't be called with {shapes}: {_one_line(error)}; give its `image_size`, or `example` inputs"
        ) from error
    finally:
        module.train(was_training)
    names, note = tuple(stages or ()), ""
    if stages is None and not tensors and len(names := default_stages(module)) <= MOST_STAGES:
        names, note = _whole_stages(module, names)
    elif stages is None:
        names = ()
    try:
        stages_of(module, names, tensors)
    except ViltBenchError as error:
        raise ConfigError(f"{name}: {error}") from None
    found = Sent(module, names, size, tokens.embeddings.shape[-1], "", tensors, note)
    return Subject(f"{OWN_MODULE}{name}", _structure(module, names), found)


def write(sent: Sent, folder: Path) -> None:
    """Write what a measuring process loads: code of its user's own, so that the folder must be theirs alone.

    Raises:
        ConfigError: it can be sent in no way.
    """
    import cloudpickle
    import torch

    from vilt_bench.embedding.modules import EXPORT, FILE, PATHS, PROGRAM

    (folder / FILE).with_suffix(PATHS).write_text("\n".join(map(str, sys.path)), encoding="utf-8")
    sent = replace(sent, example=tuple(each.cpu() for each in sent.example))
    try:
        try:
            torch.save(replace(sent, way=_way(sent.module)), folder / FILE, pickle_module=cloudpickle)
        except Exception:  # whatever it holds that can't be pickled
            called = sent.example or (torch.zeros(1, 3, *sent.resolution),)
            program = torch.export.export(sent.module.eval(), called)
            torch.export.save(program, folder / PROGRAM)
            told = replace(sent, module=torch.nn.Identity(), stages=(), way=EXPORT)
            torch.save(told, folder / FILE, pickle_module=pickle)
    except Exception as error:
        raise ConfigError(
            f"the module can't be sent to a measuring process, neither by cloudpickle nor by torch.export: "
            f"{_one_line(error)}"
        ) from error


def _whole_stages(module: nn.Module, names: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Returns those of the children that it can be cut into, and a note where it can't be."""
    from vilt_bench.embedding.modules import cut

    if not names:
        return (), ""
    try:
        return tuple(cut(module, names, only_called=True)), ""
    except ViltBenchError as error:
        return (), f"In one: {error}."


def _way(module: nn.Module) -> str:
    """Returns how cloudpickle sends it: the class by the file that it is imported from, or as it is."""
    from vilt_bench.embedding.modules import Function

    kind: Any = getattr(module, "_call", None) or type(getattr(module, "owner", module))
    file = getattr(sys.modules.get(getattr(kind, "__module__", "")), "__file__", None)
    if kind is Function or file is None or kind.__module__ == "__main__":
        return "cloudpickle"
    return f"source file {Path(file).name}"


def _structure(module: nn.Module, stages: Sequence[str]) -> str:
    parts = [f"{name} {list(value.shape)} {value.dtype}" for name, value in module.state_dict().items()]
    kinds = [f"{name} {type(child).__qualname__} {child.extra_repr()}" for name, child in module.named_modules()]
    return hashlib.sha256("\n".join([*kinds, *parts, *stages]).encode()).hexdigest()[:8]


def _name(measured: Any) -> str:
    told = getattr(measured, "__name__", None) or type(measured).__name__
    return "".join(each for each in told if each.isalnum() or each in "_.-") or "module"


def _tensors(example: Any) -> tuple[Tensor, ...]:
    from torch import Tensor

    if example is None:
        return ()
    found = example if isinstance(example, tuple | list) else (example,)
    if not found or not all(isinstance(each, Tensor) for each in found):
        raise ConfigError(f"`example` must be a tensor, or a tuple of tensors; got {type(example).__name__}")
    return tuple(found)


def _own_size(module: Any) -> tuple[int, int] | None:
    """Returns the size that a model of timm, of transformers or of this package says of itself."""
    told = getattr(module, "resolution", None)
    if told is None and isinstance(given := getattr(module, "default_cfg", None), dict):
        told = given.get("input_size", (0, None, None))[-2:]
    if told is None:
        told = getattr(getattr(module, "config", None), "image_size", None)
    if isinstance(told, int):
        told = (told, told)
    if isinstance(told, tuple | list) and len(told) == 2 and all(isinstance(each, int) for each in told):
        return told[0], told[1]
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
