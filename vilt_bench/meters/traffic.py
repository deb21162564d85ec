"""Bytes that a stage moves at least: weights of linear and convolutional layers, its input and its output, each once.

Tables are read in part and are left out; what a stage writes for itself in between may stay in a cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vilt_bench.embedding import Mark

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
    made: dict[str, int] = {}
    moved: dict[str, int] = {}

    def note(module: nn.Module, *_: Any) -> None:
        read.update((id(parameter), parameter.numel()) for parameter in module.parameters(recurse=False))

    def taken(component: str) -> int:
        """Returns the scalars that the component's next stage takes."""
        if component in made:
            return made[component]
        return pixels.numel() if component == "visual_embedder" else sum(made.values())

    def mark(name: str, output: Any) -> None:
        component = name.partition(".")[0]
        scalars = sum(tensor.numel() for tensor in _tensors(output) if tensor.is_floating_point())
        moved[name] = scalar_bytes * (sum(read.values()) + taken(component) + scalars)
        made[component] = scalars
        read.clear()

    hooks = [module.register_forward_pre_hook(note) for module in model.modules() if isinstance(module, _READ_WHOLE)]
    try:
        yield mark, moved
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
