from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from vilt_bench.cli import main
from vilt_bench.judge.history import history
from vilt_bench.record.run import Run
from vilt_bench.report.history import render as run_render

MakeRun = Callable[..., Run]
FIRST = datetime(2026, 9, 1, tzinfo=UTC)
STAGES_S = {"textual_embedder": 0.0003, "visual_embedder.backbone": 0.17, "modality_interaction": 0.0955}


def commit(index: int) -> str:
    return f"{index + 1:08x}" + 32 * "0"


def test_the_check_tells_a_new_slowdown_an_old_one_and_too_few_runs_apart(save_history, tmp_path, capsys) -> None:
    save_history(tmp_path / "new", 30, since=24, slower=1.2)
    save_history(tmp_path / "old", 40, since=10, slower=1.2)
    save_history(tmp_path / "faster", 30, since=24, slower=0.8)
    save_history(tmp_path / "few", 4)
    assert main(["history", "check", str(tmp_path / "new")]) == 1
    assert f"slower since 2026-09-24 at {commit(24)[:8]}" in capsys.readouterr().out
    assert main(["history", "check", str(tmp_path / "old")]) == 0
    assert main(["history", "check", str(tmp_path / "old"), "--newest", "35"]) == 1
    assert main(["history", "check", str(tmp_path / "faster")]) == 0
    assert main(["history", "check", str(tmp_path / "few")]) == 3
    assert main(["history", "check", str(tmp_path / "missing")]) == 2


def test_a_folder_called_check_is_reached_by_its_path_or_beside_the_option(
    save_history, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    save_history(tmp_path / "results", 30)
    save_history(tmp_path / "check", 30, since=24, slower=1.2)
    assert main(["history", "./check", "--format", "csv"]) == 0
    assert capsys.readouterr().out == run_render(history("check"), "csv")
    assert main(["history", "check"]) == 0  # of results/
    for arguments in (["check", "check"], ["check", "./check"], ["--check", "check"], ["check", "--check"]):
        assert main(["history", *arguments]) == 1, arguments


def test_the_check_goes_by_the_whole_unless_stages_are_asked_for(save_history, make_run, tmp_path) -> None:
    save_history(tmp_path, 30, since=24, slower=1.004)
    assert main(["history", "check", str(tmp_path)]) == 0
    assert not history(tmp_path, stages=["backbone"]).began()


@pytest.mark.parametrize("arguments", [["--format", "csv", "check"], ["--newest", "3"], ["check", "--newest", "0"]])
def test_options_that_do_not_belong_together_are_refused(arguments, capsys) -> None:
    assert main(["history", *(["check"] if "check" in arguments else []), *[a for a in arguments if a != "check"]]) == 2
    assert capsys.readouterr().err.count("\n") == 1
