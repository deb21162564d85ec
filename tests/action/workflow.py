"""Runs a composite action's steps as GitHub's runner does: environment files, contexts, conditions, outputs.

What `uses` another action is done in a few lines here; all shell steps are run as they are.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass
class Job:
    """What is left of a job: how it ended, what it printed and wrote."""

    code: int
    log: str
    summary: str
    outputs: dict[str, str]
    steps: list[str] = field(default_factory=list)
    """Names of the steps that ran."""

    @property
    def commands(self) -> list[str]:
        """Lines of the log that a runner takes for commands.

        Source: actions/runner, ActionCommandManager and ActionCommand: lines end at a line feed or a carriage return;
        a command begins with `::` after blanks, or with `##[` anywhere.
        """
        found, stopped = [], ""
        for line in re.split(r"[\r\n]+", self.log):
            if stopped:
                stopped = "" if line.strip() == f"::{stopped}::" else stopped
            elif line.strip().startswith("::stop-commands::"):
                stopped = line.strip().removeprefix("::stop-commands::")
            elif re.match(r"\s*::\w", line) or "##[" in line:
                found.append(line)
        assert not stopped, "commands are not taken up again"
        return found


def evaluate(expression: str, contexts: Mapping[str, Any]) -> Any:
    """Returns an expression's value: paths, strings, `==`, `!=`, `&&`, `||`; what is not there is an empty string."""
    for operator in ("||", "&&"):
        if operator in expression:
            value: Any = ""
            for part in expression.split(operator):
                value = evaluate(part, contexts)
                if bool(value) == (operator == "||"):
                    break
            return value
    for operator in ("==", "!="):
        if operator in expression:
            left, right = (evaluate(part, contexts) for part in expression.split(operator))
            return (str(left) == str(right)) == (operator == "==")
    expression = expression.strip()
    if re.fullmatch(r"'[^']*'", expression):
        return expression[1:-1]
    assert re.fullmatch(r"[\w.-]+", expression), f"not an expression that this runner knows: {expression}"
    found: Any = contexts
    for key in expression.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return "" if found is None else found


def fill(text: object, contexts: Mapping[str, Any]) -> str:
    """Returns the text with each `${{ … }}` replaced by its value."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: str(evaluate(match[1], contexts)), str(text))


def run_action(
    folder: Path,
    inputs: Mapping[str, str],
    *,
    github: Mapping[str, Any],
    checkout: Path,
    scratch: Path,
    environment: Mapping[str, str],
) -> Job:
    """Runs the action in `folder` on a checkout; `github` is that context, `scratch` is kept from job to job."""
    action = yaml.safe_load((folder / "action.yml").read_text())
    temporary = scratch / "temp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    given = {name: fill(spec.get("default", ""), {"github": github}) for name, spec in action["inputs"].items()}
    assert set(inputs) <= set(given), "an input that the action does not have"
    for name, spec in action["inputs"].items():
        assert not spec.get("required") or name in inputs, f"{name} is required"
    steps: dict[str, Any] = {}
    contexts = {
        "inputs": given | dict(inputs),
        "github": github,
        "runner": {"os": "Linux", "arch": "X64"},
        "steps": steps,
    }
    summary = temporary / "summary"
    summary.touch()
    job = Job(0, "", "", {})
    for step in action["runs"]["steps"]:
        if not evaluate(step.get("if", "'true'"), contexts):
            continue
        job.steps.append(step["name"])
        if "uses" in step:
            settings = {key: fill(value, contexts) for key, value in step.get("with", {}).items()}
            job.log += use(step["uses"].partition("@")[0], settings, checkout, scratch)
            continue
        output = temporary / "output"
        output.write_text("")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=checkout,
            env={
                **environment,
                "CI": "true",
                "GITHUB_ACTIONS": "true",
                "GITHUB_ACTION_PATH": str(folder),
                "GITHUB_ENV": str(temporary / "env"),
                "GITHUB_EVENT_NAME": github["event_name"],
                "GITHUB_OUTPUT": str(output),
                "GITHUB_REPOSITORY": github["repository"],
                "GITHUB_SERVER_URL": "https://github.com",
                "GITHUB_SHA": github["sha"],
                "GITHUB_STEP_SUMMARY": str(summary),
                "RUNNER_TEMP": str(temporary),
                **{name: fill(value, contexts) for name, value in step.get("env", {}).items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        job.log += done.stdout
        if "id" in step:
            lines = output.read_text().splitlines()
            steps[step["id"]] = {"outputs": dict(line.split("=", 1) for line in lines)}
        if done.returncode:
            job.code = done.returncode
            break
    job.summary = summary.read_text()
    job.outputs = {name: fill(spec["value"], contexts) for name, spec in action["outputs"].items()}
    return job


def use(action: str, settings: Mapping[str, str], checkout: Path, scratch: Path) -> str:
    """Does what the few actions that ours uses would do; returns what is logged."""
    match action:
        case "actions/setup-python":
            return f"Python {settings['python-version']}\n"
        case "actions/upload-artifact":
            shutil.copytree(settings["path"], scratch / "artifacts" / settings["name"], dirs_exist_ok=True)
        case "actions/cache/save":
            shutil.copytree(checkout / settings["path"], scratch / "cache" / settings["key"])
        case "actions/cache/restore":
            caches = (scratch / "cache").glob(f"{settings['restore-keys']}*")
            if (newest := max(caches, key=os.path.getmtime, default=None)) is not None:
                shutil.copytree(newest, checkout / settings["path"], dirs_exist_ok=True)
        case _:
            raise AssertionError(f"{action} is not known here")
    return ""
