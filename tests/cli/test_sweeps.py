"""Sweeps on the command line."""

import os

import pytest

from vilt_bench import load
from vilt_bench.cli import main
from vilt_bench.judge.summary import summarise

SMALL = ["--image", "synthetic", "--hidden-size", "32", "--device", "cpu", "--threads", "1", "--interaction", "none"]
QUICK = ["--trials", "1", "--max-time", "0.3"]


@pytest.fixture
def refusal(capsys, tmp_path, monkeypatch):
    """Runs a command that must be refused; returns the one line that it says."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            code = main([*map(str, arguments)])
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
        assert not list(tmp_path.glob("results"))
        return captured.err

    return run


def test_lists_are_multiplied_and_each_case_is_a_record(tmp_path, capsys):
    folder = tmp_path / "records"
    lists = ["--batch-size", "1,2", "--resolution", "64x64,64x96"]
    assert main(["run", "patch32", *SMALL, *QUICK, *lists, "--output", str(folder)]) == 0
    runs = [load(path) for path in folder.iterdir()]
    sizes = {(run.case.resolution, run.case.batch_size): summarise(run).whole.flops for run in runs}
    # A projection of 3072 numbers to 32 for each 32×32 patch, 2 FLOPs a multiply-add.
    assert sizes == {
        (size, batch): 2 * batch * patches * 3072 * 32
        for size, patches in [((64, 64), 4), ((64, 96), 6)]
        for batch in (1, 2)
    }
    assert "measuring 4 cases in turns" in capsys.readouterr().err


def test_a_plan_is_measured_and_options_beside_it_take_its_place(tmp_path, capsys):
    plan, folder = tmp_path / "sweep.toml", tmp_path / "records"
    plan.write_text(
        'embedders = ["patch32"]\n[axes]\nbatch-size = [1, 2]\nresolution = ["64x64"]\n'
        '[[exclude]]\nbatch-size = 2\n[sampling]\ntrials = 1\nmax-time = "9h"\n'
    )
    assert main(["run", "--plan", str(plan), *SMALL, "--max-time", "0.3", "--output", str(folder)]) == 0
    (run,) = [load(path) for path in folder.iterdir()]
    assert (run.case.batch_size, run.case.resolution, run.case.interaction) == (1, (64, 64), "none")
    assert (run.sampling.trials, run.sampling.max_time_s) == (1, 0.3)
    assert "Excluded by --batch-size 2: 1 combination." in capsys.readouterr().err


def test_an_option_beside_a_plan_counts_though_it_is_the_usual_value(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text('embedders = ["patch32"]\n[axes]\nseed = 5\nbatch-size = [2, 4]\n')
    options = ["--interaction", "none", "--image", "synthetic", "--device", "cpu", "--resolution", "64x64", "--dry-run"]
    assert main(["run", "--plan", "sweep.toml", "--batch-size", "1", *options]) == 0
    assert "seed 5" in (shown := capsys.readouterr().out)
    assert "batch_size" not in shown
    assert main(["run", "--plan", "sweep.toml", "--seed", "0", *options]) == 0
    assert "seed" not in capsys.readouterr().out


def test_groups_follow_each_other_and_the_repeat_between_them_makes_no_record(tmp_path, capsys):
    folder = tmp_path / "records"
    lists = ["--batch-size", "1,2,3", "--resolution", "64x64", "--together", "2"]
    assert main(["run", "patch32", *SMALL, *QUICK, *lists, "--output", str(folder)]) == 0
    runs = sorted(map(load, folder.iterdir()), key=lambda run: run.case.batch_size)
    assert [run.case.batch_size for run in runs] == [1, 2, 3]
    first, second, third = runs
    assert first.group == second.group != third.group
    assert (first.anchor, second.anchor) == (None, None)
    assert third.anchor.run_id in (first.run_id, second.run_id)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines[1:]] == ["1 of 3", "2 of 3", "3 of 3"]


def test_a_dry_run_shows_the_groups(tmp_path, monkeypatch, capsys):
    (tmp_path / "sweep.toml").write_text(
        'together = 2\nembedders = ["patch32", "patch16"]\n[axes]\nbatch-size = [1, 2]\n'
    )
    monkeypatch.chdir(tmp_path)
    plan = ["run", "--plan", "sweep.toml", *SMALL, "--resolution", "64x64", "--dry-run"]
    assert main(plan) == 0
    shown = capsys.readouterr().out
    assert [line.split()[-1] for line in shown.splitlines() if "64×64  " in line] == ["1", "2", "1", "2"]
    assert "2 groups, one after the other" in shown
    assert main([*plan, "--together", "4"]) == 0
    assert "group" not in capsys.readouterr().out.lower()


def test_what_can_not_be_built_so_is_left_out_of_a_sweep_and_said(tmp_path, capsys):
    folder = tmp_path / "records"
    embedders = ["patch32", "region-r101-c4"]  # whose regions lie in no grid
    arguments = [*embedders, *SMALL, *QUICK, "--resolution", "64x64", "--reduce", "pixel-shuffle:2,avg-pool:2"]
    assert main(["run", *arguments, "--output", str(folder), "--quiet"]) == 2  # one embedder has no case left
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("vilt-bench: left out: region-r101-c4,reduce=") for line in said] == [True, True]
    assert {load(path).case.reduce for path in folder.iterdir()} == {"pixel-shuffle:2", "avg-pool:2"}


@pytest.mark.parametrize("command", ["gate", "show"])
@pytest.mark.parametrize(
    "option", [["--batch-size", "1,2"], ["--resolution", "64x64,96x96"], ["--dtype", "float32,bfloat16"]]
)
def test_a_list_is_refused_by_what_takes_one_value(refusal, command, option):
    said = refusal(command, "patch32", *option)
    assert f"argument {option[0]}: '{option[1]}' is a list, which only 'vilt-bench run' takes; give one value" in said


def test_a_plan_without_embedders_is_named(refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text("[axes]\nbatch-size = [1, 2]\n")
    assert "sweep.toml has no embedders; it needs embedders = [" in refusal("run", "--plan", "sweep.toml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["patch32", "--batch-size", "1,,2"], "--batch-size: '1,,2' has an empty value"),
        (["patch32", "--batch-size", "1,x"], "invalid int value: 'x'"),
        (["patch32", "--batch-size", "1,0"], "--batch-size must be between 1"),
        (["patch32", "--dtype", "float32,int8"], "float16 (or fp32, bf16, fp16); got 'int8'"),
        (["patch32", "--resolution", "64x64,big"], "'big' is not HEIGHTxWIDTH"),
        (["patch32", "--interaction", "none", "--text-length", "8,9"], "--text-length applies to no case"),
        (["patch32", "--batch-size", ",".join(map(str, range(1, 10_002)))], "10,001 combinations"),
        (["patch32", "--together", "0"], "--together must be at least 1, got 0"),
        (["--plan", "."], "--plan . can't be read: it is a folder"),
        (["--plan", "missing.toml"], "it is not there"),
        (["--plan", os.devnull], "it is not a regular file"),
    ],
)
def test_a_sweep_that_can_not_be_meant_is_refused_in_one_line(refusal, arguments, said):
    assert said in refusal("run", *arguments)
