"""Turns a run into a tidy pandas table, one row a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from vilt_bench.config import case_name, label
from vilt_bench.records import Run, Series, Times

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "run_id", "case", "embedder", "trial", "phase", "block", "pass", "component", "stage", "quantity", "unit", "value",
)  # fmt: skip


def run_to_frame(run: Run) -> pd.DataFrame:
    """Returns one row a sample, warm-up included, with the columns of `Run.to_frame`.

    `block` and `pass` count from 0 within a trial's phase. Stages named `whole` are the uninstrumented passes,
    `instrumented` the instrumented ones from end to end; both have no component.
    """
    import pandas as pd

    rows = [
        (run.run_id, case_name(run.case), label(run.case), trial.index, phase, *row)
        for trial in run.trials
        for phase, series in (("warmup", trial.warmup), ("sample", trial.samples))
        for row in _rows(series)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"value": "float64"})


def _rows(series: Series) -> Iterator[tuple[Any, ...]]:
    blocks = list(chain.from_iterable(repeat(index, size) for index, size in enumerate(series.blocks)))
    yield from _times(None, "whole", series.whole, blocks)
    yield from _times(None, "instrumented", series.instrumented, blocks)
    for name, times in series.stages.items():
        yield from _times(name.partition(".")[0], name, times, blocks)


def _times(component: str | None, stage: str, times: Times, blocks: list[int]) -> Iterator[tuple[Any, ...]]:
    for quantity in fields(times):
        for index, value in enumerate(getattr(times, quantity.name) or ()):
            block = blocks[index] if index < len(blocks) else None
            yield block, index, component, stage, quantity.name.removesuffix("_s"), "s", value
