import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from vilt_bench.cli import main
from vilt_bench.judge.history import history
from vilt_bench.record import store
from vilt_bench.record.run import Run
from vilt_bench.report import terminal
from vilt_bench.report.history import render as run_render
from vilt_bench.report.history.table import WIDTH, show
from vilt_bench.report.history.words import sparkline

MakeRun = Callable[..., Run]
FIRST = datetime(2026, 9, 1, tzinfo=UTC)
STAGES_S = {"textual_embedder": 0.0003, "visual_embedder.backbone": 0.17, "modality_interaction": 0.0955}


def commit(index: int) -> str:
    return f"{index + 1:08x}" + 32 * "0"


def test_all_formats_agree(save_history, tmp_path, capsys) -> None:
    save_history(tmp_path, 30, since=20, slower=1.2)
    found = history(tmp_path)
    (case,) = json.loads(run_render(found, "json"))
    lines = list(csv.DictReader(io.StringIO(run_render(found, "csv"))))
    frame = found.to_frame()
    assert len(case["runs"]) == len(lines) == len(frame) == 30 * len(found.cases[0].stages)
    assert [float(line["latency_s"]) for line in lines] == frame["latency_s"].tolist()
    throughput = [1 / float(line["latency_s"]) for line in lines]  # a pass has one image
    assert [float(line["images_per_second"]) for line in lines] == pytest.approx(throughput)
    assert [run["images_per_second"] for run in case["runs"]] == pytest.approx(throughput)
    assert f"| {throughput[-len(found.cases[0].stages)]:.2f} |" in run_render(found, "markdown")
    assert {(line["images_per_text"], line["frames"], line["tiles"]) for line in lines} == {("1", "", "")}
    (change,) = [change for change in case["changes"] if change["stage"] == "whole"]
    assert change["first"]["commit"] == commit(20)
    assert frame[frame["change"].notna() & (frame["stage"] == "whole")]["commit"].tolist() == [commit(20)]
    for format in ("table", "markdown"):
        text = run_render(found, format)
        assert f"2026-09-20 at {commit(20)[:8]} (after {commit(19)[:8]}): whole +1" in text
    assert all(len(line) <= WIDTH for line in run_render(found, "table").splitlines())


def test_no_figure_and_no_commit_is_cut_on_a_narrow_terminal(save_history, tmp_path) -> None:
    save_history(tmp_path, 40, since=30, slower=1.2)
    found = history(tmp_path)
    text = terminal.text(lambda console: show(found, console), 80)
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    newest = found.cases[0].points[-1].latency_s("whole")
    assert text.count(f"{1000 * newest:.1f}") >= 2  # as the newest, and in the list
    assert commit(39)[:8] in text


@pytest.mark.parametrize(("format", "begin"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_picture_is_written_to_a_file(save_history, tmp_path, format, begin) -> None:
    save_history(tmp_path, 12, since=6, slower=1.3)
    picture = tmp_path / "picture"
    arguments = ["history", str(tmp_path), "--stage", "whole", "--format", format, "--output", str(picture)]
    assert main(arguments) == 0
    assert picture.read_bytes().startswith(begin)


def test_the_picture_names_the_change_and_its_commit(save_history, tmp_path) -> None:
    from vilt_bench.report.history.picture import render

    save_history(tmp_path, 12, since=6, slower=1.3)
    found = history(tmp_path, stages=["backbone"])
    (change,) = found.cases[0].changes
    text = render(found, "svg").decode()
    assert f"{100 * (change.ratio - 1):+.1f}% {commit(6)[:8]}" in text
    assert "backbone (ms)" in text


def test_more_histories_than_a_picture_holds_are_refused(make_run, tmp_path) -> None:
    for index in range(21):
        store.save(make_run(f"embedder{index}", run_id=str(index)), tmp_path)
    assert main(["history", str(tmp_path), "--format", "svg", "--output", str(tmp_path / "picture")]) == 2
    assert not (tmp_path / "picture").exists()


def test_a_sparkline_keeps_the_shape_and_flattens_noise() -> None:
    assert sparkline([1.0, 1.0, 2.0, 2.0]) == "▁▁██"
    assert len(set(sparkline([1.0, 1.01, 0.99, 1.0]))) < 4
    assert sparkline([1.0] * 100, cells=10) == sparkline([1.0]) * 10
    assert sparkline([1.0, None, 2.0]) == "▁ █"
    assert sparkline([1.0, 2.0], plain=True) == "_#"


@pytest.mark.parametrize("format", ["xlsx", "parquet"])
def test_histories_are_written_as_data_with_the_rows_of_csv(save_history, tmp_path, format) -> None:
    import openpyxl
    import pyarrow.parquet

    save_history(tmp_path, 12, since=6, slower=1.3)
    file = tmp_path / f"history.{format}"
    assert main(["history", str(tmp_path), "--output", str(file)]) == 0
    if format == "xlsx":
        head, *cells = openpyxl.load_workbook(file)["history"].values
        found = [dict(zip(head, row, strict=True)) for row in cells]
    else:
        found = pyarrow.parquet.read_table(file).to_pylist()
    expected = list(csv.DictReader(io.StringIO(run_render(history(tmp_path), "csv"))))
    assert list(found[0]) == list(expected[0])
    assert [(row["commit"], row["stage"]) for row in found] == [(row["commit"], row["stage"]) for row in expected]
    assert [row["latency_s"] for row in found] == pytest.approx([float(row["latency_s"]) for row in expected])


def test_a_picture_of_histories_has_labels_and_colours_of_ones_own(save_history, tmp_path, capsys) -> None:
    save_history(tmp_path, 8)
    file, labels = tmp_path / "history.svg", tmp_path / "labels.toml"
    labels.write_text(
        '[labels]\ngrid-r50 = "Grid of ResNet-50"\n[colours]\ngrid-r50 = "#123456"\n[titles]\nlatency = "A pass"\n'
    )
    arguments = ["history", str(tmp_path), "--stage", "whole", "--labels", str(labels)]
    embedder = history(tmp_path).cases[0].embedder
    labels.write_text(labels.read_text().replace("grid-r50", embedder))
    assert main([*arguments, "--output", str(file)]) == 0
    text = file.read_text()
    assert "Grid of ResNet-50" in text
    assert "A pass: whole (ms)" in text
    assert "#123456" in text
    assert main([*arguments, "--labels", "nobody=x", "--output", str(file)]) == 2
    assert "no run has embedder 'nobody'" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "--labels is for pictures; add --format svg|png|pdf" in capsys.readouterr().err
