"""What makes runs alike: one definition, for each purpose."""

from __future__ import annotations

from vilt_bench.record.run import Environment

MAY_BE_UNTOLD = frozenset({"governor", "turbo", "smt", "transparent_huge_pages", "clock_source"})
"""Settings that systems and older versions of this package may not tell: a record without one contradicts none."""


def same_setup(one: Environment, other: Environment) -> bool:
    """Returns whether trials of the two may be joined: one machine, software and settings.

    A setting that only one of them tells, as older records tell fewer, sets none apart.
    """
    both = one.settings.keys() & other.settings.keys()
    return used_by(one) == used_by(other) and all(one.settings[name] == other.settings[name] for name in both)


def used_by(where: Environment) -> tuple[object, ...]:
    """Returns what a measurement used: machine, device, threads and software."""
    return where.fingerprint, where.device, where.threads, where.omp_wait_policy, dict(where.versions)
