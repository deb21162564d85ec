import csv
import dataclasses
import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from vilt_bench.ask.case import Case
from vilt_bench.judge.comparison import CountChange
from vilt_bench.record.run import Model, Run, Stage
from vilt_bench.report import columns, render, terminal
from vilt_bench.report.columns import Quantity, quantity, total
from vilt_bench.report.embedders.stages import show_stages
from vilt_bench.report.numbers import millions
from vilt_bench.report.tables import Column
from vilt_bench.report.verdicts import words

MOVED = Quantity(
    "moved_bytes",
    Column("Moved", "MB"),
    total(lambda stage: stage.moved_bytes),
    millions,
    said=("moved bytes", "MB"),
    built=True,
)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has one more quantity, which records hold and no table shows: the line that a new metric adds."""
    monkeypatch.setattr(columns, "QUANTITIES", [*columns.QUANTITIES, MOVED])


@pytest.fixture
def runs(make_run: Callable[..., Run]) -> list[Run]:
    run = make_run()
    # 12.5, 12.5 and 12.5 MB: 37.5 MB of the whole
    stages = tuple(dataclasses.replace(stage, moved_bytes=12_500_000) for stage in run.stages)
    return [dataclasses.replace(run, stages=stages, run_id=name) for name in "ab"]


@pytest.mark.usefixtures("moved")
def test_one_line_shows_a_new_metric_in_every_format(runs: list[Run]) -> None:
    whole = f"{12.5 * len(runs[0].stages):.2f}"
    assert "Moved (MB)" in render(runs, "markdown")
    assert render(runs, "markdown").count(f" {whole} |") == 4  # side by side, and each run's own
    assert render(runs, "latex").count(f" {whole} ") == 4
    shown = render(runs, "table")
    assert "Moved" in shown
    assert shown.count(whole) == 4
    last = list(csv.DictReader(io.StringIO(render(runs, "csv"))))[-1]
    assert last["moved_bytes"] == str(12_500_000 * len(runs[0].stages))
    assert json.loads(render(runs, "json"))[0]["stages"][-1]["moved_bytes"] == int(last["moved_bytes"])


@pytest.mark.usefixtures("moved")
def test_one_line_shows_a_new_metric_of_a_model_that_was_not_run(runs: list[Run]) -> None:
    run = runs[0]
    assert run.model is not None
    model: Model = run.model

    def show(console: Console) -> None:
        show_stages(Case("patch32"), model, run.stages, console)

    text = terminal.text(show, 100)
    assert "Moved" in text
    assert f"{12.5 * len(run.stages):.2f}" in text.partition("\nall ")[2].splitlines()[0]


@pytest.mark.usefixtures("moved")
def test_a_change_of_a_new_metric_is_said_in_its_unit() -> None:
    change = CountChange("visual_embedder.projection", "moved_bytes", 10_000_000, 12_500_000)  # type: ignore[arg-type]
    assert words.count(change) == "moved bytes 10.00 → 12.50 MB (+25.0%)"


def test_a_sum_with_an_unknown_part_is_unknown(make_run: Callable[..., Run]) -> None:
    stages = [Stage("a", "visual_embedder", "", 1, moved_bytes=1), Stage("b", "visual_embedder", "", 1)]
    text = render([make_run(stages=tuple(stages))], "json")
    assert "moved_bytes" not in text
    assert quantity("flops").of is not None
    from vilt_bench.judge.summary import counted_row

    assert MOVED.of(counted_row("whole", "whole", None, stages)) is None
    assert MOVED.of(counted_row("whole", "whole", None, stages[:1])) == 1
