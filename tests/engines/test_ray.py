"""Sweeps over the nodes of Ray clusters that run on this machine."""

import os

import pytest

from tests.engines.conftest import TINY, VISIBLE
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
