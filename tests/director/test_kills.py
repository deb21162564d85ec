"""A part of `benchmarks/kills.py`: real processes that are killed at random moments lose nothing."""

import importlib.util
import json
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


def test_of_a_sweep_every_block_is_looked_for_but_those_of_the_anchor_which_are_kept_nowhere(kills, tmp_path):
    found, place = kills.Found("sweep"), kills.Place("sweep", tmp_path / "records", tmp_path / "log")
    place.complete(found)
    assert found.faults == []

    lines = [json.loads(line) for line in place.log.read_text().splitlines()]
    anchors = place.repeats(lines)
    recorded = [json.loads(path.read_text()) for path in place.folder.glob("*.json")]
    assert len(anchors) == len({trial["index"] for run in recorded for trial in run["trials"]}) == 2
    assert sum(run["anchor"] is not None for run in recorded) == 2
    assert not place.finished() & {line["value"] for line in lines if line["process"] in anchors}

    max(place.folder.glob("*.json")).unlink()
    place.look(found)
    assert [fault.partition(" ")[2] for fault in found.faults] == ["finished blocks lost"]
