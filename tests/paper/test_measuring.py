"""Measuring the paper's rows: rounds, resuming, and times beside the print."""

import csv
import dataclasses
import io
import shutil
import tempfile
import uuid

import pytest
from markdown_it import MarkdownIt

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.judge.summary import summarise
from vilt_bench.paper.counting import paper_table
from vilt_bench.paper.measuring import kept_rows, measure_rows
from vilt_bench.paper.models import ROWS
from vilt_bench.paper.pages import counted as render
from vilt_bench.paper.pages import times
from vilt_bench.paper.tables import table6
from vilt_bench.record import load
from vilt_bench.record.join import join_trials
from vilt_bench.report import tables
from vilt_bench.report.tables import Column, Table, lines, text_column
from vilt_bench.worker.count import inspect

CASES = {"ViLT-B/32": Case("patch32"), "Pixel-BERT-R50": Case("grid-r50")}


class Measurer:
    """Measures nothing: makes a run of one trial, and remembers what it was asked."""

    def __init__(self, make_run, *, interrupt_at=None, take=lambda seconds: None):
        self.make_run = make_run
        self.asked = []
        self.interrupt_at = interrupt_at
        self.take = take

    def __call__(self, case, sampling, count):
        self.asked.append((case.embedder, count))
        self.take({"patch32": 10, "grid-r50": 30}[case.embedder])
        interrupted = len(self.asked) == self.interrupt_at
        run = self.make_run(case.embedder, trials=1)
        return dataclasses.replace(
            run,
            run_id=uuid.uuid4().hex,
            case=case,
            sampling=sampling,
            interrupted=interrupted,
            stages=run.stages if count else (),
        )


def test_rows_alternate_round_by_round_and_count_once(make_run, tmp_path):
    measure = Measurer(make_run)
    runs = measure_rows(CASES, tmp_path, rounds=2, measure_one=measure).runs
    assert measure.asked == [("patch32", True), ("grid-r50", True), ("patch32", False), ("grid-r50", False)]
    assert {name: len(run.trials) for name, run in runs.items()} == {"ViLT-B/32": 2, "Pixel-BERT-R50": 2}
    assert [trial.index for trial in runs["ViLT-B/32"].trials] == [0, 1]
    assert all(run.stages for run in runs.values())
    assert len(list(tmp_path.glob("*.json"))) == 4


def test_an_interrupted_measurement_goes_on_where_it_stopped(make_run, tmp_path):
    first = measure_rows(CASES, tmp_path, rounds=2, measure_one=Measurer(make_run, interrupt_at=3))
    assert first.interrupted
    assert all(run.interrupted for run in first.runs.values())
    again = Measurer(make_run)
    runs = measure_rows(CASES, tmp_path, rounds=2, measure_one=again).runs
    assert again.asked == [("patch32", False), ("grid-r50", False)]
    assert not any(run.interrupted for run in runs.values())
    assert all(len(run.trials) == 2 for run in runs.values())


def test_a_trial_that_can_not_be_saved_is_kept_and_the_others_go_on(make_run, tmp_path, monkeypatch):
    folder, rescue = tmp_path / "records", tmp_path / "rescue"
    rescue.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rescue))

    def fill(_):
        shutil.rmtree(folder) if folder.is_dir() else None
        folder.touch()

    measured = measure_rows(CASES, folder, rounds=1, measure_one=Measurer(make_run, take=fill))
    assert {name: len(run.trials) for name, run in measured.runs.items()} == {"ViLT-B/32": 1, "Pixel-BERT-R50": 1}
    assert len(measured.problems) == len(list(rescue.glob("*.json"))) == 2
    assert not measured.interrupted


def test_trials_of_another_sampling_or_case_are_not_taken_for_ours(make_run, tmp_path):
    measure_rows(CASES, tmp_path, rounds=1, measure_one=Measurer(make_run))
    for other, sampling in (
        ({name: dataclasses.replace(case, dtype="bfloat16") for name, case in CASES.items()}, None),
        (CASES, Sampling(precision=0.5)),
    ):
        again = Measurer(make_run)
        measure_rows(other, tmp_path, rounds=1, measure_one=again, sampling=sampling)
        assert len(again.asked) == 2


def test_trials_of_another_machine_are_measured_again_and_not_joined(make_run, tmp_path):
    measure_rows(CASES, tmp_path, rounds=2, measure_one=Measurer(make_run))
    here = make_run().environment
    again = Measurer(make_run)
    measure_rows(CASES, tmp_path, rounds=2, measure_one=again, here=here)
    assert again.asked == []
    elsewhere = dataclasses.replace(here, fingerprint="beef")
    again = Measurer(lambda *arguments, **fields: make_run(*arguments, **fields, environment=elsewhere))
    runs = measure_rows(CASES, tmp_path, rounds=2, measure_one=again, here=elsewhere).runs
    assert len(again.asked) == 4
    assert all(len(run.trials) == 2 for run in runs.values())
    assert {run.environment.fingerprint for run in runs.values()} == {"beef"}


def test_an_interruption_in_the_first_trial_is_one(make_run, tmp_path):
    measured = measure_rows(CASES, tmp_path, rounds=2, measure_one=Measurer(make_run, interrupt_at=1))
    assert measured.interrupted
    assert measured.runs == {}


def test_no_round_at_all_is_refused(make_run, tmp_path):
    with pytest.raises(ConfigError, match="`rounds` must be at least 1, got 0"):
        measure_rows(CASES, tmp_path, rounds=0, measure_one=Measurer(make_run))


@pytest.mark.parametrize("name", ["ViLT-B/32", "Pixel-BERT-X152", "Pixel-BERT-R50", "UNITER-Base"])
def test_a_row_is_measured_at_the_size_and_with_the_tokens_that_are_counted(name):
    counted = paper_table([name]).rows[0]
    model, stages = inspect(ROWS[name].case)
    assert model.resolution == counted.printed.resolution
    assert model.visual_tokens == counted.visual_tokens
    assert sum(stage.flops for stage in stages if stage.component != "textual_embedder") == counted.flops_built


def test_the_time_left_is_told_from_the_trials_so_far(make_run, tmp_path):
    now = [0.0]

    def take(seconds):
        now[0] += seconds

    told = []
    measure_rows(
        CASES,
        tmp_path,
        rounds=2,
        measure_one=Measurer(make_run, take=take),
        report=told.append,
        clock=lambda: now[0],
    )
    # 10 s for a patch, unknown for a grid (10 s assumed), then 30 s for a grid
    assert [progress.left_s for progress in told] == [None, 30, 40, 30]
    assert [progress.done for progress in told] == [0, 1, 2, 3]


def test_trials_of_different_cases_are_not_joined(make_run):
    with pytest.raises(RecordError, match="different cases"):
        join_trials([make_run("patch32"), make_run("grid-r50")])


def test_every_row_is_a_case_of_its_printed_size():
    for printed in table6():
        case = ROWS[printed.model].case
        assert (case.resolution, case.text_length) == (printed.resolution, printed.text_tokens)
        assert case.fit == "exact"


@pytest.fixture
def runs(make_run):
    grid = {"textual_embedder": 0.001, "visual_embedder.backbone": 0.300, "modality_interaction": 0.100}
    patch = {"textual_embedder": 0.001, "visual_embedder.projection": 0.001, "modality_interaction": 0.100}
    return {
        "ViLT-B/32": summarise(make_run("patch32", latencies_s=patch, noise=0)),
        "Pixel-BERT-R50": summarise(make_run("grid-r50", latencies_s=grid, noise=0)),
    }


def test_times_and_ratios_stand_beside_the_print(runs):
    text = times.markdown(runs)
    (grid,) = (line for line in text.splitlines() if line.startswith("| Pixel-BERT-R50"))
    cells = [cell.strip() for cell in grid.split("|")[1:-1]]
    assert cells[1:4] == ["grid", "60", "4"]
    assert cells[5].split()[0] == f"{401 / 102:.2g}"
    assert cells[6] == "75.0%"
    assert "grid 4 : linear 1 as printed, grid 3.93 : linear 1 here" in text


def test_times_as_csv_are_in_seconds(runs):
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(times.render_csv(runs)))}
    assert float(rows["Pixel-BERT-R50"]["latency_printed_s"]) == 0.060
    assert float(rows["Pixel-BERT-R50"]["latency_s"]) == pytest.approx(0.401)
    assert float(rows["ViLT-B/32"]["visual_embedder_s"]) == pytest.approx(0.001)


def test_a_row_that_failed_says_so_and_has_no_time(make_run, runs):
    from vilt_bench.record.run import Failure

    failed = make_run("region", trials=0, failure=Failure("out-of-memory", "no more"))
    text = times.markdown({**runs, "UNITER-Base": summarise(failed)})
    (line,) = (line for line in text.splitlines() if line.startswith("| UNITER-Base"))
    assert line.count("–") >= 3
    assert "UNITER-Base: Failed" in text


def test_saved_trials_can_be_read_by_report(make_run, tmp_path):
    measure_rows(CASES, tmp_path, rounds=1, measure_one=Measurer(make_run))
    assert {run.case.embedder for run in load.load_all([tmp_path])} == {"patch32", "grid-r50"}


def test_rows_that_a_folder_has_are_read_without_measuring(make_run, tmp_path):
    assert kept_rows(CASES, tmp_path / "none") == {}
    measure_rows(CASES, tmp_path, rounds=2, measure_one=Measurer(make_run))
    runs = kept_rows({**CASES, "LXMERT": Case("region-r101-c4")}, tmp_path)
    assert {name: len(run.trials) for name, run in runs.items()} == {"ViLT-B/32": 2, "Pixel-BERT-R50": 2}


@pytest.mark.parametrize(
    "changed", [{"settings": {"deterministic": "true"}}, {"omp_wait_policy": None}, {"versions": {"torch": "2.10.0"}}]
)
def test_trials_of_other_settings_are_measured_again_and_not_joined(make_run, tmp_path, changed):
    measure_rows(CASES, tmp_path, rounds=2, measure_one=Measurer(make_run))
    changed_here = dataclasses.replace(make_run().environment, **changed)
    again = Measurer(lambda *arguments, **fields: make_run(*arguments, **fields, environment=changed_here))
    runs = measure_rows(CASES, tmp_path, rounds=2, measure_one=again, here=changed_here).runs
    assert len(again.asked) == 4
    assert all(len(run.trials) == 2 for run in runs.values())


def test_a_setting_that_older_trials_do_not_tell_sets_none_apart(make_run, tmp_path):
    measure_rows(CASES, tmp_path, rounds=1, measure_one=Measurer(make_run))
    here = make_run().environment
    tells_more = dataclasses.replace(here, settings=here.settings | {"clock_source": "tsc"})
    again = Measurer(make_run)
    measure_rows(CASES, tmp_path, rounds=1, measure_one=again, here=tells_more)
    assert again.asked == []


def test_tables_of_the_paper_are_tables_to_a_markdown_parser(runs):
    study = tables.markdown(Table([text_column("a"), Column("b")], lines([["-", "~1"]]), notes=["c"]))
    for page, least in ((times.markdown(runs), 1), (render.markdown(paper_table(["ViLT-B/32"])), 2), (study, 1)):
        tokens = [token.type for token in MarkdownIt("commonmark").enable("table").parse(page)]
        assert tokens.count("table_open") >= least
