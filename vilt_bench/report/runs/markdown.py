"""Markdown, as GitHub shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vilt_bench.judge.summary import Summary
from vilt_bench.report import clean, tables
from vilt_bench.report.columns import Quantity
from vilt_bench.report.runs.document import Block, Heading, Items, Paragraph, document


def render(runs: Sequence[Summary], *, left_out: Sequence[str] = (), quantities: Sequence[Quantity] = ()) -> str:
    """Returns the comparison if there are several runs, then each run's stages and remarks, then what was left out."""
    return written(document(runs, left_out, quantities))


def written(blocks: Iterable[Block]) -> str:
    """Returns what a report consists of as Markdown."""
    return "\n\n".join(map(_block, blocks)) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {clean.markdown(text)}"
        case Paragraph(text):
            return clean.markdown(text)
        case Items(sentences):
            return tables.markdown_list(sentences)
        case _:
            return tables.markdown(block)
