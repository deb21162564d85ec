import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vilt_bench import render, save
from vilt_bench.ask.case import Case
from vilt_bench.cli import main
from vilt_bench.judge.estimate import Estimate
from vilt_bench.judge.ranking import rank
from vilt_bench.judge.summary import summaries
from vilt_bench.record.run import Run
from vilt_bench.report.numbers import ratio_interval
from vilt_bench.report.rankings import ranking_remarks

MakeRun = Callable[..., Run]
FAST = {"visual_embedder": 0.001, "modality_interaction": 0.002}
SLOW = {"visual_embedder": 0.002, "modality_interaction": 0.004}


def named(run: Run, position: int) -> Run:
    return dataclasses.replace(run, run_id=f"{run.case.embedder}{position}", position=position)


@pytest.fixture
def runs(make_run: MakeRun) -> list[Run]:
    return [named(make_run("slow", latencies_s=SLOW), 0), named(make_run("fast", latencies_s=FAST), 1)]


def told(runs: list[Run]) -> str:
    return " ".join(ranking_remarks(summaries(runs)))


def test_a_sentence_says_how_many_times_as_long_and_that_it_is_sure(runs: list[Run]) -> None:
    assert re.fullmatch(
        r"Compared turn by turn in 3 trials: slow takes 2\.0\d* \[[12]\.\d+, 2\.\d+\] times fast's time\. "
        r"The order is sure\.",
        told(runs),
    )


def test_a_sentence_says_what_can_not_be_told_apart(make_run: MakeRun, runs: list[Run]) -> None:
    equal = [named(make_run("fast", latencies_s=FAST), 1), named(make_run("as fast", latencies_s=FAST, noise=0.05), 2)]

    pair = told(equal)
    assert re.search(r"(fast and as fast|as fast and fast) can't be told apart here; more --trials tell more\.", pair)
    three = told([*equal, runs[0]])
    assert "can't be told apart here; all other orders are sure (95% for all 3 pairs together)." in three


def test_many_runs_are_not_all_in_the_sentence(make_run: MakeRun) -> None:
    many = [
        named(make_run(f"e{index}", latencies_s={"visual_embedder": 0.001 * 2**index}), index) for index in range(20)
    ]

    (sentence,) = ranking_remarks(summaries(many))

    assert ", and 7 more." in sentence
    assert "e12 " in sentence
    assert "e13 " not in sentence


def test_the_side_by_side_table_has_rank_and_ratio_in_every_language(runs: list[Run]) -> None:
    (ranking,) = rank(runs)
    ratio = f"{ranking.places[1].ratio.value:.2f}"[:3]

    for format, head in (("markdown", "Relative time [95% interval]"), ("latex", "Relative"), ("table", "Relative")):
        text = render(runs, format)
        assert head in text
        assert "Rank" in text
        assert ratio in text


def test_without_turns_there_is_neither_column_nor_sentence(runs: list[Run]) -> None:
    apart = [dataclasses.replace(run, group=run.run_id) for run in runs]

    for format in ("markdown", "latex", "table"):
        text = render(apart, format)
        assert "Rank" not in text
        assert "turn by turn" not in text


def test_data_has_rank_and_ratio_of_the_whole_in_the_order_given(runs: list[Run]) -> None:
    rows = [row for row in csv.DictReader(io.StringIO(render(runs, "csv"))) if row["level"] == "whole"]
    found = json.loads(render(runs, "json"))

    assert [row["run_id"] for row in rows] == [run["run_id"] for run in found] == ["slow0", "fast1"]
    assert [(row["rank"], row["rank_best"], row["rank_worst"], row["ranked_runs"]) for row in rows] == [
        ("2", "2", "2", "2"),
        ("1", "1", "1", "2"),
    ]
    assert [row["relative_to"] for row in rows] == ["fast1", "fast1"]
    whole = found[0]["stages"][-1]
    assert whole["relative_time"] == float(rows[0]["relative_time"]) == pytest.approx(2, rel=0.01)
    assert whole["relative_time_low"] < whole["relative_time"] < whole["relative_time_high"]
    assert (rows[1]["relative_time"], rows[1]["relative_time_low"]) == ("1.0", "")
    assert found[0]["stages"][0]["rank"] is None
    assert found[0]["comparison_remarks"][0].startswith("Compared turn by turn")


def test_rank_and_relative_time_are_chosen_as_columns(runs: list[Run]) -> None:
    text = render(runs, "markdown", quantities=["relative-time", "rank"])

    assert "| Embedder | Pixels | Visual tokens | Relative time [95% interval] | Rank |" in text


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ("FOLDER", ["fast", "slow"]),
        ("FOLDER --sort asked", ["slow", "fast"]),
        ("FILES", ["slow", "fast"]),
        ("FILES --sort rank", ["fast", "slow"]),
        ("FOLDER --format markdown", ["fast", "slow"]),
        ("FOLDER --format csv", ["slow", "fast"]),
        ("FOLDER --format csv --sort rank", ["fast", "slow"]),
    ],
)
def test_tables_of_a_folder_are_ranked_unless_another_order_is_asked_for(
    options: str, order: list[str], runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(save(run, tmp_path / "records")) for run in runs]
    asked = [
        part
        for word in options.split()
        for part in ([str(tmp_path / "records")] if word == "FOLDER" else files if word == "FILES" else [word])
    ]

    assert main(["report", *asked]) == 0

    lines = capsys.readouterr().out.splitlines()
    shown = [line.strip("| `").split()[0] for line in lines if re.match(r"(\| `?|.*,)?(slow|fast)\b", line)]
    if "csv" in options:
        shown = [row["embedder"] for row in csv.DictReader(lines) if row["level"] == "whole"]
    assert [name.strip("`,") for name in shown][:2] == order


def test_ranked_cases_of_a_sweep_have_a_sentence_each(make_run: MakeRun) -> None:
    swept = [
        named(make_run(name, latencies_s=latencies, case=Case(name, batch_size=size)), index)
        for index, (name, latencies, size) in enumerate(
            [("slow", SLOW, 1), ("slow", SLOW, 4), ("fast", FAST, 1), ("fast", FAST, 4)]
        )
    ]

    first, second = ranking_remarks(summaries(swept))

    assert "slow takes" in first
    assert "times fast's time" in first
    assert "slow (batch_size 4) takes" in second
    assert "times the time of fast (batch_size 4)" in second


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (1.3124, 1.2731, 1.3529, "1.31 [1.27, 1.35]"),
        (11.02, 3.06, 39.7, "11.0 [3.1, 39.7]"),
        (1.31, 1.004, 1.71, "1.310 [1.004, 1.710]"),
        (221.4, 139.8, 350.2, "221 [140, 350]"),
        (2.0, 2.0, 2.0, "2.00 [2.00, 2.00]"),
        (1.05, None, None, "1.05 [–]"),
    ],
)
def test_a_ratio_has_the_digits_of_its_nearer_end_and_those_that_part_it_from_one(
    value: float, low: float | None, high: float | None, text: str
) -> None:
    assert ratio_interval(Estimate(value, low, high, samples=9, units=3, unit="trial")) == text
