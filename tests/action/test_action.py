import contextlib
import dataclasses
import importlib.resources
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from vilt_bench.cli import COMMANDS, _parser
from vilt_bench.judge.comparison import VERDICTS, Comparison

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHARED = ROOT / "action" / "common.sh"
SCRIPTS = sorted({*(ROOT / "action").glob("*.sh")} - {SHARED})
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = ACTION["runs"]["steps"]

PUSH = {"repository": {"default_branch": "main"}}
COMMENT = {"id": 1, "user": {"login": "ada", "type": "User"}, "body": "Nice! <!-- vilt-bench gate: gate -->"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the runner here is bash on Linux or macOS")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


workflow = load("workflow")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@dataclasses.dataclass
class Hub:
    """A repository on a pretended GitHub, its pull request 7, and what runs there."""

    folder: Path
    main: str
    """Commit at the tip of main when the pull request's event was made."""
    newer_main: str
    """What main is by the time that GitHub makes the trial merge."""
    merge: str
    """The trial merge."""

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def check_out(self, commit: str) -> None:
        """As actions/checkout does: one commit, and no history."""
        shutil.rmtree(self.checkout, ignore_errors=True)
        self.checkout.mkdir()
        git(self.checkout, "init", "--quiet")
        git(self.checkout, "remote", "add", "origin", f"file://{self.folder / 'origin'}")
        git(self.checkout, "fetch", "--quiet", "--no-tags", "--depth=1", "origin", commit)
        git(self.checkout, "checkout", "--quiet", "--detach", "FETCH_HEAD")

    def run(
        self,
        comparisons: list[Comparison],
        *,
        event: Mapping[str, Any],
        event_name: str = "pull_request",
        sha: str | None = None,
        environment: Mapping[str, str] = {},
        **inputs: str,
    ) -> Any:
        """Returns the job that the action makes of these comparisons."""
        (self.folder / "comparisons.json").write_bytes(msgspec.json.encode(comparisons))
        (self.folder / "calls").write_text("")
        github = {
            "event": event,
            "event_name": event_name,
            "ref_name": "main" if event_name == "push" else "7/merge",
            "repository": "octo/eyes",
            "run_attempt": "1",
            "run_id": str(len(list((self.folder / "cache").glob("*")))),
            "sha": sha or git(self.checkout, "rev-parse", "HEAD"),
            "token": "s3cret",
        }
        return workflow.run_action(
            ROOT,
            {"embedders": "patch32", "vilt-bench": "none"} | {key.replace("_", "-"): inputs[key] for key in inputs},
            github=github,
            checkout=self.checkout,
            scratch=self.folder,
            environment={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "PYTHONPATH": str(ROOT),
                "FAKE_GITHUB": str(self.folder / "github.json"),
                "STAND_IN_CALLS": str(self.folder / "calls"),
                "STAND_IN_COMPARISONS": str(self.folder / "comparisons.json"),
                **environment,
            },
        )

    @property
    def calls(self) -> list[list[str]]:
        """What the last job asked of vilt-bench."""
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    @property
    def comments(self) -> list[str]:
        return [comment["body"] for comment in json.loads((self.folder / "github.json").read_text())]

    @property
    def requests(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "github.calls").read_text().splitlines()
        return []

    def given(self, option: str) -> list[str]:
        """Values that the last call of vilt-bench got for this option."""
        return [part.partition("=")[2] for part in self.calls[-1] if part.startswith(f"{option}=")]

    def break_program(self, code: int) -> None:
        """From now on vilt-bench ends with this code, and writes nothing."""
        (self.folder / "bin" / "vilt-bench").write_text(f'#!/bin/sh\n[ "$1" = --version ] || exit {code}\n')


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    origin = tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "--quiet")
    git(origin, "config", "uploadpack.allowAnySHA1InWant", "true")

    def commit(text: str) -> str:
        (origin / text).write_text(text)
        git(origin, "add", "--all")
        git(origin, "commit", "--quiet", "--message", text)
        return git(origin, "rev-parse", "HEAD")

    main = commit("first")
    git(origin, "checkout", "--quiet", "-b", "feature")
    commit("slower")
    git(origin, "checkout", "--quiet", "main")
    newer_main = commit("second")
    git(origin, "checkout", "--quiet", "--detach", "main")
    git(origin, "merge", "--quiet", "--no-ff", "--message", "trial", "feature")
    hub = Hub(tmp_path, main, newer_main, git(origin, "rev-parse", "HEAD"))
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, script in (("gh", "fake_gh.py"), ("vilt-bench", "stand_in.py")):
        (bin / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / script}" "$@"\n')
        (bin / name).chmod(0o755)
    (bin / "python").symlink_to(sys.executable)
    (tmp_path / "github.json").write_text(json.dumps([COMMENT]))
    hub.check_out(hub.merge)
    return hub


@pytest.fixture
def pull_request(hub: Hub) -> dict[str, Any]:
    return {
        "pull_request": {"number": 7, "base": {"sha": hub.main}, "head": {"repo": {"full_name": "octo/eyes"}}},
        "repository": {"default_branch": "main"},
    }


needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq, which gh has built in")


# What the action is made of


def test_action_is_what_github_takes_for_one() -> None:
    schemas = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    jsonschema.validate(ACTION, json.loads((schemas / "github-actions.json").read_text()))


def test_every_input_is_used_and_every_used_one_is_declared() -> None:
    used = set(re.findall(r"\binputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(ACTION["inputs"])
    ids = {step["id"] for step in STEPS if "id" in step}
    assert set(re.findall(r"\bsteps\.([\w-]+)", (ROOT / "action.yml").read_text())) <= ids


def test_no_expression_stands_in_a_shell_step() -> None:
    runs = [step["run"] for step in STEPS if "run" in step]
    assert len(runs) == len(SCRIPTS)
    assert not any("${{" in run for run in runs)


def test_every_script_is_there_and_gets_each_variable_that_it_names() -> None:
    by_script = {}
    for step in STEPS:
        if "run" in step:
            match = re.fullmatch(r'bash "\$GITHUB_ACTION_PATH/(action/[\w.-]+\.sh)"', step["run"])
            assert match is not None
            by_script[ROOT / match[1]] = set(step["env"])
    assert sorted(by_script) == SCRIPTS
    for script, given in by_script.items():
        text = script.read_text()
        head = text[: text.index("set -")]
        told = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", "\n".join(re.findall(r"(?m)^# ([A-Z_, ]+)  ", head))))
        assert told == given, script.name


def test_scripts_pass_shellcheck() -> None:
    shellcheck = shutil.which("shellcheck") or Path(sys.executable).with_name("shellcheck")
    scripts = [script.relative_to(ROOT) for script in (SHARED, *SCRIPTS)]
    done = subprocess.run(
        [shellcheck, "--external-sources", *scripts], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""


# A pull request


@needs_jq
def test_a_regression_fails_the_job_after_summary_artifact_and_comment(
    hub: Hub, pull_request: dict[str, Any], regressed: Comparison
) -> None:
    job = hub.run([regressed], event=pull_request)
    assert job.code == 1
    assert job.outputs["verdict"] == "regressed"
    assert job.outputs["exit-code"] == "1"
    assert "`patch32` regressed: 6.2% slower" in job.summary
    assert "::error title=vilt-bench%3A patch32 regressed::" in job.log
    assert hub.comments[1].startswith("<!-- vilt-bench gate: gate -->\n\n### 🔴 `patch32` regressed")
    kept = hub.folder / "artifacts" / "vilt-bench-gate"
    assert {path.name for path in kept.iterdir()} >= {"report.md", "report.json", "junit.xml", "records"}
    assert list((kept / "records").iterdir())


@needs_jq
def test_a_second_run_updates_the_comment_and_leaves_others_alone(
    hub: Hub, pull_request: dict[str, Any], regressed: Comparison, unchanged: Comparison
) -> None:
    hub.run([regressed], event=pull_request)
    assert hub.run([unchanged], event=pull_request).code == 0
    assert len(hub.comments) == 2
    assert hub.comments[0].startswith("Nice!")
    assert "unchanged" in hub.comments[1]
    assert "regressed:" not in hub.comments[1]
    assert [request.split()[0] for request in hub.requests] == [
        *("GRAPHQL", "GET", "POST"),
        *("GRAPHQL", "GET", "PATCH"),
    ]


@needs_jq
def test_a_run_that_compares_nothing_takes_back_what_the_comment_says_but_adds_none(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    program = (hub.folder / "bin" / "vilt-bench").read_text()
    hub.break_program(2)
    job = hub.run([], event=pull_request)
    assert "No comment: nothing was compared" in job.log
    assert len(hub.comments) == 1
    (hub.folder / "bin" / "vilt-bench").write_text(program)
    hub.run([unchanged], event=pull_request)
    hub.break_program(2)
    hub.run([], event=pull_request)
    assert "### 🟣 Nothing was compared" in hub.comments[1]
    assert "exit code 2: it could not be measured" in hub.comments[1]


@needs_jq
def test_gates_of_other_names_have_comments_of_their_own(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    for name in ("cpu", "gpu", "cpu"):
        hub.run([unchanged], event=pull_request, name=name)
    assert [body.splitlines()[0] for body in hub.comments[1:]] == [
        "<!-- vilt-bench gate: cpu -->",
        "<!-- vilt-bench gate: gpu -->",
    ]


@needs_jq
def test_a_report_too_long_for_a_comment_leaves_its_details_out(
    hub: Hub, pull_request: dict[str, Any], regressed: Comparison
) -> None:
    many = [regressed] * 40
    job = hub.run(many, event=pull_request)
    assert len(job.summary) > 65_536
    assert job.summary.count("<details>") == 40
    assert "<details>" not in hub.comments[1]
    assert "40 of 40 regressed" in hub.comments[1]
    assert "the job's summary has them" in hub.comments[1]


def test_on_a_fork_no_comment_is_tried_and_it_is_said(
    hub: Hub, pull_request: dict[str, Any], regressed: Comparison
) -> None:
    pull_request["pull_request"]["head"]["repo"]["full_name"] = "someone/eyes"
    job = hub.run([regressed], event=pull_request)
    assert "::notice title=vilt-bench::No comment: pull requests of forks" in job.log
    assert hub.requests == []
    assert job.code == 1


@needs_jq
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_token_that_may_not_comment_is_said_and_does_not_change_the_outcome(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison, method: str
) -> None:
    job = hub.run([unchanged], event=pull_request, environment={"FAKE_GITHUB_REFUSES": method})
    assert "pull-requests: write?" in job.log
    assert job.code == 0


def test_comments_can_be_switched_off(hub: Hub, pull_request: dict[str, Any], unchanged: Comparison) -> None:
    job = hub.run([unchanged], event=pull_request, comment="false")
    assert (job.code, hub.requests) == (0, [])


def test_the_token_is_not_logged(hub: Hub, pull_request: dict[str, Any], unchanged: Comparison) -> None:
    assert "s3cret" not in hub.run([unchanged], event=pull_request).log


# What is asked of vilt-bench


def test_each_embedder_and_option_arrives_as_it_was_given(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    hub.run(
        [unchanged],
        event=pull_request,
        embedders="patch32\n  my_module:f,share=0.5,text=$(touch pwned) `x`  \n\n",
        arguments="--resolution 384x640 --image *",
        gate="stages",
        tolerance="0.05",
        max_time="120",
        inconclusive="pass",
    )
    gate = hub.calls[-1]
    assert hub.given("--embedder") == ["patch32", "my_module:f,share=0.5,text=$(touch pwned) `x`"]
    assert not list(hub.folder.rglob("pwned"))
    text = " ".join(gate)
    for part in ("--resolution 384x640 --image *", "--gate=stages", "--tolerance=0.05", "--max-time=120"):
        assert part in text


def test_what_the_action_asks_for_is_what_the_commands_take(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    hub.run([unchanged], event=pull_request, tolerance="0.05", max_time="120", device="cpu")
    asked = hub.calls
    hub.run([unchanged], event=PUSH, event_name="push", baseline="records")
    hub.run([unchanged], event=pull_request, baseline="records")
    asked += hub.calls
    assert [call[0] for call in asked] == ["--version", "gate", "--version", "run", "compare"]
    for call in asked:
        if call[0] in registered():
            _parser().parse_args(call)


def registered() -> set[str]:
    """Returns the commands that there are: `gate` and `compare` are held to their parsers once they are."""
    return {command.__name__.rpartition(".")[2] for command in COMMANDS}


# The baseline


def test_baseline_of_a_trial_merge_is_what_it_merged_into(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    hub.run([unchanged], event=pull_request)
    assert hub.given("--baseline-ref") == [hub.newer_main]
    assert git(hub.checkout, "cat-file", "-t", hub.newer_main) == "commit"


def test_baseline_of_another_checkout_is_what_the_event_says(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    hub.check_out("feature")
    job = hub.run([unchanged], event=pull_request, sha=hub.merge)
    assert hub.given("--baseline-ref") == [hub.main]
    assert git(hub.checkout, "cat-file", "-t", hub.main) == "commit"
    assert job.code == 0


def test_a_branch_can_be_the_baseline(hub: Hub, pull_request: dict[str, Any], unchanged: Comparison) -> None:
    hub.run([unchanged], event=pull_request, baseline_ref="main")
    assert hub.given("--baseline-ref") == [hub.newer_main]


def test_baseline_of_a_push_is_the_commit_before_it(hub: Hub, unchanged: Comparison) -> None:
    hub.check_out("main")
    job = hub.run([unchanged], event={"before": hub.main}, event_name="push")
    assert hub.given("--baseline-ref") == [hub.main]
    assert "No comment: this is no pull request" in job.log


def test_a_baseline_that_is_not_there_is_refused(hub: Hub, pull_request: dict[str, Any]) -> None:
    job = hub.run([], event=pull_request, baseline_ref="no-such-branch")
    assert "::error title=vilt-bench::No baseline no-such-branch in this repository" in job.log
    assert job.code == 2


@pytest.mark.parametrize(("option", "code"), [("fail", 4), ("pass", 0)])
def test_the_first_push_of_a_branch_has_no_baseline(hub: Hub, option: str, code: int) -> None:
    job = hub.run([], event={"before": "0" * 40}, event_name="push", no_baseline=option)
    assert job.code == code
    assert job.outputs["exit-code"] == "4"
    assert job.outputs["verdict"] == ""
    assert "Nothing to compare with" in job.log


def test_a_folder_without_git_is_refused(hub: Hub, pull_request: dict[str, Any]) -> None:
    script = ROOT / "action" / "baseline.sh"
    empty = dict.fromkeys(("BASELINE_REF", "PULL_REQUEST_BASE", "MERGE_GROUP_BASE", "PUSHED_ONTO"), "")
    bare = hub.folder / "bare"
    bare.mkdir()
    done = subprocess.run(
        ["bash", script],
        cwd=bare,
        env={**os.environ, **empty, "GIT_CEILING_DIRECTORIES": str(hub.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "put actions/checkout before" in done.stdout) == (2, True)


def test_records_of_the_default_branch_are_the_baseline_of_later_runs(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    first = hub.run([unchanged], event=PUSH, event_name="push", baseline="records", no_baseline="pass")
    assert (first.code, first.outputs["exit-code"]) == (0, "4")
    assert "Make these records the next baseline" in first.steps
    hub.check_out(hub.merge)
    second = hub.run([unchanged], event=pull_request, baseline="records")
    assert (second.code, second.outputs["verdict"]) == (0, "unchanged")
    assert hub.calls[-1][:2] == ["compare", str(hub.folder / "temp" / "vilt-bench-baseline")]
    assert "Make these records the next baseline" not in second.steps
    assert len(list((hub.folder / "cache").iterdir())) == 1


def test_older_records_of_the_default_branch_are_kept_to_tell_the_drift(hub: Hub, unchanged: Comparison) -> None:
    for _ in range(3):
        hub.run([unchanged], event=PUSH, event_name="push", baseline="records", no_baseline="pass")
    newest = max((hub.folder / "cache").iterdir(), key=lambda entry: entry.stat().st_mtime_ns)
    assert len(list(newest.rglob("*.json"))) == 3


def test_what_may_differ_is_handed_on(hub: Hub, pull_request: dict[str, Any], unchanged: Comparison) -> None:
    hub.run([unchanged], event=PUSH, event_name="push", baseline="records", no_baseline="pass")
    hub.run([unchanged], event=pull_request, baseline="records", allow_different="torch,system")
    assert hub.given("--allow-different") == ["torch,system"]


@pytest.mark.slow
def test_records_of_the_real_program_are_kept_and_compared(hub: Hub, pull_request: dict[str, Any]) -> None:
    program = shutil.which("vilt-bench", path=str(Path(sys.executable).parent))
    assert program is not None
    (hub.folder / "bin" / "vilt-bench").unlink()
    (hub.folder / "bin" / "vilt-bench").symlink_to(program)
    asked = {
        "baseline": "records",
        "device": "cpu",
        "max_time": "6",
        "arguments": "--resolution 64x64 --threads 1 --trials 3 --hidden-size 32 --layers 1 --heads 2 --mlp-size 64",
    }
    first = hub.run([], event=PUSH, event_name="push", no_baseline="pass", **asked)
    assert (first.code, first.outputs["exit-code"]) == (0, "4"), first.log
    if "compare" in registered():
        second = hub.run([], event=pull_request, comment="false", **asked)
        assert second.outputs["exit-code"] in {"0", "1", "3"}, second.log
        assert second.code == int(second.outputs["exit-code"])
        assert second.outputs["verdict"] in VERDICTS
        assert "patch32" in second.summary


def test_a_baseline_of_another_kind_is_refused(hub: Hub, pull_request: dict[str, Any]) -> None:
    job = hub.run([], event=pull_request, baseline="tag")
    assert job.code == 2
    assert "baseline must be ref or records, got 'tag'" in job.log


# The verdict


def test_inconclusive_passes_where_it_is_asked_to(
    hub: Hub, pull_request: dict[str, Any], inconclusive: Comparison
) -> None:
    assert hub.run([inconclusive], event=pull_request).code == 3
    assert hub.run([inconclusive], event=pull_request, inconclusive="pass").code == 0


def test_a_measurement_that_fails_fails_the_job(hub: Hub, pull_request: dict[str, Any]) -> None:
    hub.break_program(137)
    job = hub.run([], event=pull_request)
    assert job.code == 137
    assert "ended unexpectedly" in job.log


# Installing


def write_wheel(path: Path) -> None:
    """Writes a wheel that holds a module of the project's name, as its own name says."""
    project, version, *_ = path.name.split("-")
    with zipfile.ZipFile(path, "w") as wheel:
        info = f"{project}-{version}.dist-info"
        wheel.writestr(f"{project}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_packages_are_installed_as_they_are_given(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    names = ("ours-1.0-py3-none-any.whl", "theirs-2.0-py3-none-any.whl")
    wheels = hub.folder / "two wheels"
    wheels.mkdir()
    for name in names:
        write_wheel(wheels / name)
    target = hub.folder / "installed"
    job = hub.run(
        [unchanged],
        event=pull_request,
        package="\n".join(str(wheels / name) for name in names),
        environment={"PIP_TARGET": str(target), "PIP_NO_INDEX": "1"},
    )
    assert job.code == 0, job.log
    assert (target / "ours.py").is_file()
    assert (target / "theirs.py").is_file()


def test_what_can_not_be_installed_or_started_is_told_as_an_error_of_use(
    hub: Hub, pull_request: dict[str, Any]
) -> None:
    job = hub.run([], event=pull_request, package="./no-such-folder", environment={"PIP_NO_INDEX": "1"})
    assert (job.code, job.steps[-1]) == (2, "Install")
    assert "::error title=vilt-bench::pip can't install" in job.log
    (hub.folder / "bin" / "vilt-bench").unlink()
    job = hub.run([], event=pull_request, environment={"PATH": f"{hub.folder / 'bin'}:/usr/bin:/bin"})
    assert job.code == 2
    assert "vilt-bench does not start" in job.log


# Hostile inputs and checkouts


@pytest.mark.parametrize(
    "hostile",
    [
        "x\n::add-mask::pwned\nverdict=improved\rexit-code=0\r::add-mask::pwned",
        "##[add-mask]pwned;$(touch pwned)`touch pwned`",
        "--output=pwned",
        "\x1b[31mpwned",
    ],
    ids=["lines", "command within a line", "option", "escape"],
)
def test_no_input_becomes_a_command_of_the_runner_an_output_or_a_program(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison, hostile: str
) -> None:
    for name in set(ACTION["inputs"]) - {"token"}:
        job = hub.run(
            [unchanged],
            event=pull_request,
            environment={"PIP_NO_INDEX": "1"},
            **{name.replace("-", "_"): hostile},
        )
        own = re.compile(r"::(error|warning|notice) title=vilt-bench(%3A[^:]*)?::")
        assert [command for command in job.commands if not own.match(command)] == [], name
        assert job.outputs["verdict"] in {"", "unchanged"}
        assert job.code in {0, 2}
        assert not list(hub.folder.rglob("pwned"))
        if hub.calls[-1:] and hub.calls[-1][0] == "gate" and name != "arguments":
            assert hub.given("--output") == [str(hub.folder / "temp" / "vilt-bench-gate" / "records")]


@needs_jq
def test_no_program_or_module_is_taken_from_the_checkout(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    trap = f"#!/bin/sh\ntouch '{hub.folder}/pwned'\n"
    module = f"import pathlib\npathlib.Path({str(hub.folder / 'pwned')!r}).touch()\n"
    for program in ("python", "git", "gh", "vilt-bench", "od", "sed", "hooks/reference-transaction"):
        path = hub.checkout / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(trap)
        path.chmod(0o755)
    for name in ("json", "pip", "sys", "msgspec", "vilt_bench", "sitecustomize", "encodings"):
        (hub.checkout / f"{name}.py").write_text(module)
    git(hub.checkout, "config", "core.hooksPath", "hooks")
    write_wheel(hub.folder / "ours-1.0-py3-none-any.whl")
    job = hub.run(
        [unchanged],
        event=pull_request,
        package=str(hub.folder / "ours-1.0-py3-none-any.whl"),
        environment={
            "PATH": f".::{hub.folder / 'bin'}:{os.environ['PATH']}:",
            "PIP_TARGET": str(hub.folder / "installed"),
            "PIP_NO_INDEX": "1",
        },
    )
    assert (job.code, job.outputs["verdict"], len(hub.comments)) == (0, "unchanged", 2), job.log
    assert not (hub.folder / "pwned").exists()


def test_a_checkout_does_not_bring_the_records_that_it_is_compared_with(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    brought = hub.checkout / ".vilt-bench" / "baseline"
    brought.mkdir(parents=True)
    (brought / "2026-01-01-patch32.json").write_text("{}")
    job = hub.run([unchanged], event=pull_request, baseline="records")
    assert (job.code, job.outputs["exit-code"]) == (4, "4")


def test_old_records_are_removed_whatever_their_names_and_nothing_else(hub: Hub, unchanged: Comparison) -> None:
    cached = hub.folder / "cache" / "vilt-bench-gate-Linux-X64-0"
    cached.mkdir(parents=True)
    old = [f"2020-01-{day:02} package.json" for day in range(1, 31)] + ["2020-02-01\npackage.json", "-rf.json"]
    for name in [*old, *(f"2026-01-01 {number:03}.json" for number in range(199))]:
        (cached / name).write_text("{}")
    (hub.checkout / "package.json").write_text("{}")
    hub.run([unchanged], event=PUSH, event_name="push", baseline="records")
    left = {path.name for path in (hub.folder / "temp" / "vilt-bench-baseline").iterdir()}
    assert len(left) == 200
    assert not left & set(old)
    assert (hub.checkout / "package.json").exists()


@pytest.mark.parametrize("written", ['{"verdict": "improved\\nreport=/etc"}', '{"verdict": "fine"}', "{}", "{", "[]"])
def test_a_verdict_that_is_none_reaches_no_output_and_does_not_pass(
    hub: Hub, pull_request: dict[str, Any], written: str
) -> None:
    (hub.folder / "bin" / "vilt-bench").write_text(
        '#!/bin/sh\nfor part; do case "$part" in --json=*) printf "%s" "$WRITTEN" >"${part#--json=}" ;; esac; done\n'
    )
    job = hub.run([], event=pull_request, environment={"WRITTEN": written})
    assert (job.outputs["verdict"], job.outputs["exit-code"], job.code) == ("", "70", 70)
    assert job.outputs["report"] == str(hub.folder / "temp" / "vilt-bench-gate")


@needs_jq
@pytest.mark.parametrize(
    ("login", "kind"), [("mallory", "User"), ("github-actions", "User"), ("dependabot[bot]", "Bot")]
)
def test_a_comment_of_another_that_bears_the_marker_is_left_alone(
    hub: Hub, pull_request: dict[str, Any], regressed: Comparison, login: str, kind: str
) -> None:
    theirs = {"id": 2, "user": {"login": login, "type": kind}, "body": "<!-- vilt-bench gate: gate -->\nAll is well"}
    (hub.folder / "github.json").write_text(json.dumps([theirs]))
    hub.run([regressed], event=pull_request)
    assert hub.comments[0] == theirs["body"]
    assert "regressed" in hub.comments[1]


@needs_jq
@pytest.mark.parametrize("login", ["ada", "github-actions[bot]", "other-app"])
def test_the_comment_of_the_token_is_found_whoever_it_belongs_to(
    hub: Hub, pull_request: dict[str, Any], regressed: Comparison, login: str
) -> None:
    for _ in range(2):
        hub.run([regressed], event=pull_request, environment={"FAKE_GITHUB_USER": login})
    assert len(hub.comments) == 2


@needs_jq
def test_without_knowing_whose_the_token_is_no_comment_is_written(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    job = hub.run([unchanged], event=pull_request, environment={"FAKE_GITHUB_REFUSES": "GRAPHQL"})
    assert (job.code, len(hub.comments)) == (0, 1)
    assert "No comment: whose token this is can't be read" in job.log


@pytest.mark.parametrize(
    "ref",
    [
        "+refs/heads/*:refs/heads/*",
        "main:refs/heads/pwned",
        "main:",
        ":/second",
        "HEAD^{/second}",
        "@{-1}",
        "^main",
        "+main",
        "main..feature",
    ],
)
def test_a_baseline_that_git_reads_as_more_than_a_name_is_refused(
    hub: Hub, pull_request: dict[str, Any], ref: str
) -> None:
    job = hub.run([], event=pull_request, baseline_ref=ref)
    assert job.code == 2
    assert "::error title=vilt-bench::The baseline must be a commit, branch or tag" in job.log
    assert git(hub.checkout, "for-each-ref") == ""


def test_an_ancestor_of_a_name_can_be_the_baseline(hub: Hub, unchanged: Comparison) -> None:
    git(hub.checkout, "fetch", "--quiet", "--depth=2", "origin", "main:main")
    hub.run([unchanged], event={}, event_name="workflow_dispatch", baseline_ref="main~1")
    assert hub.given("--baseline-ref") == [hub.main]


def test_a_commit_message_is_not_taken_for_the_commits_parents(
    hub: Hub, pull_request: dict[str, Any], unchanged: Comparison
) -> None:
    origin = hub.folder / "origin"
    git(origin, "checkout", "--quiet", "--orphan", "root")
    lines = f"parent {hub.merge}\nparent {hub.newer_main}"
    git(origin, "commit", "--quiet", "--message", f"Subject\n\n{lines}")
    hub.check_out("root")
    hub.run([unchanged], event=pull_request)
    assert hub.given("--baseline-ref") == [hub.main]


@pytest.mark.parametrize("text", ["", "abc", "256", "512", "00", "-1", "1 0", "0\n1", "1e2", "99999999999999999999"])
def test_an_exit_code_that_is_none_fails_as_an_error(text: str) -> None:
    done = subprocess.run(
        ["bash", ROOT / "action" / "verdict.sh"],
        env={**os.environ, "EXIT_CODE": text, "NO_BASELINE": "pass"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (70, "")
    assert re.fullmatch(r"::error title=vilt-bench::Failed: .* ended unexpectedly .*\n", done.stdout)


def test_an_unexpected_error_is_not_told_as_a_regression(hub: Hub, pull_request: dict[str, Any]) -> None:
    hub.break_program(70)
    for baseline in ("ref", "records"):
        job = hub.run([], event=pull_request, baseline=baseline)
        assert (job.code, job.outputs["exit-code"], job.outputs["verdict"]) == (70, "70", "")
        assert "an error that it did not expect" in job.log
        assert "slower" not in job.log


# The documentation


@needs_jq
def test_the_documented_workflow_gates_a_pull_request(
    hub: Hub, pull_request: dict[str, Any], regressed: Comparison
) -> None:
    text = (ROOT / "docs" / "ci.md").read_text()
    block = re.search(r"```yaml\n(name: Latency\n.*?)```", text, flags=re.DOTALL)
    assert block is not None
    steps = yaml.safe_load(block[1])["jobs"]["gate"]["steps"]
    assert [step["uses"].partition("@")[0] for step in steps] == ["actions/checkout", "OWNER/vilt-bench"]
    inputs = steps[1]["with"] | {"package": ""}  # the package of the reader is not here
    job = hub.run([regressed], event=pull_request, **{key.replace("-", "_"): inputs[key] for key in inputs})
    assert (job.code, job.outputs["verdict"], len(hub.comments)) == (1, "regressed", 2)
    assert len(hub.given("--embedder")) == 2
    assert hub.given("--max-time") == ["300"]
