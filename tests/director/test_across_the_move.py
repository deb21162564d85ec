"""A gate with a version from before the package had folders, on either side: real processes, real environments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vilt_bench.director.checkout import installation_at
from vilt_bench.record.load import load_folder

ROOT = Path(__file__).parents[2]
MOVED = "vilt_bench/sweep.py"
"""A module of the flat layout that lies elsewhere since."""
TINY = (
    "patch32 --resolution 32x32 --image synthetic --text-length 4 --hidden-size 32 --layers 1 --heads 2 --mlp-size 64 "
    "--text-positions 8 --device cpu --threads 1 --max-time 20 --quiet"
)

pytestmark = pytest.mark.slow


@pytest.fixture
def before(tmp_path, monkeypatch):
    """Returns the last commit of the flat layout, and the interpreter that has it installed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)
    asked = ["git", "log", "-1", "--diff-filter=D", "--no-renames", "--format=%P", "--", MOVED]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if not found.stdout.strip():
        pytest.skip("this is no clone that has the commit before the package got its folders")
    commit = found.stdout.split()[0]
    python = installation_at(commit).python
    subprocess.run([python, "-P", "-c", "import vilt_bench.sweep"], check=True)
    return commit, python


def comparison(python, sides, records, *, folder):
    """Returns the comparison that a gate wrote for programs; what the verdict is, is chance here."""
    written = records.with_name("outcome.json")
    command = [python, "-P", "-m", "vilt_bench", "gate", *TINY.split(), *sides, "--output", records, "--json", written]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    assert done.returncode in (0, 1, 3), done.stderr.decode()
    (found,) = json.loads(written.read_text())["comparisons"]
    return found


def check_measured(found, records):
    sides = {run.side: run for run in load_folder(records)}
    assert sides.keys() == {"baseline", "candidate"}
    for side, run in sides.items():
        assert found[side]["runs"] == [run.run_id]
        assert run.trials[0].samples.whole.latency_s
        assert "visual_embedder.projection" in run.trials[0].samples.stages
    assert found["total"]["baseline_s"] > 0
    assert found["total"]["candidate_s"] > 0


def test_this_version_is_gated_against_the_commit_before_the_move(before, tmp_path):
    commit, python = before
    records = tmp_path / "records"
    found = comparison(sys.executable, ["--baseline-ref", commit], records, folder=ROOT)

    check_measured(found, records)
    assert f"commit {commit[:12]}" in found["baseline"]["versions"]
    # What it has measured can be read by the version before.
    told = subprocess.run([python, "-P", "-m", "vilt_bench", "report", records, "--format", "csv"], capture_output=True)
    assert told.returncode == 0, told.stderr.decode()


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_a_version_before_the_move_gates_this_one_on_either_side(before, tmp_path, side):
    _, python = before
    records = tmp_path / "records"
    # The other side is the interpreter that directs.
    sides = ["--baseline-python", sys.executable if side == "baseline" else python]
    sides += ["--candidate-python", python if side == "baseline" else sys.executable]
    found = comparison(python, sides, records, folder=tmp_path)

    check_measured(found, records)
