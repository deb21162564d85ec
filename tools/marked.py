"""Puts what a program has made into a document, between two marks that say what made it.

    <!-- NAME: made by COMMAND -->
    …
    <!-- end of NAME -->

`python tools/marked.py docs/gate.md gate` puts there what it reads from standard input.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def renewed(text: str, name: str, made: str) -> str:
    """Returns a document with what was made between the marks of that name.

    Raises:
        SystemExit: the document does not have the two marks once.
    """
    name = re.escape(name)
    marked = re.compile(f"(<!-- {name}: made by [^\n]* -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    text, times = marked.subn(lambda found: f"{found[1]}{made.rstrip()}\n{found[2]}", text)
    if times != 1:
        raise SystemExit(f"expected the marks of {name!r} once, found {times}")
    return text


def put(made: str, name: str, document: Path) -> None:
    """Renew a document, and say so."""
    document.write_text(renewed(document.read_text(encoding="utf-8"), name, made), encoding="utf-8")
    print(f"wrote {name} into {os.path.relpath(document)}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    put(sys.stdin.read(), sys.argv[2], Path(sys.argv[1]))
