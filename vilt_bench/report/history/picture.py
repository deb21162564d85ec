"""Histories as a picture: a panel for each stage, runs in order, levels and their changes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal, cast

from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vilt_bench.errors import ConfigError
from vilt_bench.judge.history import CaseHistory, History, shown_stages
from vilt_bench.record.run import WHOLE
from vilt_bench.report import clean
from vilt_bench.report.axes import EMBEDDER
from vilt_bench.report.history.words import case_line, date, machine_line, order_lines, percent, title
from vilt_bench.report.labels import Labels, read
from vilt_bench.report.pictures import style

if TYPE_CHECKING:
    from vilt_bench.judge.summary import Summary

_PANEL_PT = 62.0
_GAP_PT = 15.0
_LEFT_PT = 38.0
_RIGHT_PT = 8.0
_LINE_PT = 8.0
_FOOT_PT = 26.0
MOST_CASES = 20
_FULL = 200
"""Above this many runs, points get smaller and lose their intervals."""


def render(
    history: History,
    format: Literal["svg", "png", "pdf"],
    *,
    labels: Sequence[str] = (),
    width_in: float = style.PAGE_IN,
) -> bytes:
    """Returns the picture as a file's content.

    Args:
        history: of any cases.
        format: of the file.
        labels: of the user's own, as `report.labels.read` has them: what embedders are called, the colours of their
            points, which comes first, and the title of the latency.
        width_in: in inches.

    Raises:
        ConfigError: there are more histories than a picture can hold, or labels can't be read or name what is not
            there.
    """
    if len(history.cases) > MOST_CASES:
        raise ConfigError(
            f"{len(history.cases)} histories are too many for a picture of at most {MOST_CASES}; choose by `embedder`, "
            "`since` or folder"
        )
    with style.styled():
        own = read(labels, list(map(_as_run, history.cases)), is_colour=is_color_like)
        return style.write(draw(history, labels=own, width_in=width_in), format, title="Latency over commits, by stage")


def draw(history: History, *, labels: Labels | None = None, width_in: float = style.PAGE_IN) -> Figure:
    """Returns one block a history, one panel a stage; call it under `style.styled`.

    Stages are the whole and its components, or those asked for. Axes of latency do not begin at zero.
    """
    width = width_in * style.POINTS_PER_INCH
    own = labels or Labels()
    cases = sorted(history.cases, key=lambda case: own.place(_as_run(case)))
    heads = [_head(case, history, own, width - 8) for case in cases]
    panels = [_panels(case, history) for case in cases]
    foot = style.wrap(_FOOTER.format(order=history.order), width - 8, style.SMALL_PT)
    height = sum(
        len(head) * _LINE_PT + 6 + len(stages) * (_PANEL_PT + _GAP_PT) + _FOOT_PT
        for head, stages in zip(heads, panels, strict=True)
    )
    sheet = style.Sheet(width_in, height + len(foot) * _LINE_PT + 4)
    top = 2.0
    titled = f"{own.titles['latency']}: " if "latency" in own.titles else ""
    for case, head, stages in zip(cases, heads, panels, strict=True):
        for index, line in enumerate(head):
            sheet.write(4, top, line, weight="bold" if index < len(_named(case, own, width - 8)) else "normal")
            top += _LINE_PT
        top += 6
        for stage in stages:
            sheet.write(_LEFT_PT, top, f"{titled}{title(stage)} (ms)", size=style.SMALL_PT)
            axes = sheet.axes(_LEFT_PT, top + _GAP_PT - 5, width - _LEFT_PT - _RIGHT_PT, _PANEL_PT - 4)
            _panel(axes, case, stage, own.colour(EMBEDDER, EMBEDDER.of(_as_run(case))))
            _label_runs(axes, case, history)
            axes.tick_params(labelbottom=stage == stages[-1])
            top += _PANEL_PT + _GAP_PT
        top += _FOOT_PT
    for line in foot:
        sheet.write(4, top, line, size=style.SMALL_PT, color=style.MUTED)
        top += _LINE_PT
    return sheet.figure


_FOOTER = (
    "Runs in order of the time of their {order}, evenly spaced; whiskers: 95% interval over a run's trials; steps: "
    "levels, with the size of each change; latency does not begin at zero."
)


def _head(case: CaseHistory, history: History, own: Labels, width: float) -> list[str]:
    lines = style.wrap(f"{case_line(case)} · {machine_line(case)}", width)
    remarks = (line for remark in order_lines(case, history) for line in style.wrap(remark, width))
    return [*_named(case, own, width), *lines, *remarks]


def _named(case: CaseHistory, own: Labels, width: float) -> list[str]:
    return style.wrap(own.called(_as_run(case), case.name), width, bold=True)


def _as_run(case: CaseHistory) -> Summary:
    """Returns a history as far as labels know runs: what was asked, and where."""
    where = SimpleNamespace(
        machine=case.machine, fingerprint=case.fingerprint, device=case.device, threads=case.threads
    )
    return cast("Summary", SimpleNamespace(case=case.case, environment=where, model=None, side=None))


def _panels(case: CaseHistory, history: History) -> list[str]:
    shown = shown_stages(case, history)
    return shown if history.stages else [stage for stage in shown if "." not in stage]


def _panel(axes: Axes, case: CaseHistory, stage: str, own: str | None) -> None:
    found = [(index, latency) for index, point in enumerate(case.points) if (latency := point.latency(stage))]
    many = len(case.points) > _FULL
    colour = own or (style.LOOKS[stage.partition(".")[0]].colour if stage != WHOLE else style.MUTED)
    size = 1.2 if many else 2.4
    places, values = [index for index, _ in found], [1000 * latency.value for _, latency in found]
    if not many:
        bounded = [(index, latency) for index, latency in found if latency.low is not None]
        axes.vlines(
            [index for index, _ in bounded],
            [1000 * (latency.low or 0) for _, latency in bounded],
            [1000 * (latency.high or 0) for _, latency in bounded],
            linewidth=0.5, color=colour, alpha=0.45,
        )  # fmt: skip
    axes.plot(places, values, "o", markersize=size, markeredgewidth=0, color=colour, alpha=0.75)
    changes = case.changes_of(stage)
    starts = [0, *(change.index for change in changes)]
    ends = [*starts[1:], len(case.points)]
    levels = [changes[0].before_s, *(change.after_s for change in changes)] if changes else [median(values) / 1000]
    for start, end, level in zip(starts, ends, levels, strict=False):
        axes.hlines(1000 * level, start - 0.5, end - 0.5, linewidth=1.1, color=style.INK)
    # The middle of the points, not their farthest whisker, sets the scale.
    low, high = min(values), max(values)
    margin = max(0.12 * (high - low), 0.01 * high)
    axes.set_xlim(-0.7, len(case.points) - 0.3)
    axes.set_ylim(max(0.0, low - margin), high + 2.2 * margin)
    for change in changes:
        axes.axvline(change.index - 0.5, linewidth=0.5, color=style.INK, linestyle=(0, (2, 2)))
        late = change.index > 0.85 * len(case.points)
        axes.annotate(
            percent(change.ratio) + (f" {clean.line(change.first.commit)}" if change.first.commit else ""),
            (change.index - 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-2 if late else 2, -1),
            textcoords="offset points",
            ha="right" if late else "left",
            va="top",
            size=style.SMALL_PT,
            parse_math=False,
        )
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _label_runs(axes: Axes, case: CaseHistory, history: History) -> None:
    count = len(case.points)
    most = min(6, count)
    places = sorted({round(index * (count - 1) / max(1, most - 1)) for index in range(most)})
    labels = []
    for place in places:
        point = case.points[place]
        day = date(point.committed_at if history.order == "commit" else point.started_at)
        labels.append(day if point.commit is None else f"{day}\n{clean.line(point.commit)}")
    axes.set_xticks(places, labels)
    texts = axes.get_xticklabels()
    for text in texts:
        text.set_parse_math(False)
    if len(texts) > 1:  # within the picture
        texts[0].set_horizontalalignment("left")
        texts[-1].set_horizontalalignment("right")
