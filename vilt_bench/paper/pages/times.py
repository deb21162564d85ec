"""Table 6's time column beside this machine's: times and ratios, by row and by kind; without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from vilt_bench.judge.estimate import Estimate
from vilt_bench.judge.remarks import Contention, Failed, Interrupted, Remark, SumOfStages, disturbed_by
from vilt_bench.judge.summary import Summary
from vilt_bench.paper.tables import Table6Row, table6
from vilt_bench.report import tables
from vilt_bench.report.lines import machine_line
from vilt_bench.report.numbers import digits, milliseconds_interval, percent
from vilt_bench.report.remarks import sentence
from vilt_bench.report.tables import Column, Table, lines, text_column

if TYPE_CHECKING:
    from rich.console import Console

REFERENCE = "ViLT-B/32"
"""The row that ratios are of."""
PRINTED_ON = "NVIDIA P40, Xeon E5-2650, mean of 10,000 runs"
"""Source: ViLT paper, section 4.6."""

_COLUMNS = (
    text_column("Model"),
    text_column("Kind"),
    Column("Paper", "ms"),
    Column("Paper: × ViLT", screen="Paper:\n× ViLT"),
    Column("Here", "ms", "95% interval"),
    Column("Here: × ViLT", screen="Here:\n× ViLT"),
    Column("Visual embedder", screen="Visual\nembedder"),
    Column("Passes"),
)


@dataclass(frozen=True)
class TimedRow:
    """A row of Table 6 with the time that was measured here."""

    printed: Table6Row
    whole: Estimate | None
    """Of the uninstrumented passes, the textual embedder included."""
    embedder: Estimate | None
    interaction: Estimate | None

    @property
    def latency_s(self) -> float | None:
        """Of the uninstrumented passes."""
        return None if self.whole is None else self.whole.value

    @property
    def embedder_share(self) -> float | None:
        """Of the visual embedder in the sum of visual embedder and modality interaction."""
        if self.embedder is None or self.interaction is None:
            return None
        return self.embedder.value / (self.embedder.value + self.interaction.value)


def timed_rows(runs: Mapping[str, Summary]) -> list[TimedRow]:
    """Returns the paper's rows that were measured, in the paper's order."""
    return [
        TimedRow(
            printed=printed,
            whole=runs[printed.model].whole.latency,
            embedder=runs[printed.model].components["visual_embedder"].latency,
            interaction=runs[printed.model].components["modality_interaction"].latency,
        )
        for printed in table6()
        if printed.model in runs
    ]


def show(runs: Mapping[str, Summary], console: Console) -> None:
    """Print the times, and what must be known to read them."""
    tables.show(timed_table(runs), console)


def markdown(runs: Mapping[str, Summary]) -> str:
    """Returns the times and notes as GitHub shows them."""
    return f"### Table 6: time\n\n{tables.markdown(timed_table(runs))}\n"


def render_csv(runs: Mapping[str, Summary]) -> str:
    """Returns a line a row, in seconds; empty where nothing was measured."""
    return tables.csv([_fields(row, runs[row.printed.model]) for row in timed_rows(runs)])


def notes(runs: Mapping[str, Summary]) -> list[str]:
    """Returns what must be known to read the times, and the order and ratios of the kinds, computed from the runs."""
    places = dict.fromkeys(
        f"{machine_line(run)} · {run.case.dtype} · batch {run.case.batch_size}" for run in runs.values()
    )
    said = [f"Paper: {PRINTED_ON}. Here: {place}." for place in places]
    said += _kinds(timed_rows(runs))
    said += _precision(runs)
    texts = [run.components["textual_embedder"].latency for run in runs.values()]
    textual = [found.value for found in texts if found is not None]
    took = f", which takes {1e3 * max(textual):.2g} ms at most" if textual else ""
    said.append(
        f"Here: the whole, uninstrumented, the textual embedder included{took} and which the paper leaves out; the "
        "visual embedder's share is of it and the modality interaction, from instrumented passes. Random weights, "
        "synthetic text, an image of the row's size."
    )
    if any(row.printed.visual_embed == "region" for row in timed_rows(runs)):
        said.append(
            "Region rows: planted tensors at the two NMS seams; 1,000 proposals; the final NMS is the thresholded one, "
            "or class-agnostic for VinVL. The paper timed one without a threshold: 'vilt-bench paper --nms' has both."
        )
    for name, run in runs.items():
        said += [f"{name}: {sentence(remark)}" for remark in run.remarks if _must_be_known(remark)]
    return said


def _must_be_known(remark: Remark) -> bool:
    return isinstance(remark, Failed | Interrupted) or (isinstance(remark, SumOfStages) and remark.doubtful)


def _precision(runs: Mapping[str, Summary]) -> list[str]:
    """Returns how precise the rows' times are, and what kept them from more."""
    found = {name: run.whole.latency for name, run in runs.items()}
    widths = {name: each.half_width for name, each in found.items() if each is not None}
    known = [width for width in widths.values() if width is not None]
    if not known:
        return ["No row has an interval: three trials or more tell how far processes differ."]
    asked = max(run.sampling.precision for run in runs.values())
    reached = sum(width <= asked for width in known)
    said = f"Asked ±{digits(100 * asked)}% of each row's whole: {reached} of {len(runs)} rows reached it"
    others = [width for width in known if width > asked]
    if others:
        said += f"; the others are known to ±{digits(100 * min(others))}% to ±{digits(100 * max(others))}%"
    disturbed = [
        name for name, run in runs.items() if any(isinstance(each, Contention) for each in disturbed_by(run.remarks))
    ]
    if disturbed:
        said += f"; other load on the machine disturbed {len(disturbed)} of them"
    return [f"{said}."]


def _kinds(rows: Sequence[TimedRow]) -> list[str]:
    """Returns a sentence on the kinds' order and ratios, printed and here; none if fewer than two were measured."""
    medians: dict[str, tuple[float, float]] = {}
    for kind in dict.fromkeys(row.printed.visual_embed for row in rows):
        mine = [(row.printed.latency_s, row.latency_s) for row in rows if row.printed.visual_embed == kind]
        here = [value for _, value in mine if value is not None]
        if here:
            medians[kind] = median(printed for printed, value in mine if value is not None), median(here)
    if len(medians) < 2:
        return []

    def ratios(which: int) -> str:
        ordered = sorted(medians, key=lambda kind: -medians[kind][which])
        least = medians[ordered[-1]][which]
        return " : ".join(f"{kind} {medians[kind][which] / least:.3g}" for kind in ordered)

    return [f"Kinds by the median of their rows: {ratios(0)} as printed, {ratios(1)} here."]


def timed_table(runs: Mapping[str, Summary]) -> Table:
    """Returns a line a row of the paper that was measured: its time as printed and here, with notes."""
    found = timed_rows(runs)
    reference = next((row for row in found if row.printed.model == REFERENCE), None)
    printed_reference_s = next(row.latency_s for row in table6() if row.model == REFERENCE)
    rows = [
        [
            row.printed.model,
            row.printed.visual_embed,
            f"{1e3 * row.printed.latency_s:g}",
            f"{row.printed.latency_s / printed_reference_s:.3g}",
            milliseconds_interval(row.whole),
            _ratio(row.whole, None if reference is None else reference.whole),
            percent(row.embedder_share),
            "–" if row.whole is None else str(row.whole.samples),
        ]
        for row in found
    ]
    return Table(_COLUMNS, lines(rows), "Table 6: time, as printed and here", notes=notes(runs))


def _fields(row: TimedRow, run: Summary) -> dict[str, object]:
    def seconds(estimate: Estimate | None) -> float | str:
        return "" if estimate is None else estimate.value

    whole, environment = row.whole, run.environment
    return {
        "model": row.printed.model,
        "visual_embed": row.printed.visual_embed,
        "latency_printed_s": row.printed.latency_s,
        "latency_s": seconds(whole),
        "latency_low_s": "" if whole is None or whole.low is None else whole.low,
        "latency_high_s": "" if whole is None or whole.high is None else whole.high,
        "visual_embedder_s": seconds(row.embedder),
        "modality_interaction_s": seconds(row.interaction),
        "samples": 0 if whole is None else whole.samples,
        "trials": run.trials,
        "machine": "" if environment is None else environment.machine,
        "device": "" if environment is None else environment.device,
        "threads": "" if environment is None else environment.threads,
        "visual_weights": "" if run.model is None else run.model.visual_weights,
    }


def _ratio(found: Estimate | None, reference: Estimate | None) -> str:
    """Returns the ratio with its 95% interval, from those of both, measured apart."""
    if found is None or reference is None or not reference.value:
        return "–"
    ratio = found.value / reference.value
    if found is reference or found.half_width is None or reference.half_width is None:
        return f"{ratio:.3g}"
    factor = math.exp(math.hypot(found.half_width, reference.half_width))
    return f"{digits(ratio)} [{digits(ratio / factor)}, {digits(ratio * factor)}]"
