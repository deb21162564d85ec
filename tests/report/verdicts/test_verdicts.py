import csv
import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import junitparser
import msgspec
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from vilt_bench.ask.case import Case
from vilt_bench.cli import main
from vilt_bench.errors import ConfigError
from vilt_bench.judge.compare import compare
from vilt_bench.judge.comparison import Comparison, CountChange, Ratio, Side, SideName, StageVerdict
from vilt_bench.record import store
from vilt_bench.record.run import Run
from vilt_bench.report import render as render_runs
from vilt_bench.report.verdicts import FORMATS, exit_code, overall, render, show

MakeComparison = Callable[..., Comparison]
MakeRun = Callable[..., Run]

CHARTS = ("github-action-benchmark", "bencher")


def missing(name: str, *, baseline_s: float | None = None, candidate_s: float | None = None) -> StageVerdict:
    lacking: SideName = "candidate" if candidate_s is None else "baseline"
    return StageVerdict(name, "missing", baseline_s, candidate_s, None, "wall_time", "one side lacks it", lacking)


def shown(comparisons: list[Comparison], *, width: int = 100) -> list[str]:
    file = io.StringIO()
    show(comparisons, Console(file=file, width=width))
    return file.getvalue().splitlines()


def cells(markdown: str) -> list[list[list[str]]]:
    """Returns the tables' cells as another program reads them."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown):
        match token.type:
            case "table_open":
                tables.append([])
            case "tr_open":
                tables[-1].append([])
            case "inline" if tables and token.level >= 4:
                tables[-1][-1].append(unescape(token.content))
    return tables


# The exit code


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        (["unchanged"], 0),
        (["improved"], 0),
        (["unchanged", "improved"], 0),
        (["regressed"], 1),
        (["inconclusive"], 3),
        (["without_baseline"], 4),
        (["unchanged", "inconclusive"], 3),
        (["inconclusive", "without_baseline"], 3),
        (["inconclusive", "without_baseline", "regressed", "unchanged"], 1),
        ([], 4),
    ],
)
def test_exit_code_is_that_of_the_worst(kinds: list[str], code: int, request: pytest.FixtureRequest) -> None:
    assert exit_code([request.getfixturevalue(kind) for kind in kinds]) == code


def test_inconclusive_passes_where_it_is_asked_to(inconclusive: Comparison, without_baseline: Comparison) -> None:
    assert exit_code([inconclusive], "pass") == 0
    assert exit_code([inconclusive, without_baseline], "pass") == 4


def test_a_stage_that_regressed_fails_only_where_stages_are_gated(make_comparison: MakeComparison) -> None:
    slower = {"visual_embedder.projection": 1.2}
    assert exit_code([make_comparison(ratios=slower)]) == 0
    assert exit_code([make_comparison(ratios=slower, gate="stages")]) == 1


def test_what_the_candidate_lacks_fails_and_what_the_baseline_lacks_has_no_baseline(
    make_comparison: MakeComparison,
) -> None:
    assert exit_code([make_comparison(total=missing("whole", baseline_s=0.1))]) == 1
    assert exit_code([make_comparison(total=missing("whole"))]) == 1
    assert exit_code([make_comparison(total=missing("whole", candidate_s=0.1))]) == 4
    lost = make_comparison(stages=[missing("visual_embedder.projection", baseline_s=0.1)], gate="stages")
    assert exit_code([lost]) == 1


@pytest.mark.parametrize(
    ("kind", "otherwise", "code"),
    [("unchanged", 2, 2), ("regressed", 2, 1), ("inconclusive", 2, 2), ("regressed", 130, 130), ("unchanged", 0, 0)],
)
def test_what_could_not_be_measured_fails_though_all_else_passes(
    kind: str, otherwise: int, code: int, request: pytest.FixtureRequest
) -> None:
    comparisons = [request.getfixturevalue(kind)]
    assert exit_code(comparisons, "pass", otherwise) == code
    assert json.loads(render(comparisons, "json", inconclusive="pass", otherwise=otherwise))["exit_code"] == code


def test_overall_verdict_is_the_worst(all_kinds: list[Comparison], improved: Comparison, unchanged: Comparison) -> None:
    assert overall(all_kinds) == "regressed"
    assert overall([unchanged, improved]) == "improved"
    assert overall([]) == "missing"


# All formats


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_bears_what_is_not_known(make_comparison: MakeComparison, format: str) -> None:
    unbounded = StageVerdict("whole", "inconclusive", 0.1, 0.1, Ratio(1.0, 0.2, math.inf, 1), "wall_time", "one pair")
    bare = make_comparison(total=missing("whole"), stages=(), environment=None, detectable=None, spent_s=None)
    zero = make_comparison("zero", latencies_s={"textual_embedder": 0.0, "visual_embedder.backbone": 0.001})
    wide = make_comparison("wide", total=unbounded, method="stored", different=("torch 2.9.0 / 2.10.0",))
    for comparisons in ([], [bare], [bare, zero, wide]):
        text = render(comparisons, format)
        assert text.endswith("\n") or text == ""
        # A page's script has names of its own.
        assert "nan" not in re.sub(r"(?s)<script>.*?</script>", "", text).lower()


def test_embedders_in_a_line_each_are_named_by_what_tells_them_apart(make_comparison: MakeComparison) -> None:
    cases = [Case("patch32", resolution=(side, side), threads=1) for side in (64, 96)]
    lines = render([make_comparison(case=case) for case in cases], "table").splitlines()
    assert any(line.startswith("patch32 (64×64, threads 1) – ") for line in lines)
    assert any(line.startswith("patch32 (64×64)  ") for line in lines)
    assert any(line.startswith("patch32 (96×96)  ") for line in lines)


def test_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="table, markdown, json, junit"):
        render([], "toml")


def test_reading_verdicts_imports_neither_torch_nor_pandas() -> None:
    code = (
        "import sys; from vilt_bench.report.verdicts import FORMATS, render; [render([], f) for f in FORMATS];"
        "sys.exit(bool({'torch', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The terminal


def test_terminal_has_both_latencies_ratio_interval_and_verdict_of_each_stage(regressed: Comparison) -> None:
    lines = shown([regressed])
    row = next(line for line in lines if line.startswith("  transformer"))
    assert row.split() == ["transformer", "348.1", "370.4", "1.064", "[1.055,", "1.073]", "regressed"]
    assert lines[0] == "patch32 – regressed: 6.2% slower, ratio 1.062 [1.053, 1.071]"
    text = " ".join(lines)
    assert "tolerance of 2.5%" in text
    assert "false alarms: at most 1%" in text
    assert "A slowdown of 3.8% would be found in 95 of 100" in text
    assert "AMD EPYC 7B13 · cpu · 2 threads" in text
    assert "in 12 pairs of processes, 4 min 14 s" in text


def test_counts_that_changed_are_told_with_their_unit_and_change(make_comparison: MakeComparison) -> None:
    counts = (
        CountChange("modality_interaction.transformer", "parameters", 85_054_464, 85_645_056),
        CountChange("modality_interaction.pooler", "parameters", 85_054_464, 85_054_465),
        CountChange("visual_embedder.projection", "flops", None, 1_020_000_000),
        CountChange("visual_embedder.projection", "peak_bytes", 2**30, 2**29),
    )
    text = render([make_comparison(counts=counts)], "table")
    assert "transformer: parameters 85.05 → 85.65 M (+0.7%)" in text
    assert "pooler: parameters 85,054,464 → 85,054,465 (+1.2e-06%)" in text
    assert "projection: FLOPs – → 1.02 G\n" in text
    assert "projection: peak memory 1,024.0 → 512.0 MiB (-50.0%)" in text


def test_terminal_says_in_which_stage_the_change_lies(regressed: Comparison, improved: Comparison) -> None:
    assert any("Most of the change is in transformer: +22.28 of +22.26 ms" in line for line in shown([regressed]))
    assert any("Most of the change is in backbone: -155.6 of -156.2 ms" in line for line in shown([improved]))


def test_the_clock_of_the_ratios_is_told(regressed: Comparison) -> None:
    assert "ratios are of wall time." in render([regressed], "table")
    total = dataclasses.replace(regressed.total, channel="cpu_time")
    mixed = dataclasses.replace(regressed, total=total, stages=regressed.stages[:2])
    for format in ("table", "markdown"):
        text = " ".join(render([mixed], format).split())
        assert "ratios are of CPU time (whole) and wall time (textual embedder, projection)." in text


def test_times_and_ratio_of_a_row_are_of_one_clock_and_the_row_names_it(make_comparison: MakeComparison) -> None:
    ratio = Ratio(0.401, 0.39, 0.41, 12, baseline_s=0.4, candidate_s=0.1604)
    total = StageVerdict("whole", "improved", 0.235, 0.274, ratio, "cpu_time", "faster by 59.9% by CPU time")
    found = make_comparison(total=total, stages=())
    row = next(line for line in shown([found]) if line.startswith("whole"))
    assert row.split() == ["whole", "(CPU", "time)", "400.0", "160.4", "0.401", "[0.390,", "0.410]", "improved"]
    for format in ("table", "markdown", "junit"):
        text = " ".join(render([found], format).split())
        assert "59.9% faster by CPU time, ratio 0.401 [0.390, 0.410]" in text
        assert "235" not in text
    assert "Most of the change" not in render([found], "table")


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (Ratio(0.936, 0.347, 2.523, 6), "6.4% faster, ratio 0.936 [0.347, 2.523]"),
        (Ratio(1.06, None, None, 6), "6.0% slower, ratio 1.060 [–, –]"),
        (Ratio(12.5, 12.1, 12.9, 6), "12 times as slow, ratio 12.500 [12.100, 12.900]"),
    ],
)
def test_a_change_is_told_with_the_interval_of_the_ratio(
    make_comparison: MakeComparison, ratio: Ratio, expected: str
) -> None:
    total = StageVerdict("whole", "inconclusive", 0.1, 0.1, ratio, "wall_time", "noise")
    assert shown([make_comparison(total=total, stages=())])[0].endswith(f"inconclusive: {expected}")


def test_the_stage_of_the_change_is_told_only_where_latencies_went_that_way(regressed: Comparison) -> None:
    total = dataclasses.replace(regressed.total, baseline_s=0.36, candidate_s=0.35)
    assert "of the change" not in render([dataclasses.replace(regressed, total=total)], "table")


def test_what_was_allowed_to_differ_is_told(make_comparison: MakeComparison) -> None:
    text = render([make_comparison(method="stored", spent_s=None, different=("torch 2.9.0 / 2.10.0",))], "table")
    assert "The sides differ in more than the code: torch 2.9.0 / 2.10.0." in text
    assert "stored records of 12 and 12 processes" in text


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_the_terminal(all_kinds: list[Comparison], width: int) -> None:
    lines = shown(all_kinds, width=width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert lines[-1] == "1 of 5 regressed, 1 missing, 1 inconclusive, 1 improved, 1 unchanged"


def test_names_with_brackets_are_shown_as_they_are(make_comparison: MakeComparison) -> None:
    assert shown([make_comparison("my.module:[bold]x[/bold]")])[0].startswith("my.module:[bold]x[/bold] – ")


def test_cases_of_one_embedder_are_told_apart(make_comparison: MakeComparison) -> None:
    case = Case("patch32", options={"stride": 16}, resolution=(384, 640), device="cuda:0", batch_size=8)
    assert shown([make_comparison(case=case)])[0].startswith("patch32,stride=16 (384×640, batch_size 8, cuda:0) – ")


def test_an_embedder_alone_is_said_to_have_no_text(make_comparison: MakeComparison) -> None:
    assert "text tokens" in "\n".join(shown([make_comparison(case=Case("patch32"))]))
    assert "text tokens" not in "\n".join(shown([make_comparison(case=Case("patch32", interaction="none"))]))


# Markdown


def test_markdown_begins_with_its_marker_and_unfolds_only_the_short_table(all_kinds: list[Comparison]) -> None:
    text = render(all_kinds, "markdown")
    assert text.startswith("<!-- vilt-bench gate -->\n\n### 🔴 Latency: 1 of 5 regressed")
    assert text.count("<details>") == text.count("</details>") == 5
    unfolded = text[: text.index("<details>")]
    (table,) = cells(unfolded)
    names = ["`patch32`", "↳\xa0transformer", "`patch64`", "`region-r101-c4`", "↳\xa0class_nms", "`grid-r50`"]
    assert [row[0].partition("<br>")[0] for row in table[1:]] == [*names, "`patch32 (384×640, batch_size 8)`"]
    assert table[1][1:4] == ["358.7", "380.9", "1.062\xa0[1.053,\xa01.071]"]
    assert "🔴 regressed" in table[1][4]
    assert unfolded.count("AMD EPYC 7B13") == 1


def test_markdown_of_one_comparison_says_the_outcome_in_its_heading(regressed: Comparison) -> None:
    assert "### 🔴 `patch32` regressed: 6.2% slower, ratio 1.062 [1.053, 1.071]\n" in render([regressed], "markdown")


def test_markdown_tables_have_as_many_cells_in_each_row(all_kinds: list[Comparison]) -> None:
    tables = cells(render(all_kinds, "markdown"))
    assert len(tables) == 6
    assert {len(row) for table in tables for row in table} == {5}


def test_text_of_others_can_not_break_markdown(make_comparison: MakeComparison) -> None:
    evil = "m:f`|</details><script>@everyone"
    lacking = dataclasses.replace(missing("whole", candidate_s=1.0), reason="no | such\n<b>thing</b>")
    text = render([make_comparison(evil, total=lacking, notes=("a | b <img>",))], "markdown")
    assert {len(row) for table in cells(text) for row in table} == {5}
    assert "<script>" not in re.sub(r"`[^`\n]*`", "", text)
    assert not {"<b>", "<img>"} & set(re.findall(r"<\w+>", text))
    assert text.count("</details>") - len(re.findall(r"`[^`\n]*</details>[^`\n]*`", text)) == 1


def test_a_note_of_all_is_said_once_and_another_with_its_embedder(regressed: Comparison, improved: Comparison) -> None:
    improved = dataclasses.replace(improved, notes=(*improved.notes, "Clocks jumped."))
    text = render([regressed, improved], "markdown")
    assert text.count("\n- Random weights: visual embedder, shared model.\n") == 1
    assert "\n- `grid-r50`: Clocks jumped.\n" in text


# JSON


def test_json_holds_the_comparisons_whole(all_kinds: list[Comparison]) -> None:
    found = json.loads(render(all_kinds, "json"))
    assert (found["schema_version"], found["verdict"], found["exit_code"]) == (1, "regressed", 1)
    assert msgspec.convert(found["comparisons"], list[Comparison]) == all_kinds
    assert found["comparisons"][1]["outcome"] == "regressed: 6.2% slower, ratio 1.062 [1.053, 1.071]"


def test_json_writes_null_for_what_is_not_finite(make_comparison: MakeComparison) -> None:
    whole = StageVerdict("whole", "inconclusive", 0.1, 0.1, Ratio(1.0, 0.2, math.inf, 1), "wall_time", "one pair")
    found = json.loads(render([make_comparison(total=whole)], "json"), parse_constant=pytest.fail)
    assert found["comparisons"][0]["total"]["ratio"]["high"] is None


# JUnit XML


def junit(comparisons: list[Comparison], **options: str) -> junitparser.JUnitXml:
    return junitparser.JUnitXml.fromstring(render(comparisons, "junit", **options).encode())  # type: ignore[arg-type]


def test_junit_has_a_suite_a_comparison_and_a_test_case_the_whole_and_each_stage(all_kinds: list[Comparison]) -> None:
    suites = list(junit(all_kinds))
    assert [suite.name for suite in suites][1:3] == ["patch32", "grid-r50"]
    assert [case.name for case in suites[2]] == [
        "whole",
        "textual_embedder",
        "visual_embedder.backbone",
        "modality_interaction",
    ]
    assert next(iter(suites[2])).time == pytest.approx(1.9055, abs=1e-4)
    identities = [(case.classname, case.name) for suite in suites for case in suite]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize(("option", "failures", "kind"), [("fail", 1, "failure"), ("pass", 0, "skipped")])
def test_junit_fails_or_skips_what_could_not_be_decided(
    inconclusive: Comparison, option: str, failures: int, kind: str
) -> None:
    report = junit([inconclusive], inconclusive=option)
    (suite,) = report
    assert (report.failures, suite.failures) == (failures, failures)
    (result,) = next(iter(suite)).result
    assert result._tag == kind
    assert result.message == "the interval holds the tolerance of 2.5% when the time was over"


def test_junit_fails_a_stage_only_where_stages_are_gated(regressed: Comparison) -> None:
    assert junit([regressed]).failures == 1
    assert junit([dataclasses.replace(regressed, gate="stages")]).failures == 2


def test_junit_fails_exactly_where_the_exit_code_does(all_kinds: list[Comparison]) -> None:
    for comparison in all_kinds:
        assert (junit([comparison]).failures > 0) == (exit_code([comparison]) != 0)


def test_junit_replaces_characters_that_xml_does_not_have(make_comparison: MakeComparison) -> None:
    report = junit([make_comparison("m:f<&>\"'\x1b[31m", notes=("bell \x07 & \ufffe",))])
    assert next(iter(report)).name == "m:f<&>\"'�[31m"


# GitHub's annotations


def unescape_annotation(line: str) -> tuple[str, str, str]:
    """Returns level, title and message as GitHub's runner reads them: properties end at `::`, %XX is undone last."""
    match = re.fullmatch(r"::(\w+) title=([^:,]*)::(.*)", line)
    assert match is not None
    texts = []
    for text in match.groups()[1:]:
        for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            text = text.replace(code, character)
        texts.append(text)
    return match[1], texts[0], texts[1]


def test_annotations_tell_failures_as_errors_and_say_nothing_of_what_is_unchanged(all_kinds: list[Comparison]) -> None:
    found = [unescape_annotation(line) for line in render(all_kinds, "github").splitlines()]
    assert [(level, title) for level, title, _ in found] == [
        ("error", "vilt-bench: patch32 regressed"),
        ("notice", "vilt-bench: grid-r50 improved"),
        ("error", "vilt-bench: region-r101-c4 inconclusive"),
        ("error", "vilt-bench: patch64 missing"),
    ]
    assert found[0][2].splitlines()[0] == "regressed: 6.2% slower, ratio 1.062 [1.053, 1.071]"


def test_annotations_warn_of_what_passes_but_is_not_well(inconclusive: Comparison) -> None:
    assert render([inconclusive], "github", inconclusive="pass").startswith("::warning ")


def test_annotations_bear_any_character_in_a_name(make_comparison: MakeComparison) -> None:
    name = "module:factory,share=50%,text=a::b%0A"
    (line,) = render([make_comparison(name, ratios={"modality_interaction.transformer": 2})], "github").splitlines()
    assert unescape_annotation(line)[1] == f"vilt-bench: {name} regressed"


# Dashboards


def test_github_action_benchmark_gets_latencies_in_ms_and_ratios(regressed: Comparison) -> None:
    found = json.loads(render([regressed], "github-action-benchmark"))
    assert {key for entry in found for key in entry} == {"name", "unit", "value", "range", "extra"}
    latency, ratio = found[:2]
    assert (latency["name"], latency["unit"]) == ("patch32 / whole", "ms")
    assert latency["value"] == pytest.approx(380.94, abs=0.01)
    assert "range" not in latency  # the interval is of the ratio
    assert (ratio["name"], ratio["unit"], ratio["range"]) == (
        "patch32 / whole (candidate / baseline)",
        "ratio",
        "± 0.009",
    )
    assert "measured together" in latency["extra"]


def test_bencher_gets_latency_in_ns_and_the_ratio_with_its_interval(regressed: Comparison) -> None:
    found = json.loads(render([regressed], "bencher"))
    whole = found["patch32 / whole"]
    assert whole["latency"] == {"value": pytest.approx(380_940_234, rel=1e-6)}
    assert whole["latency-ratio"] == {
        "value": pytest.approx(1.062, abs=1e-3),
        "lower_value": pytest.approx(1.053, abs=1e-3),
        "upper_value": pytest.approx(1.071, abs=1e-3),
    }
    assert "patch32 / visual_embedder.projection" in found


def test_dashboards_leave_out_what_the_candidate_lacks(make_comparison: MakeComparison) -> None:
    lost = make_comparison(total=missing("whole", baseline_s=0.1), stages=())
    assert json.loads(render([lost], "bencher")) == {}
    assert json.loads(render([lost], "github-action-benchmark")) == []


def test_dashboards_get_the_latencies_of_records(make_run: MakeRun) -> None:
    run = make_run(noise=0.001)
    summary = csv.DictReader(io.StringIO(render_runs([run], "csv")))
    whole = next(row for row in summary if row["stage"] == "whole")
    metric = json.loads(render_runs([run], "bencher"))["patch32 / whole"]["latency"]
    assert metric["value"] == pytest.approx(1e9 * float(whole["latency_median_s"]))
    assert metric["lower_value"] == pytest.approx(1e9 * float(whole["latency_low_s"]))
    first, *others = json.loads(render_runs([run], "github-action-benchmark"))
    assert (first["name"], first["unit"]) == ("patch32 / whole", "ms")
    assert first["value"] == pytest.approx(100.0, rel=0.01)
    assert re.fullmatch(r"± 0\.\d+", first["range"])
    assert [entry["name"] for entry in others] == [
        "patch32 / textual_embedder",
        "patch32 / visual_embedder",
        "patch32 / visual_embedder.projection",
        "patch32 / modality_interaction",
    ]


@pytest.mark.parametrize("format", CHARTS)
def test_two_results_of_one_name_are_refused_rather_than_one_lost(make_run: MakeRun, format: str) -> None:
    with pytest.raises(ConfigError, match="2 results are named 'patch32 / whole'"):
        render_runs([make_run(), make_run()], format)
    assert render_runs([make_run(), make_run(case=Case("patch32", batch_size=8))], format)


@pytest.mark.parametrize("format", CHARTS)
def test_report_writes_records_for_dashboards(make_run: MakeRun, format: str, tmp_path: Path) -> None:
    store.save(make_run(), tmp_path)
    target = tmp_path / "benchmark.json"
    assert main(["report", str(tmp_path), "--format", format, "--output", str(target)]) == 0
    assert len(json.loads(target.read_text())) == 5


def test_pixels_and_tokens_stand_beside_each_comparison_and_sides_that_differ_are_told(
    make_comparison: MakeComparison,
) -> None:
    before = Side("main", pixels=(384, 640), visual_tokens=240)
    after = Side("this branch", pixels=(224, 320), visual_tokens=70)
    same, other = (
        make_comparison(baseline=before, candidate=before),
        make_comparison("patch16", baseline=before, candidate=after),
    )
    for format in ("table", "markdown"):
        text = " ".join(render([same, other], format).split())
        assert "384×640 pixels, 240 visual tokens" in text
        assert "The sides did not see the same: 384×640 pixels, 240 visual tokens / 224×320 pixels, 70" in text
        assert text.count("did not see") == 1
    found = json.loads(render([other], "json"))["comparisons"][0]
    assert found["candidate"]["pixels"] == [224, 320]
    assert found["candidate"]["visual_tokens"] == 70


# Throughput


def test_throughput_is_told_beside_latency_and_the_verdict_stays_that_of_the_latency(
    make_comparison: MakeComparison,
) -> None:
    total = StageVerdict("whole", "regressed", 0.080, 0.160, Ratio(2.0, 1.9, 2.1, 12), "wall_time", "slower by 100%")
    found = make_comparison(total=total)
    found = dataclasses.replace(found, case=dataclasses.replace(found.case, batch_size=8))

    # 8 images in 80 and in 160 ms
    sentence = "Throughput 100.0 → 50.00 images/s: the images of a pass over its latency; the verdict is the whole's."
    assert any(sentence in line for line in shown([found], width=140))
    assert sentence in render([found], "markdown")
    assert "100.0 → 50.00 images/s" in cells(render([found], "markdown"))[0][1][0]
    assert any("100.0 → 50.00" in line for line in shown([found, found], width=140)[-8:])
    (told,) = json.loads(render([found], "json"))["comparisons"]
    assert told["images_per_second"] == pytest.approx({"baseline": 100, "candidate": 50})
    assert told["verdict"] == "regressed"


def test_throughput_is_of_each_sides_own_images_where_these_may_differ(make_run: Callable[..., Run]) -> None:
    several = Case("patch32", batch_size=2, images_per_text=2)
    runs = [[make_run(case=case, noise=0, run_id=str(case.images_per_text))] for case in (Case("patch32"), several)]
    found = compare(*runs, allow_different=["batch-size", "images-per-text"])
    (told,) = json.loads(render([found], "json"))["comparisons"]
    rates = told["images_per_second"]
    assert rates["candidate"] == pytest.approx(4 * rates["baseline"])  # four images in the time of one


def test_throughput_of_a_side_that_was_not_measured_is_unknown(make_comparison: MakeComparison) -> None:
    found = make_comparison(total=missing("whole", candidate_s=0.1))

    (told,) = json.loads(render([found], "json"))["comparisons"]
    assert told["images_per_second"] == {"baseline": None, "candidate": pytest.approx(10)}
    assert "Throughput" not in render([found], "markdown")


def test_comparisons_are_written_as_data_a_row_a_stage(regressed: Comparison, without_baseline: Comparison) -> None:
    import openpyxl
    import pyarrow.parquet

    from vilt_bench.report import data_files

    table = pyarrow.parquet.read_table(io.BytesIO(data_files.of_comparisons([regressed, without_baseline], "parquet")))
    found = table.to_pylist()
    assert len(found) == 2 + len(regressed.stages) + len(without_baseline.stages)
    assert (found[0]["stage"], found[0]["verdict"], found[0]["ratio"]) == (
        regressed.total.name, "regressed", regressed.total.ratio.value,  # type: ignore[union-attr]
    )  # fmt: skip
    assert table.schema.field("ratio").type == "double"
    book = openpyxl.load_workbook(io.BytesIO(data_files.of_comparisons([regressed], "xlsx")))
    head, first, *_ = book["stages"].values
    assert dict(zip(head, first, strict=True)) == pytest.approx(found[0])


def test_comparisons_are_written_beside_what_is_printed(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = (str(store.save(make_run(run_id=name), str(tmp_path))) for name in ("before", "after"))
    file = tmp_path / "verdicts.xlsx"
    assert main(["compare", before, after, "--xlsx", str(file)]) in (0, 3)
    assert file.read_bytes().startswith(b"PK")
    capsys.readouterr()
    assert main(["compare", before, after, "--parquet", str(tmp_path / "x.xlsx")]) == 2
    assert "the name says xlsx, and it would get parquet" in capsys.readouterr().err
