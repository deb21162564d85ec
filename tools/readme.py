"""Puts the table of embedders, from their catalogue, into the README.

python tools/readme.py
"""

from __future__ import annotations

from marked import ROOT, put

from vilt_bench.report.embedders.listing import markdown

if __name__ == "__main__":
    put(markdown("embedders"), "embedders", ROOT / "README.md")
