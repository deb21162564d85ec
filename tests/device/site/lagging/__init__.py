"""A torch device for tests, `lagging`, that runs behind its host as a GPU does; see `lagging.cpp`.

With the folder above on PYTHONPATH, torch loads it when it is imported, as it does devices of other packages, in worker
processes too. Its library is built once for each version of source and torch, and kept in the user's cache. Environment
variables script what a process finds: `LAGGING_COST`, seconds that each operator takes (0); `LAGGING_MEMORY`, bytes
that there are; `LAGGING_TIMED_EVENTS`, `no` for events that take no times; `LAGGING_SCALE`, by what factor
all costs are taken (1).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

NAME = "lagging"
SITE = Path(__file__).parents[1]
SOURCE = Path(__file__).with_name("lagging.cpp")


def why_not() -> str | None:
    """Returns why the device can't be had here; `None`: it can."""
    import torch

    if sys.platform != "linux":
        return "the test device is built on Linux only"
    if not hasattr(torch.accelerator, "get_memory_info"):
        return f"the test device needs allocators as torch 2.10 or newer has them, not {torch.__version__}"
    return None if _compiler() else "the test device needs a C++ compiler: none of $CXX, c++, g++, clang++ is here"


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)


def built() -> Path:
    """Returns the library, which is built first unless it is there; other processes wait meanwhile.

    Raises:
        RuntimeError: it can't be built.
    """
    import torch
    from filelock import FileLock

    made_of = f"{torch.__version__} {torch.version.git_version}".encode() + SOURCE.read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vilt-bench-tests"
    library = cache / f"lagging-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if library.exists():
        return library
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lagging.lock"):
        if not library.exists():
            _build(library, Path(torch.__file__).parent, abi=int(torch.compiled_with_cxx11_abi()))
    return library


def _build(library: Path, torch_folder: Path, *, abi: int) -> None:
    include, lib = torch_folder / "include", torch_folder / "lib"
    draft = library.with_suffix(".draft.so")
    compiler = _compiler()
    assert compiler is not None, why_not()
    command = [
        *(compiler, "-std=c++20", "-O1", "-g0", "-shared", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"),
        *(f"-I{include}", f"-I{include / 'torch/csrc/api/include'}", str(SOURCE), "-o", str(draft)),
        *(f"-L{lib}", f"-Wl,-rpath,{lib}", "-ltorch_cpu", "-lc10"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the test device could not be built: {' '.join(command)}\n{done.stderr}")
    draft.replace(library)


def load() -> None:
    """Register the device with torch, once a process; torch calls this at the end of its import."""
    import torch

    torch.ops.load_library(built())
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    vars(module).update(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda seed: None,
        get_amp_supported_dtype=lambda: [torch.float16, torch.bfloat16],
    )
    torch._register_device_module(NAME, module)
    torch.ops.lagging.set_scale(float(os.environ.get("LAGGING_SCALE", "1")))
    torch.ops.lagging.set_cost("", float(os.environ.get("LAGGING_COST", "0")))
    torch.ops.lagging.set_timed_events(os.environ.get("LAGGING_TIMED_EVENTS") != "no")
    if "LAGGING_MEMORY" in os.environ:
        torch.ops.lagging.set_memory(int(os.environ["LAGGING_MEMORY"]))
