"""The rules by which vision-language models cut an image into tiles, and what its tokens then are; no torch, no image.

Sizes are (height, width), in pixels unless said otherwise; a grid is (rows, columns) of tiles. Where a rule computes in
floating point, so does this, in the same order: a last-bit difference can cost a whole row of tiles.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vilt_bench.errors import ConfigError, InputError
from vilt_bench.words import counted, did_you_mean, nearest

Size = tuple[int, int]
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""
Resampling = Literal["bilinear", "bicubic", "lanczos"]

NATIVE = ("pixtral", "qwen")
"""What names of models begin with whose towers take each image whole, at a size near its own."""


class Picture(NamedTuple):
    """An image on a canvas."""

    canvas: Size
    resized: Size
    """Of the image on it; what is left is padding."""
    offset: Size = (0, 0)
    """Padding (above, to the left)."""

    @property
    def padded(self) -> bool:
        """Whether there is padding."""
        return self.canvas != self.resized


@dataclass(frozen=True)
class Tiling:
    """How one image is cut."""

    edge: int
    """Of a tile, which is a square."""
    grid: Size
    picture: Picture
    """What is cut into the grid."""
    thumbnail: Picture | None = None
    """The whole image as one more tile; `None`: there is none."""
    first_to: Size | None = None
    """What the image is resized to before anything else; `None`: nothing."""
    thumbnail_of: Literal["image", "picture"] = "image"
    """What it is resized from."""
    thumbnail_first: bool = False
    """Whether it comes before the tiles of the grid."""

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The tiles of the grid, row by row."""
        rows, columns = self.grid
        edge = self.edge
        return tuple(
            (column * edge, row * edge, (column + 1) * edge, (row + 1) * edge)
            for row in range(rows)
            for column in range(columns)
        )

    @property
    def count(self) -> int:
        """How many tiles there are, the thumbnail among them."""
        return math.prod(self.grid) + (self.thumbnail is not None)

    def __str__(self) -> str:
        """Returns `5 tiles of 336×336 (2×2 and a thumbnail)`."""
        tiles = f"{counted(self.count, 'tile')} of {self.edge}×{self.edge}"
        if self.count == 1:
            return tiles
        return f"{tiles} ({self.grid[0]}×{self.grid[1]}{' and a thumbnail' if self.thumbnail else ''})"


class Mosaic(NamedTuple):
    """The tokens of an image whose tiles are one map again, each of its rows with a token at its end."""

    cells: Size
    """(h, w) of the map of all tiles of the grid."""
    kept: Box
    """What is left of it, in cells, where the padding is cut off."""
    pooled: Size | None = None
    """What that is made smaller to; `None`: it stays."""
    thumbnail_rows: bool = False
    """Whether the thumbnail's rows have a token at their ends, too."""

    @property
    def tokens(self) -> int:
        """How many tokens the map has, the ends of its rows among them."""
        left, top, right, bottom = self.kept
        height, width = self.pooled or (bottom - top, right - left)
        return height * (width + 1)


class Interleaving(NamedTuple):
    """The tokens of an image whose tiles stand one behind the other, with words of the language model between them."""

    parts: tuple[int | str, ...]
    """Tiles by number, and words as the model's processor has them."""


class Scheme(NamedTuple):
    """How a model cuts images."""

    name: str
    """As it is asked for, with its number."""
    edge: int
    """Of its tiles, in pixels."""
    resampling: Resampling
    tiling: Callable[[Size], Tiling]
    """Of an image of that size."""
    mosaic: Callable[[Tiling, Size, int], Mosaic] | None = None
    """Of a tiling, the image's size, and how many cells an edge of a tile has."""
    interleaving: Callable[[Tiling], Interleaving] | None = None
    pads_with_mean: bool = False
    """Whether padding has the mean colour; else it is black."""
    has_separator: bool = False
    """Whether a token stands between the thumbnail and a mosaic."""
    joins: str = ""
    """What its tokens are put together with, for a reader."""

    def __reduce__(self) -> tuple[Callable[[str], Scheme], tuple[str]]:
        """Returns what makes it anew in another process, which functions of a rule can't be sent to."""
        return parse_tiles, (self.name,)

    def tokens(self, size: Size, per_tile: int) -> int:
        """Returns how many tokens stand for an image: of its tiles, and those that rows and tiles are set apart by.

        Args:
            size: of the image.
            per_tile: tokens that the tower and what reduces them make of a tile.

        Raises:
            InputError: the image is too long to be cut, or the tokens of a tile are no square where they must be.
        """
        tiling = self.tiling(size)
        if self.interleaving is not None:
            return sum(1 if isinstance(part, str) else per_tile for part in self.interleaving(tiling).parts)
        assert self.mosaic is not None
        cells = cells_of(per_tile, self.name)
        mosaic = self.mosaic(tiling, size, cells)
        return per_tile + (cells if mosaic.thumbnail_rows else 0) + self.has_separator + mosaic.tokens


def cells_of(per_tile: int, name: str) -> int:
    """Returns how many cells an edge of a tile has, of the number of its tokens.

    Raises:
        InputError: they are no square.
    """
    if (edge := math.isqrt(per_tile)) ** 2 == per_tile:
        return edge
    raise InputError(
        f"`tiles` {name} puts the cells of its tiles together to one map, and {per_tile} tokens of a tile are no "
        "square of cells; leave out what adds to them, such as keep_prefix=true"
    )


@functools.lru_cache(maxsize=64)  # every case of a record asks
def parse_tiles(text: str) -> Scheme:
    """Returns the scheme of a text like `internvl:12`.

    Raises:
        ConfigError: there is no such scheme, it has no number, or its number is out of range.
    """
    name, colon, number = text.strip().partition(":")
    if name.startswith(NATIVE):
        raise ConfigError(
            f"{name} cuts no tiles, as its tower takes an image whole at its own size; leave it out, and give `fit` "
            "native",
            field="tiles",
        )
    if name not in SCHEMES:
        guess = did_you_mean(nearest(name, SCHEMES))
        raise ConfigError(f"{text!r} is no scheme{guess} expected one of {', '.join(EXAMPLES)}", field="tiles")
    make, takes = SCHEMES[name]
    if takes is None:
        if colon:
            raise ConfigError(f"{name} has no number, got {text!r}", field="tiles")
        return make(0)
    if colon and not (re.fullmatch(r"\d{1,5}", number) and takes.least <= int(number) <= takes.most):
        raise ConfigError(
            f"{text}: {takes.what} must be between {takes.least} and {takes.most}, as in {name}:{takes.usual}",
            field="tiles",
        )
    return make(int(number) if colon else takes.usual)


def _llava(name: str, edge: int, grids: Sequence[Size], *, most_maps: int | None) -> Scheme:
    """Any resolution: the grid that keeps most of the image and wastes least, the image fitted into it and centred.

    The thumbnail, which is squeezed, comes first; rows and columns of cells that hold padding only are cut off, and a
    token ends each row.

    Source: LLaVA-NeXT (Liu et al. 2024), "AnyRes"; LLaVA-OneVision (Li et al. 2024), section 3.2, "Higher AnyRes", with
    bilinear interpolation; transformers' `LlavaNextImageProcessor`, `LlavaOnevisionImageProcessor` and
    `pack_image_features` of their models.
    """

    def tiling(size: Size) -> Tiling:
        grid = _least_waste(size, grids, edge)
        canvas = (grid[0] * edge, grid[1] * edge)
        return Tiling(
            edge,
            grid,
            _centred(canvas, _fitted(size, canvas, math.ceil)),
            thumbnail=Picture((edge, edge), (edge, edge)),
            thumbnail_first=True,
        )

    def mosaic(tiling: Tiling, size: Size, cells: int) -> Mosaic:
        height, width = tiling.grid[0] * cells, tiling.grid[1] * cells
        top, left = _padding((height, width), size)
        kept = (left, top, width - left, height - top)
        rows, columns = height - 2 * top, width - 2 * left
        pooled = None
        if most_maps is not None and (ratio := math.sqrt(rows * columns / (most_maps * cells**2))) > 1.1:
            pooled = (int(rows // ratio), int(columns // ratio))
        return Mosaic((height, width), kept, pooled)

    return Scheme(
        name, edge, "bicubic", tiling, mosaic=mosaic, joins="padding cut off, a newline's token ends each row"
    )


def _padding(cells: Size, size: Size) -> Size:
    """Returns how many rows of cells at the top, and as many at the bottom, hold padding only; likewise columns."""
    (height, width), (image_height, image_width) = cells, size
    if image_width / image_height > width / height:
        return (height - int(round(image_height * (width / image_width), 7))) // 2, 0
    return 0, (width - int(round(image_width * (height / image_height), 7))) // 2


def _llava_next(_: int) -> Scheme:
    # As (rows, columns): 1×2, 2×1, 2×2, 3×1, 1×3.
    return _llava("llava-next", 336, [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)], most_maps=None)


def _llava_onevision(_: int) -> Scheme:
    grids = [(rows, columns) for rows in range(1, 7) for columns in range(1, 7)]
    return _llava("llava-onevision", 384, grids, most_maps=9)


def _deepseek_vl2(_: int) -> Scheme:
    """Up to 9 tiles of 384, chosen as LLaVA's are; image and thumbnail are centred on the mean colour.

    A token ends each row, those of the thumbnail, too, and one stands between it and the map.

    Source: DeepSeek-VL2 (Wu et al. 2024), section 2; `candidate_resolutions` of its configuration.
    """
    edge = 384
    grids = [(rows, columns) for rows in range(1, 10) for columns in range(1, 10) if rows * columns <= 9]
    grids.sort(key=lambda grid: (math.prod(grid), min(grid), -grid[0]))  # the order of its configuration

    def tiling(size: Size) -> Tiling:
        grid = _least_waste(size, grids, edge)
        canvas = (grid[0] * edge, grid[1] * edge)
        return Tiling(edge, grid, _contained(canvas, size), _contained((edge, edge), size), thumbnail_first=True)

    def mosaic(tiling: Tiling, _size: Size, cells: int) -> Mosaic:
        height, width = tiling.grid[0] * cells, tiling.grid[1] * cells
        return Mosaic((height, width), (0, 0, width, height), thumbnail_rows=True)

    return Scheme(
        "deepseek-vl2",
        edge,
        "bicubic",
        tiling,
        mosaic=mosaic,
        pads_with_mean=True,
        has_separator=True,
        joins="a newline's token ends each row, a separator stands between thumbnail and tiles",
    )


def _internvl(most: int) -> Scheme:
    """Dynamic tiles of 448: the grid of at most so many whose aspect is nearest the image's, which is squeezed into it.

    Among grids of one aspect it is the largest that is less than twice the image. The thumbnail comes last, and where
    there is one tile alone, there is none.

    Source: InternVL 1.5 (Chen et al. 2024), section 3.3; transformers' `GotOcr2ImageProcessor` and `InternVLProcessor`.
    """
    edge = 448
    grids = [(rows, columns) for columns in range(1, most + 1) for rows in range(1, most + 1) if rows * columns <= most]
    grids.sort(key=math.prod)

    def tiling(size: Size) -> Tiling:
        aspect, area = size[1] / size[0], size[0] * size[1]
        best, least = (1, 1), math.inf
        for rows, columns in grids:
            distance = abs(aspect - columns / rows)
            if distance < least or (distance == least and area > 0.5 * edge**2 * columns * rows):
                best, least = (rows, columns), distance
        canvas = (best[0] * edge, best[1] * edge)
        thumbnail = Picture((edge, edge), (edge, edge)) if best != (1, 1) else None
        return Tiling(edge, best, Picture(canvas, canvas), thumbnail)

    def interleaving(tiling: Tiling) -> Interleaving:
        return Interleaving(("<img>", *range(tiling.count), "</img>"))

    return Scheme(
        f"internvl:{most}", edge, "bicubic", tiling, interleaving=interleaving, joins="a word before and behind them"
    )


def _idefics3(edge: int) -> Scheme:
    """The longer edge to four tiles, the shorter to as many as keep the aspect, and the whole once more as the last.

    It is resized twice, the second time to whole tiles, and the thumbnail is made of that. Each tile has a word before
    it that says where it is.

    Source: Idefics3 (Laurençon et al. 2024), section 2.2; transformers' `Idefics3ImageProcessor`, `Idefics3Processor`;
    SmolVLM's are the same with tiles of 512 or 384.
    """

    def tiling(size: Size) -> Tiling:
        first = _longer_edge(size, 4 * edge)
        aspect = first[1] / first[0]
        if first[1] >= first[0]:
            width = math.ceil(first[1] / edge) * edge
            height = math.ceil(int(width / aspect) / edge) * edge
        else:
            height = math.ceil(first[0] / edge) * edge
            width = math.ceil(int(height * aspect) / edge) * edge
        return Tiling(
            edge,
            (height // edge, width // edge),
            Picture((height, width), (height, width)),
            Picture((edge, edge), (edge, edge)),
            first_to=first,
            thumbnail_of="picture",
        )

    def interleaving(tiling: Tiling) -> Interleaving:
        rows, columns = tiling.grid
        parts: list[int | str] = []
        for line in range(rows):
            for column in range(columns):
                parts += ["<fake_token_around_image>", f"<row_{line + 1}_col_{column + 1}>", line * columns + column]
            parts.append("\n" if line < rows - 1 else "\n\n")
        around = "<fake_token_around_image>"
        return Interleaving((*parts, around, "<global-img>", rows * columns, around))

    return Scheme(
        f"idefics3:{edge}", edge, "lanczos", tiling, interleaving=interleaving, joins="words say where each tile is"
    )


def _longer_edge(size: Size, longest: int) -> Size:
    """Returns the size with its longer edge that long, and the shorter one even."""
    aspect = size[1] / size[0]
    if size[1] >= size[0]:
        height = int(longest / aspect)
        return max(height + height % 2, 1), longest
    width = int(longest * aspect)
    return longest, max(width + width % 2, 1)


def _llama4(most: int) -> Scheme:
    """Up to so many tiles of 336: the canvas onto which the image goes with the least change of size.

    It is scaled up to a whole tile only, and padded at the right and bottom. The global tile comes last, and where
    there is one tile alone, there is none. Words stand between tiles, and between their rows.

    Source: transformers' `Llama4ImageProcessor` and `Llama4Processor`.
    """
    edge = 336
    grids = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most + 1) if rows * columns <= most]

    def tiling(size: Size) -> Tiling:
        scales = {grid: min(grid[0] * edge / size[0], grid[1] * edge / size[1]) for grid in grids}
        larger = [scale for scale in scales.values() if scale >= 1]
        chosen = min(larger) if larger else max(scales.values())
        grid = min((grid for grid, scale in scales.items() if scale == chosen), key=math.prod)
        canvas = (grid[0] * edge, grid[1] * edge)
        limit = (min(max(size[0], edge), canvas[0]), min(max(size[1], edge), canvas[1]))
        height, width = _fitted(size, limit, math.floor)
        thumbnail = Picture((edge, edge), (edge, edge)) if grid != (1, 1) else None
        return Tiling(edge, grid, Picture(canvas, (max(height, 1), max(width, 1))), thumbnail)

    def interleaving(tiling: Tiling) -> Interleaving:
        rows, columns = tiling.grid
        parts: list[int | str] = ["<|image_start|>"]
        if tiling.count > 1:
            for line in range(rows):
                for column in range(columns):
                    parts.append(line * columns + column)
                    parts.append("<|tile_x_separator|>" if column < columns - 1 else "<|tile_y_separator|>")
        return Interleaving((*parts, "<|image|>", tiling.count - 1, "<|image_end|>"))

    return Scheme(
        f"llama4:{most}",
        edge,
        "bilinear",
        tiling,
        interleaving=interleaving,
        joins="words stand between tiles and rows",
    )


def _least_waste(size: Size, grids: Sequence[Size], edge: int) -> Size:
    """Returns the grid that shows most of the image's pixels, and among those the one with the least area beside it.

    Source: transformers' `select_best_resolution`.

    Raises:
        InputError: the image has no pixel left in any of them.
    """
    best, most, least = None, 0, math.inf
    for grid in grids:
        height, width = grid[0] * edge, grid[1] * edge
        scale = min(width / size[1], height / size[0])
        shown = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        if shown > most or (shown == most and height * width - shown < least):
            best, most, least = grid, shown, height * width - shown
    if best is None or not most:
        raise InputError(f"an image of {size[0]}x{size[1]} pixels is too long to be cut into tiles; crop it")
    return best


def _fitted(size: Size, canvas: Size, whole: Callable[[float], int]) -> Size:
    """Returns the size of the image fitted into a canvas, its aspect kept but for rounding."""
    by_height, by_width = canvas[0] / size[0], canvas[1] / size[1]
    if by_width < by_height:
        return min(whole(size[0] * by_width), canvas[0]), canvas[1]
    return canvas[0], min(whole(size[1] * by_height), canvas[1])


def _centred(canvas: Size, resized: Size) -> Picture:
    return Picture(canvas, resized, ((canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2))


def _contained(canvas: Size, size: Size) -> Picture:
    """Returns the image fitted into a canvas and centred, rounded as Pillow's `ImageOps.pad` does.

    Raises:
        InputError: an edge would have no pixel.
    """
    height, width = canvas
    if size[1] / size[0] > width / height:
        height = round(size[0] / size[1] * width)
    elif size[1] / size[0] < width / height:
        width = round(size[1] / size[0] * height)
    if not (height and width):
        raise InputError(f"an image of {size[0]}x{size[1]} pixels is too long to be cut into tiles; crop it")
    return Picture(canvas, (height, width), (round((canvas[0] - height) * 0.5), round((canvas[1] - width) * 0.5)))


@dataclass(frozen=True)
class _Number:
    """What stands behind a scheme's colon."""

    what: str
    least: int
    most: int
    usual: int


SCHEMES: dict[str, tuple[Callable[[int], Scheme], _Number | None]] = {
    "llava-next": (_llava_next, None),
    "llava-onevision": (_llava_onevision, None),
    "internvl": (_internvl, _Number("the most tiles", 1, 64, 12)),
    "idefics3": (_idefics3, _Number("the edge of a tile", 64, 1024, 364)),
    "llama4": (_llama4, _Number("the most tiles", 1, 64, 16)),
    "deepseek-vl2": (_deepseek_vl2, None),
}
EXAMPLES = ("llava-next", "llava-onevision", "internvl:12", "idefics3:364", "llama4:16", "deepseek-vl2")
"""How they are asked for, each as its model has it; SmolVLM's is idefics3:512."""
