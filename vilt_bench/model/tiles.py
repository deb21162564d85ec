"""Arranges the tokens of an image's tiles as vision-language models do, between the tiles' projection and their join.

Shapes: B images, t tiles, N tokens of a tile, of c×c cells where they are a map, M tokens of an image, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vilt_bench.ask.tiles import Interleaving, Mosaic, Scheme, Size, Tiling, cells_of
from vilt_bench.errors import InputError
from vilt_bench.model.assembly import drawn


class MosaicArrangement(nn.Module):
    """Puts the tiles' cells together to one map, cuts its padding off, and ends its rows: [B, t, N, D] to [B, M, D].

    Source: LLaVA-NeXT, LLaVA-OneVision and DeepSeek-VL2, as `vilt_bench.ask.tiles` names them.
    """

    def __init__(self, scheme: Scheme, tiling: Tiling, sizes: Mapping[str, Size], *, hidden_size: int) -> None:
        """Make the tokens that are learned.

        Args:
            scheme: has a mosaic.
            tiling: of all images.
            sizes: (height, width) of the images in pixels, by name.
            hidden_size: D
        """
        super().__init__()
        self.scheme = scheme
        self.tiling = tiling
        self.sizes = dict(sizes)
        self.newline = nn.Parameter(drawn(hidden_size))
        if scheme.has_separator:
            self.separator = nn.Parameter(drawn(hidden_size))

    def forward(self, tiles: Tensor) -> Tensor:
        """Returns the thumbnail's tokens, then the map's.

        Raises:
            InputError: the tokens of a tile are no square of cells, or images differ in the part that is padding.
        """
        cells = cells_of(tiles.shape[2], self.scheme.name)
        mosaic = self._mosaic(cells)
        thumbnail, grid = tiles[:, 0], tiles[:, 1:]
        height, width = mosaic.cells
        rows, columns = self.tiling.grid
        pieces = grid.reshape(len(tiles), rows, columns, cells, cells, -1)
        whole = pieces.transpose(2, 3).reshape(len(tiles), height, width, -1)  # (B, H, W, D)
        left, top, right, bottom = mosaic.kept
        kept = whole[:, top:bottom, left:right]
        if mosaic.pooled is not None:
            kept = interpolate(kept.movedim(3, 1), mosaic.pooled, mode="bilinear").movedim(1, 3)
        parts = [self._ended(kept)]
        if self.scheme.has_separator:
            parts.insert(0, self.separator.expand(len(tiles), 1, -1))
        if mosaic.thumbnail_rows:
            thumbnail = self._ended(thumbnail.reshape(len(tiles), cells, cells, -1))
        return torch.cat([thumbnail, *parts], dim=1)

    def _ended(self, rows: Tensor) -> Tensor:
        """Returns [B, h·(w + 1), D] of [B, h, w, D]."""
        return torch.cat([rows, self.newline.expand(*rows.shape[:2], 1, -1)], dim=2).flatten(1, 2)

    def _mosaic(self, cells: int) -> Mosaic:
        assert self.scheme.mosaic is not None
        found = {name: self.scheme.mosaic(self.tiling, size, cells) for name, size in self.sizes.items()}
        (first, mosaic), *others = found.items()
        for name, other in others:
            if other != mosaic:
                raise InputError(
                    f"images are cut alike, but {first} has {mosaic.tokens} tokens of its map, and {name} "
                    f"{other.tokens}, as their padding differs; give images of one size, or `resolution` HxW with "
                    "`fit` crop"
                )
        return mosaic


class InterleavedArrangement(nn.Module):
    """Puts tiles one behind the other, with words between them: [B, t, N, D] to [B, M, D].

    The words' tokens stand for rows of the language model's table, so they are no parameters of the embedder's.

    Source: InternVL, Idefics3 and Llama 4, as `vilt_bench.ask.tiles` names them.
    """

    def __init__(self, interleaving: Interleaving, *, hidden_size: int) -> None:
        """Make the words' tokens, equal ones for equal words."""
        super().__init__()
        self.parts = interleaving.parts
        words = [part for part in interleaving.parts if isinstance(part, str)]
        known = {word: index for index, word in enumerate(dict.fromkeys(words))}
        table = drawn(len(known), hidden_size)
        self.words: Tensor
        self.register_buffer("words", torch.cat([table[known[word]][None] for word in words]), persistent=False)

    def forward(self, tiles: Tensor) -> Tensor:
        """Returns tiles and words in order."""
        words = iter(torch.split(self.words.expand(len(tiles), -1, -1), 1, dim=1))
        return torch.cat([next(words) if isinstance(part, str) else tiles[:, part] for part in self.parts], dim=1)


def arrangement(scheme: Scheme, tiling: Tiling, sizes: Mapping[str, Size], *, hidden_size: int) -> nn.Module:
    """Returns what makes an image's tokens of its tiles'; arguments as for `MosaicArrangement`."""
    if scheme.interleaving is not None:
        return InterleavedArrangement(scheme.interleaving(tiling), hidden_size=hidden_size)
    return MosaicArrangement(scheme, tiling, sizes, hidden_size=hidden_size)
