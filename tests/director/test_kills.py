"""A part of `benchmarks/kills.py`: real processes that are killed at random moments lose nothing."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture
def kills():
    path = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    spec = importlib.util.spec_from_file_location("kills", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["kills"]


@pytest.mark.parametrize("kind", ["run", "gate"])
def test_what_is_killed_at_random_moments_loses_no_finished_block_and_leaves_no_process(kills, kind):
    found = kills.Found(kind)
    for _ in range(2):
        kills.hammer(found, 2, 1.5, random.Random(1))
    assert found.faults == []
    assert 1 <= sum(found.kills.values()) <= 2
