"""Processes of our own: scripts that print, hang, flood, fork, and leave others behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from vilt_bench.errors import ConfigError
from vilt_bench.wire import KEPT_OUTPUT, Child, Patience

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes")

SERVE = """
from vilt_bench import wire
owner = wire.attach()
def answer(text):
    owner.replies.write(text + b"\\n")
    owner.replies.flush()
for line in owner.requests:
"""


@contextmanager
def child(program, *, before="", environment=None):
    """A process that runs the program for each line that it is sent."""
    indented = "".join(f"    {line}\n" for line in program.strip("\n").splitlines())
    started = Child.start([sys.executable, "-c", before + SERVE + indented], environment=environment)
    try:
        yield started
    finally:
        started.close(1.0)


def ask(process, within_s=60.0):
    process.send(b"go")
    return process.receive(within_s)


def ends(pid):
    """Waits, for long, until there is no such process."""
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_what_is_printed_is_output_and_never_an_answer():
    fake = '{"type": "Welcome"}'
    before = f"import os\nprint('{fake}', flush=True)\n"
    with child(f"print('{fake}', flush=True); os.write(1, b'{fake}\\n'); answer(b'true')", before=before) as process:
        assert ask(process) == b"true"
        process.close()
        assert process.output.count(fake) == 3


def test_a_version_that_answers_on_standard_output_is_understood():
    program = 'import sys\nfor line in sys.stdin: print(\'chatter\\n{"type":"Welcome"}\', flush=True)'
    process = Child.start([sys.executable, "-c", program], older=True)
    assert ask(process) == ask(process) == b'{"type":"Welcome"}'
    process.close()
    assert "chatter" in process.output


def test_output_is_kept_to_its_last_bytes_however_much_there_is():
    with child("print('x' * 10**7); print('the end', flush=True); answer(b'1')") as process:
        assert ask(process) == b"1"
        process.close()
        assert len(process.output) == KEPT_OUTPUT
        assert process.output.endswith("the end\n")


def test_an_answer_without_end_is_refused():
    with child("while True: owner.replies.write(b'0' * 2**20)") as process, pytest.raises(ValueError, match="33554432"):
        ask(process)


def test_a_process_that_hangs_tells_the_line_at_which_it_does(tmp_path):
    (tmp_path / "hanging.py").write_text("import time\n\ndef forward():\n    time.sleep(600)\n")
    before = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport hanging\n"
    with child("answer(b'1'); hanging.forward()", before=before) as process:
        assert ask(process) == b"1"
        with pytest.raises(TimeoutError):
            process.receive(0.2)
        assert process.where() == f"{tmp_path / 'hanging.py'}, line 4, in forward"


def test_what_a_process_leaves_behind_is_ended_with_it():
    # A child, one in a group of its own, and an orphan in a session of its own.
    program = """
import subprocess
orphan = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=2).pid)"
pids = [
    subprocess.Popen(['sleep', '600']).pid,
    subprocess.Popen(['sleep', '600'], process_group=0).pid,
    int(subprocess.run([sys.executable, '-c', orphan], stdout=subprocess.PIPE).stdout),
]
answer(str(pids).encode())
"""
    with child(program, before="import sys\n") as process:
        process.send(b"go")
        pids = [int(pid) for pid in process.receive(60).strip(b"[]").split(b",")]
        assert all(map(psutil.pid_exists, pids))
    assert all(map(ends, pids))


def test_what_it_leaves_behind_is_ended_though_it_crashed():
    program = """
orphan = subprocess.Popen(['sleep', '600'], start_new_session=True).pid
answer(str(orphan).encode())
os.abort()
"""
    with child(program, before="import os, subprocess\n") as process:
        pid = int(ask(process))
        with pytest.raises(EOFError):
            process.receive(60)
        assert process.wait() == -signal.SIGABRT
    assert ends(pid)


def test_once_it_is_ended_nobody_else_is_looked_for(monkeypatch):
    with child("answer(b'1')") as process:
        process.kill()
        monkeypatch.setattr("psutil.process_iter", lambda: pytest.fail("its number may be another's"))
        process.kill()


def test_a_fork_that_comes_back_has_no_part_in_the_wire():
    program = "child = os.fork(); answer(b'parent' if child else b'child')"
    with child(program, before="import os\n") as process:
        assert ask(process) == b"parent"
        assert ask(process) == b"parent"
        assert not process.is_ahead()


def test_a_thread_that_is_left_does_not_keep_it():
    with child(
        "threading.Thread(target=time.sleep, args=(600,)).start(); answer(b'1')", before="import threading, time\n"
    ) as process:
        assert ask(process) == b"1"
        begin = time.monotonic()
        process.close(300)
        assert time.monotonic() - begin < 150


@pytest.mark.parametrize("platform", [sys.platform, "elsewhere"])
def test_it_ends_when_its_owner_is_killed_whatever_it_is_at(platform):
    busy = f"import psutil, sys; sys.platform = {platform!r}\n{SERVE}    answer(b'1')\n    while True: pass\n"
    owner = f"""
import sys, time
from vilt_bench.wire import Child
child = Child.start([sys.executable, "-c", {busy!r}])
child.send(b"go")
child.receive(60)
print(child._process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE) as started:
        pid = int(started.stdout.readline())
        assert psutil.pid_exists(pid)
        started.kill()
    assert ends(pid)


def test_threads_sleep_at_barriers_unless_the_environment_says_otherwise():
    program = "answer(os.environ['OMP_WAIT_POLICY'].encode())"
    for own, expected in (({}, b"PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, b"ACTIVE")):
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        with child(program, before="import os\n", environment=inherited | own) as process:
            assert ask(process) == expected


def test_one_that_can_not_be_started_leaves_no_descriptor_open():
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    with pytest.raises(FileNotFoundError):
        Child.start(["/no/such/interpreter"])
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_are_closed_with_the_process():
    with child("answer(b'1')") as process:
        ask(process)
        opened = {each.fileno() for each in process._pipes}
    assert all(each.closed for each in process._pipes)
    assert len(opened) == 3


def test_patience_is_a_multiple_of_the_budget_and_of_the_longest_pass_or_what_the_user_says():
    patient = Patience(budget_s=100)
    assert patient.for_once() == 1000
    assert patient.for_passes(30) == 600
    assert Patience(budget_s=1).for_once() == 300
    assert Patience(budget_s=1).for_passes(0.01) == 60
    assert Patience(5, budget_s=1000).for_once() == 5
    assert Patience(5).for_passes(30, asked_s=8) == 13


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_patience_that_is_no_time_is_refused(seconds):
    with pytest.raises(ConfigError, match="`patience_s` must be between"):
        Patience(seconds)


@pytest.mark.parametrize("older", [False, True])
def test_a_greeting_and_what_is_printed_before_it_are_not_said_unasked(older):
    started = Child.start([sys.executable, "-c", f"print('hello', flush=True)\n{SERVE}    answer(b'1')"], older=older)
    deadline_s = time.monotonic() + 60
    while not started._wire.buffer and time.monotonic() < deadline_s:
        assert not started.is_ahead()
    assert not started.is_ahead()
    assert ask(started) == b"1"
    started.close()
