"""The look that all pictures share: sizes for print, colours that survive greyscale, text that fits, files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox

from vilt_bench.report import clean

Format = Literal["svg", "png", "pdf"]

COLUMN_IN = 3.25
"""Width of a column of a two-column paper; inches."""
PAGE_IN = 6.75
"""Width of both columns; inches."""
PNG_DPI = 300
POINTS_PER_INCH = 72
TEXT_PT = 7.0
SMALL_PT = 6.0

INK = "#000000"
# In segments, so that a page's style may recolour all other text of an SVG.
DARK_TEXT = "#111111"
LIGHT_TEXT = "#ffffff"
MUTED = "#555555"
SHADE = "#ececec"


@dataclass(frozen=True)
class Look:
    """How a part is filled: a colour, and where two parts are near in lightness a hatch."""

    colour: str
    hatch: str | None = None
    hatch_colour: str = LIGHT_TEXT

    @property
    def text_colour(self) -> str:
        """Black or white, whichever can be read on the colour."""
        levels = [int(self.colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        red, green, blue = (((level + 0.055) / 1.055) ** 2.4 for level in levels)
        # Relative luminance, and where black and white contrast equally with it: WCAG 2.2.
        return DARK_TEXT if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else LIGHT_TEXT


# Source of the colours: Okabe and Ito, "Color Universal Design" (2008); the RoI head's is a lighter step of theirs.
# Neighbours in a bar differ in lightness or hatch too.
LOOKS: Mapping[str, Look] = {
    "preprocessing": Look("#bbbbbb", ".....", "#555555"),
    "textual_embedder": Look("#000000"),
    "visual_embedder": Look("#D55E00"),
    "backbone": Look("#E69F00"),
    "fpn": Look("#F0E442"),
    "pooling": Look("#F0E442", "/////", "#7a7200"),
    "rpn": Look("#009E73", "|||||"),
    "proposal_nms": Look("#D55E00", "/////"),
    "roi_align": Look("#56B4E9", "-----", "#0a4a70"),
    "roi_head": Look("#E8C1D5"),
    "predictor": Look("#F0E442", "\\\\\\\\\\", "#7a7200"),
    "class_nms": Look("#D55E00"),
    "region_operations": Look("#009E73", "\\\\\\\\\\"),
    "projection": Look("#56B4E9", "/////", "#0a4a70"),
    "modality_interaction": Look("#0072B2"),
}
# For the stages of embedders that are not known here, in the order in which they come.
SPARE = (
    Look("#CC79A7", "\\\\\\\\\\", "#5e1f43"),
    Look("#E69F00", "xxxxx", "#6b4a00"),
    Look("#bbbbbb"),
    Look("#009E73", "xxxxx"),
    Look("#D55E00", "-----"),
    Look("#F0E442", "+++++", "#7a7200"),
    Look("#777777", "/////"),
)
MARKERS: Mapping[str, tuple[str, str]] = {
    "region": ("s", "#D55E00"),
    "grid": ("^", "#E69F00"),
    "linear": ("o", "#0072B2"),
    "encoder": ("D", "#009E73"),
}
"""By kind of visual embedder: the marker's shape and colour."""


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Returns the look of each stage or component; unknown names take the spare looks in turn."""
    distinct = list(dict.fromkeys(names))
    unknown = [name for name in distinct if name not in LOOKS]
    spare = {name: SPARE[index % len(SPARE)] for index, name in enumerate(unknown)}
    return {name: LOOKS.get(name) or spare[name] for name in distinct}


def styled() -> AbstractContextManager[None]:
    """Returns the context in which figures are made and written; it leaves no trace in matplotlib's settings."""
    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": TEXT_PT,
        "axes.linewidth": 0.6,
        "axes.labelsize": TEXT_PT,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "xtick.labelsize": SMALL_PT,
        "ytick.labelsize": SMALL_PT,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "hatch.linewidth": 0.5,
        "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
        "svg.hashsalt": "vilt-bench",  # the same figure gives the same file
        "pdf.fonttype": 42,
    }
    # A user's own matplotlibrc would change the pictures; the backend is none of a picture's business.
    defaults: dict[Any, Any] = {
        key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")
    }
    return matplotlib.rc_context(defaults | settings)


def write(figure: Figure, format: Format, *, title: str) -> bytes:
    """Returns the figure as a file's content: the same bytes for the same figure.

    Args:
        figure: made under `styled`.
        format: PNG has 300 dots per inch.
        title: for the file's metadata.
    """
    metadata: Mapping[Format, dict[str, str | None]] = {
        "svg": {"Title": title, "Date": None, "Creator": None, "Format": None, "Type": None},
        "png": {"Title": title, "Software": None},
        "pdf": {"Title": title, "CreationDate": None, "Creator": "vilt-bench"},
    }
    file = io.BytesIO()
    figure.savefig(file, format=format, dpi=PNG_DPI, metadata=metadata[format], facecolor="white")
    # matplotlib escapes what XML would take for marks, not what XML does not have.
    return clean.document(file.getvalue().decode()).encode() if format == "svg" else file.getvalue()


class Sheet:
    """A figure with a coordinate system in points, from the top left corner down."""

    def __init__(self, width_in: float, height_pt: float) -> None:
        """Make an empty figure of that size."""
        self.width_pt = width_in * POINTS_PER_INCH
        self.height_pt = height_pt
        self.figure = Figure(figsize=(width_in, height_pt / POINTS_PER_INCH))
        self.ground = self.figure.add_axes((0, 0, 1, 1), xlim=(0, self.width_pt), ylim=(height_pt, 0))
        self.ground.set_axis_off()

    def write(self, x: float, top: float, text: str, *, size: float = TEXT_PT, **look: Any) -> None:
        """Write a line whose upper edge is at `top`."""
        self.ground.text(
            x, top + 0.5, clean.line(text), size=size, parse_math=False, **{"va": "top", "color": INK} | look
        )

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Returns axes at that place."""
        whole = self.height_pt
        return self.figure.add_axes(
            (left / self.width_pt, 1 - (top + height) / whole, width / self.width_pt, height / whole)
        )


def text_width(text: str, size: float = TEXT_PT, *, bold: bool = False) -> float:
    """Returns how wide a line is, in points."""
    return _width(clean.line(text), size, bold, tuple(matplotlib.rcParams["font.family"]))


@lru_cache(maxsize=10_000)  # bars' titles and conditions are alike
def _width(text: str, size: float, bold: bool, family: tuple[str, ...]) -> float:
    font = FontProperties(family=list(family), size=size, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0])


def wrap(text: str, width: float, size: float = TEXT_PT, *, bold: bool = False) -> list[str]:
    """Returns the text in lines of at most that width in points, broken after spaces, commas and slashes if it can."""
    lines = [""]
    for word in re.findall(r"[^\s,/:]*[\s,/:]*", " ".join(clean.line(text).split())):
        for piece in [word] if text_width(word.rstrip(), size, bold=bold) <= width else word:
            if text_width((lines[-1] + piece).rstrip(), size, bold=bold) > width:
                lines.append("")
            lines[-1] += piece
    return [line.strip() for line in lines if line.strip()]


def label_points(
    axes: Axes,
    points: Iterable[tuple[float, float, str]],
    bars: Iterable[tuple[float, float, float]] = (),
    *,
    others: Iterable[tuple[float, float]] = (),
    ground: bool = False,
) -> None:
    """Write names beside points (x, y, name), where they cover nothing else if that can be had, and markers least.

    A name that stands apart has a line to its point, which crosses no other name, and which no name crosses.

    Args:
        axes: with its limits set.
        points: what is named.
        bars: horizontal error bars (left, right, y) to keep clear of.
        others: points (x, y) without names, whose markers are to be seen as well.
        ground: whether names have a white ground, as where lines cross them.
    """
    points = list(points)
    axes.get_xlim()  # settles the limits, and with them where the points lie
    places = [axes.transData.transform((x, y)) for x, y, _ in points]
    scale = axes.figure.dpi / POINTS_PER_INCH
    frame = axes.get_window_extent()
    marked = [*places, *(axes.transData.transform(point) for point in others)]
    markers: list[Box] = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in marked]
    crossed: list[Box] = []
    for left_end, right_end, at_y in bars:
        (x0, y0), (x1, _) = axes.transData.transform([(left_end, at_y), (right_end, at_y)])
        crossed.append((x0, y0 - 2 * scale, x1, y0 + 2 * scale))
    names: list[Box] = []
    leaders: list[Path] = []
    for own, ((x, y), (at_x, at_y, name)) in enumerate(zip(places, points, strict=True)):
        width, height = text_width(name, SMALL_PT) * scale, SMALL_PT * scale
        # To the right, left, above, below, then farther up and down.
        offsets = [
            (6, 0),
            (-6, 0),
            (0, 8),
            (0, -8),
            *((side, up) for up in (8, -8, 15, -15, 22, -22, 30, -30) for side in (6, -6)),
            *((0, up) for up in (15, -15, 22, -22, 30, -30)),
            *((side, up) for up in (40, -40, 55, -55, 75, -75) for side in (6, -6, 30, -30, 0)),
        ]
        boxes = []
        for right, up in offsets:
            left = x + right * scale - (width if right < 0 else width / 2 if right == 0 else 0)
            bottom = y + up * scale - height / 2
            boxes.append((left, bottom, left + width, bottom + height))
        lines = [Path([(x, y), ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)]) for box in boxes]

        far = [abs(up) > _NEAR for _, up in offsets]
        crossing = {
            index
            for index, (box, line) in enumerate(zip(boxes, lines, strict=True))
            if (far[index] and any(_crosses(line, other) for other in names))
            or any(_crosses(other, box) for other in leaders)
        }
        costs = [
            (
                not (frame.x0 <= box[0] and box[2] <= frame.x1),
                *(sum(_overlap(box, other) for other in those) for those in (markers, names)),
                far[index] and sum(_crosses(lines[index], each) for at, each in enumerate(markers) if at != own),
                sum(_overlap(box, other) for other in crossed),
                not (frame.y0 <= box[1] and box[3] <= frame.y1),
                index in crossing,
            )
            for index, box in enumerate(boxes)
        ]
        best = costs.index(min(costs))
        names.append(boxes[best])
        if far[best]:
            leaders.append(lines[best])
        right, _ = offsets[best]
        side: Literal["left", "right", "center"] = "left" if right > 0 else "right" if right < 0 else "center"
        leader = {"arrowstyle": "-", "linewidth": 0.4, "color": MUTED, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            name,
            (at_x, at_y),
            xytext=offsets[best],
            textcoords="offset points",
            ha=side,
            va="center",
            size=SMALL_PT,
            parse_math=False,
            arrowprops=leader if far[best] else None,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85} if ground else None,
        )


_NEAR = 8
"""Points above or below, as far as which a name needs no line to what it names."""
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def _crosses(line: Path, box: Box) -> bool:
    left, bottom, right, top = box
    return bool(line.intersects_bbox(Bbox([(left, bottom), (right, top)]), filled=True))


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
