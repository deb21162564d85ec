"""Makes a visual embedder of any `nn.Module` that a program has sent to its measuring process as a file.

The file is a pickle, which is code: it is written by the process of the user who asks for the measuring, into a folder
that no other user can write to, and read by the processes that it starts, in the same minute; by nobody else.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from vilt_bench.embedding.contract import ImageBatch, VisualEmbedder, VisualTokens, tensors
from vilt_bench.errors import EmbedderError

FOLDER = "VILT_BENCH_MODULES"
"""Environment variable of a measuring process: the folder that the file lies in."""
FILE = "module.pt"
PATHS = ".path"
"""Ending of the file beside it that says where its sender finds modules of Python's, a line each."""
WHOLE = "module"
"""The one stage of a module that is not cut."""
_NO_STAGE = (nn.Identity, nn.Dropout)
"""Children that are no stage of their own unless they are named: in eval mode they do nothing."""


@dataclass(frozen=True)
class Sent:
    """A module on its way to a measuring process."""

    module: nn.Module
    stages: tuple[str, ...]
    """Names of its submodules, in the order in which they run; none: it is one stage."""
    resolution: tuple[int, int]
    hidden_size: int
    """Width of what it returns."""
    way: str
    """How it is sent, for the record."""
    example: tuple[Tensor, ...] = ()
    """What it is called with; none: images."""
    note: str = ""
    """What a reader of its stages must know."""


def sent(*, model: str, hidden_size: int, structure: str = "") -> VisualEmbedder:
    """Returns the embedder of the module that this process was started for.

    Args:
        model: the name of its class or function, for messages.
        hidden_size: width of its tokens.
        structure: a digest of what it consists of; a part of the case's name, and not looked at here.

    Raises:
        EmbedderError: no module was sent, or it can't be loaded here.
    """
    folder = os.environ.get(FOLDER)
    if folder is None:
        raise EmbedderError(
            f"{model!r} is a module of somebody's program or notebook, which only that has; measure it there, with "
            "vilt_bench.measure(module, image_size=…)"
        )
    found = load(Path(folder) / FILE)
    if isinstance(found.module, VisualEmbedder):
        return found.module
    if found.hidden_size != hidden_size:
        raise EmbedderError(f"{model!r} returns features of width {found.hidden_size}; give `hidden_size` that")
    stages = stages_of(found.module, found.stages, found.example)
    embedder = VisualEmbedder(
        stages,
        kind="encoder",
        hidden_size=hidden_size,
        resolution=found.resolution,
        size_divisor=1,
        weights=f"own (sent by {found.way})",
        notes={next(iter(stages)): found.note} if found.note else None,
    )
    # Built on the meta device, it has shapes alone.
    return embedder.to("meta") if torch.get_default_device().type == "meta" else embedder


def load(path: Path) -> Sent:
    """Returns what was sent; runs code of the file, which is the user's own.

    Raises:
        EmbedderError: it can't be loaded.
    """
    import pickle

    first: Sent
    try:
        with torch.device("cpu"):
            # The user's modules are found where the user's process finds them; what is here goes first.
            there = path.with_suffix(PATHS).read_text("utf-8").split("\n")
            sys.path += [each for each in there if each not in sys.path]
            first = torch.load(path, map_location="cpu", weights_only=False, pickle_module=pickle)
            if first.way.endswith(EXPORT):
                return _with_program(first, path)
    except Exception as error:  # whatever a module's own code does
        raise EmbedderError(
            f"the module can't be loaded in a measuring process: {' '.join(f'{type(error).__name__}: {error}'.split())}"
        ) from error
    return first


EXPORT = "torch.export"
PROGRAM = "module.pt2"


def _with_program(first: Sent, path: Path) -> Sent:
    return replace(first, module=Program(torch.export.load(path.with_name(PROGRAM)).module()))


class Program(nn.Module):
    """An exported program, which is in the mode that it was exported in and refuses to be asked for another."""

    def __init__(self, program: nn.Module) -> None:
        """Take what `torch.export` has made."""
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> Program:
        """Stay as it is."""
        return self

    def forward(self, *inputs: Any) -> Any:
        """Returns what the program returns."""
        return self.program(*inputs)


class Function(nn.Module):
    """A function as a module; where it is a module's method, the module is a part of it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        """Take the function."""
        super().__init__()
        owner = getattr(call, "__self__", None)
        self._method: str | None = getattr(call, "__name__", None) if isinstance(owner, nn.Module) else None
        if self._method is not None:
            self.owner = owner
        else:
            self._call = call

    def forward(self, *inputs: Any) -> Any:
        """Returns what the function returns."""
        call = self._call if self._method is None else getattr(self.owner, self._method)
        return call(*inputs)


def main_output(value: Any) -> Any:
    """Returns what of a module's output are its features: the last hidden state where it has one, else the first."""
    if isinstance(value, Tensor | fx.Proxy):
        return value
    if (last := getattr(value, "last_hidden_state", None)) is not None:
        return last
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((found for each in value if (found := main_output(each)) is not None), None)
    return next(iter(tensors(value)), None)


def as_tokens(value: Any) -> VisualTokens:
    """Returns a module's output as visual tokens: [B, D, h, w] by cells, [B, N, D] as it is, [B, D] as one token.

    Raises:
        EmbedderError: there is no tensor in it.
    """
    features = main_output(value)
    if not isinstance(features, Tensor) or features.ndim < 1:
        raise EmbedderError(f"the module returned {type(value).__name__}; expected a tensor, or what holds one")
    if not features.is_floating_point():
        features = features.float()
    if features.ndim == 4:
        return VisualTokens(features.flatten(2).transpose(1, 2), cells=(features.shape[2], features.shape[3]))
    if features.ndim < 3:
        return VisualTokens(features.reshape(len(features), 1, -1))
    return VisualTokens(features.flatten(1, -2))


def stages_of(module: nn.Module, names: Sequence[str], example: Sequence[Tensor] = ()) -> dict[str, nn.Module]:
    """Returns a module as stages of a visual embedder: cut behind each of the submodules named, or in one.

    What lies between two of them counts for the later one, and what lies behind the last for the last.

    Args:
        module: takes images, or the example.
        names: of submodules, such as `blocks` or `blocks.0`, in any order.
        example: what it is called with instead of images.

    Raises:
        EmbedderError: it can't be cut there.
    """
    bodies = cut(module, names) if names else {WHOLE: module}
    last = len(bodies) - 1
    return {
        _stage_name(name): _Stage(body, first=not index, last=index == last, example=() if index else example)
        for index, (name, body) in enumerate(bodies.items())
    }


def _stage_name(name: str) -> str:
    """Returns a submodule's name as that of a stage: without dots, and none of a mapping's own methods."""
    plain = name.replace(".", "_")
    return f"{plain}_" if hasattr(nn.ModuleDict, plain) else plain


def default_stages(module: nn.Module) -> tuple[str, ...]:
    """Returns the names of the children that do something in eval mode; none where there is only one."""
    names = [name for name, child in module.named_children() if not isinstance(child, _NO_STAGE)]
    return tuple(names) if len(names) > 1 else ()


def cut(module: nn.Module, names: Sequence[str], *, only_called: bool = False) -> dict[str, nn.Module]:
    """Returns the parts of a module, cut behind the last call of each of the submodules, in the order they run.

    Args:
        module: with one input.
        names: of its submodules.
        only_called: leave those out that are not called, which is an error otherwise.

    Raises:
        EmbedderError: there is no such submodule, it is not called by itself, or the flow between them depends on
            values.
    """
    known = dict(module.named_modules())
    for name in names:
        if not name or name not in known:
            children = ", ".join(each for each, _ in module.named_children()) or "none"
            raise EmbedderError(f"{name!r} in `stages` is no submodule of it; its children are {children}")
    root = _Root(module)
    tracer = _Tracer([f"module.{name}" for name in names])
    try:
        graph = tracer.trace(root)
    except Exception as error:  # whatever a forward does to what stands in for tensors
        raise EmbedderError(
            f"it can't be cut into stages: {' '.join(str(error).split())[:200]}; leave `stages` out to measure it whole"
        ) from error
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    ends = {node.target: index for index, node in enumerate(nodes) if node.op == "call_module"}
    called = [name for name in names if f"module.{name}" in ends]
    if not only_called and (idle := [name for name in names if name not in called]):
        raise EmbedderError(f"{idle[0]!r} in `stages` is not called by itself in its forward pass; leave it out")
    if not called:
        raise EmbedderError("none of its children is called by itself; leave `stages` out to measure it whole")
    called.sort(key=lambda name: ends[f"module.{name}"])
    places = [ends[f"module.{name}"] for name in called]
    part = {node: min(sum(end < index for end in places), len(called) - 1) for index, node in enumerate(nodes)}
    for node in graph.nodes:
        if node.op == "placeholder":
            part[node] = -1
        elif node.op == "get_attr":  # a parameter of the module itself: of the part that uses it first
            part[node] = min((part[user] for user in node.users if user in part), default=len(called) - 1)
    return {name: _part(root, graph, part, index, last=index == len(called) - 1) for index, name in enumerate(called)}


class _Root(nn.Module):
    """Calls a module with one input, whatever else it may take."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Any) -> Any:
        return main_output(self.module(inputs))


class _Tracer(fx.Tracer):
    """Looks into a module only as far as stages lie in it."""

    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__()
        self._stages = stages

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        name = module_qualified_name
        if name in self._stages or name == "module":
            return name in self._stages
        return not any(each.startswith(f"{name}.") for each in self._stages)


def _part(root: nn.Module, graph: fx.Graph, part: Mapping[fx.Node, int], index: int, *, last: bool) -> nn.Module:
    """Returns one part: it takes the values that live before it, and returns those that live after it."""
    own = fx.Graph()
    taken = _living(graph, part, index)
    placeholder = own.placeholder("values")
    copies: dict[fx.Node, Any] = {}
    for place, node in enumerate(taken):
        copies[node] = (
            placeholder if len(taken) == 1 else own.call_function(operator.getitem, args=(placeholder, place))
        )
    for node in graph.nodes:
        if node.op != "output" and part.get(node) == index:
            copies[node] = own.node_copy(node, copies.__getitem__)
    if last:
        (end,) = (node for node in graph.nodes if node.op == "output")
        own.output(fx.node.map_arg(end.args[0], copies.__getitem__))
    else:
        given = [copies[node] for node in _living(graph, part, index + 1)]
        own.output(given[0] if len(given) == 1 else tuple(given))
    return fx.GraphModule(root, own, class_name=f"Part{index}")


def _living(graph: fx.Graph, part: Mapping[fx.Node, int], index: int) -> list[fx.Node]:
    """Returns the values that were made before a part, and are used in it or behind it."""
    return [
        node
        for node in graph.nodes
        if part.get(node, index) < index and any(part.get(user, index) >= index for user in node.users)
    ]


class _Stage(nn.Module):
    """A part of a module between what the stages before and behind it hand over."""

    def __init__(self, body: nn.Module, *, first: bool, last: bool, example: Sequence[Tensor]) -> None:
        super().__init__()
        self.body = body
        self._first, self._last, self._examples = first, last, len(example)
        for index, each in enumerate(example):
            self.register_buffer(f"example_{index}", each)

    def forward(self, value: Any) -> Any:
        """Returns the body's output, of the last stage as tokens."""
        if self._examples:
            output = self.body(*(getattr(self, f"example_{index}") for index in range(self._examples)))
        else:
            output = self.body(value.pixels if self._first and isinstance(value, ImageBatch) else value)
        return as_tokens(output) if self._last else output
