"""Builds every model of timm as an embedder on the meta device, checks its tokens, and writes down what came of it.

    python tools/timm_catalog.py

writes `embedders/catalog-timm.csv`, which `vilt-bench list timm/…` shows, and the part on coverage of
`docs/embedders.md`. It takes about half an hour on two cores, and goes on where it was stopped: each model's outcome is
kept in `tools/timm_catalog.jsonl` until all are there (`--again` starts anew).

An outcome is right where the embedder gives [1, N, 768] with N the cells of the model's last intermediate features
(timm's `forward_intermediates`, asked apart from the embedder), or a whole fraction of them where the model itself
merges squares of tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from family import row_of, table_of, write
from marked import ROOT, put

STATE = ROOT / "tools" / "timm_catalog.jsonl"
DOCS = ROOT / "docs" / "embedders.md"
CAUSES = {"mobilenetv5": "its fusion of scales ends in 16×16 cells, whatever its features are; so in Gemma 3n"}
"""Why models whose names begin so give another number of tokens."""
ERRORS = (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError, AttributeError, IndexError)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Builds every model of timm as an embedder on the meta device.")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="at once, all of them nice (default: 2)")
    parser.add_argument("--again", action="store_true", help="forget the outcomes so far")
    parser.add_argument("--only", metavar="PART", default="", help="models whose name has this part; writes nothing")
    parser.add_argument("--share", metavar="N", type=int, help=argparse.SUPPRESS)  # a process, N of --processes
    asked = parser.parse_args(arguments)
    if asked.again and asked.share is None:
        STATE.unlink(missing_ok=True)
    import timm

    names = [name for name in timm.list_models() if asked.only in name]
    known = outcomes(timm.__version__)
    if asked.share is not None:
        work([name for name in names[asked.share :: asked.processes] if name not in known])
        return 0
    left = [name for name in names if name not in known]
    print(f"timm {timm.__version__}: {len(names)} models, {len(left)} left", flush=True)
    command = ["nice", sys.executable, __file__, "--processes", str(asked.processes), "--only", asked.only]
    processes = [
        subprocess.Popen(
            [*command, "--share", str(share)], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
        )
        for share in range(asked.processes)
    ]
    codes = [process.wait() for process in processes]
    known = outcomes(timm.__version__)
    found = [known[name] for name in names if name in known]
    report = summary(found, timm.__version__)
    print(report)
    if any(codes) or len(found) < len(names):
        print("not all models have an outcome; run it again to go on", file=sys.stderr)
        return 1
    if not asked.only:
        write((each for each in found if "visual_tokens" in each), table_of("timm"))
        put(report, "timm coverage", DOCS)
        STATE.unlink()
    return 0


def work(names: Iterable[str]) -> None:
    """Append the outcomes of the models."""
    with STATE.open("a") as file:
        for name in names:
            file.write(json.dumps(outcome(name)) + "\n")
            file.flush()


def outcome(name: str) -> dict[str, Any]:
    """Returns what became of one model: a catalogue entry, or why there is none."""
    import timm

    from vilt_bench.ask.catalog import HIDDEN_SIZE
    from vilt_bench.ask.registry import build
    from vilt_bench.errors import ViltBenchError
    from vilt_bench.worker.catalog import entry_of
    from vilt_bench.worker.meters.meta import building

    found: dict[str, Any] = {"name": name, "timm": timm.__version__}
    try:
        with building():
            embedder = build(f"timm/{name}", {}, hidden_size=HIDDEN_SIZE)
        entry = entry_of(embedder, name=f"timm/{name}")
    except ViltBenchError as error:
        return found | {"refused": str(error)}
    except Exception as error:  # a fault of the adapter's, which the report counts
        return found | {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    cells = intermediate_cells(embedder.stages["backbone"].tower, entry.resolution)
    return found | row_of(name, entry) | {"cells": cells}


def intermediate_cells(tower: Any, resolution: tuple[int, int]) -> int | None:
    """Returns h·w of the model's last intermediate features, as timm tells them; `None` where it does not."""
    import torch

    pixels = torch.empty(1, 3, *resolution, device="meta")
    try:
        with torch.inference_mode():
            last = tower.forward_intermediates(pixels, indices=1, output_fmt="NCHW", intermediates_only=True)[-1]
    except ERRORS:
        return None
    return last.shape[2] * last.shape[3]


def outcomes(version: str) -> dict[str, dict[str, Any]]:
    """Returns the outcomes that are kept, by name."""
    lines = STATE.read_text().splitlines() if STATE.is_file() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return {each["name"]: each for each in found if each["timm"] == version}


def merge_of(found: dict[str, Any]) -> int | None:
    """Returns how many cells the model makes one token of: 1, a square number, or `None` where the count is wrong."""
    if found["cells"] is None:
        return 1
    edge = round((found["cells"] / found["visual_tokens"]) ** 0.5)
    return edge**2 if edge >= 1 and found["visual_tokens"] * edge**2 == found["cells"] else None


def summary(found: Sequence[dict[str, Any]], version: str) -> str:
    """Returns the part of the documentation, as Markdown."""
    built = [each for each in found if "visual_tokens" in each]
    right = [each for each in built if merge_of(each) is not None]
    merging = [each for each in right if merge_of(each) != 1]
    untold = [each for each in right if each["cells"] is None]
    wrong = [each for each in built if merge_of(each) is None]
    failed = [each for each in found if "visual_tokens" not in each]
    share = len(right) / len(found) if found else 0
    lines = [
        f"Of the {len(found):,} models that timm {version} lists, {len(right):,} ({100 * share:.1f}%) build and give "
        f"[1, N, 768] with the right N: the cells of the model's last features, as timm's `forward_intermediates` "
        f"tells them. {names_of(untold, 'does not tell it for')}",
        "",
    ]
    if merging:
        lines.append(f"- They merge squares of tokens themselves: {', '.join(map(counted, merging))}.")
    lines += [f"- Another number of tokens: {counted(each)}: {cause(each['name'])}." for each in wrong]
    lines += [f"- Refused: `{each['name']}`: {each.get('refused') or each['failed']}." for each in failed]
    if not failed:
        lines.append("- None is refused at its own resolution.")
    return "\n".join(lines)


def counted(found: dict[str, Any]) -> str:
    return f"`{found['name']}` ({found['cells']:,} cells, {found['visual_tokens']:,} tokens)"


def cause(name: str) -> str:
    return next((why for start, why in CAUSES.items() if name.startswith(start)), "cause unknown")


def names_of(models: Iterable[dict[str, Any]], what: str) -> str:
    names = [f"`{each['name']}`" for each in models]
    return f"It {what} {', '.join(names)}." if names else ""


if __name__ == "__main__":
    sys.exit(main())
