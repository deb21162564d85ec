"""What the command line understands, and where its complaints lead."""

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from vilt_bench.ask.case import ALL, Case
from vilt_bench.cli import COMMANDS, _parser, main, options, values

RECORDS = Path(__file__).parents[2] / "results" / "paper" / "records"
COMMANDS_BY_NAME = (
    "run", "rerun", "gate", "compare", "list", "show", "choose", "paper", "report", "history", "doctor", "profile",
    "completion", "view",
)  # fmt: skip


def parsed(*arguments):
    return _parser().parse_args(list(map(str, arguments)))


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90", timedelta(seconds=90)),
        ("1.5", timedelta(seconds=1.5)),
        ("90s", timedelta(seconds=90)),
        ("1m", timedelta(minutes=1)),
        ("1.5m", timedelta(minutes=1.5)),
        ("2 min", timedelta(minutes=2)),
        ("1m30s", timedelta(minutes=1, seconds=30)),
        ("2h", timedelta(hours=2)),
        ("500ms", timedelta(milliseconds=500)),
    ],
)
@pytest.mark.parametrize(
    ("command", "flag"),
    [("run patch32", "--max-time"), ("gate patch32", "--max-time"), ("paper", "--max-time"), ("paper", "--study-time")],
)
def test_durations_are_read_alike_by_every_flag(command, flag, text, duration):
    asked = parsed(*command.split(), flag, text)
    assert getattr(asked, flag[2:].replace("-", "_")) == pytest.approx(duration.total_seconds())


@pytest.mark.parametrize(("text", "share"), [("2.5%", 0.025), ("0.025", 0.025), ("1%", 0.01), ("1 %", 0.01)])
@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("run patch32", "--precision"),
        ("paper", "--precision"),
        ("gate patch32", "--tolerance"),
        ("compare a b", "--tolerance"),
    ],
)
def test_shares_are_read_alike_by_every_flag(command, flag, text, share):
    assert getattr(parsed(*command.split(), flag, text), flag[2:]) == pytest.approx(share)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "patch32", "--max-time", "soon"], "'soon' is no duration; expected seconds, or such as 90s"),
        (["run", "patch32", "--max-time", "1x"], "'1x' is no duration"),
        (["run", "patch32", "--precision", "some"], "'some' is no share; expected 2.5% or 0.025"),
        (["run", "--embeder", "patch32"], "no option --embeder; did you mean --embedder? see 'vilt-bench run --help'"),
        (["gate", "--basline-ref=main"], "did you mean --baseline-ref? see 'vilt-bench gate --help'"),
        (["report", "x", "--fromat", "csv"], "did you mean --format? see 'vilt-bench report --help'"),
        (["list", "timm", "convnext"], "nothing is known of 'convnext'; see 'vilt-bench list --help'"),
        (["rnu"], "did you mean run?"),
        (["report", "x", "--format", "marcdown"], "did you mean markdown?"),
        (["show"], "give --embedder NAME; "),
        (["show", "patch32", "patch16"], "takes one embedder; got patch32 and patch16"),
        (["run"], "give --embedder NAME, --preset NAME or --plan FILE; "),
        (["report"], "give records or folders of them"),
        (["compare", "one"], "expected BASELINE and CANDIDATE"),
        (["compare", "--tolerance", "1%"], "expected BASELINE and CANDIDATE"),
        (["report", "x", "--output", ""], "no record x"),
        (["run", "patch32", "--output", ""], "--output '' names no folder"),
    ],
)
def test_complaints_lead_on_in_one_line(arguments, said, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "patch32"],
        ["run", "--embedder", "patch32"],
        ["run", "--max-time", "1", "patch32"],
        ["run", "patch32", "--max-time", "1"],
        ["gate", "patch32", "--baseline-ref", "main"],
        ["gate", "--baseline-ref", "main", "patch32"],
        ["show", "patch32"],
        ["show", "--no-peak", "patch32"],
        ["show", "--embedder", "patch32"],
    ],
)
def test_an_embedder_may_be_named_with_or_without_its_flag(arguments):
    assert options.cases(parsed(*arguments)) == [Case("patch32")]


def test_embedders_are_measured_in_the_order_given():
    asked = parsed("run", "patch32", "--trials", 1, "patch16", "--embedder", "grid-r50")
    assert [case.embedder for case in options.cases(asked)] == ["patch32", "patch16", "grid-r50"]


@pytest.mark.parametrize("command", COMMANDS_BY_NAME)
def test_a_sentence_of_help_has_one_end(command, capsys):
    assert main([command, "--help"]) == 0
    assert not re.search(r"[?.!]\.(\s|$)", capsys.readouterr().out)


def test_every_command_is_among_those_tested_here():
    assert {module.__name__.rpartition(".")[2] for module in COMMANDS} <= {"verdicts", "embedders", *COMMANDS_BY_NAME}


@pytest.mark.parametrize("command", ["compare", "report"])
@pytest.mark.parametrize(
    ("arguments", "names", "paths"),
    [
        (["a", "b", "--allow-different"], [ALL], ["a", "b"]),
        (["a", "b", "--allow-different", "torch,driver"], ["torch", "driver"], ["a", "b"]),
        (["--allow-different=torch", "a", "b"], ["torch"], ["a", "b"]),
        (["--allow-different", "torch", "--allow-different", "driver", "a"], ["torch", "driver"], ["a"]),
        (["--allow-different", "./a", "b"], [ALL], ["b", "./a"]),
    ],
)
def test_what_may_differ_is_named_alike_by_compare_and_report(command, arguments, names, paths):
    asked = parsed(command, *arguments)
    assert asked.allow_different == names
    assert [*asked.runs, *getattr(asked, "after", [])] == paths


def test_the_projects_own_records_can_be_drawn_side_by_side(tmp_path, capsys):
    assert main(["report", str(RECORDS), "--format", "svg", "--output", str(tmp_path / "a.svg")]) == 0
    assert (tmp_path / "a.svg").stat().st_size > 1000
    assert capsys.readouterr().err == ""


def test_values_of_time_are_exact():
    assert values.seconds("0.1s") == 0.1


@pytest.mark.parametrize(("arguments", "spared"), [(["list"], ["torch", "msgspec"]), (["--help"], ["torch", "rich"])])
def test_a_command_that_only_tells_starts_without_what_it_does_not_need(arguments, spared):
    code = (
        "import sys; from vilt_bench.cli import main; main(sys.argv[2:]);"
        "sys.exit(' '.join({*sys.modules}.intersection(sys.argv[1].split())))"
    )
    done = subprocess.run([sys.executable, "-c", code, " ".join(spared), *arguments], capture_output=True, text=True)
    assert (done.stderr.strip(), done.stdout != "") == ("", True)
