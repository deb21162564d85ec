"""Writes the paper's report into a folder: one Markdown page, its tables as CSV, its pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vilt_bench.judge.summary import Summary, summarise
from vilt_bench.paper.pages import counted as render
from vilt_bench.paper.pages import times
from vilt_bench.paper.tables import CountedTable
from vilt_bench.record import store
from vilt_bench.record.run import Run

if TYPE_CHECKING:
    from vilt_bench.paper.studies.nms import NmsStudy
    from vilt_bench.paper.studies.sequence import SequenceStudy

FIGURE_1_ROWS = ("UNITER-Base", "Pixel-BERT-R50", "ViLT-B/32")
"""One of each kind, as the paper's Figure 1 draws."""
CAPTION_1 = "Figure 1: latency by stage, here and in the paper"
CAPTION_2 = "Figure 2: relative computational size"
CAPTION_SCATTER = "Accuracy as printed against latency here"


def publish(
    folder: str | os.PathLike[str],
    *,
    counted: CountedTable | None = None,
    runs: Mapping[str, Run] | None = None,
    nms: NmsStudy | None = None,
    sequence: SequenceStudy | None = None,
) -> list[Path]:
    """Write what there is, and return the files.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        counted: Tables 6 and 7.
        runs: measured rows, by the paper's name.
        nms: the study of the final NMS.
        sequence: the study of the sequence length.

    Raises:
        ConfigError: the folder can't be written to, or the runs can't be compared in a picture.
    """
    target = Path(folder)
    store.check_writable(target)
    files: dict[str, bytes] = {}
    page = ["# The ViLT paper's analysis, again\n\nMade by `vilt-bench paper`; every number is computed or measured."]
    if counted is not None:
        files["table6.csv"] = render.render_csv(counted).encode()
        page.append(render.markdown(counted))
    judged = {name: summarise(run) for name, run in (runs or {}).items()}
    timed = {name: run for name, run in judged.items() if run.timed}
    if timed:
        files["times.csv"] = times.render_csv(timed).encode()
        page.append(times.markdown(timed))
        for name, caption, picture in _figures(timed):
            files[name] = picture
            page.append(f"![{caption}]({name})")
    if nms is not None:
        from vilt_bench.paper.studies import figures
        from vilt_bench.paper.studies import nms as study

        files["nms.csv"] = study.render_csv(nms).encode()
        files["nms.svg"] = figures.draw_nms(nms, "svg")
        page.append(f"### The final NMS\n\n{study.markdown(nms)}\n\n![What drives the final NMS](nms.svg)")
    if sequence is not None:
        from vilt_bench.paper.studies import figures
        from vilt_bench.paper.studies import sequence as study_of_length

        files["sequence.csv"] = study_of_length.render_csv(sequence).encode()
        files["sequence.svg"] = figures.draw_sequence(sequence, "svg")
        page.append(
            f"### Interaction against sequence length\n\n{study_of_length.markdown(sequence)}\n\n"
            "![Latency of the interaction against sequence length](sequence.svg)"
        )
    files["README.md"] = ("\n\n".join(part.strip() for part in page) + "\n").encode()
    for name, content in files.items():
        store.write_bytes(target / name, content)
    return [target / name for name in files]


def _figures(runs: Mapping[str, Summary]) -> list[tuple[str, str, bytes]]:
    """Returns name, caption and content of the pictures that the runs give."""
    from vilt_bench.paper.pages import figures
    from vilt_bench.paper.tables import downstream
    from vilt_bench.report.pictures import latency, style

    chosen = [runs[name] for name in FIGURE_1_ROWS if name in runs] or list(runs.values())
    titles = {run.run_id: f"{model}: {run.case.embedder}" for model, run in runs.items()}
    accuracies = figures.read_accuracies()
    scattered = {row.model: runs[row.model] for row in downstream() if row.model in runs and row.model in accuracies}
    with style.styled():
        drawn = [
            (
                "figure-1.svg",
                CAPTION_1,
                latency.figure1(chosen, beside=figures.paper_figure1(), titles=titles, width_in=style.PAGE_IN),
            ),
            ("figure-2.svg", CAPTION_2, latency.figure2(chosen, titles=titles)),
        ]
        if scattered:
            drawn.append(("accuracy.svg", CAPTION_SCATTER, figures.accuracy_scatter(scattered, accuracies)))
        return [(name, caption, style.write(picture, "svg", title=caption)) for name, caption, picture in drawn]
