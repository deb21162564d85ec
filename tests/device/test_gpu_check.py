"""The check of a first GPU, on the test device."""

import json
from pathlib import Path

import pytest

from vilt_bench.record.load import load_folder

pytestmark = pytest.mark.alone

CHECK = Path(__file__).parents[2] / "tools/gpu_check.py"
COST = {"LAGGING_COST": "0.004"}
"""Of an operator: in passes of 0.2 s, what a busy machine takes to wake the host is no notable share."""


@pytest.fixture
def gpu_check(python, tmp_path):
    """Runs the check with small models; returns the process and what came of each step."""

    def run(*arguments, **variables):
        done = python(
            *(CHECK, "--device", "lagging", "--small", "--output", tmp_path / "found", *arguments), **(COST | variables)
        )
        found = json.loads((tmp_path / "found/check.json").read_text())
        return done, {each["step"]: each for each in found["findings"]}

    return run


def test_what_a_device_has_is_proven_and_what_it_has_not_is_left_out(gpu_check, tmp_path):
    done, found = gpu_check("--steps", "tests", "main-job", "figure-1", "energy", "throttling", "cuda-graphs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {step: each["verdict"] for step, each in found.items()} == {
        "tests": "left out",
        "main-job": "good",
        "figure-1": "good",
        "energy": "left out",
        "throttling": "left out",
        "cuda-graphs": "left out",
    }
    assert "no NVML" in found["energy"]["told"]
    assert {run.case.embedder for run in load_folder(tmp_path / "found/records")} == {"patch32", "grid-r50"}
    assert "| main-job |" in (tmp_path / "found/README.md").read_text()


def test_a_step_that_fails_is_told_and_the_others_are_taken(gpu_check, tmp_path):
    done, found = gpu_check("--steps", "main-job", "cuda-graphs", LAGGING_MEMORY="6000000")
    assert done.returncode == 3
    assert "failed: main-job" in done.stdout
    assert "memory" in found["main-job"]["told"]
    assert found["cuda-graphs"]["verdict"] == "left out"
    assert "out-of-memory" in (tmp_path / "found/README.md").read_text()


def test_steps_that_the_time_does_not_suffice_for_are_told_as_failed(gpu_check):
    done, found = gpu_check("--steps", "main-job", "energy", "--minutes", "0")
    assert done.returncode == 3
    assert [each["told"] for each in found.values()] == ["not begun: the time was over"] * 2


def test_a_device_that_is_not_there_is_told_in_a_line(python):
    done = python(CHECK, "--device", "lagging:7")
    assert done.returncode == 2
    assert done.stderr == "gpu-check: `device` lagging:7: there is no such lagging device; there is lagging, cpu\n"


@pytest.mark.slow
def test_the_whole_check_runs_to_its_end_on_the_test_device(gpu_check, tmp_path):
    done, found = gpu_check(LAGGING_COST="0.0003")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {step for step, each in found.items() if each["verdict"] == "good"} == {
        *("main-job", "figure-1", "gate-same", "gate-slower", "table-6")
    }
    assert (tmp_path / "found/paper/figure-1.svg").exists()
