"""Stands in for the `vilt-bench` program where a test needs its outcome, not its minutes of measuring.

`gate` and `compare` take the comparisons from the file $STAND_IN_COMPARISONS, and end as the real ones do: by
`outcome.finish`. Each call's arguments are added to $STAND_IN_CALLS.
"""

import argparse
import json
import os
import sys
from pathlib import Path


def main() -> int:
    with Path(os.environ["STAND_IN_CALLS"]).open("a") as file:
        file.write(json.dumps(sys.argv[1:]) + "\n")
    if sys.argv[1] == "--version":
        return 0
    import msgspec

    from vilt_bench.cli import outcome
    from vilt_bench.judge.comparison import Comparison

    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--output")
    if sys.argv[1] != "run":
        outcome.add_outputs(parser)
    asked, _ = parser.parse_known_args()
    if asked.output is not None:
        (Path(asked.output) / f"2026-11-24T035500Z-patch32-{os.getpid():08x}.json").write_text("{}")
    if asked.command == "run":
        return 0
    return outcome.finish(
        msgspec.json.decode(Path(os.environ["STAND_IN_COMPARISONS"]).read_bytes(), type=list[Comparison]), asked
    )


sys.exit(main())
