"""Pictures of the studies: what drives the latency of NMS, and interaction against sequence length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from vilt_bench.judge.estimate import Estimate
from vilt_bench.paper.studies import nms, sequence
from vilt_bench.paper.studies import rounds as shared
from vilt_bench.paper.studies.nms import NmsStudy
from vilt_bench.paper.studies.sequence import SequenceStudy
from vilt_bench.report.pictures import style

LINES: dict[str, dict[str, Any]] = {
    "per-class-unthresholded": {"color": "#D55E00", "marker": "s", "linestyle": "-"},
    "per-class": {"color": "#0072B2", "marker": "o", "linestyle": "--"},
    "class-agnostic": {"color": "#009E73", "marker": "^", "linestyle": ":"},
}
"""By mode: they differ in shape and dashes, not in colour alone."""
LEGEND = {
    "per-class-unthresholded": "per class, no threshold, on the host (as the paper timed)",
    "per-class": "per class, thresholded",
    "class-agnostic": "class-agnostic",
}
LEGEND_PT = 8.5
NOTE_PT = 7.5


def draw_nms(study: NmsStudy, format: style.Format) -> bytes:
    """Returns a picture of NMS latency by mode, over proposals and over classes."""
    with style.styled():
        return style.write(nms_figure(study), format, title="What drives the latency of NMS over classes")


def draw_sequence(study: SequenceStudy, format: style.Format) -> bytes:
    """Returns a picture of the interaction's latency over the sequence's length."""
    with style.styled():
        return style.write(sequence_figure(study), format, title="Interaction latency by sequence length")


def nms_figure(study: NmsStudy, *, width_in: float = style.PAGE_IN) -> Figure:
    """Returns a panel for each sweep, with a common latency axis, all logarithmic; call it under `style.styled`.

    Over proposals, over the objects that they crowd around, over the classes of those. Bands are 95% intervals.
    """
    sweeps = {
        "Proposals": ("proposals", study.by_proposals),
        "Objects that they crowd around": ("objects", study.by_objects),
        "Planted classes": ("pool", study.by_classes),
    }
    held = study.by_objects(nms.MODES[0])[0]
    objects = study.by_proposals(nms.MODES[0])[0].objects
    said = [
        f"Where not swept: {held.proposals:,} proposals, {objects:,} objects, {held.pool:,} classes. Detector of "
        f"{study.detector_classes:,} classes, threshold {study.score_threshold:g}; {study.input}, no backbone run.",
        f"Bands: 95% intervals. {shared.conditions(study.environment)}.",
    ]
    width = width_in * style.POINTS_PER_INCH
    notes = [line for text in said for line in style.wrap(text, width - 6, style.SMALL_PT)]
    top, plot = 6 + LEGEND_PT * len(nms.MODES) + 5, 0.24 * width
    sheet = style.Sheet(width_in, top + plot + 30 + NOTE_PT * len(notes))
    panel = (width - 38 - 8 - 10 * (len(sweeps) - 1)) / len(sweeps)
    panels = [sheet.axes(38 + index * (panel + 10), top, panel, plot) for index in range(len(sweeps))]
    for axes, (label, (swept, points_of)) in zip(panels, sweeps.items(), strict=True):
        for mode in nms.MODES:
            points = points_of(mode)
            _line(axes, [getattr(point, swept) for point in points], points, mode)
        ticks = [getattr(point, swept) for point in points_of(nms.MODES[0])]
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.margins(x=0.1)
        axes.axhline(1000 * nms.PAPER_S, color=style.MUTED, linewidth=0.6, linestyle=(0, (1, 1.5)))
        _grid(axes)
    # The same scale in all, from what was measured: an interval that reaches zero has no place on it.
    values = [1000 * point.latency.value for point in study.points] + [1000 * nms.PAPER_S]
    for axes in panels:
        axes.set_ylim(min(values) / 2, max(values) * 2)
        axes.yaxis.set_major_locator(LogLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    left, *others = panels
    for axes in others:
        axes.tick_params(labelleft=False)
    left.set_ylabel("Latency (ms, log scale)")
    left.yaxis.labelpad = 2
    left.annotate(
        f"paper: > {1000 * nms.PAPER_S:.0f} ms", (0, 1000 * nms.PAPER_S), xycoords=("axes fraction", "data"),
        xytext=(3, 1), textcoords="offset points", ha="left", va="bottom", size=style.SMALL_PT, color=style.MUTED,
    )  # fmt: skip
    for index, mode in enumerate(nms.MODES):
        middle = 6 + LEGEND_PT * (index + 0.5)
        look = LINES[mode]
        sheet.ground.plot([6, 15, 24], [middle] * 3, linewidth=1, markersize=3, markevery=[1], **look)
        sheet.write(29, middle - LEGEND_PT / 2 + 0.5, LEGEND[mode], size=style.SMALL_PT)
    _write_notes(sheet, notes, top + plot + 28)
    return sheet.figure


def sequence_figure(study: SequenceStudy, *, width_in: float = style.COLUMN_IN) -> Figure:
    """Returns the latency over the length on linear axes from zero; call it under `style.styled`.

    The lengths that the paper's claim is about are shaded.
    """
    lengths = [point.length for point in study.points]
    said = [
        *sequence.findings(study)[:1],
        f"Whole modality interaction, {study.vilt.layers} layers, D = {study.vilt.hidden_size}, batch "
        f"{study.batch_size}, {study.dtype}. Band: 95% interval. {shared.conditions(study.environment)}.",
    ]
    width = width_in * style.POINTS_PER_INCH
    notes = [line for text in said for line in style.wrap(text, width - 6, style.SMALL_PT)]
    plot = 0.5 * width
    sheet = style.Sheet(width_in, 6 + plot + 30 + NOTE_PT * len(notes))
    axes = sheet.axes(34, 6, width - 42, plot)
    axes.axvspan(0, sequence.PAPER_LENGTH, color=style.SHADE, linewidth=0, zorder=0)
    look = {"color": "#0072B2", "marker": "o", "linestyle": "-"}
    _curve(axes, lengths, [point.latency for point in study.points], look)
    axes.set(xlabel="Sequence length (tokens)", ylabel="Latency (ms)", xlim=(0, 1.04 * max(lengths)))
    axes.set_ylim(0, 1.1 * max(1000 * (point.latency.high or point.latency.value) for point in study.points))
    axes.annotate(
        f"paper: under {sequence.PAPER_LENGTH}\ntokens it varies\nby < {1000 * sequence.PAPER_VARIATION_S:.0f} ms",
        (0, 1), xycoords=("data", "axes fraction"), xytext=(3, -3), textcoords="offset points",
        ha="left", va="top", size=style.SMALL_PT, color=style.MUTED,
    )  # fmt: skip
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.labelpad = axes.yaxis.labelpad = 2
    _grid(axes)
    _write_notes(sheet, notes, 6 + plot + 28)
    return sheet.figure


def _line(axes: Axes, places: Sequence[int], points: Sequence[nms.NmsPoint], mode: str) -> None:
    _curve(axes, places, [point.latency for point in points], LINES[mode])


def _curve(axes: Axes, places: Sequence[int], found: Sequence[Estimate], look: dict[str, Any]) -> None:
    axes.plot(places, [1000 * each.value for each in found], linewidth=1, markersize=3, **look)
    if all(each.low is not None and each.high is not None for each in found):
        low, high = ([1000 * (getattr(each, end) or 0.0) for each in found] for end in ("low", "high"))
        axes.fill_between(places, low, high, color=look["color"], alpha=0.2, linewidth=0)


def _grid(axes: Axes) -> None:
    axes.grid(visible=True, linewidth=0.3, color=style.SHADE)
    axes.set_axisbelow(True)
    axes.xaxis.labelpad = 2


def _write_notes(sheet: style.Sheet, notes: Sequence[str], top: float) -> None:
    for index, line in enumerate(notes):
        sheet.write(3, top + NOTE_PT * index, line, size=style.SMALL_PT, color=style.MUTED)
