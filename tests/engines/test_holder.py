"""What holds a machine: its children, their environment, and their end."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from vilt_bench.engines.holder import Holder, own_environment, own_folder
from vilt_bench.record.journal import is_journal

PLAN = """
[sampling]
max-time = 0.2
trials = 1
[[embedder]]
name = "patch32"
interaction = "none"
resolution = "64x64"
"""

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="the system does not tell it")


@needs_proc
def test_children_get_the_environment_that_the_node_was_started_in(tmp_path):
    given = {
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "7",
        "CUDA_VISIBLE_DEVICES": "2,3",
        "LD_PRELOAD": "",
        "RAY_LD_PRELOAD_ON_WORKERS": "0",
    }
    raylet = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        env=given, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        raylet.stdout.readline()
        # A worker of Ray has OMP_NUM_THREADS=1 and no device; neither is looked at.
        assert own_environment(raylet.pid) == {
            "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "7", "CUDA_VISIBLE_DEVICES": "2,3"
        }  # fmt: skip
        assert own_folder(raylet.pid) == str(tmp_path)
    finally:
        raylet.communicate()


def test_where_the_system_does_not_tell_the_nodes_environment_what_ray_sets_is_left_out(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    monkeypatch.setenv("RAY_JOB_ID", "1")
    monkeypatch.setenv("LD_PRELOAD", "/site-packages/ray/core/libjemalloc.so:/mine.so")
    monkeypatch.setenv("MINE", "1")
    found = own_environment(2**31 - 1)
    assert not {"OMP_NUM_THREADS", "HIP_VISIBLE_DEVICES", "RAY_JOB_ID"} & found.keys()
    assert (found["LD_PRELOAD"], found["MINE"]) == ("/mine.so", "1")
    assert own_folder(2**31 - 1) == os.getcwd()


@pytest.fixture
def holder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("RAY_RAYLET_PID", str(2**31 - 1))  # as if there were one that tells nothing
    holder = Holder()
    yield holder
    holder.stop()


def events(holder, job):
    seen, code, deadline = [], None, time.monotonic() + 60
    while code is None and time.monotonic() < deadline:
        more, code = holder.news(job, len(seen), 30)
        seen += more
    return seen, code


def test_a_childs_record_comes_back_once_and_then_its_exit_code(holder):
    holder.start("job", PLAN, [])
    holder.start("job", PLAN, [])  # asked again, as the answer was lost
    seen, code = events(holder, "job")
    assert code == 0
    assert [kind for kind, _, _ in seen].count("record") == 1
    assert holder.news("job", len(seen), 0) == ([], 0)
    assert holder.news("another", 0, 0) is None


def test_what_a_child_refuses_is_a_line_and_an_exit_code(holder):
    holder.start("job", "[axes]\nbatch-size = [1]\n[[embedder]]\nname = 'patch3'", [])
    seen, code = events(holder, "job")
    assert code == 2
    assert "no embedder named 'patch3'" in seen[-1][1]


LONG = PLAN.replace("0.2", "600")


def children(process):
    return [each for each in psutil.Process(process).children(recursive=True) if each.is_running()]


def wait_for_a_block(folder):
    """Waits until something is on disk of what a child measures."""
    deadline = time.monotonic() + 60
    while not any(map(is_journal, map(str, folder.glob("vilt-bench-*/*")))):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_child_that_is_stopped_saves_what_it_has_measured_and_leaves_no_process(holder, tmp_path):
    others = children(os.getpid())  # such as a browser of other tests
    holder.start("job", LONG, [])
    wait_for_a_block(tmp_path)
    running = [each for each in children(os.getpid()) if each not in others]
    holder.stop()
    seen, code = events(holder, "job")
    assert code == 130
    assert [kind for kind, _, _ in seen].count("record") == 1
    _, alive = psutil.wait_procs(running, 10)
    assert alive == []


def test_a_child_that_is_killed_is_an_exit_code(holder, tmp_path):
    holder.start("job", LONG, [])
    wait_for_a_block(tmp_path)
    for child in children(os.getpid()):
        if "--plan" in child.cmdline():
            child.kill()
    assert events(holder, "job")[1] == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells it on Linux alone")
def test_a_child_ends_with_the_process_that_holds_the_machine(tmp_path):
    code = (
        "import time; from vilt_bench.engines.holder import Holder\n"
        f"holder = Holder(); holder.start('job', '''{LONG}''', []); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"RAY_RAYLET_PID": "0", "TMPDIR": str(tmp_path)}
    )
    try:
        wait_for_a_block(tmp_path)
    except AssertionError:
        process.kill()
        raise
    running = children(process.pid)
    assert running
    process.kill()
    process.communicate()
    start = time.monotonic()
    _, alive = psutil.wait_procs(running, 30)
    assert alive == [], time.monotonic() - start
