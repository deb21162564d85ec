"""A page: the verdict first, ratios by stage drawn with what is accepted, and all that the table tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vilt_bench.judge.comparison import Comparison, StageVerdict, Verdict
from vilt_bench.report.page import Plot, View, plain
from vilt_bench.report.page.data import Part
from vilt_bench.report.runs.document import Block, Heading, Items, Paragraph
from vilt_bench.report.tables import Cell, Table
from vilt_bench.report.verdicts import words
from vilt_bench.report.verdicts.decision import SEVERITY, Undecided, overall
from vilt_bench.report.verdicts.tables import MARKS, by_case, by_stage

TITLE = "Is the candidate slower?"
SIGNS: Mapping[Verdict, str] = {
    "regressed": "▲",
    "improved": "▼",
    "unchanged": "=",
    "inconclusive": "?",
    "missing": "✖",
}


def render(comparisons: Sequence[Comparison], inconclusive: Undecided = "fail") -> str:
    """Returns the page, the worst comparison first."""
    ordered = sorted(comparisons, key=lambda each: SEVERITY.index(each.verdict))
    facts = [
        ("On", " – ".join(dict.fromkeys(map(words.machine, ordered)))),
        *(("Rule", rule) for rule in dict.fromkeys(map(words.rule, ordered))),
    ]
    blocks: list[Block | Plot] = [_signed(by_case(ordered))] if len(ordered) > 1 else []
    blocks += [block for each in ordered for block in _section(each)]
    return plain(TITLE, blocks, lead=_lead(ordered), facts=facts if ordered else ()).decode()


def _lead(comparisons: Sequence[Comparison]) -> list[Part]:
    if not comparisons:
        return [("Nothing was compared: there is no baseline.", False)]
    sign = f"{SIGNS[overall(comparisons)]} "
    if len(comparisons) == 1:
        (one,) = comparisons
        return [(sign, True), (words.name(one), True), (f" {words.outcome(one)}", False)]
    return [(sign, True), (f"{words.tally(comparisons)}", True)]


def _section(comparison: Comparison) -> Iterator[Block | Plot]:
    yield Heading(f"{SIGNS[comparison.verdict]} {words.name(comparison)}: {comparison.verdict}")
    sides = f"baseline: {words.side(comparison.baseline)} · candidate: {words.side(comparison.candidate)}"
    yield Paragraph(f"{words.case_line(comparison)} · {sides} · {words.method(comparison)}")
    if (plot := _plot(comparison)) is not None:
        yield plot
    yield _signed(by_stage(comparison))
    notes = [
        *(reason for _, reason in words.reasons(comparison)),
        words.where(comparison),
        *(f"{words.stage_title(change.stage)}: {words.count(change)}" for change in comparison.counts),
        words.throughput(comparison),
        words.different(comparison),
        *comparison.notes,
        words.clocks(comparison),
        words.detectable(comparison),
    ]
    yield Items(list(filter(None, notes)))


def _signed(table: Table) -> Table:
    """Returns the table with signs that every font has."""
    signs = {f"{MARKS[verdict]} ": f"{sign} " for verdict, sign in SIGNS.items()}

    def signed(cell: Cell | str) -> Cell | str:
        return replace(cell, mark=signs.get(cell.mark, cell.mark)) if isinstance(cell, Cell) else cell

    return replace(table, lines=[replace(line, cells=list(map(signed, line.cells))) for line in table.lines])


def _plot(comparison: Comparison) -> Plot | None:
    found = [stage for stage in (*comparison.stages, comparison.total) if stage.ratio is not None]
    if not found:
        return None
    points = [(float(line), *_ends(stage), _told(stage)) for line, stage in enumerate(found)]
    names = [words.stage_title(stage.name) for stage in found]
    limit = 1 + comparison.tolerance
    return Plot(words.name(comparison), "ratios", "candidate / baseline", "", [View("", points)], names, limit)


def _ends(stage: StageVerdict) -> tuple[float, float | None, float | None]:
    assert stage.ratio is not None
    return stage.ratio.value, stage.ratio.low, stage.ratio.high


def _told(stage: StageVerdict) -> str:
    assert stage.ratio is not None
    return f"{words.stage_title(stage.name)}: {words.ratio(stage.ratio)}, n = {stage.ratio.units}: {stage.verdict}"
