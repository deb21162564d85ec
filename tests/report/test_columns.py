import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from vilt_bench.ask.case import Case
from vilt_bench.errors import ConfigError
from vilt_bench.judge.comparison import CountChange
from vilt_bench.judge.summary import summarise
from vilt_bench.record.run import Model, Run, Stage
from vilt_bench.report import columns, render, render_picture, terminal
from vilt_bench.report.columns import Quantity, chosen, quantity, total
from vilt_bench.report.embedders.stages import show_stages
from vilt_bench.report.numbers import millions
from vilt_bench.report.runs import table
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
    return [dataclasses.replace(run, stages=stages, run_id=name, group=name) for name in "ab"]


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


CHOSEN = ["p99", "images-per-second", "passes"]


@pytest.fixture
def long_run(make_run: Callable[..., Run]) -> Run:
    """Has 400 passes: enough for p99."""
    return make_run(trials=4, blocks=(100,))


def test_chosen_columns_are_those_of_every_table_in_their_order(long_run: Run) -> None:
    runs = [long_run, dataclasses.replace(long_run, run_id="other")]
    text = render(runs, "markdown", quantities=CHOSEN)
    heads = [line for line in text.splitlines() if line.startswith(("| Embedder", "| Stage"))]
    told = "| p99 (ms) | Images/s [95% interval] | Passes |"
    assert heads == [f"| Embedder | Pixels | Visual tokens {told}", *[f"| Stage {told}"] * 2]
    assert text.count(" | 400 |") == 4  # side by side, and each run's whole
    assert render(runs, "latex", quantities=CHOSEN).count(r"{p99} & \multicolumn{2}{c}{Images/s} & ") == 3
    page = render_picture(runs, "html", quantities=CHOSEN).decode()
    heads = re.findall(r'<th scope="col"[^>]*>p99 \(ms\)</th><th scope="col"[^>]*>Images/s', page)
    assert len(heads) == 4  # the table of cases too


def test_a_terminal_of_any_width_has_the_chosen_columns(long_run: Run) -> None:
    text = terminal.text(lambda console: table.show([long_run], console, quantities=chosen(["macs", "p90"])), 60)
    assert "GMACs" in text
    assert "p90" in text
    assert "Latency" not in text


def test_chosen_columns_are_those_of_data(long_run: Run) -> None:
    last = list(csv.DictReader(io.StringIO(render([long_run], "csv", quantities=CHOSEN))))[-1]
    found = json.loads(render([long_run], "json", quantities=CHOSEN))[0]["stages"][-1]
    expected = ["latency_p99_s", "images_per_second", "images_per_second_low", "images_per_second_high"]
    for fields in (list(last), list(found)):
        begin = fields.index("stage") + 1
        assert fields[begin : fields.index("counts")] == [*expected, "percentile_samples"]
    assert last["percentile_samples"] == "400"
    assert float(last["latency_p99_s"]) == found["latency_p99_s"]


def test_all_data_has_throughput_and_percentiles_and_nothing_in_place_of_what_is_unknown(
    make_run: Callable[..., Run],
) -> None:
    stages = json.loads(render([make_run(trials=1, blocks=(10, 10))], "json"))[0]["stages"]
    assert stages[-1]["images_per_second"] == pytest.approx(1 / stages[-1]["latency_median_s"])
    assert stages[-1]["time_per_image_s"] == stages[-1]["latency_median_s"]
    assert stages[-1]["percentile_samples"] == 20
    assert stages[-1]["latency_p50_s"] is not None
    assert stages[-1]["latency_p90_s"] is None
    assert stages[0]["latency_p50_s"] is None


def test_throughput_and_percentiles_of_the_whole_are_told_beneath_its_table(make_run: Callable[..., Run]) -> None:
    run = make_run(trials=1, blocks=(40,), case=Case("patch32", batch_size=2))
    for format in ("table", "markdown"):
        line = next(line for line in render([run], format).splitlines() if " images/s · " in line)
        assert " ms an image · 40 passes: p50 " in line
        assert ", p90 " in line
        assert "p95" not in line
        assert "an image" not in render([make_run()], format)


def test_an_unknown_or_no_column_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"'imges-per-second'; did you mean 'images-per-second'\?.*, p99, "):
        chosen(["latency", "imges-per-second"])
    with pytest.raises(ConfigError, match="none is named"):
        chosen([])


def test_columns_are_refused_where_there_are_none(long_run: Run) -> None:
    with pytest.raises(ConfigError, match="bencher has latencies"):
        render([long_run], "bencher", quantities=["p99"])
    with pytest.raises(ConfigError, match="a picture has none"):
        render_picture([long_run], "svg", quantities=["p99"])


@pytest.mark.parametrize("width", [60, 80, 140])
def test_no_number_of_a_chosen_column_is_cut(long_run: Run, width: int) -> None:
    runs = [long_run, dataclasses.replace(long_run, run_id="other")]
    every = [columns.flag(each) for each in columns.QUANTITIES]
    text = terminal.text(lambda console: table.show(runs, console, quantities=chosen(every)), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert summarise(long_run).whole.passes is not None
    for each in columns.QUANTITIES:
        assert text.count(each.text(summarise(long_run).whole)) >= 2
    assert text.count("\nwhole ") == text.count("\nStage ")


def test_runs_on_clips_have_frames_in_the_place_of_images(make_run: Callable[..., Run]) -> None:
    of_clips = make_run("patch16", case=Case("patch16", frames=8, interaction="none"), run_id="b", group="b")
    shown = render([of_clips], "markdown")
    assert " frames/s · " in shown
    assert " ms a frame" in shown
    assert "8 frames a clip" in shown
    assert "images" not in shown.lower()
    both = render([of_clips, make_run(run_id="a", group="a")], "markdown")
    assert "Images/s | Frames/s" in both or "Frames/s | Images/s" in both
