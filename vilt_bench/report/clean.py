"""Text of others made harmless, for each language that we write: a terminal's, Markdown, HTML, XML, LaTeX, CSV, JSON.

Names, branches, messages and versions come from packages, repositories and records that anybody may have written. All
that is printed or written passes here, so that it says what it says and does nothing else.
"""

from __future__ import annotations

import csv
import html as markup
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

REPLACED = "\ufffd"
"""Stands for a character that can't be shown."""

_SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""They turn the order of what follows. Source: Unicode Standard Annex 9, section 2."""
_UNSHOWN = {
    **dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), REPLACED),  # C0, DEL, C1
    **dict.fromkeys(range(0xD800, 0xE000), REPLACED),  # halves of characters, as of a path that is no UTF-8
    **dict.fromkeys((0xFFFE, 0xFFFF), REPLACED),  # XML has no such characters
    **dict.fromkeys(map(ord, _BIDI), REPLACED),
    **dict.fromkeys(map(ord, _SPACES), " "),
}
_COMMAND = re.compile(r"(?<=:):|(?<=##)\[")
"""What makes a command of a line: `::` at its beginning, `##[` anywhere. Source: GitHub's runner, ActionCommand.cs."""
_ALIKE = {":": "\u2236", "[": "\u2045"}

_REFERENCE = re.compile(
    r"@(?=\w)|#(?=\d)|(?<=\bGH)-(?=\d)|(?<=\bhttp):|(?<=\bhttps):|(?<=\bftp):|(?<=\bxmpp):|(?<=\bmailto):|\bwww(?=\.)",
    re.IGNORECASE,
)
"""After these, something must stand between, or GitHub mentions, refers or links."""
_BETWEEN = "&#8203;"
"""A space of no width."""
_ACTIVE = re.compile(
    r"[\\`*~$|<>]|&(?=#?\w+;)"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word it is no emphasis
    r"|\](?=[(\[:])"  # without which no other bracket begins a link
    r"|(?<=##)\["
)
_BEGINS = re.compile(r"[-+](?=[\s-]|$)|[=#:\[]|(?<=\d)[.)](?=\s|$)")
"""What makes a block of another kind of a text that begins with it."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"{''}",
    **{mark: f"\\{mark}" for mark in "{}$&#_%"},
    **{mark: f"{{{mark}}}" for mark in "[]*"},  # after the end of a line they are its options
    "−": r"\(-\)",
    "×": r"\(\times\)",
    "±": r"\(\pm\)",
    "·": r"\(\cdot\)",
    "→": r"\(\rightarrow\)",
    "≤": r"\(\leq\)",
    "≥": r"\(\geq\)",
    "∝": r"\(\propto\)",
    "°": r"\(^\circ\)",
    "–": "{--}",
    "…": r"\dots{}",
    REPLACED: "?",  # which no font of LaTeX's own has
}
_LIGATURE = re.compile(r"(?<=-)(?=-)|(?<=')(?=')|(?<=,)(?=,)|(?<=:)(?=:)|(?<=[?!])(?=`)")
"""Between these, something must stand, or LaTeX draws one character for both, or a line is a runner's command."""
_NUMBER = re.compile(r"[0-9,]*[0-9](?:\.[0-9]+)?%?(?: \[[0-9,.–]+(?:, [0-9,.–]+)?\])?", re.ASCII)
"""With its interval, if any."""
_FORMULA = re.compile(r"\s*(?:[=+\-@\uff1d\uff0b\uff0d\uff20]|::)")
_JSON_UNSHOWN = re.compile(f"[\x7f-\x9f\u2028\u2029{_BIDI}]|(?<=##)\\[")


def line(text: str) -> str:
    """Returns the text with a space for each line break, and a mark for each character that can't be shown.

    As long as before, so that what was said of places in it holds.
    """
    return text if text.isprintable() else text.translate(_UNSHOWN)  # none of those is printable


def printed(text: str) -> str:
    """Returns a line that is printed as it is: no escape sequence, no other line, no runner's command."""
    text = line(text)
    return _COMMAND.sub(lambda found: _ALIKE[found[0]], text) if "::" in text or "##[" in text else text


def within(text: str) -> str:
    """Returns a line, its blanks drawn together, that is printed behind words of our own."""
    return " ".join(line(text).split()).replace("##[", f"##{_ALIKE['[']}")


def markdown(text: str) -> str:
    """Returns the text in one line that GitHub shows as it is, wherever a paragraph, an item or a cell begins."""
    if _NUMBER.fullmatch(text):
        return text  # as most cells are
    return _markdown(text)


@lru_cache(maxsize=1024)  # titles and stages come again
def _markdown(text: str) -> str:
    text = " ".join(line(text).split())
    begins = re.match(r"\d{1,9}(?=[.)])|", text)
    start = begins.end() if begins is not None else 0
    marked = _marked(text)
    return f"{marked[:start]}\\{marked[start:]}" if _BEGINS.match(text, start) else marked


def code(text: str, *, cell: bool = False) -> str:
    """Returns the text as code in Markdown; in a table's cell, bars do not end the cell."""
    text = within(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    inner = f" {text} " if text.startswith("`") or text.endswith("`") else text
    return f"{fence}{inner.replace('|', chr(92) + '|') if cell else inner}{fence}" if text else ""


def html(text: str) -> str:
    """Returns the text for an element or an attribute of HTML, SVG or XHTML."""
    return markup.escape(line(text)).replace("##[", "##&#91;")


def latex(text: str) -> str:
    """Returns the text in one line for LaTeX, in text mode, wherever a cell or a paragraph begins; no command of it."""
    parts = _LIGATURE.split(" ".join(line(text).split()))
    return "{}".join("".join(_LATEX.get(character, character) for character in part) for part in parts)


def document(text: str) -> str:
    """Returns a document of lines, whose marks are escaped already, without characters that can't be shown."""
    return "\n".join(map(line, text.split("\n")))


def html_in_markdown(text: str) -> str:
    """Returns the text for an element of HTML that stands in Markdown: nothing is mentioned or linked."""
    return _REFERENCE.sub(rf"\g<0>{_BETWEEN}", html(text))


def xml(text: str) -> str:
    """Returns lines for an XML writer that escapes by itself: characters that XML has, no line a runner's command."""
    return "\n".join(map(printed, text.split("\n")))


def annotation(level: str, title: str, lines: Iterable[str]) -> str:
    """Returns a command that a GitHub runner takes, and no other.

    Source: GitHub's workflow commands, `::error title=…::message`.
    """
    data = _data("\n".join(map(within, lines)))
    return f"::{level} title={_data(within(title)).replace(':', '%3A').replace(',', '%2C')}::{data}\n"


def json_text(text: str) -> str:
    """Returns JSON with those characters of its texts escaped that a terminal or a runner would act on."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _JSON_UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_of(value: Any) -> str:
    """Returns a value as indented JSON, cleaned as `json_text` does."""
    import msgspec

    # Indented afterwards: with an indent, the standard library encodes in Python, at five times the cost.
    return msgspec.json.format(json_text(json.dumps(value, ensure_ascii=False, allow_nan=False)), indent=2)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns rows under their columns as CSV; numbers stay numbers, and no text is a spreadsheet's formula."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Returns rows as lines of CSV, cleaned as `csv_text` does."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(list(map(_cell, row)) for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    return _text_cell(value) if isinstance(value, str) else value


@lru_cache(maxsize=1024)  # what is of a run stands in each of its lines
def _text_cell(value: str) -> str:
    text = line(value).replace("##[", f"##{_ALIKE['[']}")
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", text, re.IGNORECASE) is not None


def _marked(text: str) -> str:
    """Returns one line without Markdown's marks."""
    pieces = []
    rest = 0
    for found in _REFERENCE.finditer(text):
        pieces += [_escaped(text, rest, found.end()), _BETWEEN]
        rest = found.end()
    return "".join([*pieces, _escaped(text, rest, len(text))])


def _escaped(text: str, start: int, end: int) -> str:
    pieces = []
    for found in _ACTIVE.finditer(text, start, end):
        mark = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(found[0], f"\\{found[0]}")
        pieces += [text[start : found.start()], mark]
        start = found.end()
    return "".join([*pieces, text[start:end]])


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
