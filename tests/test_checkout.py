"""The other side out of git: real repositories, real environments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vilt_bench import store
from vilt_bench.checkout import contender_at, records_at, resolve
from vilt_bench.errors import ConfigError, RecordError


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Returns a function that runs git in a fresh repository, the current folder."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")

    def git(*arguments):
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet", "--initial-branch", "main")
    return git


def commit(git, **files):
    for name, text in files.items():
        Path(f"{name}.py").write_text(text)
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "--message", "change")
    return git("rev-parse", "HEAD")


def test_records_are_found_as_the_reference_has_them(repository, make_run):
    store.save(make_run(run_id="old"), "results")
    commit(repository)
    store.save(make_run(run_id="new"), "results")
    assert [run.run_id for run in records_at("main", "results")] == ["old"]


def test_a_reference_without_records_has_none(repository):
    commit(repository)
    assert records_at("main", "results") == []


def test_a_broken_record_is_refused_by_its_name(repository, make_run):
    store.save(make_run(), "results").write_text('{"schema_version": 1')
    commit(repository)
    with pytest.raises(RecordError, match=r"main:results/.* is not a whole record"):
        records_at("main", "results")


def test_an_unknown_reference_is_refused_with_what_helps(repository):
    commit(repository)
    with pytest.raises(ConfigError, match=r"nowhere: .* no such branch, tag or commit.*unshallow"):
        resolve("nowhere")
    with pytest.raises(ConfigError, match="no such branch"):
        resolve("--help")


def test_outside_of_a_repository_there_is_no_reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="not a git repository"):
        resolve("main")


def answer(contender, code):
    command = [contender.python, *contender.flags, "-c", code]
    variables = {**os.environ, **contender.variables}
    done = subprocess.run(command, cwd=contender.folder, env=variables, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_other_side_has_the_modules_of_its_commit_and_the_packages_of_this_environment(repository):
    commit(repository, my_embedder="ROWS = 0")
    commit(repository, my_embedder="ROWS = 7")
    contender = contender_at("main~1")
    assert answer(contender, "import my_embedder; print(my_embedder.ROWS)") == "0"
    assert answer(contender, "import torch, vilt_bench; print(torch.__version__ is not None)") == "True"
    assert contender.versions[0].startswith("commit ")


def test_building_leaves_no_trace_in_the_repository_and_is_done_once(repository):
    commit(repository, my_embedder="ROWS = 0")
    told = []
    first = contender_at("main", report=told.append)
    assert told[0].startswith("building main")
    assert contender_at("main", report=told.append) == first
    assert len(told) == 2
    assert len(repository("worktree", "list").splitlines()) == 1
    assert repository("status", "--short") == ""


def test_what_can_not_be_installed_is_refused_in_one_line_and_not_kept(repository, tmp_path):
    Path("pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'nothing'\n")
    commit(repository)
    with pytest.raises(ConfigError, match="can't install"):
        contender_at("main")
    assert not list((tmp_path / "cache").rglob("environment"))


def test_the_interpreter_is_of_the_same_version(repository):
    commit(repository)
    assert answer(contender_at("main"), "import sys; print(sys.version)") == sys.version


def test_a_path_of_pythons_into_the_repository_leads_to_what_the_reference_has(repository, monkeypatch):
    Path("src").mkdir()
    Path("src/my_embedder.py").write_text("ROWS = 0")
    commit(repository)
    Path("src/my_embedder.py").write_text("ROWS = 7")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path("src").resolve()), "/nowhere"]))
    contender = contender_at("main")
    assert answer(contender, "import my_embedder; print(my_embedder.ROWS)") == "0"
    assert answer(contender, "import sys; print('/nowhere' in sys.path)") == "True"


def test_a_folder_that_the_reference_lacks_is_told(repository, monkeypatch):
    commit(repository, my_embedder="ROWS = 0")
    Path("new").mkdir()
    monkeypatch.chdir("new")
    with pytest.raises(ConfigError, match="main has no folder new"):
        contender_at("main")


def test_worktrees_whose_folder_is_away_are_left_alone(repository, tmp_path):
    commit(repository, my_embedder="ROWS = 0")
    repository("worktree", "add", "--detach", "--quiet", str(tmp_path / "mine"))
    (tmp_path / "mine").rename(tmp_path / "away")
    contender_at("main")
    assert str(tmp_path / "mine") in repository("worktree", "list")


def test_hooks_do_not_run_while_the_other_side_is_built(repository, tmp_path):
    commit(repository, my_embedder="ROWS = 0")
    hook = Path(".git/hooks/post-checkout")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)
    contender_at("main")
    assert not (tmp_path / "ran").exists()


def test_a_repository_of_somebody_else_is_refused_with_the_cause_and_the_remedy(repository, tmp_path, monkeypatch):
    commit(repository)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    with pytest.raises(ConfigError, match=r"dubious ownership in repository.* git config --global --add safe.dir"):
        contender_at("main")


def test_a_branch_that_only_a_remote_has_is_named(repository, tmp_path):
    commit(repository)
    repository("update-ref", "refs/remotes/origin/trunk", "HEAD")
    repository("update-ref", "refs/remotes/fork/fix/trunk", "HEAD")
    with pytest.raises(ConfigError, match=r"--baseline-ref trunk: .* but .*origin/trunk.*: give --baseline-ref "):
        resolve("trunk")
    assert resolve("origin/trunk") == repository("rev-parse", "HEAD")
    with pytest.raises(ConfigError, match=r"no such branch, tag or commit; did you mean main\?"):
        resolve("mian")


@pytest.mark.parametrize("reference", ["^main", "main..main", "--all", "-x", "", ":/change", "main:", "*", "main\n"])
def test_what_git_reads_as_more_than_a_name_is_no_reference(repository, reference):
    commit(repository)
    with pytest.raises(ConfigError, match="--baseline-ref"):
        resolve(reference)


@pytest.mark.parametrize("folder", [":(top)x", "[ab]*", "-x", "--help", "ä b"])
def test_a_folder_of_records_is_taken_by_its_name_alone(repository, make_run, folder):
    store.save(make_run(run_id="mine"), Path(folder))
    store.save(make_run(run_id="other"), "a")
    commit(repository)
    assert [run.run_id for run in records_at("main", folder)] == ["mine"]


def test_records_are_read_as_a_checkout_has_them(repository, make_run):
    Path(".gitattributes").write_text("*.json filter=turned\n")
    repository("config", "filter.turned.clean", "tr a-z A-Z")
    repository("config", "filter.turned.smudge", "cat >/dev/null; cat kept")
    store.save(make_run(run_id="mine"), "results").rename("kept")
    Path("results/2026-11-24T035500Z-patch32-mine.json").write_text("pointer")
    commit(repository)
    assert [run.run_id for run in records_at("main", "results")] == ["mine"]
