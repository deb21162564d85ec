"""Exports a stage as a graph of tensors, and calls what a runtime makes of it as the stage is called."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from vilt_bench.errors import ConfigError
from vilt_bench.judge.remarks import largest_deviation
from vilt_bench.worker.backends import NotPreparedError, StageToPrepare
from vilt_bench.worker.deviation import NotComparableError, NotFiniteError, deviation

Run = Callable[[list[Tensor]], list[Tensor]]
"""What a runtime computes: the graph's inputs to its outputs, in order."""


@dataclass(frozen=True)
class Graph:
    """A stage's computation from tensors to tensors."""

    program: ExportedProgram
    examples: tuple[Tensor, ...]
    """What it is called with."""
    input_shapes: tuple[tuple[int | None, ...], ...]
    """`None`: a size that is another in other batches."""
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    shapes: tuple[tuple[int, ...] | None, ...]
    """Of the outputs; `None`: it depends on the input's."""
    dtypes: tuple[torch.dtype, ...]
    """Of the outputs."""
    _inputs: pytree.TreeSpec
    _constants: tuple[Any, ...]
    _outputs: pytree.TreeSpec
    _places: tuple[tuple[str, Any], ...]

    def called_as_stage(self, run: Run) -> Callable[[Any], Any]:
        """Returns the function that is called in place of the stage's module."""

        def call(inputs: Any) -> Any:
            leaves, spec = pytree.tree_flatten(inputs)
            if spec != self._inputs:
                raise TypeError("the stage was prepared for an input of another structure")
            given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            if tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor)) != self._constants:
                raise ValueError("the stage was prepared for other numbers in its input, beside tensors")
            made = run(given) if self.output_names else []
            taken = {"input": given, "output": made}
            return pytree.tree_unflatten(
                [value if kind == "constant" else taken[kind][value] for kind, value in self._places], self._outputs
            )

        return call


class Outputs:
    """Tensors of one size for a runtime to write to, again where nobody holds what was written before.

    New memory each pass would be new pages, which for what a detector cuts out of an image take a fifth of the stage's
    time, and which a runtime that is called directly does not need either.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        """Keep the size; nothing is allocated."""
        self._shape, self._dtype, self._device = tuple(shape), dtype, device
        self._kept = [np.empty(0)]
        self._unheld = self._references(0)
        self._kept = []

    def next(self) -> Tensor:
        """Returns one that nobody else holds, nor a view of it; what is in it is undefined."""
        if self._device.type != "cpu":  # torch keeps such memory itself
            return torch.empty(self._shape, dtype=self._dtype, device=self._device)
        place = next((at for at in range(len(self._kept)) if self._references(at) == self._unheld), None)
        if place is None:
            made = torch.empty(self._shape, dtype=self._dtype)
            self._kept = [*self._kept[1 - _OUTPUTS :], (made if self._in_numpy else made.view(torch.int16)).numpy()]
            del made
            place = len(self._kept) - 1
        tensor = torch.from_numpy(self._kept[place])  # it, and its views, hold the array as long as they are there
        return tensor if self._in_numpy else tensor.view(self._dtype)

    @property
    def _in_numpy(self) -> bool:
        return self._dtype != torch.bfloat16

    def _references(self, place: int) -> int:
        return sys.getrefcount(self._kept[place])


_OUTPUTS = 2
"""Of a size that are kept: one is often held while the next is written."""


def export(stage: StageToPrepare) -> Graph:
    """Returns the stage's graph. What it returns of its input as it is, is no part of it: that is not computed.

    Where another batch has other shapes, those sizes are left open; all others are as in the example.

    Raises:
        NotPreparedError: it can't be told as a graph of tensors.
    """
    leaves, spec = _flat(stage.inputs, "takes")
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    with _called(stage.module) as called:
        produced, output_spec = _flat(stage.module(stage.inputs), "returns")
    own = {id(leaf): index for index, leaf in enumerate(given)}
    places: list[tuple[str, Any]] = []
    computed: list[int] = []
    known: dict[int, int] = {}
    for index, leaf in enumerate(produced):
        if not isinstance(leaf, Tensor):
            places.append(("constant", leaf))
        elif id(leaf) in own:
            places.append(("input", own[id(leaf)]))
        else:
            if id(leaf) not in known:  # what is returned twice is computed once
                known[id(leaf)] = len(computed)
                computed.append(index)
            places.append(("output", known[id(leaf)]))
    outputs = [produced[index] for index in computed]
    shapes = [tuple(leaf.shape) for leaf in outputs]
    dtypes = tuple(leaf.dtype for leaf in outputs)
    del produced, outputs
    open_sizes = _open_sizes(stage, leaves, given, spec)
    with converting("torch.export"):
        program = torch.export.export(
            _Flat(stage.module, leaves, spec, computed),
            tuple(given),
            dynamic_shapes=None if open_sizes is None else {"inputs": open_sizes},
            strict=False,
        )
    _check_all_is_computed(program, called)
    if open_sizes is not None or _depends_on_data(program):
        shapes = _known(program, len(computed))  # type: ignore[assignment]
    return Graph(
        program,
        tuple(given),
        tuple(
            tuple(
                None if open_sizes is not None and place in open_sizes[index] else size
                for place, size in enumerate(tensor.shape)
            )
            for index, tensor in enumerate(given)
        ),
        tuple(f"input_{index}" for index in range(len(given))),
        tuple(f"output_{index}" for index in range(len(computed))),
        tuple(shapes),
        dtypes,
        spec,
        tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor)),
        output_spec,
        tuple(places),
    )


def check(stage: StageToPrepare, run: Callable[[Any], Any], precision: str) -> None:
    """Refuse a graph that is right for its example only, where there is another batch.

    Raises:
        NotPreparedError: another batch fails, or comes out otherwise than by eager torch.
    """
    if stage.other is None:
        return
    inputs, expected = stage.other
    try:
        found = deviation(run(inputs), expected)
    except (NotComparableError, NotFiniteError) as error:
        raise NotPreparedError(f"of another batch of the case, {error}") from error
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotPreparedError(f"it can't be called with another batch of the case ({text})") from error
    if found.relative > (bound := largest_deviation(precision)):
        raise NotPreparedError(
            f"of another batch of the case, its output differs by {found.relative:.2g} of the largest, and "
            f"{bound:g} would be rounding"
        )


def check_quantized(stage: StageToPrepare) -> None:
    """Refuse to quantise what is not in float32.

    Raises:
        ConfigError: it is not.
    """
    if stage.quantize is not None and stage.dtype != torch.float32:
        dtype = str(stage.dtype).removeprefix("torch.")
        raise ConfigError(f"is of models in float32, and `dtype` is {dtype}; leave one out", field="quantize")


@contextmanager
def converting(what: str) -> Iterator[None]:
    """Returns a context in which what a converter objects to is told in a line, by the cause that it found."""
    try:
        yield
    except NotPreparedError:
        raise
    except Exception as error:  # of a dozen kinds, which have no base of their own
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise NotPreparedError(f"{what} does not take it: {_told(cause)}") from error


def _told(error: BaseException) -> str:
    lines = [line.strip() for line in _CONTROL.sub("", str(error)).splitlines() if line.strip()]
    telling = [line.removeprefix("-- ") for line in lines if _TELLING.match(line)]
    other = [line for line in lines if not _FRAME.search(line)]
    return (*telling, *other, *lines, type(error).__name__)[0].removesuffix(".")[:_LONGEST]


_TELLING = re.compile(r"-- No conversion rule")
_FRAME = re.compile(r"^Check '|API failed with|:$")
"""Lines that say where a converter was, and not what it objects to."""
_CONTROL = re.compile(r"\x1b\[[\d;]*m")
_LONGEST = 240
"""Characters of a message."""


@contextmanager
def quiet() -> Iterator[None]:
    """Returns a context in which exporters and converters keep what they print, log and warn of to themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)


class _Flat(nn.Module):
    """A stage with tensors for its input, and those that it computes for its output."""

    def __init__(self, module: nn.Module, leaves: Sequence[Any], spec: pytree.TreeSpec, computed: list[int]) -> None:
        super().__init__()
        self.module = module
        self._leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
        self._spec = spec
        self._computed = computed

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = iter(inputs)
        leaves = [next(given) if is_one else leaf for is_one, leaf in zip(self._is_tensor, self._leaves, strict=True)]
        outputs = pytree.tree_leaves(self.module(pytree.tree_unflatten(leaves, self._spec)), is_leaf=_is_none)
        return tuple(outputs[index] for index in self._computed)


def _is_none(value: Any) -> bool:
    return value is None


def _flat(value: Any, verb: str) -> tuple[list[Any], pytree.TreeSpec]:
    leaves, spec = pytree.tree_flatten(value)
    for leaf in leaves:
        if not isinstance(leaf, Tensor | bool | int | float | str | None):
            raise NotPreparedError(f"it {verb} a {type(leaf).__name__}, which is no tensor")
    return leaves, spec


def _open_sizes(
    stage: StageToPrepare, leaves: Sequence[Any], given: Sequence[Tensor], spec: pytree.TreeSpec
) -> tuple[dict[int, Any], ...] | None:
    """Returns by tensor which sizes another batch has otherwise; `None`: it has none otherwise, or there is none."""
    if stage.other is None:
        return None
    others, other_spec = _flat(stage.other[0], "takes")
    plain = [[leaf for leaf in each if not isinstance(leaf, Tensor)] for each in (leaves, others)]
    if spec != other_spec or plain[0] != plain[1]:
        raise NotPreparedError("another batch of the case gives it other numbers, which a graph has built in")
    tensors = [leaf for leaf in others if isinstance(leaf, Tensor)]
    open_sizes = tuple(
        {
            place: Dim.DYNAMIC
            for place, (size, other) in enumerate(zip(one.shape, another.shape, strict=True))
            if size != other
        }
        for one, another in zip(given, tensors, strict=True)
    )
    return open_sizes if any(open_sizes) else None


@contextmanager
def _called(module: nn.Module) -> Iterator[set[str]]:
    """Returns a context in which names of layers with products are gathered as they are called."""
    found: set[str] = set()

    def noting(name: str) -> Callable[..., None]:
        return lambda *_: found.add(name)

    hooks = [
        layer.register_forward_pre_hook(noting(name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _check_all_is_computed(program: ExportedProgram, called: set[str]) -> None:
    """Refuse a graph that leaves out layers whose result changes no output: eager torch computes them all the same.

    Raises:
        NotPreparedError: it does, as where planted values stand in for the layers' own.
    """
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    live, waiting = {output}, [output]
    while waiting:
        new = [node for node in waiting.pop().all_input_nodes if node not in live]
        live.update(new)
        waiting += new
    names = program.graph_signature.inputs_to_parameters
    used = {names[node.name] for node in live if node.name in names}
    # Modules that share a parameter have it by the first one's name.
    every = {name for name, _ in program.named_parameters()}
    unused = every - used
    if dead := sorted(each for each in called if f"module.{each}.weight".replace("..", ".") in unused):
        raise NotPreparedError(
            f"a graph would leave out {', '.join(dead[:3])}, whose output is not used, and eager torch computes"
        )


def _values(program: ExportedProgram, count: int) -> list[Any]:
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    return [node.meta["val"] for node in output.args[0][-count:]] if count else []


def _known(program: ExportedProgram, count: int) -> list[tuple[int, ...] | None]:
    """Returns the outputs' shapes as far as they are fixed."""
    return [
        tuple(map(int, value.shape)) if all(isinstance(size, int) for size in value.shape) else None
        for value in _values(program, count)
    ]


def _depends_on_data(program: ExportedProgram) -> bool:
    return any(isinstance(size, torch.SymInt) for node in program.graph.nodes for size in _sizes(node.meta.get("val")))


def _sizes(value: Any) -> Sequence[Any]:
    return value.shape if isinstance(value, Tensor) else ()
