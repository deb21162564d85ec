"""Parameters and buffers by stage: learned scalars, frozen ones too; what is shared counts once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """Scalars that a stage keeps."""

    parameters: int
    buffers: int


def count_parameters(stages: Iterable[tuple[str, nn.Module]]) -> Mapping[str, Size]:
    """Returns the sizes by stage; a tensor shared by several stages counts in the first one."""
    seen: set[int] = set()

    def count(tensors: Iterable[Tensor]) -> int:
        new = {id(tensor): tensor.numel() for tensor in tensors if id(tensor) not in seen}
        seen.update(new)
        return sum(new.values())

    return {name: Size(count(stage.parameters()), count(stage.buffers())) for name, stage in stages}
