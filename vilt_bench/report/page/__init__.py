"""One self-contained page: what the Markdown report says, pictures, and a script that sorts, filters, draws, compares.

Nothing is loaded, and the page's own policy forbids it: the script is told by its hash, pictures are within. Without
scripts it is a report with pictures; what needs the script appears with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from vilt_bench.report import clean
from vilt_bench.report.page import data as of_runs
from vilt_bench.report.runs.document import Block, Heading, Items, Paragraph, document
from vilt_bench.report.tables import Table, cell_of

if TYPE_CHECKING:
    import jinja2

    from vilt_bench.judge.summary import Summary
    from vilt_bench.report.columns import Quantity

TITLE = "What does it cost to see?"
ONE_BY_ONE = 12
"""Runs whose stages stand on a page without scripts."""


def page(
    runs: Sequence[Summary],
    pictures: Sequence[tuple[str, bytes]],
    *,
    left_out: Sequence[str] = (),
    quantities: Sequence[Quantity] = (),
) -> bytes:
    """Returns the page of runs as UTF-8; it is well-formed XML as well.

    Args:
        runs: in order; passes are drawn of those that were judged by `judge.trace.traced`.
        pictures: captions, and SVG files, for the page without scripts.
        left_out: sentences on records that could not be read.
        quantities: that the table shows at first; none: the usual ones.
    """
    told = of_runs.columns(runs, quantities)
    held = of_runs.data(runs, told)
    blocks = list(document(runs[:ONE_BY_ONE], (), quantities))
    if len(runs) > ONE_BY_ONE:
        blocks.append(Paragraph(f"Without scripts, the first {ONE_BY_ONE} of {len(runs):,} runs stand here by stage."))
    # The script adds the other columns.
    shown = [each for each in told if each.shown]
    rows = [(case, [each.texts[index] for each in shown]) for index, case in enumerate(held["cases"])]
    return _written(
        lead=of_runs.lead(runs),
        facts=of_runs.facts(runs, told),
        notes=left_out,
        columns=shown,
        rows=rows,
        pictures=pictures,
        blocks=blocks,
        data=held if runs else None,
    )


@dataclass(frozen=True)
class View:
    """What a picture of the script shows at once: points with their intervals, and levels beside them."""

    name: str
    points: Sequence[tuple[float, float, float | None, float | None, str]] = ()
    """Place, value, low, high, and what is told of each."""
    levels: Sequence[tuple[float, float, float, str]] = ()
    """From one place to another, at which value, and what stands there."""


@dataclass(frozen=True)
class Plot:
    """A picture that the script draws: runs in order, or ratios by stage."""

    title: str
    kind: Literal["history", "ratios"]
    x: str
    y: str
    views: Sequence[View]
    names: Sequence[str] = ()
    """Of ratios: the lines."""
    limit: float | None = None
    """Of ratios: up to where a slowdown is accepted."""


def plain(
    title: str,
    blocks: Iterable[Block | Plot],
    pictures: Sequence[tuple[str, bytes]] = (),
    *,
    lead: Sequence[of_runs.Part] = (),
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> bytes:
    """Returns a page of tables and sentences as UTF-8, with pictures that the script draws.

    Args:
        title: its heading.
        blocks: what it says, in order.
        pictures: captions, and SVG files, for the page without scripts.
        lead: the answer in a sentence.
        facts: terms, and what is told of them.
        notes: what a reader must know.
    """
    found = list(blocks)
    keys = {id(plot): f"plot-{index}" for index, plot in enumerate(each for each in found if isinstance(each, Plot))}
    plots = [{"key": keys[id(each)], **of_runs.plain(each)} for each in found if isinstance(each, Plot)]
    nothing: dict[str, list[Any]] = {"columns": [], "inner": [], "stages": [], "cases": [], "shared": [], "waits": []}
    return _written(
        title=title,
        blocks=[keys.get(id(each), each) for each in found],
        pictures=pictures,
        lead=lead,
        facts=facts,
        notes=notes,
        data={**nothing, "plots": plots} if plots else None,
    )


def _written(*, pictures: Sequence[tuple[str, bytes]], **told: Any) -> bytes:
    held: Mapping[str, Any] | None = told.pop("data", None)
    script, style = _asset("page.js"), _asset("page.css")
    # To a reader of XML, marks within the script are none.
    script = f"//<![CDATA[\n{script}//]]>"
    text = _template().render(
        {"title": TITLE, "lead": [], "facts": [], "notes": [], "columns": [], "rows": [], **told},
        style=_markup(style),
        script=_markup(script) if held is not None else None,
        data=_markup(_escaped(of_runs.cleaned(held))) if held is not None else None,
        policy=_policy(style, script if held is not None else None),
        pictures=[(caption, base64.b64encode(svg).decode()) for caption, svg in pictures],
    )
    return f"{text.rstrip()}\n".encode()


def _policy(style: str, script: str | None) -> str:
    """Returns the content security policy: only this style and this script, and pictures that are within.

    Source: W3C Content Security Policy Level 3, sections 6.7.3 and 8.4.
    """
    allowed = {"style-src": f"'{_digest(style)}'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    if script is not None:
        allowed["script-src"] = f"'{_digest(script)}'"
    return "; ".join(["default-src 'none'", *(f"{name} {value}" for name, value in allowed.items())])


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _escaped(held: Any) -> str:
    """Returns data as JSON that no reader of HTML or XML takes for marks."""
    text = json.dumps(held, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return clean.json_text(text).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


@cache
def _asset(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")


@cache
def _template() -> jinja2.Template:
    import jinja2
    from markupsafe import Markup

    def harmless(value: object) -> object:
        return value if isinstance(value, Markup | jinja2.Undefined) else Markup(clean.html(str(value)))

    environment = jinja2.Environment(
        autoescape=True, finalize=harmless, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    kinds: Mapping[str, Callable[[object], bool]] = {
        "plot": lambda block: isinstance(block, str),
        "heading": lambda block: isinstance(block, Heading),
        "paragraph": lambda block: isinstance(block, Paragraph),
        "items": lambda block: isinstance(block, Items),
        "table": lambda block: isinstance(block, Table),
    }
    environment.tests.update(kinds)
    environment.globals["cell_of"] = cell_of
    return environment.from_string(_asset("page.html.jinja"))
