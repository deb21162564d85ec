"""JSON: a list with one summary a run; the raw samples are in the records themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vilt_bench.quality import remarks
from vilt_bench.records import Run
from vilt_bench.report.rows import rows, run_fields, stage_fields


def render(runs: Sequence[Run]) -> str:
    """Returns the summaries of the runs; `null` is unknown."""
    return json.dumps([summary(run) for run in runs], indent=2, ensure_ascii=False) + "\n"


def summary(run: Run) -> dict[str, Any]:
    """Returns what tables show of a run: its fields as in the CSV, `remarks`, and `stages` with the whole last."""
    return run_fields(run) | {"remarks": list(remarks(run)), "stages": [stage_fields(row) for row in rows(run)]}
