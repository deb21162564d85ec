"""Measures what visual tokens cost, draws it, and puts the table into docs/requests.md.

python tools/tokens_curve.py [--max-time 20 and other options of 'vilt-bench run']
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import takewhile

from marked import ROOT, put

import vilt_bench

FOLDER = ROOT / "results" / "requests" / "tokens-curve"
PICTURE = FOLDER.with_suffix(".svg")
COLUMNS = ("latency", "share", "keys-and-values")


def run(*words: str) -> None:
    """Run a command of vilt-bench."""
    subprocess.run([sys.executable, "-m", "vilt_bench", *words], cwd=ROOT, check=True)


def table() -> str:
    """Returns the cases side by side by visual tokens, as Markdown."""
    runs = vilt_bench.load_all([FOLDER])
    runs.sort(
        key=lambda each: (
            each.case.tiles or "", each.case.reduce or "", each.model.visual_tokens if each.model is not None else 0
        )
    )  # fmt: skip
    lines = vilt_bench.render(runs, "markdown", quantities=COLUMNS).partition("## Side by side\n\n")[2].splitlines()
    return "\n".join(takewhile(lambda line: line.startswith("|"), (line for line in lines if line)))


if __name__ == "__main__":
    if "--draw" not in sys.argv:
        shutil.rmtree(FOLDER, ignore_errors=True)
        run("run", "--preset", "tokens-curve", "--output", str(FOLDER.relative_to(ROOT)), *sys.argv[1:])
    run("report", str(FOLDER.relative_to(ROOT)), "--figure", "tokens", "--span", "2", "--output", str(PICTURE))
    put(table(), "tokens-curve", ROOT / "docs" / "requests.md")
