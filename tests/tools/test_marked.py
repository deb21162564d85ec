import importlib
import re
import sys
from pathlib import Path

import pytest

from vilt_bench.record.load import load_all
from vilt_bench.report.embedders import listing

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def renewed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.delitem(sys.modules, "marked", raising=False)
    return importlib.import_module("marked").renewed


def test_the_readme_has_the_table_of_the_catalogue(renewed):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert renewed(text, "embedders", listing.markdown("embedders")) == text


@pytest.mark.skipif(not (ROOT / "results").is_dir(), reason="a source archive lacks the records")
def test_the_readme_has_the_table_of_the_gallerys_records(renewed, monkeypatch):
    monkeypatch.delitem(sys.modules, "gallery", raising=False)
    made = importlib.import_module("gallery").table()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert renewed(text, "gallery", made) == text
    assert len(made.splitlines()) == 2 + 5


@pytest.mark.skipif(not (ROOT / "results").is_dir(), reason="a source archive lacks the records")
def test_the_readme_shows_the_command_that_the_gallerys_records_tell_of_themselves():
    (asked,) = {run.origin.command for run in load_all([ROOT / "results" / "gallery" / "towers"])}
    assert f"```sh\n{asked}\n```" in (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```sh\n(vilt-bench run .*fastvit.*)\n```", readme, re.MULTILINE)
    assert asked.startswith(shown)


def test_only_what_is_between_the_marks_of_the_name_is_renewed(renewed):
    text = "a\n<!-- one: made by x -->\nold\n<!-- end of one -->\n<!-- two: made by x -->\nold\n<!-- end of two -->\n"
    assert renewed(text, "two", "new \\1\n") == text[: text.rindex("old")] + "new \\1\n<!-- end of two -->\n"


@pytest.mark.parametrize(
    "text", ["", "<!-- one: made by x -->\n", 2 * "<!-- one: made by x -->\n<!-- end of one -->\n"]
)
def test_a_document_without_the_marks_or_with_two_of_them_is_refused(renewed, text):
    with pytest.raises(SystemExit, match="expected the marks of 'one' once"):
        renewed(text, "one", "new")


def test_what_the_marks_of_the_documents_name_as_their_maker_is_there(renewed):
    makers = {}
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for name, maker in re.findall("<!-- (.*): made by (.*) -->", text):
            renewed(text, name, "new")
            makers[name] = maker.strip("`")
    assert makers.keys() >= {"embedders", "timm coverage", "towers", "gate", "kills", "gallery"}
    for name, maker in makers.items():
        assert maker == "make catalog" or (ROOT / maker).is_file(), name
