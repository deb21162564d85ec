import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).with_name("site")
PATIENCE_S = 300


@pytest.fixture(scope="session")
def site() -> str:
    """Returns the folder from which torch loads the test device, built; skips where that can't be, but in CI."""
    # Not by sys.path: torch would then load the device into this process, for all other tests too.
    spec = importlib.util.spec_from_file_location("lagging", SITE / "lagging" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    lagging = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lagging)
    if (reason := lagging.why_not()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    lagging.built()
    return str(SITE)


@contextmanager
def process(site: str) -> Iterator[Callable[..., object]]:
    start = f"import sys; sys.path[:0] = {[site, str(ROOT)]!r}; import torch; torch.set_num_threads(1)"
    with ProcessPoolExecutor(1, get_context("spawn"), exec, (start,)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(PATIENCE_S)


@pytest.fixture(scope="session")
def on_device(site: str) -> Iterator[Callable[..., object]]:
    """Returns a function that runs one of a test file in a process that has the device, and returns its result."""
    with process(site) as run:
        yield run


def in_fork(function: Callable[..., object], *arguments: object) -> object:
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(function, *arguments).result(PATIENCE_S)


@pytest.fixture(scope="session")
def on_fresh_device(site: str) -> Iterator[Callable[..., object]]:
    """Returns the same for a process each: forks of one that has imported torch, in which nothing happens."""
    with process(site) as run:
        yield partial(run, in_fork)


@pytest.fixture
def python(site: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Returns a function that runs Python in an empty folder, with the device; keywords are environment variables."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": site, "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | variables
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    return run


@pytest.fixture
def vilt_bench(python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., object]:
    """Returns a function that runs the command likewise."""
    return partial(python, "-m", "vilt_bench")
