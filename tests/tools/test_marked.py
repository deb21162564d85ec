import importlib
import re
import sys
from pathlib import Path

import pytest

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
    assert makers.keys() == {"embedders", "timm coverage", "towers", "gate", "gate-rules", "kills"}
    for name, maker in makers.items():
        assert maker == "make catalog" or (ROOT / maker).is_file(), name
