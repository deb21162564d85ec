r"""LaTeX to be put into a paper by `\input`, with booktabs and siunitx: no preamble, no command of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from vilt_bench.judge.summary import Summary
from vilt_bench.report import clean, latex
from vilt_bench.report.columns import Quantity
from vilt_bench.report.runs.document import Block, Heading, Items, Paragraph, document
from vilt_bench.report.tables import Table

_HEAD = rf"% Made by vilt-bench. Needs {latex.NEEDS}; \input this file."


def render(runs: Sequence[Summary], *, left_out: Sequence[str] = (), quantities: Sequence[Quantity] = ()) -> str:
    """Returns the comparison if there are several runs, then each run's stages and remarks, then what was left out."""
    return written(document(runs, left_out, quantities))


def written(blocks: Iterable[Block]) -> str:
    """Returns what a report consists of as LaTeX."""
    return "\n\n".join([_HEAD, *_blocks(blocks)]) + "\n"


def _blocks(blocks: Iterable[Block]) -> Iterator[str]:
    heading = ""
    for block in blocks:
        if isinstance(block, Heading):
            heading = block.text
        # A table may float away from its heading.
        yield _block(replace(block, title=heading) if isinstance(block, Table) else block)


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return rf"\subsection*{{{clean.latex(text)}}}"
        case Paragraph(text):
            return clean.latex(text)
        case Items(sentences):
            items = "\n".join(rf"  \item {clean.latex(sentence)}" for sentence in sentences)
            return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
        case _:
            return latex.table(block)
