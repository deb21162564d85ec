import os
import subprocess
from pathlib import Path

import pytest

from vilt_bench.director.commit import read_source


def git(folder: Path, *arguments: str) -> str:
    identity = {"NAME": "A", "EMAIL": "a@example.org", "DATE": "2026-10-01T12:00:00+02:00"}
    variables = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in identity.items()}
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false", *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init")
    (tmp_path / "model.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message", "first")
    return tmp_path


def test_the_commit_is_read_with_its_branch_and_time(repository: Path) -> None:
    source = read_source(repository)
    assert source is not None
    assert source.commit == git(repository, "rev-parse", "HEAD")
    assert (source.branch, source.dirty) == ("main", False)
    assert source.committed_at == "2026-10-01T10:00:00+00:00"


def test_a_changed_file_is_dirty_and_a_new_one_such_as_a_record_is_not(repository: Path) -> None:
    (repository / "results").mkdir()
    (repository / "results" / "run.json").write_text("{}")
    source = read_source(repository / "results")
    assert source is not None
    assert not source.dirty
    (repository / "model.py").write_text("2\n")
    source = read_source(repository)
    assert source is not None
    assert source.dirty


def test_a_detached_head_has_no_branch(repository: Path) -> None:
    git(repository, "checkout", "--detach")
    source = read_source(repository)
    assert source is not None
    assert source.branch is None


def test_without_repository_commit_folder_or_git_there_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_source(tmp_path) is None
    git(tmp_path, "init")
    assert read_source(tmp_path) is None
    assert read_source(tmp_path / "missing") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_source(tmp_path) is None


def test_why_git_does_not_tell_of_a_repository_is_told_with_what_helps(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    assert read_source(repository, report=told.append) is not None
    assert told == []
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    assert read_source(repository, report=told.append) is None
    (reason,) = told
    assert "dubious ownership" in reason
    assert f"git config --global --add safe.directory {repository}" in reason


def test_where_there_is_no_repository_nothing_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    assert read_source(tmp_path, report=told.append) is None
    assert told == []


def test_a_repository_whose_worktree_has_lost_it_is_told(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text(f"gitdir: {tmp_path / 'away'}\n")
    told: list[str] = []
    assert read_source(tmp_path, report=told.append) is None
    assert "not a git repository" in told[0]


def test_the_repository_of_the_folder_counts_and_not_the_one_that_a_hook_is_for(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    git(other, "init")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    source = read_source(repository)
    monkeypatch.delenv("GIT_DIR")
    assert source is not None
    assert source.commit == git(repository, "rev-parse", "HEAD")
