"""V_pos of equation (2): the table of image positions, interpolated to any patch grid.

Shapes: B images, H×W rows and columns of the table, h×w of the patch grid, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def interpolate_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Returns the table [H, W, D] stretched to the grid, [1, h·w, D]: bilinear, corner on corner.

    Source: ViLT's released model.
    """
    if table.shape[:2] == grid:
        return table.reshape(1, -1, table.shape[-1])
    channels_first = table.permute(2, 0, 1).unsqueeze(0)  # (H, W, D) → (1, D, H, W)
    stretched = interpolate(channels_first, size=grid, mode="bilinear", align_corners=True)
    return stretched.flatten(2).transpose(1, 2)  # (1, D, h, w) → (1, h·w, D)


def interpolate_positions_padded(table: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Returns the table [H, W, D] stretched to each image's own part of the grid, [B, h·w, D].

    An image occupies the upper left of the grid; positions outside of it are zero. The images' sizes stay on the
    device: bilinear interpolation is separable, so it is a product with a matrix of weights along each edge.

    Args:
        table: [H, W, D]
        mask: [B, h·w] bool, true where the image is.
        grid: (h, w)
    """
    cells = mask.view(-1, *grid)  # (B, h·w) → (B, h, w)
    across_rows = _weights(cells[:, :, 0].sum(1), of=grid[0], into=table.shape[0]).to(table.dtype)  # (B, h, H)
    across_columns = _weights(cells[:, 0, :].sum(1), of=grid[1], into=table.shape[1]).to(table.dtype)  # (B, w, W)
    rows = torch.einsum("bhH,HWd->bhWd", across_rows, table)
    return torch.einsum("bwW,bhWd->bhwd", across_columns, rows).flatten(1, 2)


def _weights(valid: Tensor, *, of: int, into: int) -> Tensor:
    """Returns how much each table entry counts for each of the first `valid` [B] cells of an edge, [B, of, into]."""
    cell = torch.arange(of, device=valid.device)
    step = (into - 1) / (valid - 1).clamp(min=1)  # the first cell lies on the first entry, the last on the last
    place = cell * step.unsqueeze(1)  # (B, of), in units of table entries
    distance = (place.unsqueeze(2) - torch.arange(into, device=valid.device)).abs()
    inside = (cell < valid.unsqueeze(1)).unsqueeze(2)
    return (1 - distance).clamp(min=0) * inside
