import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def classes(folder: str) -> dict[str, str]:
    """Returns public classes by name, but for errors, and the file of each."""
    return {
        node.name: f"{folder}/{path.relative_to(ROOT / 'vilt_bench' / folder).as_posix()}"
        for path in sorted((ROOT / "vilt_bench" / folder).rglob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not node.name.endswith("Error")
    }


def test_the_list_of_words_explains_every_class_of_the_director_and_names_its_file() -> None:
    rows = [line for line in (ROOT / "docs/words.md").read_text().splitlines() if line.startswith("|")]
    told = {name: row.rsplit("|", 2)[1] for row in rows for name in re.findall(r"`([A-Z]\w+)`", row)}
    known = classes("director")
    assert [name for name in known if name not in told] == []
    assert [name for name, file in known.items() if name in told and file not in told[name]] == []


def test_every_name_of_code_that_the_list_of_words_has_is_defined_in_a_file_of_its_row() -> None:
    for row in (ROOT / "docs/words.md").read_text().splitlines():
        names, _, place = row.rstrip("| ").rpartition("|")
        paths = [ROOT / "vilt_bench" / path for path in re.findall(r"`([\w/.]+)`", place)]
        files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
        text = "\n".join(file.read_text() for file in files)
        for name in re.findall(r"`([A-Z]\w+)(?:\.\w+)?`", names):
            assert re.search(rf"^(class {name}\b|{name}\b.* = )", text, re.MULTILINE), row


def test_no_two_classes_of_director_and_record_bear_one_name() -> None:
    names = [
        node.name
        for folder in ("ask", "director", "record")
        for path in sorted((ROOT / "vilt_bench" / folder).rglob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    judged = set(classes("judge"))
    assert [name for name in names if names.count(name) > 1 or name in judged] == []
