"""Markdown for a pull request's comment or a job's summary: what changed in a short table, all else folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vilt_bench.judge.comparison import Comparison
from vilt_bench.report.clean import code as _code
from vilt_bench.report.clean import html_in_markdown
from vilt_bench.report.clean import markdown as escape
from vilt_bench.report.tables import markdown, markdown_list
from vilt_bench.report.verdicts import words
from vilt_bench.report.verdicts.decision import SEVERITY, Undecided, overall
from vilt_bench.report.verdicts.tables import MARKS, by_case_with_stages, by_stage

MARKER = "<!-- vilt-bench gate -->"
"""The first line, which nobody sees: by it a comment is found again and updated."""


def render(comparisons: Sequence[Comparison], inconclusive: Undecided = "fail") -> str:
    """Returns headline, short table worst first, what a reader must know, and a fold a comparison."""
    ordered = sorted(comparisons, key=lambda each: SEVERITY.index(each.verdict))
    blocks = [MARKER, f"### {MARKS[overall(ordered)]} {_headline(ordered)}"]
    if ordered:
        blocks += [markdown(by_case_with_stages(ordered), broken=True), *_must_know(ordered), *map(_fold, ordered)]
    return "\n\n".join(blocks) + "\n"


def _headline(comparisons: Sequence[Comparison]) -> str:
    if len(comparisons) == 1:
        (one,) = comparisons
        return f"{_code(words.name(one))} {escape(words.outcome(one))}"
    return f"Latency: {words.tally(comparisons)}"


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
    facts = [
        words.case_line(comparison),
        f"baseline: {words.side(comparison.baseline)}",
        f"candidate: {words.side(comparison.candidate)}",
        *_how(comparison),
        *filter(None, [words.throughput(comparison)]),
        *(f"{words.stage_title(change.stage)}: {words.count(change)}" for change in comparison.counts),
        *(reason for _, reason in words.reasons(comparison)),
    ]
    summary = f"{MARKS[comparison.verdict]} {html_in_markdown(words.name(comparison))}: {_inside(comparison)}"
    table = markdown(by_stage(comparison), broken=True)
    return f"<details><summary>{summary}</summary>\n\n{table}\n\n{markdown_list(facts)}\n\n</details>"


def _inside(comparison: Comparison) -> str:
    return "by stage, and what changed in counts" if comparison.counts else "by stage"
