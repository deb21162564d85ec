"""What docs/ci.md tells to copy is what GitHub, GitLab and vilt-bench take."""

import dataclasses
import importlib.resources
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from vilt_bench.cli import _parser, outcome
from vilt_bench.judge.comparison import VERDICTS, Comparison, CountChange, Ratio, Side, StageVerdict
from vilt_bench.report.verdicts import render
from vilt_bench.report.verdicts.markdown import MARKER, MARKS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "ci.md").read_text()
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
DOCUMENTS = [yaml.safe_load(text) for language, text in BLOCKS if language == "yaml"]
WORKFLOWS = [document for document in DOCUMENTS if "jobs" in document]
GITLAB = [document for document in DOCUMENTS if "jobs" not in document]


def schema(name: str) -> dict[str, Any]:
    file = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / name
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def steps() -> Iterator[dict[str, Any]]:
    for document in WORKFLOWS:
        for job in document["jobs"].values():
            yield from job["steps"]


def commands() -> Iterator[str]:
    """Yields each line of shell in the blocks of YAML, and each command of vilt-bench within the text."""
    for step in steps():
        yield from step.get("run", "").splitlines()
    for document in GITLAB:
        for job in document.values():
            yield from job["script"]
    for code in re.findall(r"`(vilt-bench [^`]*)`", TEXT):
        if not re.search(r"[A-Z…]{3,}|^vilt-bench \w+$", code):
            yield code


def test_there_is_a_workflow_for_each_purpose() -> None:
    assert [document["name"] for document in WORKFLOWS] == ["Latency", "Latency history", "Latency on the GPU"]
    assert [list(document) for document in GITLAB] == [["latency"]]


@pytest.mark.parametrize("document", WORKFLOWS, ids=lambda document: document["name"])
def test_workflows_are_what_github_takes(document: dict[Any, Any]) -> None:
    # YAML 1.1, as PyYAML reads it, takes the key `on` for true.
    jsonschema.validate(
        {"on" if key is True else key: value for key, value in document.items()}, schema("github-workflows.json")
    )


def test_gitlab_file_is_what_gitlab_takes() -> None:
    for document in GITLAB:
        jsonschema.validate(document, schema("gitlab-ci.json"))
        assert "github_" not in json.dumps(document).lower()


def test_workflows_give_the_action_inputs_that_it_has() -> None:
    uses = [step for step in steps() if step.get("uses", "").startswith("OWNER/vilt-bench@")]
    assert len(uses) == 2
    for step in uses:
        assert set(step["with"]) <= set(ACTION["inputs"])
        assert all(isinstance(value, str) for value in step["with"].values())


def test_commands_are_what_vilt_bench_takes(capsys: pytest.CaptureFixture[str]) -> None:
    parser = _parser()
    told = [shlex.split(line.partition(">>")[0])[1:] for line in commands() if line.startswith("vilt-bench ")]
    assert {arguments[0] for arguments in told} >= {"run", "report", "gate", "history", "doctor"}
    for arguments in told:
        try:
            parser.parse_args(arguments)
        except SystemExit:
            pytest.fail(capsys.readouterr().err)


def test_every_flag_of_a_file_and_every_verdict_is_told() -> None:
    assert all(f"| `--{format} FILE` |" in TEXT for format in outcome.FILES)
    assert all(f"| {MARKS[verdict]} {verdict} |" in TEXT for verdict in VERDICTS)
    assert f"`{MARKER}`" in TEXT


def test_every_field_of_the_json_file_is_told(all_kinds: list[Comparison]) -> None:
    section = TEXT[TEXT.index("### The JSON file") :]
    told = set(re.findall(r"`(\w+)`", section))
    document = json.loads(render(all_kinds, "json"))
    parts = (StageVerdict, Ratio, CountChange, Side)
    fields = {*document, *document["comparisons"][0], *(f.name for part in parts for f in dataclasses.fields(part))}
    assert fields - told == set()
    first_column = {
        name for cell in re.findall(r"(?m)^\| (`[^|]+) \|", section) for name in re.findall(r"`(\w+)`", cell)
    }
    assert first_column == set(document["comparisons"][0])


def test_documents_name_no_extra_of_a_package_that_no_index_has() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert "vilt-bench[" not in path.read_text(encoding="utf-8"), path
