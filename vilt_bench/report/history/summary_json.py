"""JSON: a list with one summary a history; units in the names, `null` where unknown."""

from __future__ import annotations

from typing import Any

from vilt_bench.judge.history import CaseHistory, History, Point, rows, shown_stages
from vilt_bench.report import clean
from vilt_bench.report.history.words import case_line, order_lines

_SAID_ONCE = ("case", "embedder", "machine", "fingerprint", "device")


def render(history: History) -> str:
    """Returns the summaries of the histories, in order."""
    found = [summary(case, history) for case in history.cases]
    return clean.json_of(found) + "\n"


def summary(case: CaseHistory, history: History) -> dict[str, Any]:
    """Returns a history with its changes, in words as well, and its runs as in the CSV."""
    alone = History((case,), history.stages, history.order)
    stages = shown_stages(case, history)
    return {
        "name": case.name,
        "embedder": case.embedder,
        "case": case_line(case),
        "machine": case.machine,
        "fingerprint": case.fingerprint,
        "device": case.device,
        "threads": case.threads,
        "omp_wait_policy": case.omp_wait_policy,
        "in_turns": case.in_turns,
        "order": history.order,
        "enough_runs": case.enough,
        "failed": case.failed,
        "changes": [
            {
                "stage": change.stage,
                "date": change.first.committed_at.isoformat(),
                "ratio": change.ratio,
                "low": change.low,
                "high": change.high,
                "before_s": change.before_s,
                "after_s": change.after_s,
                "probability": change.probability,
                "first": _identity(change.first),
                "last_before": _identity(change.last),
                "differences": list(change.differences),
            }
            for change in case.changes
            if change.stage in stages
        ],
        "order_remarks": order_lines(case, history),
        "runs": [{key: value for key, value in row.items() if key not in _SAID_ONCE} for row in rows(alone)],
    }


def _identity(point: Point) -> dict[str, Any]:
    return {"run_id": point.run_id, "commit": point.source.commit if point.source is not None else None}
