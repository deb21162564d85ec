"""Tidy CSV: one row a run and stage; units in the columns' names, empty where unknown."""

from __future__ import annotations

from vilt_bench.judge.history import FIELDS, History, rows
from vilt_bench.report import tables


def render(history: History) -> str:
    """Returns the rows, oldest first."""
    return tables.csv(list(rows(history)), FIELDS)
