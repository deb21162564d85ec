"""One self-contained page: the pictures, and what the Markdown report says; nothing is loaded, nothing is run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vilt_bench.judge.summary import Summary
from vilt_bench.report import clean, tables
from vilt_bench.report.columns import Quantity
from vilt_bench.report.runs.document import Block, Heading, Items, Paragraph, document

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --ground: #fff; --rule: #d0d0d0; --muted: #555; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --ground: #16181b; --rule: #3c4043; --muted: #a8adb3; } }
body { color: var(--ink); background: var(--ground); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 60rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
figure { background: #fff; color: #000; margin: 1rem 0; padding: .75rem; border-radius: .4rem; max-width: 40rem; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { color: #444; font-size: .875rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { white-space: normal; vertical-align: bottom; }
ul { color: var(--muted); padding-left: 1.2rem; }
"""
TITLE = "What does it cost to see?"


def page(
    runs: Sequence[Summary],
    pictures: Sequence[tuple[str, bytes]],
    *,
    left_out: Sequence[str] = (),
    quantities: Sequence[Quantity] = (),
    blocks: Iterable[Block] | None = None,
) -> bytes:
    """Returns the page as UTF-8; it is well-formed XML as well.

    Args:
        runs: as in the Markdown report.
        pictures: captions, and SVG files.
        left_out: as in the Markdown report.
        quantities: likewise.
        blocks: what the page says instead of the Markdown report.
    """
    figures = (_figure(caption, svg, index) for index, (caption, svg) in enumerate(pictures))
    body = "\n".join(
        [
            f"<h1>{TITLE}</h1>",
            *figures,
            *map(_block, document(runs, left_out, quantities) if blocks is None else blocks),
        ]
    )
    text = (
        f'<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"/>\n<title>vilt-bench: {TITLE}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    return text.encode()


def _figure(caption: str, svg: bytes, index: int) -> str:
    """Returns the SVG as part of the page: without its own head and description, its names apart from the others'."""
    text = svg.decode()
    text = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{index}-", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{clean.html(caption)}"', 1)
    return f"<figure>{text.strip()}\n<figcaption>{clean.html(caption)}</figcaption></figure>"


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{clean.html(text)}</h2>"
        case Paragraph(text):
            return f"<p>{clean.html(text)}</p>"
        case Items(sentences):
            return tables.html_list(sentences)
        case _:
            return tables.html(block)
