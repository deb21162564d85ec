"""The other side out of git: real repositories, real environments."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vilt_bench.director import layers
from vilt_bench.director.checkout import installation_at, records_at, resolve
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.record import store


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
    with pytest.raises(ConfigError, match=r"nowhere: .* no such branch, tag or commit; git branch --all shows"):
        resolve("nowhere")
    with pytest.raises(ConfigError, match="no such branch"):
        resolve("--help")


def test_outside_of_a_repository_there_is_no_reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"main: git finds no repository around the current folder .*; run it within"):
        resolve("main")


def answer(installation, code):
    command = [installation.python, *installation.flags, "-c", code]
    variables = {**os.environ, **installation.variables}
    done = subprocess.run(command, cwd=installation.folder, env=variables, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_other_side_has_the_modules_of_its_commit_and_the_packages_of_this_environment(repository):
    commit(repository, my_embedder="ROWS = 0")
    commit(repository, my_embedder="ROWS = 7")
    installation = installation_at("main~1")
    assert answer(installation, "import my_embedder; print(my_embedder.ROWS)") == "0"
    assert answer(installation, "import torch, vilt_bench; print(torch.__version__ is not None)") == "True"
    assert installation.versions[0].startswith("commit ")


def test_building_leaves_no_trace_in_the_repository_and_is_done_once(repository):
    commit(repository, my_embedder="ROWS = 0")
    told = []
    first = installation_at("main", report=told.append)
    assert told[0].startswith("building main")
    assert installation_at("main", report=told.append) == first
    assert len(told) == 2
    assert len(repository("worktree", "list").splitlines()) == 1
    assert repository("status", "--short") == ""


def test_what_can_not_be_installed_is_refused_in_one_line_and_not_kept(repository, tmp_path):
    Path("pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'nothing'\n")
    commit(repository)
    with pytest.raises(ConfigError, match="can't install"):
        installation_at("main")
    assert not list((tmp_path / "cache").rglob("environment"))


def test_the_interpreter_is_of_the_same_version(repository):
    commit(repository)
    assert answer(installation_at("main"), "import sys; print(sys.version)") == sys.version


def test_a_path_of_pythons_into_the_repository_leads_to_what_the_reference_has(repository, monkeypatch):
    Path("src").mkdir()
    Path("src/my_embedder.py").write_text("ROWS = 0")
    commit(repository)
    Path("src/my_embedder.py").write_text("ROWS = 7")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path("src").resolve()), "/nowhere"]))
    installation = installation_at("main")
    assert answer(installation, "import my_embedder; print(my_embedder.ROWS)") == "0"
    assert answer(installation, "import sys; print('/nowhere' in sys.path)") == "True"


def test_a_folder_that_the_reference_lacks_is_told(repository, monkeypatch):
    commit(repository, my_embedder="ROWS = 0")
    Path("new").mkdir()
    monkeypatch.chdir("new")
    with pytest.raises(ConfigError, match="main has no folder new"):
        installation_at("main")


def test_worktrees_whose_folder_is_away_are_left_alone(repository, tmp_path):
    commit(repository, my_embedder="ROWS = 0")
    repository("worktree", "add", "--detach", "--quiet", str(tmp_path / "mine"))
    (tmp_path / "mine").rename(tmp_path / "away")
    installation_at("main")
    assert str(tmp_path / "mine") in repository("worktree", "list")


def test_hooks_do_not_run_while_the_other_side_is_built(repository, tmp_path):
    commit(repository, my_embedder="ROWS = 0")
    hook = Path(".git/hooks/post-checkout")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)
    installation_at("main")
    assert not (tmp_path / "ran").exists()


def test_a_repository_of_somebody_else_is_refused_with_the_cause_and_the_remedy(repository, tmp_path, monkeypatch):
    commit(repository)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    with pytest.raises(ConfigError, match=r"dubious ownership in repository.* git config --global --add safe.dir"):
        installation_at("main")


def test_a_branch_that_only_a_remote_has_is_named(repository, tmp_path):
    commit(repository)
    repository("update-ref", "refs/remotes/origin/trunk", "HEAD")
    repository("update-ref", "refs/remotes/fork/fix/trunk", "HEAD")
    with pytest.raises(ConfigError, match=r"`reference` trunk: .* but .*origin/trunk.*: give `reference` "):
        resolve("trunk")
    assert resolve("origin/trunk") == repository("rev-parse", "HEAD")
    with pytest.raises(ConfigError, match=r"no such branch, tag or commit; did you mean 'main'\?$"):
        resolve("mian")
    with pytest.raises(ConfigError, match=r"no such branch, tag or commit; did you mean 'origin/trunk'\?$"):
        resolve("trnk")


def test_a_shallow_clone_says_that_it_lacks_most(repository, tmp_path, monkeypatch):
    commit(repository)
    commit(repository)
    repository("clone", "--quiet", "--depth", "1", f"file://{Path.cwd()}", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    with pytest.raises(ConfigError, match=r"mian: .* no such branch, tag or commit; .*unshallow"):
        resolve("mian")


@pytest.mark.parametrize("reference", ["^main", "main..main", "--all", "-x", "", ":/change", "main:", "*", "main\n"])
def test_what_git_reads_as_more_than_a_name_is_no_reference(repository, reference):
    commit(repository)
    with pytest.raises(ConfigError, match="`reference`"):
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


BACKEND = """
import pathlib, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "acme-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(directory) / name, "w") as wheel:
        for file in sorted(pathlib.Path("src").rglob("*.py")):
            wheel.write(file, file.relative_to("src"))
        wheel.writestr("acme-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: acme\\nVersion: 1.0\\n")
        wheel.writestr("acme-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("acme-1.0.dist-info/RECORD", "")
    return name
"""
PYPROJECT = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"


def write_package(folder, rows, *, backend=BACKEND):
    """A package that installs without anything from elsewhere, and can't be imported where it lies."""
    (folder / "src" / "acme").mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(backend)
    (folder / "src" / "acme" / "__init__.py").write_text(f"ROWS = {rows}\n")


def install_copy(site, origin, rows, *, editable=False):
    """What `pip install FOLDER` leaves."""
    (site / "acme").mkdir(parents=True)
    (site / "acme" / "__init__.py").write_text(f"ROWS = {rows}\n")
    information = site / "acme-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (information / "RECORD").write_text("acme/__init__.py,,\n")
    (information / "direct_url.json").write_text(
        json.dumps({"url": origin.resolve().as_uri(), "dir_info": {"editable": editable}})
    )


@pytest.mark.parametrize("here", ["packages/vision", "packages/vision/src/acme"])
def test_the_package_that_the_current_folder_belongs_to_is_installed(repository, here, monkeypatch):
    for rows in (0, 7):
        write_package(Path("packages/vision"), rows)
        Path("pyproject.toml").write_text("[tool.ruff]\nline-length = 99\n")  # settings make no package
        commit(repository)
    monkeypatch.chdir(here)
    assert answer(installation_at("main~1"), "import acme; print(acme.ROWS)") == "0"
    assert answer(installation_at("main"), "import acme; print(acme.ROWS)") == "7"


def test_what_this_environment_has_installed_from_the_repository_is_the_references_wherever_the_gate_runs(
    repository, tmp_path, monkeypatch
):
    for rows in (0, 7):
        write_package(Path("packages/vision"), rows)
        commit(repository)
    site = tmp_path / "site-packages"
    install_copy(site, Path("packages/vision"), 7)
    monkeypatch.syspath_prepend(site)
    installation = installation_at("main~1")
    assert answer(installation, "import acme; print(acme.ROWS)") == "0"
    assert installation.apart_from == (str(Path.cwd()), str(site / "acme" / "__init__.py"))


def test_a_package_that_is_installed_from_another_working_tree_is_the_references(repository, tmp_path, monkeypatch):
    for rows in (0, 7):
        write_package(Path("packages/vision"), rows)
        commit(repository)
    main = Path.cwd()
    install_copy(tmp_path / "site-packages", Path("packages/vision"), 7, editable=True)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    repository("worktree", "add", "--quiet", "linked")  # within the other
    monkeypatch.chdir("linked")
    installation = installation_at("main~1")
    assert answer(installation, "import acme; print(acme.ROWS)") == "0"
    assert installation.apart_from == (str(main / "linked"), str(main))


def test_what_finds_an_editable_package_is_not_the_other_side(repository, tmp_path, monkeypatch):
    write_package(Path(), 3)
    commit(repository)
    install_copy(tmp_path / "site-packages", Path(), 7, editable=True)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    assert installation_at("main").apart_from == (str(Path.cwd()),)


def test_packages_of_one_commit_have_environments_of_their_own(repository, monkeypatch):
    for name, rows in (("one", 1), ("two", 2)):
        write_package(Path(name), rows)
    commit(repository)
    root = Path.cwd()
    for name, rows in (("one", "1"), ("two", "2")):
        monkeypatch.chdir(root / name)
        assert answer(installation_at("main"), "import acme; print(acme.ROWS)") == rows


def test_a_path_that_pip_could_read_as_more_is_a_path(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a [b] @ c#d"))
    write_package(Path(), 3)
    Path("pip.py").write_text("raise SystemExit('taken from the checkout')\n")
    commit(repository)
    assert answer(installation_at("main"), "import acme; print(acme.ROWS)") == "3"


def test_settings_of_pips_that_lead_elsewhere_are_told(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    write_package(Path(), 3)
    commit(repository)
    with pytest.raises(ConfigError, match="pip did not install it into the baseline's environment"):
        installation_at("main")


def test_submodules_are_those_of_the_reference_and_their_repositories_are_left_alone(repository, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()

    def git_inner(*arguments):
        return subprocess.run(["git", *arguments], cwd=inner, check=True, capture_output=True, text=True).stdout

    git_inner("init", "--quiet", "--initial-branch", "main")
    for rows in (0, 7):
        (inner / "rows.py").write_text(f"ROWS = {rows}\n")
        git_inner("add", "--all")
        git_inner("commit", "--quiet", "--message", "change")
    repository("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "parts/inner")
    repository("-C", "parts/inner", "checkout", "--quiet", "main~1")
    commit(repository, my_embedder="from parts.inner.rows import ROWS")
    repository("-C", "parts/inner", "checkout", "--quiet", "main")
    commit(repository)
    installation = installation_at("main~1")
    assert answer(installation, "import my_embedder; print(my_embedder.ROWS)") == "0"
    for folder in (".", "parts/inner"):
        assert repository("-C", folder, "status", "--porcelain") == ""
        assert len(repository("-C", folder, "worktree", "list").splitlines()) == 1
    inner.rename(tmp_path / "away")  # nothing is fetched
    assert answer(installation_at("main"), "import my_embedder; print(my_embedder.ROWS)") == "7"


def test_a_submodule_that_comes_later_is_not_missed_for_what_is_kept(repository, tmp_path):
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", str(tmp_path / "inner")], check=True)
    inner = ("-C", str(tmp_path / "inner"))
    (tmp_path / "inner" / "rows.py").write_text("ROWS = 7\n")
    repository(*inner, "add", "--all")
    repository(*inner, "commit", "--quiet", "--message", "change")
    repository("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "inner"), "inner")
    commit(repository)
    repository("submodule", "--quiet", "deinit", "--force", "inner")
    told = []
    installation = installation_at("main", report=told.append)
    assert "submodule inner is left empty, as it is here" in told
    assert answer(installation, "import os; print(os.listdir('inner'))") == "[]"
    repository("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init")
    assert answer(installation_at("main"), "from inner.rows import ROWS; print(ROWS)") == "7"


def test_a_filter_that_comes_later_is_not_missed_for_what_is_kept(repository):
    Path(".gitattributes").write_text("rows.py filter=turned\n")
    commit(repository, rows="ROWS = 7")
    assert answer(installation_at("main"), "import rows; print(rows.ROWS)") == "7"
    repository("config", "filter.turned.smudge", "tr 7 0")
    assert answer(installation_at("main"), "import rows; print(rows.ROWS)") == "0"


def test_the_checkout_passes_the_filters_that_git_is_set_to(repository):
    Path(".gitattributes").write_text("rows.py filter=turned\n")
    repository("config", "filter.turned.clean", "tr 07 70")
    repository("config", "filter.turned.smudge", "tr 07 70")
    commit(repository, rows="ROWS = 7")
    assert repository("show", "main:rows.py") == "ROWS = 0"
    assert answer(installation_at("main"), "import rows; print(rows.ROWS)") == "7"


def test_what_does_not_build_is_told_by_its_own_last_line_and_where_the_log_is(repository, tmp_path):
    backend = "def build_wheel(*_, **__):\n    print('compiling')\n    raise RuntimeError('needs a compiler of 2031')\n"
    write_package(Path(), 0, backend=backend)
    commit(repository)
    with pytest.raises(ConfigError) as refused:
        installation_at("main")
    message = str(refused.value)
    assert message.startswith("`reference` main: can't install it: RuntimeError: needs a compiler of 2031 ")
    (log,) = (tmp_path / "cache").rglob("*.log")
    assert str(log) in message
    assert "compiling" in log.read_text()
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "  error: subprocess-exited-with-error\n  × pip subprocess to install build dependencies did not run "
            "successfully.\n  │ exit code: 1\n  ╰─> [2 lines of output]\n      ERROR: Could not find a version that "
            "satisfies the requirement hatchling (from versions: none)\n      ERROR: No matching distribution found "
            "for hatchling\n      [end of output]\n  \n  note: This error originates from a subprocess, and is likely "
            "not a problem with pip.\n",
            "ERROR: No matching distribution found for hatchling",
        ),
        (
            "ERROR: Package 'acme' requires a different Python: 3.11.7 not in '>=3.14'\n\n[notice] A new release of "
            "pip is available: 23.2.1 -> 25.0\n[notice] To update, run: pip install --upgrade pip\n",
            "ERROR: Package 'acme' requires a different Python: 3.11.7 not in '>=3.14'",
        ),
        ("/x/bin/python: No module named pip\n", "/x/bin/python: No module named pip"),
        ("", ""),
    ],
)
def test_of_what_pip_says_the_cause_is_shown(said, cause):
    assert layers.cause(said) == cause


def _lose_interpreter(home):
    (home / "environment" / "bin" / "python").unlink()


def _lose_source(home):
    shutil.rmtree(home / "source")


def _lose_layers(home):
    next(home.rglob("layers.pth")).unlink()


def _cut_source(home):
    (home / "source" / "my_embedder.py").write_text("")


def _cut_stamp(home):
    (home / "ready").write_text("{")


def _empty_stamp(home):
    (home / "ready").write_text("")


def _put_file(home):
    shutil.rmtree(home)
    home.write_text("")


def _leave_half(home):
    """As a build that was killed does."""
    half = home.with_name(f".{home.name}.half")
    subprocess.run(["git", "worktree", "add", "--detach", str(half / "worktree")], check=True, capture_output=True)
    shutil.rmtree(home)


def _lose_half(home):
    _leave_half(home)
    shutil.rmtree(home.with_name(f".{home.name}.half"))


@pytest.mark.parametrize(
    "damage",
    [
        _lose_interpreter,
        _lose_source,
        _lose_layers,
        _cut_source,
        _cut_stamp,
        _empty_stamp,
        _put_file,
        _leave_half,
        _lose_half,
    ],
)
def test_what_is_kept_and_damaged_is_built_anew(repository, damage):
    commit(repository, my_embedder="ROWS = 5")
    home = Path(installation_at("main").built)
    damage(home)
    told = []
    installation = installation_at("main", report=told.append)
    assert told[0].startswith("building main")
    assert answer(installation, "import my_embedder, msgspec; print(my_embedder.ROWS)") == "5"
    assert len(repository("worktree", "list").splitlines()) == 1
    installation_at("main", report=told.append)  # using it is no damage
    assert len(told) == 2


def test_of_two_that_need_the_same_one_builds_and_the_other_waits(repository):
    commit(repository, my_embedder="ROWS = 5")
    told = []
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: installation_at("main", report=told.append), range(2)))
    assert both[0] == both[1]
    assert sum(line.startswith("building") for line in told) == 1
    assert answer(both[0], "import my_embedder; print(my_embedder.ROWS)") == "5"


def test_what_is_kept_and_whole_is_used_where_nothing_can_be_written(repository):
    commit(repository)
    installation = installation_at("main")
    home = Path(installation.built)
    lock = home.with_name(f".{home.name}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    assert installation_at("main") == installation


def test_a_cache_that_can_not_be_written_to_is_told(repository, tmp_path, monkeypatch):
    commit(repository)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"nothing can be built in .*file.*XDG_CACHE_HOME"):
        installation_at("main")


def test_without_a_home_there_is_no_traceback(repository, monkeypatch):
    commit(repository)
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-that-name/cache")
    with pytest.raises(ConfigError, match="no home folder"):
        installation_at("main")
