"""A whole gate from git's hooks: what git was doing is done as if there were no hook."""

import json
import os
import subprocess
import sys

import pytest

from vilt_bench.director import git
from vilt_bench.director.installation import Installation
from vilt_bench.director.process import Worker

BASE, CHANGE = "ROWS = 0\n", "ROWS = 7\n"
VILT_BENCH = [sys.executable, "-c", "import sys; from vilt_bench.cli import main; sys.exit(main())"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that runs git in a folder, which is made; nothing of the user's settings counts."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")

    def run(folder, *arguments):
        folder.mkdir(exist_ok=True)
        command = ["git", "-c", "init.defaultBranch=main", *arguments]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    return run


@pytest.fixture
def repository(run, tmp_path):
    """Returns a repository with two commits on main, of which `base` is the first."""
    root = tmp_path / "repository"
    run(root, "init", "--quiet")
    for tag, text in (("base", BASE), ("next", "ROWS = 1\n")):
        (root / "my_embedder.py").write_text(text)
        (root / f"{tag}.txt").write_text(tag)
        run(root, "add", "--all")
        run(root, "commit", "--quiet", "--message", tag)
        run(root, "tag", tag)
    return root


def add_hook(hooks, name, tmp_path, *, where="."):
    """Let a hook run a gate, once, that has no time to measure; what git does goes on whatever comes of it."""
    command = [*VILT_BENCH, "gate", "--baseline-ref", "base", "--embedder", "my_embedder:build", "--max-time", "0.3"]
    command += ["--output", str(tmp_path / "records"), "--json", str(tmp_path / "verdict.json"), "--device", "cpu"]
    quoted = " ".join(f"'{part}'" for part in command)
    hooks.mkdir(exist_ok=True)
    hook = hooks / name
    hook.write_text(f"#!/bin/sh\nmkdir '{tmp_path}/ran' 2>/dev/null || exit 0\ncd '{where}' && {quoted} >&2\nexit 0\n")
    hook.chmod(0o755)


def assert_gate_ran(tmp_path, commit):
    told = json.loads((tmp_path / "verdict.json").read_text())
    (comparison,) = told["comparisons"]
    assert comparison["baseline"]["versions"][0] == f"commit {commit[:12]}"
    assert (tmp_path / "cache").is_dir()


def commit_change(run, folder):
    (folder / "my_embedder.py").write_text(CHANGE)
    run(folder, "commit", "--quiet", "--all", "--message", "mine")


def commit_beside(run, root):
    """Make a commit on a branch from the first, and go back."""
    run(root, "checkout", "--quiet", "-b", "side", "base")
    (root / "side.txt").write_text("side")
    run(root, "add", "--all")
    run(root, "commit", "--quiet", "--message", "side")
    run(root, "checkout", "--quiet", "main")


def push(run, root):
    commit_change(run, root)
    run(root, "push", "--quiet", str(root.with_name("remote")), "main")


def apply_patch(run, root):
    commit_change(run, root)
    patch = run(root, "format-patch", "-1", "--stdout")
    run(root, "reset", "--quiet", "--hard", "HEAD~1")
    (root.with_name("mine.patch")).write_text(f"{patch}\n\n")
    run(root, "am", "--quiet", str(root.with_name("mine.patch")))


def merge(run, root):
    commit_change(run, root)
    commit_beside(run, root)
    run(root, "merge", "--quiet", "--no-ff", "--no-edit", "side")


def rebase(run, root):
    commit_beside(run, root)
    commit_change(run, root)
    run(root, "rebase", "--quiet", "side")


DOES = {
    "pre-commit": commit_change,
    "prepare-commit-msg": commit_change,
    "commit-msg": commit_change,
    "post-commit": commit_change,
    "reference-transaction": commit_change,
    "post-index-change": commit_change,
    "post-checkout": merge,
    "pre-merge-commit": merge,
    "post-merge": merge,
    "pre-rebase": rebase,
    "post-rewrite": rebase,
    "pre-applypatch": apply_patch,
    "post-applypatch": apply_patch,
    "pre-push": push,
}


@pytest.mark.parametrize("hook", DOES)
def test_a_gate_in_a_hook_leaves_what_is_committed_alone(hook, run, repository, tmp_path):
    run(tmp_path / "remote", "init", "--quiet", "--bare")
    add_hook(repository / ".git" / "hooks", hook, tmp_path)
    DOES[hook](run, repository)
    assert_gate_ran(tmp_path, run(repository, "rev-parse", "base"))
    assert run(repository, "show", "HEAD:my_embedder.py") == CHANGE.strip()
    assert run(repository, "show", "HEAD:next.txt") == "next"
    assert run(repository, "status", "--porcelain") == ""
    assert len(run(repository, "worktree", "list").splitlines()) == 1


def test_a_gate_in_a_hook_of_a_linked_worktree_leaves_what_is_committed_alone(run, repository, tmp_path):
    linked = tmp_path / "linked"
    run(repository, "worktree", "add", "--quiet", "-b", "mine", str(linked))
    add_hook(repository / ".git" / "hooks", "pre-commit", tmp_path)
    commit_change(run, linked)
    assert_gate_ran(tmp_path, run(repository, "rev-parse", "base"))
    assert run(linked, "show", "HEAD:my_embedder.py") == CHANGE.strip()
    assert run(linked, "show", "HEAD:next.txt") == "next"
    assert run(linked, "status", "--porcelain") == run(repository, "status", "--porcelain") == ""


def test_a_gate_in_the_hook_of_a_repository_that_is_pushed_to_works_on_the_one_that_it_runs_in(
    run, repository, tmp_path
):
    remote = tmp_path / "remote"
    run(remote, "init", "--quiet", "--bare")
    add_hook(remote / "hooks", "post-receive", tmp_path, where=repository)
    push(run, repository)
    assert_gate_ran(tmp_path, run(repository, "rev-parse", "base"))
    assert run(remote, "show", "main:my_embedder.py") == CHANGE.strip()
    assert run(repository, "status", "--porcelain") == ""


def test_no_variable_that_git_calls_local_to_a_repository_reaches_what_is_started(run, tmp_path):
    names = run(tmp_path, "rev-parse", "--local-env-vars").splitlines()
    left = git.surroundings(dict.fromkeys([*names, "PATH"], "x"))
    # Settings are no repository; git hands them on to submodules as well.
    assert set(left) <= {"PATH", "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT"}


def test_settings_that_the_user_gives_git_by_variables_hold(run, repository, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(git.GitError, match="dubious ownership"):
        git.ask("rev-parse", "HEAD", folder=repository)
    for name, value in {"COUNT": "1", "KEY_0": "safe.directory", "VALUE_0": "*"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert len(git.text("rev-parse", "HEAD", folder=repository)) == 40


def test_the_processes_that_measure_get_none_of_them(run, repository, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nenv >'{tmp_path}/seen'\n")
    python.chmod(0o755)
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", "index.lock")
    for start in (Installation("old", str(python)).start, lambda: Worker.start(str(python))):
        start().close()
        seen = (tmp_path / "seen").read_text().splitlines()
        assert not any(line.startswith(("GIT_DIR=", "GIT_INDEX_FILE=")) for line in seen)
        assert any(line.startswith("PATH=") for line in seen)
