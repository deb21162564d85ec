"""An icicle: stages side by side by their time, their modules beneath, level by level."""

from __future__ import annotations

from typing import Any, cast

from matplotlib.patches import Rectangle

from vilt_bench.ask.case import Case
from vilt_bench.record.profile import Profile, ProfiledBlock
from vilt_bench.record.run import Environment
from vilt_bench.report.numbers import milliseconds_of
from vilt_bench.report.pictures.style import (
    MUTED,
    PAGE_IN,
    SMALL_PT,
    TEXT_PT,
    Format,
    Look,
    Sheet,
    looks,
    styled,
    text_width,
    wrap,
    write,
)
from vilt_bench.report.profiles import heading, remarks

_MARGIN = 8.0
_ROW = 15.0
_LINE = 9.0
_SMALL_LINE = 7.5
_LEAST_PT = 0.4
"""A narrower box is left out."""


def draw(case: Case, found: Profile, where: Environment, format: str) -> bytes:
    """Returns the picture as a file's content.

    Args:
        case: what was asked for.
        found: of it.
        where: the machine.
        format: svg, png or pdf.
    """
    with styled():
        told = heading(case, where)
        levels = 1 + max((block.depth for stage in found.stages for block in stage.blocks), default=0)
        width = PAGE_IN * 72 - 2 * _MARGIN
        titles, small = (
            wrap(told, width, bold=True),
            [line for text in remarks(found)[:2] for line in wrap(text, width, SMALL_PT)],
        )
        top = _MARGIN + _LINE * len(titles) + 3
        height = top + _ROW * (levels + 1) + 4 + _SMALL_LINE * len(small) + _MARGIN
        sheet = Sheet(PAGE_IN, height)
        for index, line in enumerate(titles):
            sheet.write(_MARGIN, _MARGIN + index * _LINE, line, weight="bold")
        scale = width / found.time_s
        _box(sheet, _MARGIN, top, width, f"all stages: {milliseconds_of(found.time_s)} ms", "#dddddd")
        colours = looks(stage.name.rpartition(".")[2] for stage in found.stages)
        left = _MARGIN
        for stage in found.stages:
            look = colours[stage.name.rpartition(".")[2]]
            places: list[float] = [left]
            for block in stage.blocks:
                # Beneath the block around it, behind those that are there already.
                del places[block.depth + 1 :]
                begin = places[block.depth]
                box = block.inclusive_s * scale
                title = f"{_named(stage.name, block)}: {milliseconds_of(block.inclusive_s)} ms"
                colour = _lighter(look.colour, 1.0 if not block.depth else max(0.35, 0.8 - 0.15 * block.depth))
                _box(sheet, begin, top + _ROW * (1 + block.depth), box, title, colour)
                places[block.depth] = begin + box
                places.append(begin)
            left += stage.time_s * scale
        for index, line in enumerate(small):
            at = top + _ROW * (levels + 1) + 4 + index * _SMALL_LINE
            sheet.write(_MARGIN, at, line, size=SMALL_PT, color=MUTED)
        return write(sheet.figure, cast("Format", format), title=told)


def _named(stage: str, block: ProfiledBlock) -> str:
    return block.name or stage.replace("_", " ")


def _lighter(colour: str, strength: float) -> str:
    """Returns a colour mixed with white, of which strength 1 has none."""
    levels = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return "#" + "".join(f"{round(strength * level + 255 * (1 - strength)):02x}" for level in levels)


def _box(sheet: Sheet, left: float, top: float, width: float, title: str, colour: str) -> None:
    if width < _LEAST_PT:
        return
    edge: dict[str, Any] = {"edgecolor": "white", "linewidth": min(0.5, width / 4)}
    sheet.ground.add_patch(Rectangle((left, top), width, _ROW - 1, facecolor=colour, **edge))
    for text in (title, title.partition(":")[0], title.partition(":")[0].rpartition(".")[2]):
        if text_width(text, SMALL_PT) + 4 <= width:
            sheet.write(left + 2, top + (_ROW - TEXT_PT) / 2 - 1, text, size=SMALL_PT, color=Look(colour).text_colour)
            return
