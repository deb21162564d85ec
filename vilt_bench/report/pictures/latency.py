"""The paper's figures from records: latency by stage, and relative computational size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap

from matplotlib.figure import Figure

from vilt_bench.ask.case import ALL
from vilt_bench.errors import ConfigError
from vilt_bench.judge.estimate import Estimate
from vilt_bench.judge.summary import COMPONENTS, OPTIONAL, TITLES, Row, Summary, summaries
from vilt_bench.record.run import NONE, Run
from vilt_bench.report import numbers
from vilt_bench.report.lines import alike as run_alike
from vilt_bench.report.lines import comparison_remarks, size_line
from vilt_bench.report.lines import names as run_names
from vilt_bench.report.pictures import style
from vilt_bench.report.pictures.bars import Bar, Chart, Part, draw
from vilt_bench.report.runs.comparable import check_comparable, differences
from vilt_bench.words import counted


@dataclass(frozen=True)
class Beside:
    """Bars that were not measured in these runs, to be drawn below them."""

    chart: Chart
    note: str
    """What a reader must know of them."""


def figure1(
    runs: Sequence[Run | Summary],
    *,
    beside: Beside | None = None,
    allow_different: bool | Collection[str] = False,
    titles: Mapping[str, str] | None = None,
    axis: str = "Latency",
    width_in: float = style.COLUMN_IN,
    notes: Sequence[str] = (),
) -> Figure:
    """Returns the runs' latency as stacked bars, one a run, by stage; call it under `style.styled`.

    All axes are linear and begin at zero. Bars a quarter as long as the longest, or shorter, are drawn once more on
    a magnified axis.

    Args:
        runs: from top to bottom; those without times show why.
        beside: bars from elsewhere, on an axis of their own.
        allow_different: names of what may differ, or whether anything may; each bar is then labelled with its machine
            and settings.
        titles: of bars, by the run's identifier; the others have the embedder's name.
        axis: what its axis is called, without the unit.
        width_in: of the figure, in inches.
        notes: what else must be known, one sentence each.

    Raises:
        ConfigError: there is no run, or the runs were measured on different machines or with different settings.

    Source: ViLT paper, Figure 1.
    """
    runs = summaries(runs)
    labels = labels_of(runs, allow_different=allow_different)
    named = _named(runs, titles)
    measured = tuple(starmap(_latency_bar, zip(runs, named, labels, strict=True)))
    charts = [Chart(measured, f"{axis} (ms)", heading="" if beside is None else "Measured here")]
    if beside is not None:
        charts.append(beside.chart)
    names = [part.name for chart in charts for bar in chart.bars for part in bar.parts]
    footer = [*conditions_of(runs, different=any(labels)), *_notes(runs), *_side_by_side(runs, titles, ranks=True)]
    if any(bar.parts for bar in measured):
        whisker = "; whisker: its 95% interval" if any(bar.interval for bar in measured) else ""
        missing = any(bar.parts and not bar.interval for bar in measured)
        few = f"; {'where there is none' if whisker else 'no interval'}, passes are too few to tell it" * missing
        footer.append(f"Bar and number: the sum of the stages{whisker}{few}. The whole is timed apart.")
    if beside is not None:
        footer.append(beside.note)
    footer += notes
    return draw(charts, style.looks(names), _legend(names), footer, width_in=width_in).figure


def figure2(
    runs: Sequence[Run | Summary],
    *,
    titles: Mapping[str, str] | None = None,
    width_in: float = style.COLUMN_IN,
    notes: Sequence[str] = (),
) -> Figure:
    """Returns the shares of textual embedder, visual embedder and interaction in FLOPs and in parameters.

    Runs of any machine may stand side by side, as nothing here is timed. Call it under `style.styled`.

    Args:
        runs: from top to bottom.
        titles: of bars, by the run's identifier; the others have the embedder's name.
        width_in: of the figure, in inches.
        notes: what else must be known, one sentence each.

    Raises:
        ConfigError: there is no run.

    Source: ViLT paper, Figure 2, which draws relative computational size.
    """
    runs = summaries(runs)
    refuse_none(runs)
    named = list(zip(runs, _named(runs, titles), strict=True))
    charts = [
        Chart(
            tuple(_share_bar(run, name, lambda row: row.flops, numbers.giga, "GFLOPs") for run, name in named),
            "Share (%); on the bars: GFLOPs",
            heading="FLOPs (2 per multiply-add)",
            limit=100.0,
        ),
        Chart(
            tuple(_share_bar(run, name, lambda row: row.parameters, numbers.millions, "M") for run, name in named),
            "Share (%); on the bars: millions",
            heading="Parameters",
            limit=100.0,
        ),
    ]
    seen = {part.name for chart in charts for bar in chart.bars for part in bar.parts}
    legend = [(name, title) for name, title in TITLES.items() if name in seen or (not seen and name != OPTIONAL)]
    footer = [*_side_by_side(runs, titles, ranks=False), *notes]
    return draw(charts, style.looks(COMPONENTS), legend, footer, width_in=width_in).figure


def _named(runs: Sequence[Summary], titles: Mapping[str, str] | None) -> list[str]:
    return [(titles or {}).get(run.run_id, name) for run, name in zip(runs, run_names(runs), strict=True)]


def _side_by_side(runs: Sequence[Summary], titles: Mapping[str, str] | None, *, ranks: bool) -> list[str]:
    """Returns what names leave out, and what must be known before the bars are compared."""
    left_out = [] if titles else [f"{alike}." for alike in filter(None, [run_alike(runs)])]
    return [*left_out, *comparison_remarks(runs, _named(runs, titles), ranks=ranks)]


def _latency_bar(run: Summary, title: str, notes: tuple[str, ...]) -> Bar:
    whole, total = run.whole.latency, run.total
    parts = []
    for component, row in run.components.items():
        # The visual embedder is what differs; the others are one segment each.
        for part in run.stages(component) if component == "visual_embedder" else [row]:
            if part.latency is not None:
                short, milliseconds = part.name.rpartition(".")[2], 1000 * part.latency.value
                parts.append(Part(short, stage_title(short), milliseconds, three_digits(milliseconds)))
    if run.failure is not None:
        where = f" in {run.failure.stage}" if run.failure.stage else ""
        notes = (*notes, f"failed{where}: {run.failure.kind}")
    return Bar(
        title=title,
        value=f"{numbers.milliseconds_interval(total)} ms" if total is not None else _only_whole(whole),
        parts=tuple(parts),
        interval=None if total is None or total.low is None or total.high is None else (
            1000 * total.low, 1000 * total.high
        ),
        notes=(_beside(run, total, whole), *notes),
    )  # fmt: skip


def _beside(run: Summary, total: Estimate | None, whole: Estimate | None) -> str:
    """Returns what stands below a bar's title: what the model saw, and the whole, which no bar shows."""
    apart = f"whole: {numbers.milliseconds_interval(whole)} ms" if whole is not None and total is not None else ""
    return " · ".join(part for part in (size_line(run.model), apart) if part)


def _only_whole(whole: Estimate | None) -> str:
    return "no times" if whole is None else f"whole: {numbers.milliseconds_interval(whole)} ms"


def _share_bar(
    run: Summary, title: str, size: Callable[[Row], int | None], write: Callable[[int | None], str], unit: str
) -> Bar:
    whole = size(run.whole)
    sizes = {component: size(row) for component, row in run.components.items()}
    return Bar(
        title=title,
        value=f"{write(whole)} {unit}" if whole is not None else "unknown",
        parts=tuple(
            Part(component, TITLES[component], 100 * value / whole, write(value))
            for component, value in sizes.items()
            if value and whole
        ),
        notes=tuple(filter(None, [size_line(run.model)])),
    )


def _legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the legend's entries: textual embedder, the visual embedder's stages, interaction."""
    seen = dict.fromkeys(names)
    visual = [(name, stage_title(name)) for name in _in_order(seen) if name not in TITLES]
    return [
        *((name, stage_title(name)) for name in ("preprocessing", "textual_embedder") if name in seen),
        *([("", "visual embedder:"), *visual] if visual else []),
        *((name, stage_title(name)) for name in seen if name == "modality_interaction"),
    ]


def _in_order(names: Mapping[str, None]) -> list[str]:
    """Returns known stages as a region embedder has them, then others as they come."""
    known = [name for name in style.LOOKS if name in names]
    return known + [name for name in names if name not in style.LOOKS]


def stage_title(name: str) -> str:
    """Returns how a stage is titled."""
    words = name.replace("_", " ")
    return words.replace("nms", "NMS").replace("roi", "RoI").replace("rpn", "RPN").replace("fpn", "FPN")


def three_digits(value: float) -> str:
    """Returns three significant digits."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.2g}"


def labels_of(runs: Sequence[Summary], *, allow_different: bool | Collection[str]) -> list[tuple[str, ...]]:
    """Returns for each run what its bar is labelled with: nothing where all runs can be compared."""
    refuse_none(runs)
    check_comparable(
        runs, ((ALL,) if allow_different else ()) if isinstance(allow_different, bool) else allow_different
    )
    differing = differences(runs)
    if not differing:
        return [()] * len(runs)
    return [
        (_where(run), *(f"{field}: {values[index]}" for field, values in differing.items() if field not in _IN_WHERE))
        for index, run in enumerate(runs)
    ]


_IN_WHERE = ("machine", "device", "threads", "dtype", "batch size", "torch")


def _where(run: Summary) -> str:
    where, case = run.environment, run.case
    settings = [case.dtype, f"batch {case.batch_size}"]
    if where is None:
        return " · ".join(["unknown machine", *settings])
    device = where.device if where.device_name in where.machine else f"{where.device} {where.device_name}"
    threads = counted(where.threads, "thread")
    torch = [f"torch {where.versions['torch']}"] if "torch" in where.versions else []
    return " · ".join([where.machine, device, threads, *settings, *torch])


def conditions_of(runs: Sequence[Summary], *, different: bool) -> list[str]:
    """Returns where the runs were measured, unless each bar says it, and with what weights."""
    timed = [run for run in runs if run.timed] or list(runs)
    lines = [] if different else [_where(timed[0])]
    if different:
        lines.append("Runs of different machines or settings: compare with care.")
    weights = {
        name: (run.model.visual_weights, run.model.shared_weights)
        for name, run in zip(run_names(runs), runs, strict=True)
        if run.model
    }
    if weights and set(weights.values()) <= {("random", "random"), ("random", NONE)}:
        return [*lines, "Random weights."]
    return [
        *lines,
        *(
            f"{name}: weights {visual} (visual embedder)" + ("" if shared == NONE else f", {shared} (shared)")
            for name, (visual, shared) in weights.items()
        ),
    ]


def _notes(runs: Sequence[Summary]) -> list[str]:
    """Returns what must be known of stages, such as planted tensors, each once."""
    noted: dict[str, dict[str, None]] = {}
    for row in (row for run in runs for row in run.rows if row.note):
        noted.setdefault(row.note.rstrip("."), {})[stage_title(row.name.rpartition(".")[2])] = None
    return [f"{', '.join(stages)}: {note}." for note, stages in noted.items()]


def refuse_none(runs: Sequence[Summary]) -> None:
    """Refuse an empty picture.

    Raises:
        ConfigError: there is no run.
    """
    if not runs:
        raise ConfigError("a picture needs at least one run; give records or folders that hold them")
