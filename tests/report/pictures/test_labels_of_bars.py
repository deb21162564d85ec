"""Labels and an order of one's own hold for bars."""

import re
from pathlib import Path

import pytest
from PIL import Image

from vilt_bench.cli import main

SITTING = Path(__file__).parents[2] / "golden" / "records" / "sitting"


def texts(path):
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("figure", ["latency", "size"])
def test_bars_are_called_and_ordered_as_asked(tmp_path, figure):
    plain, labelled = tmp_path / "plain.svg", tmp_path / "labelled.svg"
    asked = ["report", str(SITTING), "--figure", figure, "--output"]
    assert main([*asked, str(plain)]) == 0
    names = [text for text in texts(plain) if text.startswith(("patch32", "grid-r50"))]
    assert names
    (tmp_path / "own.toml").write_text(
        'order = ["grid-r50", "patch32"]\n[labels]\npatch32 = "ViLT-B/32"\n[titles]\nlatency = "Forward pass"\n'
    )
    assert main([*asked, str(labelled), "--labels", str(tmp_path / "own.toml")]) == 0
    found = [text for text in texts(labelled) if text.startswith(("ViLT-B/32", "grid-r50"))]
    assert found[0].startswith("grid-r50")
    assert any(text.startswith("ViLT-B/32") for text in found)
    assert ("Forward pass (ms)" in texts(labelled)) == (figure == "latency")


def test_a_label_of_what_no_run_has_is_refused(tmp_path, capsys):
    asked = ["report", str(SITTING), "--output", str(tmp_path / "a.svg"), "--labels", "patch33=ViLT"]
    assert main(asked) == 2
    assert "no run has embedder 'patch33'; did you mean 'patch32'?" in capsys.readouterr().err


def test_labels_of_a_table_are_refused(capsys):
    assert main(["report", str(SITTING), "--labels", "patch32=ViLT"]) == 2
    assert "--labels is for pictures and --pivot" in capsys.readouterr().err


def test_a_picture_for_a_paper_has_its_fonts_in_it_and_300_dots_an_inch(tmp_path):
    for name in ("a.pdf", "a.png"):
        assert main(["report", str(SITTING), "--output", str(tmp_path / name)]) == 0
    assert b"/FontFile2" in (tmp_path / "a.pdf").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert [round(each) for each in picture.info["dpi"]] == [300, 300]
        assert picture.width == round(3.25 * 300)
