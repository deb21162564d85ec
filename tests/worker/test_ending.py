"""How the measuring process ends, in a process of its own that needs no torch: it is greeted, and asked for nothing."""

import subprocess
import sys

from vilt_bench import protocol

PROCESS = """
import atexit, ctypes
if {registered}: atexit.register(print, "registered before")
from vilt_bench.worker import __main__ as worker

class Loud:
    def __del__(self): print("taken apart", flush=True)

def serve(*arguments, **options):
    atexit.register(print, "handler")
    ctypes.CDLL(None).printf(b"printed by C\\n")
    if {fails}: raise SystemExit(7)
    answer(*arguments, **options)

answer, worker.serve, loud = worker.serve, serve, Loud()
worker.main()
"""


def ended(*, fails: bool = False, registered: bool = False) -> subprocess.CompletedProcess[bytes]:
    program = PROCESS.format(fails=fails, registered=registered)
    return subprocess.run(
        [sys.executable, "-c", program],
        input=protocol.encode(protocol.Hello()) + b"\n",
        capture_output=True,
        timeout=60,
    )


def test_a_process_that_has_answered_all_runs_its_exit_handlers_and_is_not_taken_apart():
    end = ended()
    assert (end.returncode, b"Welcome" in end.stdout) == (0, True)
    assert sorted(end.stderr.decode().splitlines()) == ["handler", "printed by C"]


def test_a_process_that_has_not_keeps_its_exit_code():
    assert ended(fails=True).returncode == 7


def test_what_was_to_run_at_exit_before_the_process_was_a_measuring_one_runs_as_well():
    assert {"handler", "registered before"} <= set(ended(registered=True).stderr.decode().splitlines())
