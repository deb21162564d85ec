"""Fields of runs and stages for data formats: names with units, raw values."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from vilt_bench.ask.case import case_name, label
from vilt_bench.judge.summary import Row, Summary
from vilt_bench.report import columns
from vilt_bench.report.lines import NO_OBJECTION


def run_fields(run: Summary) -> dict[str, str | int | float | None]:
    """Returns the run's columns of a tidy table: what, how and where; `None` where unknown."""
    model, where, energy = run.model, run.environment, run.energy
    height, width = model.resolution if model is not None else (None, None)
    return {
        "run_id": run.run_id,
        "started_at": run.started_at,
        "group": run.group,
        "name": run.name,
        "case": case_name(run.case),
        "embedder": label(run.case),
        "kind": model.kind if model is not None else None,
        "verdict": run.verdict,
        "failure": f"{run.failure.kind}: {run.failure.message}" if run.failure is not None else None,
        "machine": where.machine if where is not None else None,
        "fingerprint": where.fingerprint if where is not None else None,
        "device": where.device if where is not None else None,
        "threads": where.threads if where is not None else None,
        "dtype": run.case.dtype,
        "backend": run.case.backend,
        "quantize": run.case.quantize,
        "backend_used": model.linear if model is not None else None,
        "library": model.computation.version if model is not None and model.computation is not None else None,
        "batch_size": run.case.batch_size,
        "images_per_text": run.case.images_per_text,
        "preprocessor": run.case.preprocessor if model is not None and model.preprocessing is not None else None,
        "preprocessing_workers": run.case.preprocessing_workers,
        "pin_memory": run.case.pin_memory if run.case.preprocessing_workers is not None else None,
        "prepared_by": model.preprocessing if model is not None else None,
        "frames": run.case.frames,
        "frame_rate_hz": run.case.frame_rate,
        "height": height,
        "width": width,
        "fit": model.fit if model is not None else None,
        "tiles": run.case.tiles,
        "visual_tokens": model.visual_tokens if model is not None else None,
        "text_tokens": model.text_tokens if model is not None else None,
        "visual_weights": model.visual_weights if model is not None else None,
        "shared_weights": model.shared_weights if model is not None else None,
        "energy_per_pass_j": median(energy.joules_per_pass) if energy is not None else None,
        "idle_power_w": energy.idle_power_w if energy is not None else None,
        "command": run.origin.command if run.origin is not None else None,
        "plan": run.origin.plan.path if run.origin is not None and run.origin.plan is not None else None,
        "commit": run.source.commit if run.source is not None else None,
        "doctor": None if run.doctor is None else "; ".join(run.doctor) or NO_OBJECTION,
    }


def stage_fields(row: Row, quantities: Sequence[columns.Quantity] = ()) -> dict[str, Any]:
    """Returns the stage's columns of a tidy table, with the quantities chosen, else all; `None` where unknown."""
    return {
        "level": row.level,
        "component": row.component,
        "stage": row.name,
        **{name: value for each in quantities or columns.QUANTITIES for name, value in each.data(row).items()},
        "counts": dict(row.counts),
        "note": row.note or None,
    }
