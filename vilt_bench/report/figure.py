"""The paper's figures from records: latency by stage, relative computational size, accuracy against latency."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import starmap
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from vilt_bench.config import ALL
from vilt_bench.errors import ConfigError
from vilt_bench.records import Run
from vilt_bench.report import rows as shown
from vilt_bench.report import style
from vilt_bench.report.bars import Bar, Chart, Part, draw
from vilt_bench.report.comparable import check_comparable, differences
from vilt_bench.statistics import Estimate, latency

PAPER_HEADING = "ViLT paper, Figure 1 (P40 GPU)"
PAPER_FIGURE_1_MS: Mapping[str, Mapping[str, float]] = {
    "region": {"backbone": 75, "region_operations": 810, "modality_interaction": 15},
    "grid": {"backbone": 45, "modality_interaction": 15},
    "linear": {"projection": 0.4, "modality_interaction": 15},
}
"""Milliseconds by kind and stage, as read off the drawing. The textual embedder is left out there.

Source: ViLT paper, Figure 1; batch 1, NVIDIA P40, mean of 10,000 runs.
"""

Task = Literal["vqav2_test_dev", "nlvr2_dev", "nlvr2_test_p"]
TASKS: Mapping[str, str] = {
    "vqav2_test_dev": "VQAv2 test-dev (score)",
    "nlvr2_dev": "NLVR2 dev (accuracy, %)",
    "nlvr2_test_p": "NLVR2 test-P (accuracy, %)",
}


def figure1(
    runs: Sequence[Run],
    *,
    with_paper: bool = False,
    allow_different: bool | Collection[str] = False,
    titles: Mapping[str, str] | None = None,
    width_in: float = style.COLUMN_IN,
) -> Figure:
    """Returns the runs' latency as stacked bars, one a run, by stage; call it under `style.styled`.

    All axes are linear and begin at zero. Bars a quarter as long as the longest, or shorter, are drawn once more on
    a magnified axis.

    Args:
        runs: from top to bottom; those without times show why.
        with_paper: with the bars of the paper's Figure 1, on an axis of their own.
        allow_different: names of what may differ, or whether anything may; each bar is then labelled with its machine
            and settings.
        titles: of bars, by the run's identifier; the others have the embedder's name.
        width_in: of the figure, in inches.

    Raises:
        ConfigError: there is no run, or the runs were measured on different machines or with different settings.

    Source: ViLT paper, Figure 1.
    """
    labels = _labels(runs, allow_different=allow_different)
    named = _named(runs, titles)
    measured = tuple(starmap(_latency_bar, zip(runs, named, labels, strict=True)))
    charts = [Chart(measured, "Latency (ms)", heading="Measured here" if with_paper else "")]
    if with_paper:
        charts.append(Chart(_paper_bars(), "Latency (ms), read off the figure", heading=PAPER_HEADING))
    names = [part.name for chart in charts for bar in chart.bars for part in bar.parts]
    footer = [*_conditions(runs, different=any(labels)), *_notes(runs), *_side_by_side(runs, titles, ranks=True)]
    if any(bar.parts for bar in measured):
        whisker = "; whisker: its 95% interval" if any(bar.interval for bar in measured) else ""
        missing = any(bar.parts and not bar.interval for bar in measured)
        few = f"; {'where there is none' if whisker else 'no interval'}, passes are too few to tell it" * missing
        footer.append(f"Bar and number: the sum of the stages{whisker}{few}. The whole is timed apart.")
    if with_paper:
        footer.append("The paper leaves the textual embedder out.")
    return draw(charts, style.looks(names), _legend(names), footer, width_in=width_in).figure


def figure2(
    runs: Sequence[Run], *, titles: Mapping[str, str] | None = None, width_in: float = style.COLUMN_IN
) -> Figure:
    """Returns the shares of textual embedder, visual embedder and interaction in FLOPs and in parameters.

    Runs of any machine may stand side by side, as nothing here is timed. Call it under `style.styled`.

    Args:
        runs: from top to bottom.
        titles: of bars, by the run's identifier; the others have the embedder's name.
        width_in: of the figure, in inches.

    Raises:
        ConfigError: there is no run.

    Source: ViLT paper, Figure 2, which draws relative computational size.
    """
    _refuse_none(runs)
    named = list(zip(runs, _named(runs, titles), strict=True))
    charts = [
        Chart(
            tuple(_share_bar(run, name, _flops, shown.giga, "GFLOPs") for run, name in named),
            "Share (%); on the bars: GFLOPs",
            heading="FLOPs (2 per multiply-add)",
            limit=100.0,
        ),
        Chart(
            tuple(_share_bar(run, name, _parameters, shown.millions, "M") for run, name in named),
            "Share (%); on the bars: millions",
            heading="Parameters",
            limit=100.0,
        ),
    ]
    legend = [(name, title) for name, title in shown.TITLES.items() if name != shown.OPTIONAL]
    footer = _side_by_side(runs, titles, ranks=False)
    return draw(charts, style.looks(shown.COMPONENTS), legend, footer, width_in=width_in).figure


def accuracy_scatter(
    runs: Mapping[str, Run],
    accuracies: Mapping[str, float],
    *,
    task: Task = "vqav2_test_dev",
    allow_different: bool | Collection[str] = False,
    width_in: float = style.COLUMN_IN,
) -> Figure:
    """Returns a scatter of downstream accuracy, as published, against latency, as measured in the runs.

    Call it under `style.styled`.

    Args:
        runs: by model, as named in `accuracies`.
        accuracies: by model, such as `read_accuracies` returns; models without a run are left out.
        task: what the accuracy is of.
        allow_different: likewise; what differs is said below.
        width_in: of the figure, in inches.

    Raises:
        ConfigError: a model has no accuracy, or the runs can't be compared.
    """
    _refuse_none(list(runs.values()))
    for model in runs:
        if model not in accuracies:
            raise ConfigError(f"no {task} of a model {model!r}; there is {', '.join(accuracies)}")
    labels = _labels(list(runs.values()), allow_different=allow_different)
    points = [(model, run, found) for model, run in runs.items() if (found := latency(run)) is not None]
    if not points:
        raise ConfigError("none of the runs has times; a scatter needs runs that were measured")
    said = [*_conditions(list(runs.values()), different=any(labels)), "Accuracy: as published. Bars: 95% intervals."]
    sizes: dict[str, list[str]] = {}
    for model, run in runs.items():
        sizes.setdefault(shown.size_line(run.model), []).append(model)
    said += [f"{size}: {', '.join(models)}." for size, models in sizes.items() if size]
    said += shown.comparison_remarks(list(runs.values()), list(runs), ranks=False)
    if any(labels):
        said += [f"{model}: {', '.join(notes)}" for (model, notes) in zip(runs, labels, strict=True)]
    width = width_in * style.POINTS_PER_INCH
    small = [line for sentence in said for line in style.wrap(sentence, width - 6, style.SMALL_PT)]
    plot = 0.62 * width
    sheet = style.Sheet(width_in, plot + 38 + 7.5 * len(small))
    axes = sheet.axes(32, 6, width - 40, plot)
    for kind in dict.fromkeys(run.model.kind for _, run, _ in points if run.model is not None):
        marker, colour = style.MARKERS.get(kind, ("P", style.MUTED))
        some = [(model, found) for model, run, found in points if run.model is not None and run.model.kind == kind]
        axes.errorbar(
            [1000 * found.value for _, found in some],
            [accuracies[model] for model, _ in some],
            xerr=[[1000 * (found.value - _or(found.low, found)) for _, found in some],
                  [1000 * (_or(found.high, found) - found.value) for _, found in some]],
            fmt=marker, color=colour, ecolor=style.INK, elinewidth=0.6, capsize=1.5, markersize=4.5,
            markeredgecolor=style.INK, markeredgewidth=0.4,
        )  # fmt: skip
        axes.plot(
            [], [], marker, color=colour, markersize=4.5, markeredgecolor=style.INK, markeredgewidth=0.4, label=kind
        )
    axes.set(xscale="log", xlabel="Latency (ms, log scale)", ylabel=TASKS[task])
    times = [1000 * found.value for _, _, found in points]
    ends = [1000 * end for _, _, found in points for end in (found.low, found.high) if end]
    axes.set_xlim(min([*times, *ends]) / 1.6, max([*times, *ends]) * 1.6)
    axes.margins(y=0.15)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(visible=True, linewidth=0.3, color=style.SHADE)
    axes.set_axisbelow(True)
    named = axes.legend(fontsize=style.SMALL_PT, frameon=False, loc="best", handletextpad=0.2, borderpad=0.2)
    for text in named.get_texts():
        text.set_parse_math(False)
    axes.xaxis.labelpad = axes.yaxis.labelpad = 2
    bars = [
        (1000 * (found.low or found.value), 1000 * _or(found.high, found), accuracies[model])
        for model, _, found in points
    ]
    style.label_points(axes, [(1000 * found.value, accuracies[model], model) for model, _, found in points], bars)
    for index, line in enumerate(small):
        sheet.write(3, plot + 36 + 7.5 * index, line, size=style.SMALL_PT, color=style.MUTED)
    return sheet.figure


def read_accuracies(task: Task = "vqav2_test_dev") -> dict[str, float]:
    """Returns the published downstream accuracy of the task by model; models without one are left out.

    Source: ViLT paper, Table 2.
    """
    import csv
    from importlib.resources import files

    text = files("vilt_bench").joinpath("paper", "downstream.csv").read_text(encoding="utf-8")
    return {row["model"]: float(row[task]) for row in csv.DictReader(text.splitlines()) if row[task]}


def _flops(run: Run, component: str | None) -> int | None:
    """Returns the FLOPs of a component, or of the whole; `None` where a part of them is unknown."""
    return _row(run, component).flops


def _parameters(run: Run, component: str | None) -> int | None:
    """Returns the parameters of a component, or of the whole."""
    return _row(run, component).parameters


def _row(run: Run, component: str | None) -> shown.Row:
    return next(
        (shown.component_row(run, name) for name in shown.COMPONENTS if name == component), shown.whole_row(run)
    )


def _named(runs: Sequence[Run], titles: Mapping[str, str] | None) -> list[str]:
    return [(titles or {}).get(run.run_id, name) for run, name in zip(runs, shown.names(runs), strict=True)]


def _side_by_side(runs: Sequence[Run], titles: Mapping[str, str] | None, *, ranks: bool) -> list[str]:
    """Returns what names leave out, and what must be known before the bars are compared."""
    left_out = [] if titles else [f"{alike}." for alike in filter(None, [shown.alike(runs)])]
    return [*left_out, *shown.comparison_remarks(runs, _named(runs, titles), ranks=ranks)]


def _latency_bar(run: Run, title: str, notes: tuple[str, ...]) -> Bar:
    whole, total = latency(run), latency(run, "")
    parts = []
    for component in shown.COMPONENTS:
        stages = [name for name in shown.stage_names(run) if name.partition(".")[0] == component]
        # The visual embedder is what differs; the others are one segment each.
        for name in stages if component == "visual_embedder" else [component] if stages else []:
            if (found := latency(run, name)) is not None:
                short = name.rpartition(".")[2]
                parts.append(Part(short, _title(short), 1000 * found.value, _digits(1000 * found.value)))
    if run.failure is not None:
        where = f" in {run.failure.stage}" if run.failure.stage else ""
        notes = (*notes, f"failed{where}: {run.failure.kind}")
    return Bar(
        title=title,
        value=f"{shown.milliseconds_interval(total)} ms" if total is not None else _only_whole(whole),
        parts=tuple(parts),
        interval=None if total is None or total.low is None or total.high is None else (
            1000 * total.low, 1000 * total.high
        ),
        notes=(_beside(run, total, whole), *notes),
    )  # fmt: skip


def _beside(run: Run, total: Estimate | None, whole: Estimate | None) -> str:
    """Returns what stands below a bar's title: what the model saw, and the whole, which no bar shows."""
    apart = f"whole: {shown.milliseconds_interval(whole)} ms" if whole is not None and total is not None else ""
    return " · ".join(part for part in (shown.size_line(run.model), apart) if part)


def _only_whole(whole: Estimate | None) -> str:
    return "no times" if whole is None else f"whole: {shown.milliseconds_interval(whole)} ms"


def _paper_bars() -> tuple[Bar, ...]:
    return tuple(
        Bar(
            title=kind,
            value=f"about {sum(stages.values()):g} ms",
            parts=tuple(Part(name, _title(name), value, f"{value:g}") for name, value in stages.items()),
        )
        for kind, stages in PAPER_FIGURE_1_MS.items()
    )


def _share_bar(
    run: Run, title: str, size: Callable[[Run, str | None], int | None], write: Callable[[int | None], str], unit: str
) -> Bar:
    whole = size(run, None)
    sizes = {component: size(run, component) for component in shown.COMPONENTS}
    return Bar(
        title=title,
        value=f"{write(whole)} {unit}" if whole is not None else "unknown",
        parts=tuple(
            Part(component, shown.TITLES[component], 100 * value / whole, write(value))
            for component, value in sizes.items()
            if value and whole
        ),
        notes=tuple(filter(None, [shown.size_line(run.model)])),
    )


def _legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the legend's entries: textual embedder, the visual embedder's stages, interaction."""
    seen = dict.fromkeys(names)
    visual = [(name, _title(name)) for name in _in_order(seen) if name not in shown.TITLES]
    return [
        *((name, _title(name)) for name in ("preprocessing", "textual_embedder") if name in seen),
        *([("", "visual embedder:"), *visual] if visual else []),
        *((name, _title(name)) for name in seen if name == "modality_interaction"),
    ]


def _in_order(names: Mapping[str, None]) -> list[str]:
    """Returns known stages as a region embedder has them, then others as they come."""
    known = [name for name in style.LOOKS if name in names]
    return known + [name for name in names if name not in style.LOOKS]


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return words.replace("nms", "NMS").replace("roi", "RoI").replace("rpn", "RPN").replace("fpn", "FPN")


def _digits(value: float) -> str:
    """Returns three significant digits."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.2g}"


def _labels(runs: Sequence[Run], *, allow_different: bool | Collection[str]) -> list[tuple[str, ...]]:
    """Returns for each run what its bar is labelled with: nothing where all runs can be compared."""
    _refuse_none(runs)
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


def _where(run: Run) -> str:
    where, case = run.environment, run.case
    settings = [case.dtype, f"batch {case.batch_size}"]
    if where is None:
        return " · ".join(["unknown machine", *settings])
    device = where.device if where.device_name in where.machine else f"{where.device} {where.device_name}"
    threads = f"{where.threads} thread{'s' if where.threads != 1 else ''}"
    torch = [f"torch {where.versions['torch']}"] if "torch" in where.versions else []
    return " · ".join([where.machine, device, threads, *settings, *torch])


def _conditions(runs: Sequence[Run], *, different: bool) -> list[str]:
    """Returns where the runs were measured, unless each bar says it, and with what weights."""
    timed = [run for run in runs if latency(run) is not None] or list(runs)
    lines = [] if different else [_where(timed[0])]
    if different:
        lines.append("Runs of different machines or settings: compare with care.")
    weights = {
        name: (run.model.visual_weights, run.model.shared_weights)
        for name, run in zip(shown.names(runs), runs, strict=True)
        if run.model
    }
    if set(weights.values()) == {("random", "random")}:
        return [*lines, "Random weights."]
    return [
        *lines,
        *(
            f"{name}: weights {visual} (visual embedder), {shared} (shared)"
            for name, (visual, shared) in weights.items()
        ),
    ]


def _notes(runs: Sequence[Run]) -> list[str]:
    """Returns what must be known of stages, such as planted tensors, each once."""
    noted: dict[str, dict[str, None]] = {}
    for stage in (stage for run in runs for stage in run.stages if stage.note):
        noted.setdefault(stage.note.rstrip("."), {})[_title(stage.name.rpartition(".")[2])] = None
    return [f"{', '.join(stages)}: {note}." for note, stages in noted.items()]


def _or(bound: float | None, found: Estimate) -> float:
    return found.value if bound is None else bound


def _refuse_none(runs: Sequence[Run]) -> None:
    if not runs:
        raise ConfigError("a picture needs at least one run; give records or folders that hold them")
