"""Bytes that a stage moves at least: weights of linear and convolutional layers, its input and its output, each once.

Tables are read in part and are left out; what a stage writes for itself in between may stay in a cache. Of its input
counts what its first layer reads, and of its output what was not there before: a view moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vilt_bench.embedding import Mark, tensors

_READ_WHOLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@contextmanager
def count_traffic(model: nn.Module, pixels: Tensor, *, scalar_bytes: int) -> Iterator[tuple[Mark, dict[str, int]]]:
    """Yields a mark for one pass of the whole model, and the bytes by stage that it fills in.

    Args:
        model: whose layers are watched while the context lasts.
        pixels: the visual embedder's input.
        scalar_bytes: of one number in the model's precision.
    """
    read: dict[int, int] = {}
    first: list[int] = []
    """Scalars of the first layer's input, once there is one."""
    made: dict[str, int] = {}
    moved: dict[str, int] = {}
    there = {_storage(pixels): pixels}
    """What was there before the stage, kept so that no other takes its place."""

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        read.update((id(parameter), parameter.numel()) for parameter in module.parameters(recurse=False))
        if not first:
            first.append(_scalars(inputs))

    def taken(component: str) -> int:
        """Returns the scalars that the component's next stage takes."""
        if component in made:
            return made[component]
        return pixels.numel() if component == "visual_embedder" else sum(made.values())

    def mark(name: str, output: Any) -> None:
        component = name.partition(".")[0]
        new = {_storage(tensor): tensor for tensor in tensors(output)}
        written = _scalars([tensor for storage, tensor in new.items() if storage not in there])
        taken_in = min([taken(component), *first]) if first or written else 0
        moved[name] = scalar_bytes * (sum(read.values()) + taken_in + written)
        made[component] = _scalars(output)
        there.update(new)
        read.clear()
        first.clear()

    hooks = [module.register_forward_pre_hook(note) for module in model.modules() if isinstance(module, _READ_WHOLE)]
    try:
        yield mark, moved
    finally:
        for hook in hooks:
            hook.remove()


def _scalars(value: Any) -> int:
    return sum(tensor.numel() for tensor in tensors(value) if tensor.is_floating_point())


def _storage(tensor: Tensor) -> int:
    """Returns what views share with what they are views of."""
    return int(tensor.untyped_storage()._cdata)
