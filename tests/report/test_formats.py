"""A format is one file in its folder and its name in the folder's list."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from vilt_bench.cli import main
from vilt_bench.report import history, runs, verdicts

RECORDS = Path(__file__).parents[1] / "golden" / "records"
COMMANDS = {
    "report": ["report", "sitting"],
    "history": ["history", "history"],
    "compare": ["compare", "history", "candidate"],
}
FOLDERS = {"report": runs, "history": history, "compare": verdicts}


@pytest.mark.parametrize("command", COMMANDS)
def test_one_file_and_its_name_make_a_format_of_the_command_line(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = FOLDERS[command]
    (tmp_path / "toy_format.py").write_text('def render(*_, **__):\n    return "a toy\\n"\n')
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    value: object = verdicts.Format("toy_format") if package is verdicts else "toy_format"
    monkeypatch.setitem(package.FORMATS, "toy", value)  # type: ignore[arg-type]
    importlib.invalidate_caches()
    monkeypatch.chdir(RECORDS)
    main([*COMMANDS[command], "--format", "toy"])
    assert capsys.readouterr().out == "a toy\n"


def test_the_lists_of_formats_cost_no_import_of_records_or_of_a_terminal() -> None:
    code = (
        "import sys; from vilt_bench.report import history, runs, verdicts;"
        "print([name for name in ('msgspec', 'rich', 'vilt_bench.record', 'vilt_bench.judge') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
