import argparse
from pathlib import Path

import pytest

from vilt_bench.cli import _commands, _parser, config, main, options

FILE = """\
threads = 2

[run]
precision = "2%"
max_time = "90s"
embedder = ["patch32", "grid-r50"]
batch-size = [1, 8]
quiet = true
with-preprocessing = false

[report]
format = "csv"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bench.toml"
    path.write_text(FILE)
    return path


def asked(*arguments: str) -> argparse.Namespace:
    typed, _ = config.expanded(arguments, _commands(_parser()))
    found = _parser().parse_args(typed)
    found.typed = typed
    return found


def test_a_file_gives_what_would_be_typed(path: Path) -> None:
    found = asked("run", "--config", str(path))
    typed = (
        "run --threads 2 --precision 2% --max-time 90s --embedder patch32 --embedder grid-r50 --batch-size 1,8 --quiet"
    )
    expected = _parser().parse_args([*typed.split(), "--config", str(path)])
    assert {**vars(found), "typed": None} == {**vars(expected), "typed": None}


def test_what_is_typed_wins(path: Path) -> None:
    found = asked("run", f"--config={path}", "--precision=5%", "--batch-size", "4")
    assert (found.precision, found.batch_size, found.max_time) == (0.05, [4], 90)
    assert found.embedder == ["patch32", "grid-r50"]


@pytest.mark.parametrize("typed", [["patch16"], ["--embedder", "patch16"], ["--preset", "tiny"], ["--plan", "p.toml"]])
def test_embedders_that_are_typed_take_the_place_of_the_files(path: Path, typed: list[str]) -> None:
    found = asked("run", *typed, "--config", str(path))
    assert "grid-r50" not in (found.embedder or [])


def test_a_command_without_a_table_gets_what_is_for_all(path: Path) -> None:
    assert asked("show", "patch32", "--config", str(path)).threads == 2
    assert asked("report", "x", "--config", str(path)).format == "csv"
    assert not hasattr(asked("report", "x", "--config", str(path)), "threads")


def test_a_record_keeps_the_options_that_the_file_gave(path: Path) -> None:
    command = options.origin(asked("run", "patch32", "--config", str(path))).command
    assert command is not None
    assert "--precision=2%" in command
    assert str(path) in command


def test_it_is_said_what_the_file_came_to(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", "nothing-here", "--config", str(path)])
    assert f"options of {path}: --format=csv\n" in capsys.readouterr().err


def test_a_pyproject_has_a_table_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\nname = "x"\n\n[tool.vilt-bench]\nthreads = 3\n[tool.vilt-bench.run]\ntrials = "two"\n')
    assert asked("show", "patch32", "--config", str(path)).threads == 3
    assert main(["run", "patch32", "--config", str(path)]) == 2
    assert "line 7, run.trials: invalid int value: 'two'" in capsys.readouterr().err
    path.write_text('[project]\nname = "x"\n')
    assert main(["show", "patch32", "--config", str(path)]) == 2
    assert "has no table [tool.vilt-bench]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("precision =", "precisoin =", "line 4, run.precisoin: is no option of run; did you mean 'precision'?"),
        ('"2%"', '"two"', "line 4, run.precision: 'two' is no share; expected 2.5% or 0.025"),
        ("[report]", "[reprot]", "line 11, reprot: is no command; did you mean 'report'?"),
        ("threads = 2", "threeds = 2", "line 1, threeds: is no option of any command; did you mean 'threads'?"),
        ("threads = 2", "threads = true", "line 1, threads: must be a text or a number, got True"),
        ("quiet = true", "quiet = 3", "line 8, run.quiet: must be true or false, got 3"),
        ("[1, 8]", "[[1], 8]", "line 7, run.batch-size: must be a text, a number, or a list of them"),
        ("[1, 8]", "[]", "line 7, run.batch-size: must be a text, a number, or a list of them"),
        ("[run]", "help = true\n[run]", "line 3, help: is no option of any command"),
        ("threads = 2", "threads = = 2", "can't be read as TOML"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_line_and_key(
    path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    path.write_text(FILE.replace(old, new))
    assert main(["run", "--config", str(path)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_file_that_is_not_there_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "patch32", "--config", "nope.toml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
