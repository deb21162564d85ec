import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from vilt_bench.ask.case import Case, ViltConfig, case_name, unusual
from vilt_bench.errors import ConfigError
from vilt_bench.judge.estimate import Estimate, Samples, estimate_of
from vilt_bench.judge.history import history
from vilt_bench.record import store
from vilt_bench.record.run import Failure, Run, Series, Stage, Times, Trial
from vilt_bench.report import PICTURES, render, render_picture
from vilt_bench.report.lines import names
from vilt_bench.report.runs import FORMATS
from vilt_bench.report.runs.table import show

MakeRun = Callable[..., Run]

REGION = {
    "textual_embedder": 0.0003,
    "visual_embedder.backbone": 0.4,
    "visual_embedder.proposal_nms": 0.1,
    "visual_embedder.class_nms": 0.5,
    "modality_interaction": 0.09,
}


def shown(runs: list[Run], *, width: int = 80, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", write_through=True)
    show(runs, Console(file=file, width=width))
    file.seek(0)
    return file.read().splitlines()


def line(lines: list[str], start: str) -> str:
    return next(text for text in lines if text.strip().startswith(start))


@pytest.fixture
def failed(make_run: MakeRun) -> Run:
    return make_run("grid-r50", trials=0, failure=Failure("out-of-memory", "asked for 2 GiB", "visual_embedder.x"))


def test_latency_of_a_stage_is_shown_in_ms_with_interval_and_share(make_run: MakeRun) -> None:
    series = Series(
        whole=Times(wall_time_s=(0.1,) * 3),
        stages={
            "visual_embedder.projection": Times(wall_time_s=(0.0877,) * 3),
            "modality_interaction": Times(wall_time_s=(0.0123,) * 3),
        },
        blocks=(3,),
    )
    run = make_run(trials=0)
    trials = tuple(Trial(index=index, started_at="", samples=series) for index in range(3))
    lines = shown([dataclasses.replace(run, trials=trials)])
    # 12.3 of the stages' 100 ms; 3 million parameters, 6 GFLOPs, 4 MiB as the fixture counts them
    cells = line(lines, "modality interaction").split()
    assert cells[2:] == ["12.30", "[12.30,", "12.30]", "12.3%", "3.00", "6.00", "4.00"]
    assert line(lines, "whole").split()[1:] == ["100.0", "[100.0,", "100.0]", "100.0%", "6.00", "12.00", "4.00"]
    assert line(lines, "textual embedder").split()[2:] == ["–", "–", "1.00", "2.00", "4.00"]


def test_component_adds_up_its_stages(make_run: MakeRun) -> None:
    lines = shown([make_run("region", latencies_s=REGION, noise=0)])
    assert line(lines, "visual embedder").split()[2] == "1,000.0"
    assert line(lines, "visual embedder").split()[-3:] == ["9.00", "18.00", "4.00"]


def test_several_runs_show_bars_in_proportion_to_their_latency(make_run: MakeRun) -> None:
    lines = shown([make_run(noise=0), make_run("region", latencies_s=REGION, noise=0)])
    patch, region = (text for text in lines if re.fullmatch(r"[▒█░]+ *", text))
    assert len(region.strip()) == 80
    # 100.0 ms of 1090.3 ms, and a sliver each for 0.3 ms and 4.2 ms
    assert len(patch.strip()) == pytest.approx(80 * 100.0 / 1090.3, abs=2)
    assert (patch.count("▒"), patch.count("█")) == (1, 1)
    assert region.count("█") == pytest.approx(80 * 1000.0 / 1090.3, abs=2)


def test_comparison_has_the_share_of_the_visual_embedder(make_run: MakeRun) -> None:
    lines = shown([make_run(noise=0), make_run("region", latencies_s=REGION, noise=0, group="apart")], width=100)
    rows = [text.split() for text in lines if text.startswith(("patch32 ", "region ")) and text.count(".") >= 6]
    assert rows[0] == ["patch32", "384×640", "240", "0.300", "4.20", "95.50", "100.0", "4.2%", "6.00", "12.00"]
    assert rows[1] == ["region", "384×640", "240", "0.300", "1,000.0", "90.00", "1,090.3", "91.7%", "15.00", "30.00"]


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_the_terminal_and_carry_no_colour(make_run: MakeRun, failed: Run, width: int) -> None:
    lines = shown([make_run(), make_run("region-x152-fpn", latencies_s=REGION, noise=0.05), failed], width=width)
    assert max(len(text) for text in lines) <= width
    assert not any("\x1b" in text for text in lines)
    assert not any("…" in text for text in lines)


def test_ascii_terminal_gets_bars_of_ascii(make_run: MakeRun) -> None:
    lines = shown([make_run(), make_run("region", latencies_s=REGION)], encoding="ascii")
    assert any(re.fullmatch(r"[+#-]{80}", text) for text in lines)


def test_failed_run_shows_its_failure_and_no_number(make_run: MakeRun, failed: Run) -> None:
    lines = shown([make_run(), failed])
    assert line(lines, "grid-r50  failed: out-of-memory")
    assert "0.000" not in "\n".join(lines)
    assert line(lines, "• Failed in visual_embedder.x (out-of-memory): asked for 2 GiB")


def test_names_with_brackets_are_shown_as_they_are(make_run: MakeRun) -> None:
    assert line(shown([make_run("my.module:[bold]x[/bold]")]), "my.module:[bold]x[/bold]")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_bears_runs_with_nothing_in_them(make_run: MakeRun, failed: Run, format: str) -> None:
    empty = make_run(trials=0, stages=(), model=None, environment=None)
    zero = make_run(latencies_s=dict.fromkeys(REGION, 0.0))
    assert render([empty], format).endswith("\n")
    assert render([empty, failed, zero, make_run("patch16", blocks=(1,), trials=1)], format).endswith("\n")


def test_unknown_format_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="table, csv, markdown, latex, json"):
        render([make_run()], "html")


def test_csv_is_tidy_with_units_in_its_columns(make_run: MakeRun, failed: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(render([make_run(noise=0), failed], "csv"))))
    stages = ["textual_embedder", "visual_embedder", "visual_embedder.projection", "modality_interaction", "whole"]
    assert [row["stage"] for row in rows] == 2 * stages
    assert float(rows[2]["latency_median_s"]) == pytest.approx(0.0042)
    assert (
        rows[2] | {"device": "cpu", "flops": "4000000000", "macs": "2000000000", "memory_peak_bytes": "4194304"}
        == rows[2]
    )
    assert rows[-1]["latency_median_s"] == ""
    assert rows[-1]["failure"] == "out-of-memory: asked for 2 GiB"


def test_flops_of_a_sum_with_an_unknown_part_are_unknown(make_run: MakeRun) -> None:
    run = make_run()
    stages = (*run.stages[:-1], dataclasses.replace(run.stages[-1], flops=None, memory=None))
    rows = json.loads(render([dataclasses.replace(run, stages=stages)], "json"))[0]["stages"]
    assert (rows[-1]["flops"], rows[-1]["macs"], rows[-1]["memory_peak_bytes"]) == (None, None, None)
    assert rows[-1]["parameters"] == 6_000_000


def test_json_has_a_summary_a_run_with_null_for_unknown(make_run: MakeRun, failed: Run) -> None:
    first, second = json.loads(render([make_run(), failed], "json"))
    assert (first["verdict"], second["verdict"]) == ("precise", "failed")
    assert first["stages"][-1]["samples"] == 90
    assert second["stages"][-1]["latency_median_s"] is None
    assert first["remarks"]


def test_markdown_tables_have_as_many_cells_in_every_row(make_run: MakeRun, failed: Run) -> None:
    text = render([make_run("a|b"), failed], "markdown")
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table}
        assert len(cells) == 1
        assert re.fullmatch(r"\| --- (\| ---:? )+\|", table[1])


def test_notes_and_counts_of_nms_are_told(make_run: MakeRun) -> None:
    stage = Stage("visual_embedder.class_nms", "visual_embedder", "", 0, counts={"kept": 36}, note="planted")
    for format in ("table", "markdown"):
        assert "class_nms: 36 kept; planted." in render([make_run(stages=(stage,))], format)


@pytest.mark.parametrize("format", FORMATS)
def test_reading_and_reporting_need_no_torch(make_run: MakeRun, tmp_path: Path, format: str) -> None:
    store.save(make_run(), tmp_path)
    code = (
        "import sys; from vilt_bench import report; from vilt_bench.ask import catalog; catalog.find();"
        f"from vilt_bench.record import load; report.render(load.load_all([{str(tmp_path)!r}]), {format!r});"
        "print([name for name in ('torch', 'numpy', 'pandas') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_the_sides_of_a_gate_are_told_apart(make_run: MakeRun) -> None:
    text = render([make_run(run_id=side, side=side) for side in ("baseline", "candidate")], "markdown")
    assert "patch32 (baseline of a gate)" in text
    assert "patch32 (candidate of a gate)" in text


def saw(run: Run, resolution: tuple[int, int], tokens: int, **fields: object) -> Run:
    assert run.model is not None
    model = dataclasses.replace(run.model, resolution=resolution, visual_tokens=tokens, **fields)  # type: ignore[arg-type]
    return dataclasses.replace(run, model=model)


@pytest.fixture
def towers(make_run: MakeRun) -> list[Run]:
    """Two embedders of which one request made different inputs, as of a photograph of 427×640 pixels."""
    return [
        saw(make_run("timm/vit", run_id="a"), (336, 336), 576, fit="crop"),
        saw(make_run("patch32", run_id="b"), (224, 320), 70, fit="aspect"),
    ]


def test_pixels_and_tokens_stand_beside_each_case_in_all_formats(towers: list[Run]) -> None:
    for format in ("table", "markdown"):
        text = render(towers, format)
        side_by_side = next(part for part in text.split("Embedder") if "576" in part)
        assert all(said in side_by_side for said in ("336×336", "576", "224×320", "70"))
    for width in (80, 100):
        assert "336×336 pixels, 576 visual tokens" in " ".join(shown(towers, width=width))
    rows = list(csv.DictReader(io.StringIO(render(towers, "csv"))))
    assert {(row["height"], row["width"], row["visual_tokens"], row["fit"]) for row in rows} == {
        ("336", "336", "576", "crop"), ("224", "320", "70", "aspect"),
    }  # fmt: skip
    assert [(each["height"], each["visual_tokens"]) for each in json.loads(render(towers, "json"))] == [
        (336, 576), (224, 70),
    ]  # fmt: skip
    assert "224×320 pixels, 70 visual tokens" in render([towers[1]], "github-action-benchmark")


def test_inputs_that_differ_are_told_with_what_makes_them_equal(towers: list[Run]) -> None:
    for format in ("table", "markdown"):
        text = " ".join(render(towers, format).split())
        assert (
            "Not one input: 336×336 pixels by --fit crop (timm/vit), 224×320 pixels by --fit aspect (patch32)." in text
        )
        assert "--fit exact" in text
        assert "gets 70 to 576 visual tokens" in text
    remarks = json.loads(render(towers, "json"))[0]["comparison_remarks"]
    assert any(remark.startswith("Not one input") for remark in remarks)
    same = [towers[0], saw(towers[1], (336, 336), 576, fit="crop")]
    assert "Not one input" not in render(same, "table")
    assert "visual tokens: its" not in render(same, "table")
    other_fit = [towers[0], saw(towers[1], (336, 336), 576, fit="exact")]
    assert "fitted differently" in render(other_fit, "table")


def test_cases_that_differ_in_any_field_bear_different_names_side_by_side(make_run: MakeRun) -> None:
    vilt = ViltConfig(layers=3)
    clips = {"images": ("a.mp4",), "frames": 8, "interaction": "none"}
    cases = [
        Case("patch32"),
        *(Case("patch32", **field) for field in (
            {"resolution": (384, 384)}, {"fit": "exact"}, {"reduce": "avg-pool:2"}, {"images": ("a.jpg",)},
            {"preprocessing": True}, {"text_length": 20}, {"batch_size": 8}, {"device": "cuda"}, {"dtype": "bfloat16"},
            {"threads": 1}, {"backend": "onednn"}, {"quantize": "int8"},
            {"checkpoint": "a"}, {"interaction": "bert"}, {"vilt": vilt}, {"images_per_text": 2}, clips,
            {"tiles": "internvl:4", "interaction": "none"}, {"preprocessing_workers": 2},
            {"preprocessing_workers": 2, "pin_memory": True},
            {**clips, "frame_rate": 2.0}, {**clips, "frames": 4},
            {"preprocessing": True, "preprocessor": "torchvision"}, {"preprocessing": True, "decoder": "torchvision"},
            {"seed": 1}, {"options": {"a": 1}}, {"options": {"a": "1"}}, {"options": {"a": "1,b=2"}},
            {"options": {"a": 1, "b": 2}},
        )),
    ]  # fmt: skip
    assert {field for case in cases for field in unusual(case)} | {
        "embedder",
        "options",
        "tiles",
        "reduce",
        "vilt",
    } >= {each.name for each in dataclasses.fields(Case) if each.init}
    assert len({case_name(case) for case in cases}) == len(cases)
    runs = [make_run(case=case, run_id=str(index)) for index, case in enumerate(cases)]
    assert len(set(names(runs))) == len(cases)
    assert len({row["case"] for row in csv.DictReader(io.StringIO(render(runs, "csv")))}) == len(cases)
    # On a file system, 1 and '1' are spelt alike.
    files = {
        store.file_name(dataclasses.replace(run, run_id="same"))
        for run in runs
        if type(run.case.options.get("a")) is not str
    }
    assert len(files) == len(cases) - 2


def test_histories_of_cases_that_differ_in_any_field_bear_different_names(make_run: MakeRun, tmp_path: Path) -> None:
    for index, fields in enumerate(
        (
            {}, {"resolution": (384, 384)}, {"fit": "exact"}, {"reduce": "avg-pool:2"}, {"images": ("a.jpg",)},
            {"preprocessing": True}, {"text_length": 20}, {"batch_size": 8}, {"dtype": "bfloat16"},
            {"backend": "onednn"}, {"interaction": "bert"}, {"vilt": ViltConfig(layers=3)}, {"seed": 1},
            {"options": {"a": 1}},
        )
    ):  # fmt: skip
        store.save(make_run(case=Case("patch32", **fields), run_id=str(index)), tmp_path)
    found = history(tmp_path).cases
    assert len(found) == 14
    assert len({case.name for case in found}) == 14


def test_what_all_cases_have_alike_is_told_once(make_run: MakeRun) -> None:
    cases = [Case("patch32", batch_size=8, resolution=size) for size in ((224, 224), (384, 384))]
    runs = [make_run(case=case, run_id=str(index)) for index, case in enumerate(cases)]
    assert names(runs) == ["patch32 (224×224)", "patch32 (384×384)"]
    assert "All: batch_size 8" in render(runs, "table")
    assert "All: batch_size 8" in render(runs, "markdown")


def with_whole(run: Run, seconds: float) -> Run:
    def changed(trial: Trial) -> Trial:
        times = Times(wall_time_s=(seconds,) * len(trial.samples.whole.latency_s))
        return dataclasses.replace(trial, samples=dataclasses.replace(trial.samples, whole=times))

    return dataclasses.replace(run, trials=tuple(map(changed, run.trials)))


def test_wholes_that_rank_otherwise_than_the_bars_are_told(make_run: MakeRun) -> None:
    runs = [with_whole(make_run("a", noise=0), 0.2), with_whole(make_run("b", noise=0), 0.15)]
    slower = dataclasses.replace(make_run("b", noise=0, latencies_s={"modality_interaction": 0.12}))
    runs[1] = with_whole(slower, 0.15)
    assert "the wholes, timed apart, rank otherwise: b 150.0 ms, a 200.0 ms" in " ".join(render(runs, "table").split())
    assert "rank otherwise" not in render([make_run("a"), slower], "table")


@pytest.mark.parametrize("format", [*FORMATS, *PICTURES])
def test_a_report_makes_every_estimate_of_a_run_once(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    seen: list[tuple[tuple[float, ...], ...]] = []

    def counted(trials: Sequence[Samples]) -> Estimate | None:
        seen.append(tuple(tuple(trial.ordered) for trial in trials))
        return estimate_of(trials)

    for module in ("estimate", "latency"):
        monkeypatch.setattr(f"vilt_bench.judge.{module}.estimate_of", counted)
    runs = [make_run("region", latencies_s=REGION, run_id="a"), make_run("grid", latencies_s=REGION, run_id="b")]
    if format in PICTURES:
        render_picture(runs, format)
    else:
        render(runs, format)
    # The whole, the sum of stages, five stages and the component of three; the passes' two ratios to the whole.
    assert len(seen) == len(set(seen)) == 2 * (1 + 1 + len(REGION) + 1 + 2)
