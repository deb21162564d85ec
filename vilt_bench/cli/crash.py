"""What nobody expected: one line, an exit code of its own, and the traceback in a file for whoever mends it."""

from __future__ import annotations

import sys
from pathlib import Path

from vilt_bench import __version__
from vilt_bench.cli import screen
from vilt_bench.errors import ViltBenchError

UNEXPECTED = 70
"""As sysexits.h has it for an internal error; never 1, which means that the candidate is slower."""


def tell(error: BaseException, *, debug: bool) -> int:
    """Say in one line what happened and where its traceback is; returns the exit code."""
    if debug:
        import traceback  # here, as it takes a tenth of what --help does

        traceback.print_exception(error)
        kept = "its traceback is above"
    else:
        kept = _keep(error)
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    screen.complain(f"unexpected {said} (a fault of vilt-bench or of a plug-in; {kept})")
    return UNEXPECTED


def _keep(error: BaseException) -> str:
    """Returns where the traceback is now."""
    import traceback
    import uuid

    from vilt_bench import files

    lines = [f"vilt-bench {__version__}, Python {sys.version.split()[0]}\n", *traceback.format_exception(error)]
    try:
        path = Path(files.temporary_folder()) / f"vilt-bench-traceback-{uuid.uuid4().hex[:12]}.txt"
        files.write_bytes(path, "".join(lines).encode(errors="replace"))
    except ViltBenchError:
        return "its traceback can't be written to the temporary folder, --debug shows it"
    return f"its traceback: {path}"
