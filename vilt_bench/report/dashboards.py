"""What dashboards that draw latencies over commits read: names and numbers, a name once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vilt_bench.errors import ConfigError
from vilt_bench.report import clean

RATIO = "candidate / baseline"


@dataclass(frozen=True)
class Point:
    """One number of one line of a chart; smaller is better."""

    name: str
    """Equal from build to build: the case and the stage, such as `patch32 / whole`."""
    value: float
    """Seconds, or a ratio."""
    low: float | None
    high: float | None
    """Its 95% interval, where there is one."""
    extra: str
    """What a reader must know."""
    ratio: bool = False
    """Whether it is candidate / baseline."""


def github_action_benchmark(points: Iterable[Point]) -> str:
    """Returns the JSON of github-action-benchmark's tool `customSmallerIsBetter`: latencies in ms.

    Raises:
        ConfigError: two points have one name.
    """
    found = []
    for point in _distinct(points):
        scale = 1 if point.ratio else 1000
        entry = {
            "name": f"{point.name} ({RATIO})" if point.ratio else point.name,
            "unit": "ratio" if point.ratio else "ms",
            "value": _rounded(scale * point.value),
        }
        if point.high is not None:
            entry["range"] = f"± {scale * (point.high - point.value):.4g}"
        found.append(entry | {"extra": point.extra})
    return clean.json_of(found) + "\n"


def bencher(points: Iterable[Point]) -> str:
    """Returns Bencher Metric Format JSON: the measure `latency` in ns, and `latency-ratio` where sides were compared.

    Raises:
        ConfigError: two points have one name.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for point in _distinct(points):
        scale = 1 if point.ratio else 1e9
        metric = {"value": _rounded(scale * point.value)}
        if point.low is not None and point.high is not None:
            metric |= {"lower_value": _rounded(scale * point.low), "upper_value": _rounded(scale * point.high)}
        found.setdefault(point.name, {})["latency-ratio" if point.ratio else "latency"] = metric
    return clean.json_of(found) + "\n"


def _rounded(value: float) -> float:
    return float(f"{value:.12g}")  # what scaling adds to the digits of a clock


def _distinct(points: Iterable[Point]) -> Sequence[Point]:
    points = list(points)
    counts = Counter((point.name, point.ratio) for point in points)
    for (name, _), count in counts.items():
        if count > 1:
            raise ConfigError(
                f"{count} results are named {name!r}, and a dashboard keeps one a name; "
                "give one run a case, or join runs of the same case with `join`"
            )
    return points
