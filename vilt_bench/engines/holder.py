"""Holds one machine of a cluster: starts this program there as a child, and hands out what it says and saves.

The code travels to the machine by value, so that a machine without this package can say so: it imports the standard
library alone. The measuring is the child's, in the machine's own interpreter, so that a signal, or memory that runs
out, is an exit code here, and not the end of the process that holds the machine.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

News = tuple[list[tuple[str, str, bytes]], int | None]
"""Events, and the exit code once there are no more."""

_RECORDS = "[0-9]*T[0-9]*Z-*.json"
_GRACE_S = 20.0
"""For a child that was asked to end, until it is ended."""
_LOOK_S = 2.0
"""Between looks for records of a child that says nothing."""
_PROBE_S = 180.0

# Becomes the child: it is told to end when the thread that has started it is gone, and takes signals as if it had been
# started in a terminal.
_LAUNCH = """\
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(143)
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def own_environment(raylet: int | None = None) -> dict[str, str]:
    """Returns the environment that a machine's node was started in, without what Ray has set.

    Ray sets variables for its workers, such as `OMP_NUM_THREADS=1` and an empty `CUDA_VISIBLE_DEVICES`, in the workers'
    processes. The node's own process, the raylet, was started by whoever called `ray start`: its environment is theirs,
    but for an allocator that Ray preloads into it, and Ray's own variables. Where a system does not tell it, what Ray
    is known to set is left out.

    Args:
        raylet: the process; `None`: the one that has started this worker.
    """
    process = raylet if raylet is not None else int(os.environ.get("RAY_RAYLET_PID", os.getppid()))
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            pairs = [each.partition(b"=") for each in file.read().split(b"\0") if each]
        found = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    except OSError:
        found = dict(os.environ)
        for name in list(found):
            if name in ("OMP_NUM_THREADS", "PYTHONBREAKPOINT", "SPT_NOENV") or name.endswith("_VISIBLE_DEVICES"):
                del found[name]
    preloaded = [each for each in found.pop("LD_PRELOAD", "").replace(":", " ").split() if "/ray/core/" not in each]
    if preloaded:
        found["LD_PRELOAD"] = " ".join(preloaded)
    return {name: value for name, value in found.items() if not name.startswith("RAY_")}


def own_folder(raylet: int | None = None) -> str:
    """Returns the folder that a machine's node was started in."""
    process = raylet if raylet is not None else int(os.environ.get("RAY_RAYLET_PID", os.getppid()))
    try:
        return os.readlink(f"/proc/{process}/cwd")
    except OSError:
        return os.getcwd()


class Job:
    """One child, which measures a plan."""

    def __init__(self, plan: str, arguments: list[str]) -> None:
        """Keep what to measure; `start` starts it."""
        self._events: list[tuple[str, str, bytes]] = []
        self._seen: set[str] = set()
        self._code: int | None = None
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._stopping = False
        self._plan = plan
        self._arguments = arguments

    def start(self) -> None:
        """Start it."""
        # The kernel tells the child of the end of the thread that started it: this one waits for it.
        threading.Thread(target=self._run, args=(self._plan, self._arguments), daemon=True).start()

    def news(self, after: int, wait_s: float) -> News:
        """Returns what has happened since so many events, and the exit code if that is all.

        An event is ("line", what the child has said, nothing) or ("record", its file's name, what it holds).
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > after or self._code is not None, wait_s)
            return self._events[after:], self._code

    def stop(self) -> None:
        """Ask the child to end, which saves what it has measured."""
        with self._changed:
            self._stopping = True
            process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            threading.Thread(target=self._end, args=(process,), daemon=True).start()

    def _end(self, process: subprocess.Popen[str]) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)

    def _run(self, plan: str, arguments: list[str]) -> None:
        code = 70
        try:
            with tempfile.TemporaryDirectory(prefix="vilt-bench-") as folder:
                code = self._measure(plan, [*arguments, "--output", folder], folder)
        except Exception as error:
            self._add("line", f"{type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._code = code
                self._changed.notify_all()

    def _measure(self, plan: str, arguments: list[str], folder: str) -> int:
        with self._changed:
            if self._stopping:
                return 130
            self._process = process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, str(os.getpid()), "-m", "vilt_bench", "run", "--plan", "-", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=own_environment(),
                cwd=own_folder(),
                start_new_session=True,
            )
        assert process.stdin is not None
        reader = threading.Thread(target=self._listen, args=(process, folder), daemon=True)
        reader.start()
        with contextlib.suppress(OSError):  # it has ended already
            process.stdin.write(plan)
            process.stdin.close()
        while True:
            try:
                process.wait(_LOOK_S)
                break
            except subprocess.TimeoutExpired:
                self._collect(folder)
        reader.join(_GRACE_S)
        self._collect(folder)
        return process.returncode

    def _listen(self, process: subprocess.Popen[str], folder: str) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self._collect(folder)
                self._add("line", line.rstrip())

    def _collect(self, folder: str) -> None:
        with self._changed:
            try:
                there = sorted(os.listdir(folder))
            except OSError:
                return
            for name in there:
                if name not in self._seen and fnmatch.fnmatch(name, _RECORDS):
                    with open(os.path.join(folder, name), "rb") as file:
                        self._add("record", name, file.read())
                    self._seen.add(name)

    def _add(self, kind: str, text: str, data: bytes = b"") -> None:
        with self._changed:
            self._events.append((kind, text, data))
            self._changed.notify_all()


class Holder:
    """Has a machine for itself, as long as it lives."""

    def __init__(self) -> None:
        """Hold it; nothing is started yet."""
        self._jobs: dict[str, Job] = {}

    def tell(self) -> dict[str, Any]:
        """Returns what the machine tells of itself, or under `problem` why it does not."""
        found = subprocess.run(
            [sys.executable, "-m", "vilt_bench.machine"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=own_environment(),
            cwd=own_folder(),
            timeout=_PROBE_S,
            check=False,
        )
        try:
            return dict(json.loads(found.stdout))
        except ValueError:
            said = found.stderr.strip().splitlines() or [f"exit code {found.returncode}"]
            return {"problem": f"{sys.executable}: {said[-1]}"}

    def start(self, job: str, plan: str, arguments: list[str]) -> None:
        """Measure a plan in a child; a job that is there already is not started again."""
        if job not in self._jobs:
            started = Job(plan, arguments)
            started.start()
            self._jobs = {job: started}

    def news(self, job: str, after: int, wait_s: float) -> News | None:
        """Returns what `Job.news` does; `None`: there is no such job, as the process that held it was another."""
        found = self._jobs.get(job)
        return None if found is None else found.news(after, wait_s)

    def stop(self, within_s: float = _GRACE_S) -> None:
        """End what is measured; it is waited for, so that nothing is left on the machine."""
        deadline = time.monotonic() + within_s
        for job in self._jobs.values():
            job.stop()
        for job in self._jobs.values():
            while job.news(1 << 62, 0.5)[1] is None and time.monotonic() < deadline:
                pass
