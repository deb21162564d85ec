"""The paper's tables as data, its models as compositions of our parts, and its ways of counting."""

from vilt_bench.paper.models import ROWS, PaperRow, build, find_row
from vilt_bench.paper.tables import (
    CountedRow,
    CountedTable,
    DownstreamRow,
    Table6Row,
    Table7Row,
    downstream,
    table6,
    table7,
)

__all__ = [
    "ROWS",
    "CountedRow",
    "CountedTable",
    "DownstreamRow",
    "PaperRow",
    "Table6Row",
    "Table7Row",
    "build",
    "downstream",
    "find_row",
    "table6",
    "table7",
]
