import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from vilt_bench.cli import main

RECORDS = Path(__file__).parents[1] / "golden" / "records"
COMMANDS = (
    "report sitting others",
    "report sitting --columns latency,images-per-second,p50,p99,parameters,flops,peak-bytes",
    "report sitting --pivot embedder",
    "compare history candidate",
    "history history",
    "list",
    "list timm/vit_base",
    "list --vlm",
    "list --presets",
    "show region-r101-c4 --on H100,L4",
    "choose --on H100 --budget 5ms --limit 5",
    "paper",
)


def shown(command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Returns the lines that a terminal of that width gets, without colours."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": str(width), "LINES": "60"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(RECORDS)
    main(command.split())
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_table_is_wider_than_its_terminal_and_no_text_is_cut(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for width in (60, 80, 120, 200):
        found = shown(command, width, monkeypatch, capsys)
        assert len(found) > 3
        assert [line for line in found if cell_len(line) > width] == []
        assert [line for line in found if "…" in line] == []


def test_what_a_narrow_terminal_has_no_room_for_follows_with_the_names_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def figures(width: int) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in shown("show patch32 --on L4", width, monkeypatch, capsys):
            if told := re.match(r"( {0,2}[a-z]+(?: [a-z]+)?) .*?((?:\s+[\d.,]+)+)$", line):
                found.setdefault(told[1], set()).update(told[2].split())
        return found

    wide, narrow = figures(200), figures(40)
    assert {"visual embedder", "  transformer", "all"} <= wide.keys() <= narrow.keys()
    for name, values in wide.items():
        assert values <= narrow[name]


@pytest.mark.parametrize(
    "command", ["run", "rerun", "gate", "compare", "profile", "show", "choose", "report", "history"]
)
def test_no_help_is_wider_than_its_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main([command, "--help"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert len(found) > 10
    assert [line for line in found if cell_len(line) > 60] == []
