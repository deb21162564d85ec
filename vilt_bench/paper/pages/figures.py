"""The paper's Figure 1 beside measured bars, and its accuracies against latency."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import Summary, summarise
from vilt_bench.paper.tables import downstream
from vilt_bench.record.run import Run
from vilt_bench.report import lines as shown
from vilt_bench.report.pictures import style
from vilt_bench.report.pictures.bars import Bar, Chart, Part
from vilt_bench.report.pictures.latency import Beside, conditions_of, labels_of, refuse_none, stage_title

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


def accuracy_scatter(
    runs: Mapping[str, Run | Summary],
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
    judged = {model: run if isinstance(run, Summary) else summarise(run) for model, run in runs.items()}
    refuse_none(list(judged.values()))
    for model in judged:
        if model not in accuracies:
            raise ConfigError(f"no {task} of a model {model!r}; there is {', '.join(accuracies)}")
    labels = labels_of(list(judged.values()), allow_different=allow_different)
    points = [(model, run, found) for model, run in judged.items() if (found := run.whole.latency) is not None]
    if not points:
        raise ConfigError("none of the runs has times; a scatter needs runs that were measured")
    said = [
        *conditions_of(list(judged.values()), different=any(labels)),
        "Accuracy: as published. Bars: 95% intervals.",
    ]
    sizes: dict[str, list[str]] = {}
    for model, run in judged.items():
        sizes.setdefault(shown.size_line(run.model), []).append(model)
    said += [f"{size}: {', '.join(models)}." for size, models in sizes.items() if size]
    said += shown.comparison_remarks(list(judged.values()), list(judged), ranks=False)
    if any(labels):
        said += [f"{model}: {', '.join(notes)}" for (model, notes) in zip(judged, labels, strict=True)]
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
            xerr=[[1000 * (found.value - found.ends[0]) for _, found in some],
                  [1000 * (found.ends[1] - found.value) for _, found in some]],
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
    bars = [(1000 * (found.low or found.value), 1000 * found.ends[1], accuracies[model]) for model, _, found in points]
    style.label_points(axes, [(1000 * found.value, accuracies[model], model) for model, _, found in points], bars)
    for index, line in enumerate(small):
        sheet.write(3, plot + 36 + 7.5 * index, line, size=style.SMALL_PT, color=style.MUTED)
    return sheet.figure


def read_accuracies(task: Task = "vqav2_test_dev") -> dict[str, float]:
    """Returns the published downstream accuracy of the task by model; models without one are left out.

    Source: ViLT paper, Table 2.
    """
    return {row.model: score for row in downstream() if (score := getattr(row, task)) is not None}


def paper_figure1() -> Beside:
    """Returns the bars of the paper's Figure 1, to be drawn beside measured ones."""
    bars = tuple(
        Bar(
            title=kind,
            value=f"about {sum(stages.values()):g} ms",
            parts=tuple(Part(name, stage_title(name), value, f"{value:g}") for name, value in stages.items()),
        )
        for kind, stages in PAPER_FIGURE_1_MS.items()
    )
    return Beside(
        Chart(bars, "Latency (ms), read off the figure", heading=PAPER_HEADING),
        "The paper leaves the textual embedder out.",
    )
