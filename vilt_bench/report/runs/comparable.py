"""Whether runs may stand side by side in one picture: same machine, same settings."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vilt_bench.ask.case import ALL
from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import Summary
from vilt_bench.record.alike import MAY_BE_UNTOLD
from vilt_bench.report.numbers import ABSENT

_LONGEST = 40
_MOST = 4


def check_comparable(runs: Sequence[Summary], allow_different: Collection[str] = ()) -> None:
    """Refuse runs whose times differ by more than their embedders.

    Args:
        runs: to be shown side by side.
        allow_different: names of what may differ, such as `torch` or `batch-size`; `all`: everything.

    Raises:
        ConfigError: the runs were measured on different machines or with different settings; or nothing has a name
            that may differ.
    """
    names = {_name(field) for run in runs for field in _facts(run)}
    if unknown := [name for name in allow_different if name not in (*names, *MAY_BE_UNTOLD, ALL)]:
        raise ConfigError(f"--allow-different {unknown[0]!r} is nothing that is checked; known: {', '.join(names)}")
    found = differences(runs)
    found = {field: values for field, values in found.items() if not {_name(field), ALL}.intersection(allow_different)}
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
        f"or give --allow-different {','.join(map(_name, found))} to label each bar with its machine"
    )


def differences(runs: Sequence[Summary]) -> dict[str, list[str]]:
    """Returns what differs between the runs that have times: by field, the value of each of `runs`, in order."""
    timed = [run.timed for run in runs]
    facts = [_facts(run) for run in runs]
    fields = dict.fromkeys(field for each in facts for field in each)
    values = {field: [each.get(field, ABSENT) for each in facts] for field in fields}

    def told(field: str) -> set[str]:
        found = {value for value, counts in zip(values[field], timed, strict=True) if counts}
        return found - {ABSENT} if field in MAY_BE_UNTOLD else found

    return {field: each for field, each in values.items() if len(told(field)) > 1}


def _name(field: str) -> str:
    """Returns how a field is named on the command line, as `compare` does."""
    return "linear" if field == "linear layers" else field.replace(" ", "-")


def _facts(run: Summary) -> dict[str, str]:
    case, where = run.case, run.environment
    asked = {"dtype": case.dtype, "batch size": str(case.batch_size), "linear layers": case.linear}
    if where is None:
        return asked
    return {
        "machine": f"{where.machine} {where.fingerprint}",
        "device": where.device,
        "threads": str(where.threads),
        "omp wait policy": where.omp_wait_policy or "unset",
        **asked,
        **where.versions,
        **{name: value for name, value in where.settings.items() if name != "OMP_WAIT_POLICY"},  # told once
    }


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 1]}…"
