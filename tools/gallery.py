"""Draws the gallery's pictures and page from its records, and puts the table into README.

python tools/gallery.py
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from itertools import takewhile

from marked import ROOT, put

import vilt_bench
from vilt_bench.judge.ranking import by_rank

GALLERY = ROOT / "results" / "gallery"
PICTURES = {
    "towers.svg": ("--span", "2"),
    "size.svg": ("--figure", "size", "--span", "2"),
    "frontier.svg": ("--figure", "pareto", "--x", "latency", "--y", "visual-tokens"),
    "towers.html": (),
}
"""By its file's name, the options of `vilt-bench report` that make it of the five towers."""
SCREEN = (1280, 1130)
"""Width and height in pixels of what is seen of the page in docs/page.png."""


def table() -> str:
    """Returns the towers side by side, as Markdown."""
    runs = by_rank(vilt_bench.load_all([GALLERY / "towers"]))
    report = vilt_bench.render(runs, "markdown", quantities=("latency", "share", "flops"))
    lines = report.partition("## Side by side\n\n")[2].splitlines()
    return "\n".join(takewhile(lambda line: line.startswith("|"), lines))


def draw() -> None:
    """Write pictures and page."""
    for name, options in PICTURES.items():
        labels = () if name.endswith(".html") else ("--labels", "labels.toml")
        command = [sys.executable, "-m", "vilt_bench", "report", "towers", "--output", name, *options, *labels]
        subprocess.run(command, cwd=GALLERY, check=True)


def photograph() -> None:
    """Write what a browser shows of the page, in 64 colours."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": SCREEN[0], "height": SCREEN[1]}, color_scheme="light")
        page.goto((GALLERY / "towers.html").as_uri())
        page.wait_for_timeout(1000)
        seen = page.screenshot()
        browser.close()
    Image.open(io.BytesIO(seen)).convert("RGB").quantize(64).save(ROOT / "docs" / "page.png", optimize=True)


if __name__ == "__main__":
    draw()
    photograph()
    put(table(), "gallery", ROOT / "README.md")
