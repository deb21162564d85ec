import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vilt_bench.cli import main
from vilt_bench.cli.completion import SHELLS


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", "bash"]) == 0
    path = tmp_path / "completion.bash"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ru", {"run"}),
        ("run pat", {"patch", "patch16", "patch32"}),
        ("run patch32 grid-x", {"grid-x152"}),
        ("show transformers/siglip-so400m-patch14-38", {"transformers/siglip-so400m-patch14-384"}),
        ("gate --embedder region-g", {"region-grid"}),
        ("run --preset ti", {"tiny"}),
        ("run --dtype b", {"bfloat16"}),
        ("report --format la", {"latex"}),
        ("list --v", {"--vlm"}),
    ],
)
def test_bash_completes_what_is_typed(script: Path, typed: str, offered: set[str]) -> None:
    words = ["vilt-bench", *typed.split()]
    function = next(line.split()[-2] for line in script.read_text().splitlines() if line.startswith("complete "))
    program = (
        f'source {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); {function}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    found = subprocess.run(
        ["bash", "-c", program, "bash", *words], capture_output=True, text=True, check=True, timeout=60
    )
    assert set(found.stdout.split()) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_that_is_installed_takes_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "region-r101-c4" in script
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=60)


def test_without_its_package_completion_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert "pip install 'vilt-bench[completion]'" in capsys.readouterr().err


def test_a_shell_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "powershel"]) == 2
    assert "choose from bash, zsh, fish" in capsys.readouterr().err.replace("'", "")
