import argparse
import ast
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vilt_bench.ask.case import Case, Sampling, ViltConfig, parse_resolution
from vilt_bench.cli import _parser, main, run
from vilt_bench.cli.flags import FLAGS, in_flags
from vilt_bench.errors import ConfigError, ViltBenchError
from vilt_bench.judge.compare import check_tolerance
from vilt_bench.record.store import check_writable, write_text

ROOT = Path(__file__).parents[2]


def flags() -> set[str]:
    """Returns the long flags of all commands."""

    def of(parser: argparse.ArgumentParser) -> Iterator[str]:
        for action in parser._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    yield from of(command)

    return set(of(_parser()))


def raised(file: Path) -> Iterator[str]:
    """Yields the texts of a module's `raise` statements."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Raise):
            parts = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
            yield " ".join(part for part in parts if isinstance(part, str))


CORE = [file for file in (ROOT / "vilt_bench").rglob("*.py") if "cli" not in file.parts]
RAISED = [(file, text) for file in (*CORE, *(ROOT / "embedders").rglob("*.py")) for text in raised(file)]


def test_no_error_of_the_library_names_a_flag() -> None:
    known = {*flags(), "--"}  # what a name follows that the text does not hold
    told = [
        f"{file.name}: {text}"
        for file, text in RAISED
        for flag in re.findall(r"--(?:[a-z][a-z-]+|(?= |$))", re.sub(r"'[^']*'", "", text))  # quoted: a whole command
        # `--debug` is of no field; of what hung, the sentence goes into the record, for the readers of reports.
        if flag in known - {"--debug"} and "hung in" not in text
    ]
    assert told == []


def test_what_an_error_names_in_backticks_is_a_flag_on_the_command_line() -> None:
    named = {name for _, text in RAISED for name in re.findall(r"`([^` ]*)`", text)}
    of_python_alone = {"example", "image_size"}  # of a module of one's own
    assert {"resolution", "images", "folder"} <= named <= {*FLAGS, *of_python_alone}
    assert {flag.partition(" ")[0] for flag in FLAGS.values()} <= flags()  # one tells its value as well


def test_fields_that_users_can_give_have_their_flag() -> None:
    # linear is what records of older versions say of the backend.
    no_flag = {
        "linear",
        "embedder",
        "options",
        "vilt",
        "vocabulary",
        "image_positions",
        "layer_norm_eps",
        "least_samples",
    }
    fields = {field.name for kind in (Case, ViltConfig, Sampling) for field in dataclasses.fields(kind)}
    assert fields - {*FLAGS} <= no_flag


@pytest.mark.parametrize(
    ("wrong", "field", "arguments"),
    [
        (lambda: Case("patch32", batch_size=0), "batch_size", "run patch32 --batch-size 0"),
        (lambda: Case("patch32", images=("synthetic",), fit="native"), "images",
         "run patch32 --fit native --image synthetic"),
        (lambda: Case("patch32", images=("synthetic",), preprocessing=True), "preprocessing",
         "run patch32 --with-preprocessing --image synthetic"),
        (lambda: Case("patch32", vilt=ViltConfig(hidden_size=7, heads=2)), "hidden_size",
         "run patch32 --hidden-size 7 --heads 2"),
        (lambda: Sampling(max_time_s=0), "max_time_s", "run patch32 --max-time 0"),
        (lambda: parse_resolution("4"), "resolution", "run patch32 --resolution 4"),
        (lambda: check_tolerance(2.0), "tolerance", "gate patch32 --baseline-ref main --tolerance 200%"),
        (lambda: check_writable("/dev/null/results"), "folder", "run patch32 --output /dev/null/results"),
    ],
)  # fmt: skip
def test_python_reads_the_field_and_the_command_line_the_flag(
    wrong: Callable[[], object], field: str, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        wrong()
    assert caught.value.field == field
    assert str(caught.value) == f"`{field}` {caught.value.problem}"
    assert "--" not in str(caught.value)
    assert main(arguments.split()) == 2
    printed = capsys.readouterr().err
    assert in_flags(caught.value.problem) in printed
    assert FLAGS[field] in printed
    assert "`" not in printed


def test_a_file_that_can_not_be_written_is_told_by_its_own_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^`path` .* can't be written"):
        write_text(tmp_path / "none" / "a.md", "")


def test_what_is_no_field_stays_as_it_was_quoted() -> None:
    assert in_flags("`touch pwned` of `q`, not `fit`") == "`touch pwned` of `q`, not --fit"
    assert (str(ViltBenchError("`x`")), ViltBenchError("`x`").field) == ("`x`", "")


def test_flags_understand_what_plans_do(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'embedders = ["patch32"]\nmemory = "6GB"\n[axes]\ndtype = ["bf16", "half"]\ndevice = "gpu"\n'
        '[sampling]\nprecision = "2.5%"\nmax-time = "1m30s"\n'
    )
    given = "run patch32 --dtype bf16,half --device gpu --precision 2.5% --max-time 1m30s --memory 6GB"
    by_flags, by_plan = (run._asked(_parser().parse_args(text.split())) for text in (given, f"run --plan {plan}"))
    assert [(case.dtype, case.device) for case in by_flags[0].cases] == [("bfloat16", "cuda"), ("float16", "cuda")]
    assert (by_flags[1].how().precision, by_flags[1].how().max_time_s) == (0.025, 90)
    assert by_flags[1].memory_bytes == 6_000_000_000
    assert (by_flags[0], by_flags[1].how()) == (by_plan[0], by_plan[1].how())
    assert by_plan[1].memory_bytes == by_flags[1].memory_bytes


@pytest.mark.parametrize("command", ["run", "show", "gate"])
def test_a_type_that_is_none_is_told_in_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "patch32", "--dtype", "int4"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
