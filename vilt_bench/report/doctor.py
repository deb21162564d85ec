"""Shows an examination of the machine: what is well, what is not and what to do, in sentences."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from vilt_bench.judge.fitness import Mark, diagnose
from vilt_bench.record.examination import Examination
from vilt_bench.report import clean
from vilt_bench.words import counted

MARKS: dict[Mark, tuple[str, str]] = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "unknown": ("?", "dim")}


def show(found: Examination, console: Console) -> None:
    """Print the verdict, then what was found, each with a mark and what to do."""
    diagnosis = diagnose(found)
    where = found.environment
    console.print(Text(f"{where.machine} · {counted(where.threads, 'thread')}", style="bold"))
    console.print()
    for finding in diagnosis.findings:
        sign, style = MARKS[finding.mark]
        sign = {"✓": "+"}.get(sign, sign) if console.options.ascii_only else sign
        console.print(Text.assemble((f"{sign} ", style), (f"{finding.topic}: ", "bold"), finding.said))
        if finding.advice:
            console.print(Text(f"  → {finding.advice}"))
    console.print()
    console.print(Text(diagnosis.verdict, style="bold" if diagnosis.fit else "bold yellow"))


def to_json(found: Examination) -> str:
    """Returns diagnosis and examination, units in the names, `null` where not known."""
    told: dict[str, Any] = asdict(diagnose(found)) | {"examination": asdict(found)}
    return clean.json_of(told) + "\n"
