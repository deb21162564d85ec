import argparse
import pkgutil
import re
from pathlib import Path

import pytest

from vilt_bench.cli import _parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "results").glob("*/README.md")),
]
FOLDERS = tuple(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
ROOMS = tuple(path.name for path in (ROOT / "vilt_bench").iterdir() if path.is_dir())
PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w.-]+\.\w+)?)`")
DOTTED = re.compile(rf"`(?:vilt_bench\.)?((?:{'|'.join(ROOMS)})(?:\.\w+){{2,}})`")
LINK = re.compile(r"\]\(([^)\s#]+)?(#[^)\s]+)?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def places(text):
    """Paths of the repository that a text names: from its root, or from within the package."""
    for path in PATH.findall(text):
        first = path.partition("/")[0]
        if first in FOLDERS and first != "results":  # which is also where a user's records go
            yield path, ROOT / path
        elif first in ROOMS:
            yield path, ROOT / "vilt_bench" / path


def anchor(heading):
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.skipif(not (ROOT / "results").is_dir(), reason="documents link to results, which a source archive lacks")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_is_there(document):
    text = document.read_text(encoding="utf-8")
    assert [path for path, place in places(text) if not place.exists()] == []
    for file, fragment in LINK.findall(text):
        if file.startswith(("http:", "https:")):
            continue
        aim = document.parent / file if file else document
        assert aim.exists(), file
        if fragment:
            anchors = {anchor(heading) for heading in HEADING.findall(aim.read_text(encoding="utf-8"))}
            assert fragment[1:] in anchors, f"{file}{fragment}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_by_its_module_can_be_imported(document):
    for name in DOTTED.findall(document.read_text(encoding="utf-8")):
        assert pkgutil.resolve_name(f"vilt_bench.{name}") is not None


def test_the_readme_names_every_folder_and_module_of_the_package():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    architecture = text[text.index("## Architecture") : text.index("## Development")]
    modules = [
        path for path in (ROOT / "vilt_bench").iterdir() if not path.name.startswith("__") or path.name == "__init__.py"
    ]
    named = [f"{path.name}/" if path.is_dir() else path.name for path in modules if path.name != "py.typed"]
    assert [name for name in named if not re.search(rf"`(vilt_bench/)?{re.escape(name)}`", architecture)] == []


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\| `vilt-bench (\w+)", text, re.MULTILINE)
    assert sorted(commands) == sorted(choices_of(_parser()))


def choices_of(parser):
    (found,) = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found
