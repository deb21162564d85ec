import re
from pathlib import Path

import pytest

from vilt_bench.cli import main

RECORDS = Path(__file__).parents[1] / "golden" / "records"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def told(*arguments: str) -> list[str]:
        monkeypatch.chdir(RECORDS)
        assert main(["report", *arguments]) == 0
        return re.sub(r"\n(?![•\n])", " ", capsys.readouterr().out).splitlines()

    return told


def test_whole_share_and_verdict_stand_before_the_stages(monkeypatch, capsys):
    monkeypatch.chdir(RECORDS)
    main(["report", "sitting", "--only", "embedder=patch32"])
    lines = capsys.readouterr().out.splitlines()
    head = next(number for number, line in enumerate(lines) if "whole 358.7 [358.6, 358.8] ms" in line)
    assert lines[head].endswith("visual embedder 2.5% · precise")
    assert head < next(number for number, line in enumerate(lines) if line.startswith("Stage"))


def test_of_many_notes_that_warn_of_nothing_it_is_told_how_many_and_how_to_see_them(told):
    few, all_of_them = (told("sitting", "--only", "embedder=patch32", *more) for more in ([], ["--notes"]))
    folded = [line for line in all_of_them if line.startswith("•") and line not in few]
    (said,) = [line for line in few if "more notes" in line]
    assert said.startswith(f"• {len(folded)} more notes: --notes")
    assert {line.split()[1] for line in folded} == {"Precise:", "Random", "First", "CPU"}
    assert [line for line in few if line.startswith("•") and "more notes" not in line] == [
        line for line in all_of_them if line.startswith("•") and line not in folded
    ]


def test_what_warns_is_never_folded(told):
    few, all_of_them = (told("others", *more) for more in ([], ["--notes"]))
    warning = re.compile(r"• (Failed|Noisy|Interrupted|Measured under|NOT THE SAME|\d of \d trials)")
    assert (warned := [line for line in all_of_them if warning.match(line)])
    assert [line for line in few if warning.match(line)] == warned


def test_a_file_has_all_notes(tmp_path, monkeypatch):
    monkeypatch.chdir(RECORDS)
    main(["report", "sitting", "--output", str(tmp_path / "report.txt")])
    text = (tmp_path / "report.txt").read_text()
    assert "more notes" not in text
    assert "• First call" in text
