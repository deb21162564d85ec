import argparse
import pkgutil
import re
import shlex
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from vilt_bench.cli import _parser, main
from vilt_bench.cli.axes import plan
from vilt_bench.record import store

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
SHELL = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|\s|`)vilt-bench ((?:'[^']*'|\"[^\"]*\"|[^|;>&`])*)")
TASKS = ROOT / "docs" / "tasks.md"


def places(text):
    """Paths of the repository that a text names: from its root, or from within the package."""
    for path in PATH.findall(text):
        first = path.partition("/")[0]
        if first in FOLDERS and first != "results":  # which is also where a user's records go
            yield path, ROOT / path
        elif first in ROOMS:
            yield path, ROOT / "vilt_bench" / path


def commands(text):
    """The arguments of each call of vilt-bench that stands in a text's blocks for the shell."""
    blocks = [block.replace("\\\n", " ") for block in SHELL.findall(text)]
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [shlex.split(found, comments=True) for line in lines for found in COMMAND.findall(line)]


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_in_a_document_is_one_that_its_parser_takes(document, capsys):
    for arguments in commands(document.read_text(encoding="utf-8")):
        try:
            _parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"vilt-bench {shlex.join(arguments)}: {capsys.readouterr().err}")


def test_a_flag_that_no_command_has_is_found_in_a_document(capsys):
    (arguments,) = commands("```sh\nvilt-bench run patch32 \\\n    --bach-size 4 # images\n```\n")
    assert arguments == ["run", "patch32", "--bach-size", "4"]
    with pytest.raises(SystemExit):
        _parser().parse_args(arguments)
    assert "no option --bach-size; did you mean --batch-size?" in capsys.readouterr().err


def test_each_everyday_task_is_one_command():
    heading, *tasks = re.split(r"^## \d+\. ", TASKS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert heading.startswith("# Ten everyday tasks")
    assert len(tasks) == 10
    told = [len(commands(task)) for task in tasks]
    assert told == [2 if task.startswith("The table, into LaTeX, Excel") else 1 for task in tasks]


def test_the_everyday_tasks_that_show_make_what_they_name(make_run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = TASKS.read_text(encoding="utf-8")
    for arguments in commands(text):
        asked = _parser().parse_args(arguments)
        for case in plan(asked).expand().cases if arguments[0] == "run" else ():
            run = make_run(case=case, run_id=uuid4().hex)
            store.save(replace(run, model=replace(run.model, resolution=case.resolution or (224, 224))), asked.output)
    shown = [*commands(text), *map(shlex.split, re.findall(r"`vilt-bench (report [^`]*)`", text))]
    shown = [arguments for arguments in shown if arguments[0] == "report"]
    assert len(shown) == 6
    for arguments in shown:
        assert main(arguments) == 0
        assert Path(arguments[arguments.index("--output") + 1]).stat().st_size > 0


def choices_of(parser):
    (found,) = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found
