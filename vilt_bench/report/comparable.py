"""Whether runs may stand side by side in one picture: same machine, same settings."""

from __future__ import annotations

from collections.abc import Sequence

from vilt_bench.errors import ConfigError
from vilt_bench.records import Run
from vilt_bench.report.rows import ABSENT
from vilt_bench.statistics import latency

_LONGEST = 40
_MOST = 4


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs whose times differ by more than their embedders.

    Raises:
        ConfigError: the runs were measured on different machines or with different settings.
    """
    found = differences(runs)
    if not found:
        return
    told = [
        f"{field} ({', '.join(_short(value) for value in dict.fromkeys(values))})" for field, values in found.items()
    ]
    more = [f"{len(told) - _MOST} more"] if len(told) > _MOST else []
    *most, last = [*told[:_MOST], *more]
    listed = f"{', '.join(most)} and {last}" if most else last
    raise ConfigError(
        f"the runs differ in {listed}; measure them together with one 'vilt-bench run', "
        "or give --allow-different to label each bar with its machine"
    )


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Returns what differs between the runs that have times: by field, the value of each of `runs`, in order."""
    timed = [latency(run) is not None for run in runs]
    facts = [_facts(run) for run in runs]
    fields = dict.fromkeys(field for each in facts for field in each)
    values = {field: [each.get(field, ABSENT) for each in facts] for field in fields}
    return {
        field: each
        for field, each in values.items()
        if len({value for value, counts in zip(each, timed, strict=True) if counts}) > 1
    }


def _facts(run: Run) -> dict[str, str]:
    case, where = run.case, run.environment
    asked = {"dtype": case.dtype, "batch size": str(case.batch_size), "linear layers": case.linear}
    if where is None:
        return asked
    return {
        "machine": f"{where.machine} {where.fingerprint}",
        "device": where.device,
        "threads": str(where.threads),
        **asked,
        **where.versions,
        **where.settings,
    }


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 1]}…"
