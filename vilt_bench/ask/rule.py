"""What may be asked of a comparison and of a history, with what is usual; no case is in it."""

from __future__ import annotations

from typing import Literal

TOLERANCE = 0.025
"""Accepted slowdown; a true 5% is then found where both sides are measured together."""
GATE_TIME_S = 300.0
"""For a case whose two sides are measured together, starting of processes included."""
Decides = Literal["total", "stages"]
"""What decides the exit code: the whole alone, or every stage as well."""
Order = Literal["commit", "run"]
"""Of a history; `commit`: by the commit's time, a run without a commit by its own; `run`: by the run's time."""
NEWEST = 10
"""Runs in whose midst a change of level counts as new."""
