"""Markdown tables, as GitHub shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vilt_bench.quality import remarks
from vilt_bench.records import Run
from vilt_bench.report import rows as shown
from vilt_bench.report.clean import markdown as escape


def render(runs: Sequence[Run], *, left_out: Sequence[str] = ()) -> str:
    """Returns the comparison if there are several runs, then each run's stages and remarks, then what was left out."""
    blocks = list(_comparison(runs)) if len(runs) > 1 else []
    unread = ["\n".join(f"- {escape(line)}" for line in left_out)] if left_out else []
    return "\n\n".join([*blocks, *(block for run in runs for block in _run(run)), *unread]) + "\n"


def _comparison(runs: Sequence[Run]) -> Iterator[str]:
    yield "## Side by side"
    components = shown.components(runs)
    head = [
        "Embedder",
        "Pixels",
        "Visual tokens",
        *(f"{shown.TITLES[name].capitalize()} (ms)" for name in components),
        "Whole (ms)",
    ]
    lines = []
    for name, run in zip(shown.names(runs), runs, strict=True):
        parts = [shown.component_row(run, component) for component in components]
        whole = shown.whole_row(run)
        failed = run.failure.kind if run.failure is not None and whole.latency is None else None
        lines.append([
            name,
            shown.pixels(run.model),
            shown.tokens(run.model),
            *(shown.milliseconds(part.latency) for part in parts),
            failed or shown.milliseconds(whole.latency),
            shown.percent(shown.component_row(run, "visual_embedder").share),
            shown.millions(whole.parameters),
            shown.giga(whole.flops),
            shown.giga(whole.macs),
        ])  # fmt: skip
    yield _table([*head, "Share of visual embedder", "Parameters (M)", "GFLOPs", "GMACs"], lines)
    if said := [*filter(None, [shown.alike(runs)]), *shown.comparison_remarks(runs)]:
        yield "\n".join(f"- {escape(remark)}" for remark in said)


def _run(run: Run) -> Iterator[str]:
    yield f"## {escape(shown.name(run))}"
    yield escape(shown.model_line(run))
    if machine := shown.machine_line(run):
        yield escape(machine)
    head = ["Stage", "Latency (ms) [95% interval]", "Share", "Parameters (M)", "GFLOPs", "GMACs", "Peak memory (MiB)"]
    lines = [
        [
            row.title if row.level == "stage" and row.name != row.component else _Strong(row.title),
            shown.milliseconds_interval(row.latency),
            shown.percent(row.share),
            shown.millions(row.parameters),
            shown.giga(row.flops),
            shown.giga(row.macs),
            shown.mebibytes(row.peak_bytes),
        ]
        for row in shown.rows(run)
    ]
    yield _table(head, lines)
    if said := remarks(run):
        yield "\n".join(f"- {escape(remark)}" for remark in said)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(
        f"| {' | '.join(map(_cell, line))} |" if line is not rule else f"| {' | '.join(rule)} |"
        for line in [head, rule, *lines]
    )


class _Strong(str):
    """A cell's text that stands out."""


def _cell(text: str) -> str:
    return f"**{escape(text)}**" if isinstance(text, _Strong) else escape(text)
