"""Puts the table of embedders, from their catalogue, into the README, between its two marks.

python benchmarks/readme.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from vilt_bench.report.embedders.listing import markdown

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- embedders: made by `make catalog` -->", "<!-- end of embedders -->"


def renewed(text: str) -> str:
    """Returns the README with the table of today's catalogue."""
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return marked.sub(lambda _: f"{BEGIN}\n{markdown('embedders')}{END}", text)


def main() -> int:
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(README)
    return 0


if __name__ == "__main__":
    sys.exit(main())
