import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vilt_bench import cli
from vilt_bench.ask.case import Case
from vilt_bench.record import store
from vilt_bench.record.run import Run
from vilt_bench.report import pivoted, render_pivot, terminal
from vilt_bench.report.runs import pivot

MakeSweep = Callable[..., list[Run]]
PER_IMAGE_S = {"patch32": 0.001, "grid-r50": 0.008}


def latency_s(embedder: str, side: int, batch_size: int) -> float:
    """The closed form of the sweep's latencies, as `make_sweep` has them."""
    return 0.002 + PER_IMAGE_S[embedder] * batch_size * side * side / 4096


@pytest.fixture
def runs(make_sweep: MakeSweep) -> list[Run]:
    def is_failed(case: Case) -> bool:
        return case.embedder == "grid-r50" and case.batch_size == 8

    def is_stopped(case: Case) -> bool:
        return case.embedder == "patch32" and case.batch_size == 4

    def is_left_out(case: Case) -> bool:
        return case.embedder == "patch32" and case.batch_size == 8 and case.resolution == (64, 64)

    return make_sweep(failed=is_failed, stopped=is_stopped, left_out=is_left_out)


def test_columns_are_the_values_of_the_axis_and_lines_the_other_axes(runs: list[Run]) -> None:
    text = render_pivot(runs, "markdown", "batch-size")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| Embedder | Resolution | Pixels | Visual tokens | 1 | 2 | 4 | 8 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| patch32"] * 2 + ["| grid-r50"] * 2
    assert lines[2].startswith(
        "| patch32 | 64×64 | 64×64 | 4 | 3.00 [2.97, 3.03] | 4.00 [3.96, 4.04] | interrupted | – |"
    )
    assert lines[4].endswith("| out of memory |")
    for said in ("## Latency (ms) [95% interval] by batch size", "–: not measured.", "EPYC 7B13", "Random weights."):
        assert said in text


def test_csv_has_the_values_of_the_closed_form_and_nothing_where_there_is_none(runs: list[Run]) -> None:
    rows = list(csv.DictReader(io.StringIO(render_pivot(runs, "csv", "batch-size"))))
    assert len(rows) == 4
    for row in rows:
        for batch_size in (1, 2, 4, 8):
            told = row[f"latency_median_s[batch_size={batch_size}]"]
            absent = batch_size == 8 and row["embedder"] == "grid-r50"
            absent = absent or (row["embedder"] == "patch32" and batch_size == 4)
            absent = absent or (row["embedder"] == "patch32" and batch_size == 8 and row["resolution"] == "64×64")
            if absent:
                assert told == ""
            else:
                side = int(row["resolution"].partition("×")[0])
                assert float(told) == pytest.approx(latency_s(row["embedder"], side, batch_size))


def test_json_has_each_cell_with_its_run_and_verdict(runs: list[Run]) -> None:
    rows = json.loads(render_pivot(runs, "json", "batch-size", quantities=["images-per-second", "flops"]))
    cells = {(row["embedder"], row["resolution"]): {cell["batch_size"]: cell for cell in row["cells"]} for row in rows}
    assert cells["grid-r50", "64×64"][2]["images_per_second"] == pytest.approx(2 / latency_s("grid-r50", 64, 2))
    assert cells["grid-r50", "64×64"][8]["verdict"] == "failed"
    assert cells["grid-r50", "64×64"][8]["failure"] == "out-of-memory"
    assert cells["grid-r50", "64×64"][8]["images_per_second"] is None
    assert cells["grid-r50", "64×64"][8]["flops"] is not None
    assert 8 not in cells["patch32", "64×64"]


def test_each_quantity_has_a_table_and_shares_are_of_the_visual_embedder(runs: list[Run]) -> None:
    text = render_pivot(runs, "markdown", "resolution", quantities=["share", "parameters"])
    assert text.count("## ") == 2
    assert "## Share of visual embedder by resolution" in text
    assert "| grid-r50 | 1 | 75.0% | 75.0% |" in text  # backbone and projection: a quarter and a half of the whole


def test_pages_and_latex_have_the_tables(runs: list[Run]) -> None:
    page = render_pivot(runs, "html", "batch-size")
    root = ElementTree.fromstring(page.partition("\n")[2])
    assert "3.00 [2.97, 3.03]" in "".join(root.itertext())
    assert r"3.00 & {[}\num{2.97}, \num{3.03}{]}" in render_pivot(runs, "latex", "batch-size")


@pytest.mark.parametrize("width", [40, 80, 160])
def test_no_number_is_cut_on_a_terminal_of_any_width(runs: list[Run], width: int) -> None:
    found = pivoted(runs, "batch-size", quantities=["latency", "images-per-second"])
    text = terminal.text(lambda console: pivot.show(found, console), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for number in ("3.00 [2.97, 3.03]", "258.0", "34.00 [33.66, 34.34]"):
        assert (number in text) == (number != "258.0")


def test_labels_and_choice_are_the_users_and_data_keeps_its_names(runs: list[Run]) -> None:
    given = {"only": ["embedder=patch32"], "labels": ["patch32=ViLT", "resolution=64x64=small"]}
    text = render_pivot(runs, "markdown", "batch-size", **given)
    assert "| ViLT | small |" in text or "| ViLT |" in text
    assert "grid-r50" not in text
    assert json.loads(render_pivot(runs, "json", "batch-size", **given))[0]["embedder"] == "patch32"


def test_runs_of_several_machines_have_lines_of_their_own(make_sweep: MakeSweep) -> None:
    import dataclasses

    here = make_sweep(("patch32",), {"batch_size": (1, 2)})
    assert here[0].environment is not None
    other = dataclasses.replace(here[0].environment, machine="NVIDIA H200", fingerprint="beef", device="cuda:0")
    there = [dataclasses.replace(run, run_id=f"h-{run.run_id}", environment=other) for run in here]
    lines = [line for line in render_pivot([*here, *there], "markdown", "batch-size").splitlines() if line[:1] == "|"]
    assert [line.split(" | ")[1] for line in lines[2:]] == ["EPYC 7B13", "NVIDIA H200"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--pivot dtype",
            "--pivot dtype does not vary (all are float32); what varies: embedder, resolution and b",
        ),
        ("--pivot batchsize", "--pivot there is no axis 'batchsize'; did you mean 'batch-size'?"),
        ("--pivot batch-size --figure curve --output a.svg", "--pivot makes tables"),
        ("--pivot batch-size --format bencher", "leave it out for bencher"),
        ("--pivot batch-size --output a.svg", "leave it out for svg"),
        ("--pivot batch-size --only embedder=vit", "--only no run has embedder 'vit'"),
    ],
)
def test_bad_input_is_one_clear_line(
    runs: list[Run], tmp_path: Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in runs:
        store.save(run, tmp_path)
    assert cli.main(["report", str(tmp_path), *options.split()]) == 2
    assert message in capsys.readouterr().err


def test_the_command_line_prints_and_writes_tables(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in runs:
        store.save(run, tmp_path / "runs")
    assert cli.main(["report", str(tmp_path / "runs"), "--pivot", "batch-size"]) == 0
    assert "Latency (ms) [95% interval] by batch size" in capsys.readouterr().out
    for name in ("a.md", "a.csv", "a.json", "a.html", "a.tex", "a.txt"):
        path = tmp_path / name
        assert cli.main(["report", str(tmp_path / "runs"), "--pivot", "batch-size", "--output", str(path)]) == 0
        assert "patch32" in path.read_text(encoding="utf-8")
