"""Whole numbers by stage that meters of other packages count, each in passes of its own that are not timed.

A package offers one as an entry point of the group `vilt_bench.meters`; its numbers bear the entry point's name.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import NamedTuple, Protocol

import torch
from torch import nn

from vilt_bench.worker.meters.latency import Forward

GROUP = "vilt_bench.meters"
"""The entry points' group; an entry point's name is that of what is counted, such as `operators`."""


class Meter(Protocol):
    """Counts something by stage."""

    def __call__(self, forward: Forward, stages: Mapping[str, nn.Module]) -> Mapping[str, int]:
        """Returns whole numbers by stage; a stage without one is left out, as it is not 0.

        Args:
            forward: runs one pass of the model, and calls a mark after each stage with its full name and its output.
            stages: by the same names, in the order in which they run.
        """


class Offered(NamedTuple):
    """What the meters of other packages counted."""

    counts: Mapping[str, Mapping[str, int]]
    """By stage, then by the meter's name."""
    warnings: tuple[str, ...]
    """A sentence for each meter that failed."""


def count_offered(forward: Forward, stages: Mapping[str, nn.Module]) -> Offered:
    """Returns what the installed packages' meters count; arguments as of `Meter`."""
    counts: dict[str, dict[str, int]] = {}
    warnings = []
    for point in sorted(entry_points(group=GROUP)):
        try:
            meter: Meter = point.load()
            with torch.inference_mode():
                numbers = {stage: operator.index(number) for stage, number in meter(forward, stages).items()}
            if strangers := numbers.keys() - stages.keys():
                raise ValueError(f"no stage is called {min(strangers)!r}")
        except Exception as error:  # whatever an outsider's meter does; nothing measured is lost for it
            problem = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.append(f"The meter {point.name!r} ({point.value}) counted nothing: {problem}.")
            continue
        for stage, number in numbers.items():
            counts.setdefault(stage, {})[point.name] = number
    return Offered(counts, tuple(warnings))
