"""Markdown for a pull request's comment or a job's summary: what changed in a short table, all else folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vilt_bench.judge.comparison import Comparison, StageVerdict, Verdict
from vilt_bench.report.clean import code as _code
from vilt_bench.report.clean import html_in_markdown
from vilt_bench.report.clean import markdown as escape
from vilt_bench.report.verdicts import words
from vilt_bench.report.verdicts.decision import SEVERITY, Undecided, overall

MARKER = "<!-- vilt-bench gate -->"
"""The first line, which nobody sees: by it a comment is found again and updated."""
MARKS: dict[Verdict, str] = {
    "regressed": "🔴",
    "improved": "🟢",
    "unchanged": "⚪",
    "inconclusive": "🟡",
    "missing": "🟣",
}
_HEAD = ("Baseline<br>(ms)", "Candidate<br>(ms)", "Ratio<br>[95%&nbsp;interval]", "Verdict")


def render(comparisons: Sequence[Comparison], inconclusive: Undecided = "fail") -> str:
    """Returns headline, short table worst first, what a reader must know, and a fold a comparison."""
    ordered = sorted(comparisons, key=lambda each: SEVERITY.index(each.verdict))
    blocks = [MARKER, f"### {MARKS[overall(ordered)]} {_headline(ordered)}"]
    if ordered:
        blocks += [_short(ordered), *_must_know(ordered), *map(_fold, ordered)]
    return "\n\n".join(blocks) + "\n"


def _headline(comparisons: Sequence[Comparison]) -> str:
    if len(comparisons) == 1:
        (one,) = comparisons
        return f"{_code(words.name(one))} {escape(words.outcome(one))}"
    return f"Latency: {words.tally(comparisons)}"


def _short(comparisons: Sequence[Comparison]) -> str:
    lines = []
    for comparison in comparisons:
        for stage in (comparison.total, *words.notable(comparison)):
            whole = stage is comparison.total
            title = (
                _code(words.name(comparison), cell=True) if whole else f"↳&nbsp;{escape(words.stage_title(stage.name))}"
            )
            title += words.clock_mark(stage)
            if whole and (size := words.size_line(comparison)):
                title += f"<br><sub>{escape(size)}</sub>"
            why = [] if stage.verdict == "unchanged" else [stage.reason, words.where(comparison) if whole else ""]
            lines.append([title, *_cells(stage, why)])
    return _table(["Embedder", *_HEAD], lines)


def _must_know(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yields machine and rule in small print, then the notes."""
    said = [[words.machine(each), words.rule(each)] for each in comparisons]
    if len(comparisons) == 1:
        said = [[*said[0], *_how(comparisons[0])]]
    yield "<br>".join(f"<sub>{line}</sub>" for line in _once(comparisons, said))
    if notes := _once(comparisons, [[words.different(each), *each.notes] for each in comparisons]):
        yield "\n".join(f"- {note}" for note in notes)


def _how(comparison: Comparison) -> list[str]:
    how = [
        f"Baseline and candidate: {words.method(comparison)}.",
        words.clocks(comparison),
        words.detectable(comparison),
    ]
    return [sentence for sentence in how if sentence]


def _once(comparisons: Sequence[Comparison], sentences: Sequence[Sequence[str]]) -> list[str]:
    """Returns each sentence once, in order, with the embedders that it is of unless it is of all."""
    said: dict[str, list[str]] = {}
    for comparison, own in zip(comparisons, sentences, strict=True):
        for sentence in filter(None, own):
            said.setdefault(sentence, []).append(_code(words.name(comparison)))
    return [
        escape(sentence) if len(names) == len(comparisons) else f"{words.listed(names, most=3)}: {escape(sentence)}"
        for sentence, names in said.items()
    ]


def _fold(comparison: Comparison) -> str:
    lines = []
    for title, depth, stage in words.stage_rows(comparison):
        text = f"{'&emsp;' * depth}{escape(title)}"
        cells = [""] * len(_HEAD) if stage is None else _cells(stage)
        lines.append([text if depth else f"**{text}**", *cells])
    facts = [
        words.case_line(comparison),
        f"baseline: {words.side(comparison.baseline)}",
        f"candidate: {words.side(comparison.candidate)}",
        *_how(comparison),
        *(f"{words.stage_title(change.stage)}: {words.count(change)}" for change in comparison.counts),
        *(reason for _, reason in words.reasons(comparison)),
    ]
    summary = f"{MARKS[comparison.verdict]} {html_in_markdown(words.name(comparison))}: {_inside(comparison)}"
    listed = "\n".join(f"- {escape(fact)}" for fact in facts)
    return f"<details><summary>{summary}</summary>\n\n{_table(['Stage', *_HEAD], lines)}\n\n{listed}\n\n</details>"


def _inside(comparison: Comparison) -> str:
    return "by stage, and what changed in counts" if comparison.counts else "by stage"


def _cells(stage: StageVerdict, why: Sequence[str] = ()) -> list[str]:
    small = "<br>".join(escape(sentence) for sentence in why if sentence)
    verdict = f"{MARKS[stage.verdict]} {stage.verdict}" + (f"<br><sub>{small}</sub>" if small else "")
    return [*words.milliseconds(stage), words.ratio(stage.ratio).replace(" ", "&nbsp;"), verdict]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 2), "---"]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])
