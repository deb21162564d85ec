import argparse
import inspect
import subprocess
import sys
from typing import get_args

import pytest

from vilt_bench.ask import case
from vilt_bench.ask.case import Case, Sampling
from vilt_bench.cli import _parser, axes, options, run
from vilt_bench.director.gate import gate_all
from vilt_bench.judge.compare import compare_all
from vilt_bench.judge.history import history
from vilt_bench.report.verdicts import exit_code


def asked(*arguments: str) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def default(function: object, name: str) -> object:
    assert callable(function)
    return inspect.signature(function).parameters[name].default


def choices(command: str, name: str) -> tuple[str, ...]:
    (commands,) = (each for each in _parser()._actions if isinstance(each, argparse._SubParsersAction))
    (found,) = (each for each in commands.choices[command]._actions if each.dest == name)
    assert found.choices is not None
    return tuple(found.choices)


@pytest.mark.parametrize("command", [["run"], ["gate", "--baseline-ref", "main"], ["show"]])
def test_a_command_without_options_asks_for_what_python_asks_for_by_default(command: list[str]) -> None:
    assert options.cases(asked(*command, "patch32")) == [Case("patch32")]


def test_a_run_looks_as_hard_as_python_does() -> None:
    expansion, plan, _ = run._asked(asked("run", "patch32"))
    sampling = plan.how()
    assert (list(expansion.cases), sampling) == ([Case("patch32")], Sampling())


def test_rules_of_the_commands_are_those_of_the_functions() -> None:
    gate, compare = asked("gate", "patch32"), asked("compare", "a", "b")
    assert gate.max_time == default(gate_all, "max_time_s")
    for found, function in ((gate, gate_all), (compare, compare_all)):
        assert found.tolerance == default(function, "tolerance")
        assert found.gate == default(function, "decides")
        assert found.inconclusive == default(exit_code, "inconclusive")
    assert asked("history").order == default(history, "order")


def test_choices_of_the_commands_are_those_of_the_fields() -> None:
    assert choices("run", "fit") == get_args(case.Fit)
    assert [axes.dtype(name) for name in get_args(case.Dtype)] == [*get_args(case.Dtype)]
    for fit in choices("show", "fit"):
        Case("patch32", fit=fit)  # type: ignore[arg-type]


def test_another_default_of_a_field_is_another_of_the_flag() -> None:
    program = (
        "from vilt_bench.ask import case\n"
        "usual = case.Case.__init__.__defaults__\n"
        "case.Case.__init__.__defaults__ = tuple(17 if each == 40 else each for each in usual)\n"
        "from vilt_bench.cli import _parser, options\n"
        "print(options.cases(_parser().parse_args(['show', 'patch32']))[0].text_length)\n"
        "_parser().parse_args(['show', '--help'])\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    made, _, help = found.stdout.partition("\n")
    assert made == "17"
    assert "text tokens (default: 17)" in " ".join(help.split())


def test_what_is_usual_is_said_where_the_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        asked("run", "--help")
    told = " ".join(capsys.readouterr().out.split())
    assert "None" not in told
    for usual in (
        "image or images (default: 1)", "text tokens (default: 40)", "as --resolution native does (default: aspect)",
        "without text (default: vilt)", "or 0.01 (default: 0.01)", "(default: 60 for one embedder",
        "time is left (default: 3)",
    ):  # fmt: skip
        assert usual in told
