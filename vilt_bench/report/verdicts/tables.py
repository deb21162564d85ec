"""The tables of a comparison: by stage, and of several comparisons in a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vilt_bench.ask.case import names_apart
from vilt_bench.judge.comparison import Comparison, StageVerdict, Verdict
from vilt_bench.report.numbers import ABSENT
from vilt_bench.report.tables import Cell, Column, Line, Table, text_column
from vilt_bench.report.verdicts import words

STYLES: Mapping[Verdict, str] = {
    "regressed": "bold red",
    "improved": "green",
    "unchanged": "",
    "inconclusive": "yellow",
    "missing": "magenta",
}
MARKS: Mapping[Verdict, str] = {
    "regressed": "🔴",
    "improved": "🟢",
    "unchanged": "⚪",
    "inconclusive": "🟡",
    "missing": "🟣",
}
_GAP = 3
_FINDINGS = (
    Column("Baseline", "ms"),
    Column("Candidate", "ms"),
    Column("Ratio", aside="95% interval", screen="Candidate / baseline"),
    text_column("Verdict"),
)
_SIZE = Column("Pixels, visual tokens", screen="Pixels, visual\ntokens", least_width=100)
_THROUGHPUT = Column("Images/s", least_width=120)


def by_stage(comparison: Comparison) -> Table:
    """Returns a line a stage, under their components, and the whole."""
    lines = []
    for title, depth, stage in words.stage_rows(comparison):
        cells = () if stage is None else _cells(stage)
        lines.append(Line([title, *cells], depth, strong=not depth, apart=stage is comparison.total))
    return Table([text_column("Stage", long="fold"), *_FINDINGS], lines, gap=_GAP)


def by_case(comparisons: Sequence[Comparison]) -> Table:
    """Returns a line a comparison: its whole, with what the candidate saw; what all cases have alike is left out."""
    lines = []
    names = names_apart([comparison.case for comparison in comparisons])
    for name, comparison in zip(names, comparisons, strict=True):
        named = Cell(name, after=words.clock_mark(comparison.total))
        told = [words.short_size(comparison), words.short_throughput(comparison) or ABSENT]
        lines.append(Line([named, *told, *_cells(comparison.total)]))
    return Table([text_column("Whole, by embedder", long="fold"), _SIZE, _THROUGHPUT, *_FINDINGS], lines, gap=_GAP)


def by_case_with_stages(comparisons: Sequence[Comparison]) -> Table:
    """Returns a line a comparison, with reasons beneath, each followed by the stages that a reader should see at once.

    For a page that folds the other stages.
    """
    lines = []
    for comparison in comparisons:
        for stage in (comparison.total, *words.notable(comparison)):
            clock = words.clock_mark(stage)
            if stage is comparison.total:
                rate = words.short_throughput(comparison)
                saw = tuple(filter(None, [words.size_line(comparison), rate and f"{rate} images/s"]))
                named = Cell(words.name(comparison), code=True, after=clock, under=saw)
            else:
                named = Cell(words.stage_title(stage.name), mark="↳\u00a0", after=clock)
            where = words.where(comparison) if stage is comparison.total else ""
            why = [] if stage.verdict == "unchanged" else [stage.reason, where]
            lines.append(Line([named, *_cells(stage, why)]))
    return Table([text_column("Embedder"), *_FINDINGS], lines)


def _cells(stage: StageVerdict, why: Sequence[str] = ()) -> list[Cell | str]:
    found: Verdict = stage.verdict
    return [
        *words.milliseconds(stage),
        Cell(words.ratio(stage.ratio), whole=True),
        Cell(found, STYLES[found] or "dim", mark=f"{MARKS[found]} ", under=tuple(filter(None, why))),
    ]
