import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

CLUSTER = Path(__file__).parent / "cluster.py"
TINY = ("--interaction", "none", "--resolution", "64x64", "--trials", "1", "--max-time", "0.2")
VISIBLE = "5,3"
"""Of CUDA's devices, as if somebody had started the nodes so."""


@dataclass
class Cluster:
    """Nodes on this machine."""

    process: subprocess.Popen[str]
    address: str
    folder: Path

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline().strip() == line

    def sweep(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Returns a driver, started."""
        command = [sys.executable, "-m", "vilt_bench", "run", "--engine", "ray", "--address", self.address, *arguments]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=os.environ | variables,
        )

    def children(self) -> list[psutil.Process]:
        """Returns what measures on the nodes."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = process.info["cmdline"] or []
            if process.info["cwd"] == str(self.folder) and ("vilt_bench.worker" in words or "--plan" in words[:6]):
                found.append(process)
        return found


@pytest.fixture(scope="module")
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    pytest.importorskip("ray")
    made = []

    def make(*names: str) -> Cluster:
        folder = tmp_path_factory.mktemp("cluster")
        process = subprocess.Popen(
            [sys.executable, str(CLUSTER), *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": VISIBLE},
            start_new_session=True,
        )
        made.append(process)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "no cluster has started"
        return Cluster(process, address, folder)

    yield make
    for process in made:
        parts = psutil.Process(process.pid).children(recursive=True)
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        for part in parts:
            if part.is_running():
                part.kill()


def read_until(process: subprocess.Popen[str], text: str, within_s: float = 60.0) -> list[str]:
    """Returns what a driver says until a line that holds a text."""
    assert process.stderr is not None
    said, deadline = [], time.monotonic() + within_s
    for line in process.stderr:
        said.append(line)
        if text in line:
            return said
        assert time.monotonic() < deadline, said
    raise AssertionError(f"no {text!r} in {said}")
