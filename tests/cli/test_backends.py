import pytest

from vilt_bench.cli import axes, main


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torch", ["torch"]),
        ("torch,onednn", ["torch", "onednn"]),
        ("torch:channels_last,fold_batch_norm", ["torch:channels_last,fold_batch_norm"]),
        ("torch:channels_last,attention=math,onednn", ["torch:channels_last,attention=math", "onednn"]),
        ("onednn,torch:tf32,torch:whole,strict", ["onednn", "torch:tf32", "torch:whole,strict"]),
        ("torch:channels_last,onedn", ["torch:channels_last,onedn"]),
        ("torch,channels_last", ["torch", "channels_last"]),
    ],
)
def test_commas_are_between_backends_and_between_the_options_of_one(text: str, expected: list[str]) -> None:
    assert axes.backends(text) == expected


def test_linear_says_what_to_write_instead(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "gate"):
        assert main([command, "patch32", "--linear", "onednn"]) == 2
        assert "write --backend onednn" in capsys.readouterr().err.splitlines()[-1]


def test_a_gate_takes_one_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "patch32", "--backend", "torch,onednn"]) == 2
    assert "is a list, which only 'vilt-bench run' takes" in capsys.readouterr().err.splitlines()[-1]


def test_backends_are_an_axis(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["torch", "torch:fold-batch-norm,channels_last", "torch:channels_last,fold_batch_norm", "onednn"]
    assert main(["run", "patch32", "--dry-run", "--backend", ",".join(asked)]) == 0
    out = capsys.readouterr().out
    assert "torch:channels_last,fold_batch_norm" in out
    assert "3 cases" in out
