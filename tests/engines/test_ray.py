"""Sweeps over the nodes of Ray clusters that run on this machine."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.engines.conftest import TINY, VISIBLE, read_until
from vilt_bench.record import load

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster("node-a", "node-b")


def test_each_machine_measures_each_case_into_a_bucket(cluster, s3):
    asked = ("patch32", "--batch-size", "1,2", *TINY, "--output", s3)
    driver = cluster.sweep(*asked)
    printed, said = driver.communicate(timeout=120)
    assert driver.returncode == 0, said
    runs = load.load_all([s3])
    assert sorted((run.name, run.case.batch_size) for run in runs) == [
        ("node-a", 1), ("node-a", 2), ("node-b", 1), ("node-b", 2)
    ]  # fmt: skip
    assert "node-a: patch32" in said
    assert "measured, 4 of 4" in said
    assert printed.count(f"saved {s3}/node-") == 4
    # Ray gives its workers OMP_NUM_THREADS=1 and no device: what is measured has what the node was started with.
    for run in runs:
        assert run.environment.settings.get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")
        assert run.environment.settings["CUDA_VISIBLE_DEVICES"] == VISIBLE
        assert "ray" in run.origin.command
        assert "LD_PRELOAD" not in run.environment.settings


@pytest.mark.slow
def test_a_machine_that_is_killed_gives_its_cases_to_others_and_each_is_measured_once(make_cluster):
    cluster = make_cluster("one", "two", "three")
    sizes = ",".join(map(str, range(1, 13)))
    driver = cluster.sweep("patch32", "--batch-size", sizes, *TINY, "--anywhere", "--output", "out")
    said = read_until(driver, "measured, 2 of 12")
    cluster.tell("kill two")
    rest = driver.communicate(timeout=120)[1]
    assert driver.returncode == 0, [*said, rest]
    runs = load.load_all([cluster.folder / "out"])
    assert sorted(run.case.batch_size for run in runs) == list(range(1, 13))
    assert "two: has left" in "".join([*said, rest])
    again = cluster.sweep("patch32", "--batch-size", sizes, *TINY, "--anywhere", "--output", "out", "--resume")
    said = again.communicate(timeout=60)[1]
    assert again.returncode == 0, said
    assert len(load.load_all([cluster.folder / "out"])) == 12


LONG = ("patch32", "--interaction", "none", "--resolution", "64x64", "--trials", "1", "--max-time", "600")


@pytest.mark.slow
def test_an_interruption_ends_what_all_machines_measure_and_keeps_it(cluster):
    driver = cluster.sweep(*LONG, "--output", "cut")
    read_until(driver, "node-b: measuring")
    deadline = time.monotonic() + 60
    while len([each for each in cluster.children() if "vilt_bench.worker" in each.cmdline()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(8)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=60)[1]
    assert driver.returncode == 130, said
    assert [run.interrupted for run in load.load_all([cluster.folder / "cut"])] == [True, True]
    assert cluster.children() == []


@pytest.mark.slow
def test_a_driver_that_is_killed_takes_its_children_on_all_machines_with_it(cluster):
    driver = cluster.sweep(*LONG, "--output", "killed")
    read_until(driver, "node-b: measuring")
    running = cluster.children()
    assert running
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs(running, 60)
    assert alive == []


@pytest.mark.slow
def test_a_second_sweep_waits_for_the_machines_that_another_one_holds(cluster):
    first = cluster.sweep(*LONG, "--output", "first", "--on", "name=node-a")
    read_until(first, "node-a: measuring")
    second = cluster.sweep("patch32", *TINY, "--output", "second", "--on", "name=node-a")
    read_until(second, "node-a: another sweep measures there; it is waited for")
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    first.communicate()
    said = second.communicate(timeout=60)[1]
    assert second.returncode == 0, said
    assert len(load.load_all([cluster.folder / "second"])) == 1


OTHER = """
import sys, ray, vilt_bench.machine.code
{change}
from vilt_bench.cli import main
sys.exit(main(["run", "patch32", "--engine", "ray", "--address", sys.argv[1], "--output", "other"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ray.__version__ = '2.0.0'", "and this is Ray 2.0.0 and Python"),
        (
            "vilt_bench.machine.code.installed_code = lambda: '0.0.9 (code 0)'",
            "there, and 0.0.9 (code 0) here; install",
        ),
    ],
)
def test_versions_that_differ_are_told_in_a_line_before_anything_is_measured(cluster, change, said):
    found = subprocess.run(
        [sys.executable, "-c", OTHER.format(change=change), cluster.address],
        capture_output=True, text=True, cwd=cluster.folder, timeout=120, check=False,
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert said in found.stderr
    assert found.stderr.count("\n") == 1
    assert not list((cluster.folder / "other").iterdir())


@pytest.mark.slow
def test_an_actor_that_is_ended_starts_again_and_its_cases_are_measured(cluster):
    driver = cluster.sweep("patch32", "--batch-size", "1,2", *TINY, "--output", "again", "--on", "name=node-b")
    read_until(driver, "node-b: measuring")
    holders = {psutil.Process(child.ppid()).pid for child in cluster.children() if "--plan" in child.cmdline()}
    for pid in holders:
        os.kill(pid, signal.SIGKILL)
    assert holders
    said = driver.communicate(timeout=100)[1]
    assert driver.returncode == 0, said
    assert sorted(run.case.batch_size for run in load.load_all([cluster.folder / "again"])) == [1, 2]
