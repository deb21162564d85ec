"""Markdown tables, as GitHub shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vilt_bench.judge.summary import TITLES, Summary, shown_components
from vilt_bench.report import numbers
from vilt_bench.report.clean import markdown as escape
from vilt_bench.report.lines import alike, comparison_remarks, machine_line, model_line, names, pixels, tokens
from vilt_bench.report.lines import name as run_name
from vilt_bench.report.remarks import sentences


def render(runs: Sequence[Summary], *, left_out: Sequence[str] = ()) -> str:
    """Returns the comparison if there are several runs, then each run's stages and remarks, then what was left out."""
    blocks = list(_comparison(runs)) if len(runs) > 1 else []
    unread = ["\n".join(f"- {escape(line)}" for line in left_out)] if left_out else []
    return "\n\n".join([*blocks, *(block for run in runs for block in _run(run)), *unread]) + "\n"


def _comparison(runs: Sequence[Summary]) -> Iterator[str]:
    yield "## Side by side"
    components = shown_components(runs)
    head = [
        "Embedder",
        "Pixels",
        "Visual tokens",
        *(f"{TITLES[name].capitalize()} (ms)" for name in components),
        "Whole (ms)",
    ]
    lines = []
    for name, run in zip(names(runs), runs, strict=True):
        parts = [run.components[component] for component in components]
        whole = run.whole
        failed = run.failure.kind if run.failure is not None and whole.latency is None else None
        lines.append([
            name,
            pixels(run.model),
            tokens(run.model),
            *(numbers.milliseconds(part.latency) for part in parts),
            failed or numbers.milliseconds(whole.latency),
            numbers.percent(run.components["visual_embedder"].share),
            numbers.millions(whole.parameters),
            numbers.giga(whole.flops),
            numbers.giga(whole.macs),
        ])  # fmt: skip
    yield _table([*head, "Share of visual embedder", "Parameters (M)", "GFLOPs", "GMACs"], lines)
    if said := [*filter(None, [alike(runs)]), *comparison_remarks(runs)]:
        yield "\n".join(f"- {escape(remark)}" for remark in said)


def _run(run: Summary) -> Iterator[str]:
    yield f"## {escape(run_name(run))}"
    yield escape(model_line(run))
    if machine := machine_line(run):
        yield escape(machine)
    head = ["Stage", "Latency (ms) [95% interval]", "Share", "Parameters (M)", "GFLOPs", "GMACs", "Peak memory (MiB)"]
    lines = [
        [
            row.title if row.level == "stage" and row.name != row.component else _Strong(row.title),
            numbers.milliseconds_interval(row.latency),
            numbers.percent(row.share),
            numbers.millions(row.parameters),
            numbers.giga(row.flops),
            numbers.giga(row.macs),
            numbers.mebibytes(row.peak_bytes),
        ]
        for row in run.rows
    ]
    yield _table(head, lines)
    if said := sentences(run.remarks):
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
