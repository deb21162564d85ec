"""What the doctor objects to of a run's conditions, from what its own processes know: nothing is measured for it."""

from __future__ import annotations

from collections.abc import Sequence

from vilt_bench.judge.remarks import NOTABLE_STEAL
from vilt_bench.record.run import SLOWDOWNS, Conditions, Environment

BUSY_OTHERS = 0.05
"""Of the processors, taken by other processes."""
LITTLE_MEMORY = 0.1
"""Of all memory, that is free."""


def objections(environment: Environment | None, conditions: Sequence[Conditions]) -> tuple[str, ...] | None:
    """Returns what can be objected to in what went on while processes measured, in phrases; `None`: nothing is known.

    This is the part of an examination that takes no time: the rest has processes of its own.

    Args:
        environment: where they measured.
        conditions: of each process.
    """
    seen = [each.fitness for each in conditions if each.fitness is not None]
    if environment is None or not seen:
        return None
    found = []
    usable = int(environment.hardware.get("usable_cores", 0))
    if usable and environment.threads > usable:
        found.append(f"{environment.threads} threads for {usable} cores")
    if (others := max(each.others_share or 0.0 for each in seen)) > BUSY_OTHERS:
        found.append(f"other processes took {percent(others)} of the processors")
    if (steal := max(each.steal_share or 0.0 for each in seen)) > NOTABLE_STEAL:
        found.append(f"the hypervisor gave {percent(steal)} of the processors to other machines")
    if held_s := sum(each.quota_held_s or 0.0 for each in seen):
        found.append(f"a CPU quota held it up for {held_s:.2g} s")
    if throttles := sum(each.thermal_throttles or 0 for each in seen):
        found.append(f"the processor slowed down {throttles} times against heat")
    memory_bytes = int(environment.hardware.get("memory_bytes", 0))
    free = [each.memory_available_bytes for each in seen if each.memory_available_bytes is not None]
    if free and min(free) < LITTLE_MEMORY * memory_bytes:
        found.append(f"{min(free) / 2**30:.1f} of {memory_bytes / 2**30:.1f} GiB were free")
    if swapped := max(each.swap_used_bytes or 0 for each in seen):
        found.append(f"{swapped / 2**20:.0f} MiB were swapped out")
    if reasons := SLOWDOWNS & {reason for each in conditions for reason in each.throttle_reasons or ()}:
        found.append(f"the GPU slowed down ({', '.join(sorted(reasons))})")
    return tuple(found)


def percent(share: float) -> str:
    """Returns a share in percent, a small one with two digits."""
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.0f}%"
