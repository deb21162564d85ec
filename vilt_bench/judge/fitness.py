"""Is the machine fit to measure on? Findings from an examination."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from vilt_bench.judge.detectable import MOST_PAIRS, detectable, pair_noise, pairs_needed, process_noise, sample_noise
from vilt_bench.judge.objections import BUSY_OTHERS, LITTLE_MEMORY, percent
from vilt_bench.judge.pairs import PASSES
from vilt_bench.judge.remarks import NOTABLE_STEAL
from vilt_bench.judge.significance import PLANNED_PAIRS
from vilt_bench.record.examination import LEAST_PAIRS, Examination, samples_of
from vilt_bench.record.run import LEAST_CPU_SHARE, SLOWDOWNS

Mark = Literal["ok", "warn", "unknown"]
FIT = 0.05
"""A machine is fit to measure on where a slowdown of this share can be found with `PLANNED_PAIRS` pairs."""
EXAMPLE_PASS_S = 0.1
"""A pass of the model in the example of how long a comparison takes."""
COARSE_CLOCK_S = 1e-6
NOISY_PROCESSES = 0.03
SLEEPING_S, SPINNING_S = 0.239, 0.203
"""A pass of patch32 on two threads of a quiet machine, whose threads sleep or spin at barriers: docs/records.md."""
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies")


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    topic: str
    mark: Mark
    said: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What an examination means."""

    fit: bool | None
    """`None`: too few processes were measured to tell."""
    verdict: str
    detectable: float | None
    """The smallest slowdown found in 95 of 100 cases with `PLANNED_PAIRS` process pairs, as a share;
    `None`: unknown."""
    pair_noise: float | None
    process_noise: float | None
    sample_noise: float
    pairs_for_fit: int | None
    """Process pairs that find a slowdown of 5%; `None`: more than a gate takes, or not known."""
    pair_s: float
    """Time that a gate takes for one process pair of a model of `EXAMPLE_PASS_S` a pass."""
    findings: tuple[Finding, ...]


def diagnose(found: Examination) -> Diagnosis:
    """Returns what was found, judged; computed from the examination alone."""
    noise = pair_noise([(pair.first_s, pair.second_s) for pair in found.pairs])
    smallest = None if noise is None else detectable(noise)
    needed = None if noise is None else pairs_needed(noise, FIT)
    pair_s = fmean(pair.start_s for pair in found.pairs) + PASSES * EXAMPLE_PASS_S
    return Diagnosis(
        fit=None if noise is None else _good(smallest),
        verdict=_verdict(found, noise, smallest, needed, pair_s),
        detectable=smallest,
        pair_noise=noise,
        process_noise=process_noise(samples_of(found.pairs)),
        sample_noise=sample_noise(samples_of(found.pairs)),
        pairs_for_fit=needed,
        pair_s=pair_s,
        findings=tuple(_findings(found)),
    )


def _good(smallest: float | None) -> bool:
    return smallest is not None and smallest <= FIT


def _verdict(found: Examination, noise: float | None, smallest: float | None, needed: int | None, pair_s: float) -> str:
    if noise is None:
        return (
            f"Can't tell: only {len(found.pairs)} process pair{'s were' if len(found.pairs) != 1 else ' was'} measured "
            f"in {found.took_s:.0f} s; {LEAST_PAIRS} are needed. Quiet the machine, and look again."
        )
    example = f"a model of {1000 * EXAMPLE_PASS_S:g} ms a pass"
    sentence = (
        f"The smallest slowdown that is found here in 95 of 100 cases is "
        f"{'unknown' if smallest is None else f'about {percent(smallest)}'}, with "
        f"{PLANNED_PAIRS} process pairs: about {_minutes(PLANNED_PAIRS * pair_s)} for {example} "
        f"(judged from {len(found.pairs)} pairs, whose noise is known to {percent(_uncertainty(len(found.pairs)))})."
    )
    if found.gpus:
        sentence += " That is of the processor; work on the GPU has noise of its own, which each gate tells."
    if _good(smallest):
        return f"Fit to measure on. {sentence}"
    if needed is not None:
        more = f"{percent(FIT)} takes {needed} pairs, about {_minutes(needed * pair_s)}."
    else:
        more = f"{percent(FIT)} takes more than {MOST_PAIRS} pairs."
    return f"Not fit to find small slowdowns as it is now. {sentence} {more}"


def _findings(found: Examination) -> Iterator[Finding]:
    yield from _noise(found)
    yield from _others(found)
    yield from _processor(found)
    yield from _threads(found)
    yield from _clocks(found)
    yield from _memory(found)
    yield from _gpus(found)


def _noise(found: Examination) -> Iterator[Finding]:
    samples = samples_of(found.pairs)
    typical = median(median(each) for each in samples)
    between, within = process_noise(samples), sample_noise(samples)
    said = f"the kernel takes {1000 * typical:.3g} ms; samples lie {percent(within)} from their process's median"
    if between is None:
        yield Finding("noise", "unknown", f"{said}; {len(samples)} processes are too few to compare")
        return
    born = "forked" if found.forked else "fresh"
    said += f", and the medians of {len(samples)} {born} processes differ by {percent(between)}"
    if between > NOISY_PROCESSES:
        yield Finding(
            "noise", "warn", said, "single runs can't be compared closely; compare in lockstep, or with more --trials"
        )
    else:
        yield Finding("noise", "ok", said)
    noise = pair_noise([(pair.first_s, pair.second_s) for pair in found.pairs])
    if noise is not None:
        good = _good(detectable(noise))
        yield Finding(
            "lockstep",
            "ok" if good else "warn",
            f"identical processes that take turns differ by {percent(noise)} ({len(found.pairs)} pairs)",
        )

    if found.forked:
        yield Finding(
            "fresh starts",
            "unknown",
            f"all processes were forked from one, within {found.took_s:.0f} s: by how much more those differ that are "
            "started anew, as a gate's are, is not known, nor what load does that comes and goes by the minute",
            "vilt-bench doctor --thorough, about a minute",
        )


def _uncertainty(pairs: int) -> float:
    """Returns the standard error of a standard deviation, as a share of it, for normal noise."""
    return 1 / math.sqrt(2 * (pairs - 1))


def _others(found: Examination) -> Iterator[Finding]:
    fitness = found.fitness
    busiest = ", ".join(f"{each.name} ({percent(each.share)} of a core)" for each in found.neighbours[:3])
    more = f" and {len(found.neighbours) - 3} more" if len(found.neighbours) > 3 else ""
    if fitness.others_share is None:
        yield Finding("other processes", "unknown", "the system does not tell what they take")
    elif fitness.others_share > BUSY_OTHERS:
        named = f"; the busiest before it: {busiest}{more}" if busiest else ""
        yield Finding(
            "other processes",
            "warn",
            f"they took {percent(fitness.others_share)} of the processors meanwhile{named}",
            "stop them, or measure when they are done",
        )
    else:
        yield Finding("other processes", "ok", f"they took {percent(fitness.others_share)} of the processors")
    shares = [pair.cpu_share for pair in found.pairs]
    if min(shares) < LEAST_CPU_SHARE:
        yield Finding(
            "contention",
            "warn",
            f"the kernel's threads ran {percent(min(shares))} of the time at worst",
            "something takes the cores away: other processes, a quota, or more threads than cores",
        )
    logical = int(found.environment.hardware.get("logical_cores", 0))
    if found.load_average is not None and logical:
        high = found.load_average > 0.5 * logical
        yield Finding(
            "load",
            "warn" if high else "ok",
            f"{found.load_average:.2g} processes ran or waited over the last minute, on {logical} processors",
        )
    if fitness.steal_share is not None and fitness.steal_share > NOTABLE_STEAL:
        yield Finding(
            "steal",
            "warn",
            f"the hypervisor gave {percent(fitness.steal_share)} of the processors to other machines",
            "use a dedicated host, or compare in lockstep only",
        )
    if fitness.quota_held_s:
        yield Finding(
            "quota",
            "warn",
            f"the container's CPU quota held processes up for {fitness.quota_held_s:.2g} s",
            "raise the quota, or use fewer --threads",
        )


def _processor(found: Examination) -> Iterator[Finding]:
    settings, hardware = found.environment.settings, found.environment.hardware
    virtual = hardware.get("virtual_machine") == "yes"
    if virtual:
        yield Finding(
            "virtual machine",
            "warn",
            "this is one: clocks, cores and caches are shared with machines that can't be seen",
            "trust comparisons measured together; records of other hours less",
        )
    governor = settings.get("governor")
    untold = "not told" + (" in a virtual machine" if virtual else "")
    if governor is None:
        yield Finding("frequency governor", "unknown", untold)
    elif governor == "performance":
        yield Finding("frequency governor", "ok", governor)
    else:
        yield Finding(
            "frequency governor",
            "warn",
            f"{governor}: clocks follow load, so that short passes run slower",
            "sudo cpupower frequency-set --governor performance",
        )
    turbo = settings.get("turbo")
    if turbo == "on":
        yield Finding(
            "turbo",
            "warn",
            "on: clocks follow temperature and the neighbouring cores' work",
            "for comparisons turn it off: echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo, "
            "or echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost",
        )
    else:
        yield Finding("turbo", "ok" if turbo else "unknown", turbo or untold)
    if found.frequency_hz is not None and found.highest_frequency_hz:
        yield Finding(
            "frequency",
            "ok",
            f"{found.frequency_hz / 1e9:.2f} GHz now, {found.highest_frequency_hz / 1e9:.2f} GHz at most",
        )
    if found.fitness.thermal_throttles:
        yield Finding(
            "heat",
            "warn",
            f"the processor slowed down {found.fitness.thermal_throttles} times against heat meanwhile",
            "cool it, or lower its clocks to what it can keep up",
        )


def _threads(found: Examination) -> Iterator[Finding]:
    where = found.environment
    usable = int(where.hardware.get("usable_cores", 0))
    if usable and where.threads > usable:
        yield Finding(
            "threads",
            "warn",
            f"{where.threads} threads for {usable} cores: they wait for each other",
            f"set OMP_NUM_THREADS={usable}, or --threads {usable}",
        )
    else:
        yield Finding("threads", "ok", f"{where.threads} of torch, for {usable or 'an unknown number of'} cores")
    if where.threads > 1:
        yield _waiting(found)


def _waiting(found: Examination) -> Finding:
    """Returns what is said of how threads wait for each other."""
    policy = found.environment.omp_wait_policy
    topic = "OMP_WAIT_POLICY"
    if (policy or "").upper() == "PASSIVE":
        return Finding(
            topic,
            "ok",
            f"{policy}: waiting threads sleep, which load of others harms least; alone on a quiet machine passes are "
            f"faster with ACTIVE ({SPINNING_S * 1e3:.0f} instead of {SLEEPING_S * 1e3:.0f} ms of patch32 on two cores)",
        )
    said = f"{policy or 'not set'}: waiting threads spin"
    if (found.fitness.others_share or 0.0) <= BUSY_OTHERS:
        return Finding(topic, "ok", f"{said}; fine while it is quiet")
    return Finding(
        topic,
        "warn",
        f"{said}, which costs several times the latency on a busy machine",
        "export OMP_WAIT_POLICY=PASSIVE, or unset it (a little slower on a quiet machine)",
    )


def _clocks(found: Examination) -> Iterator[Finding]:
    for clock in found.clocks:
        said = f"reading {clock.name} costs {_time(clock.read_s)}"
        if clock.resolution_s is None:
            yield Finding("clock", "warn", f"{clock.name} stood still", "time longer work, or use another machine")
            continue
        coarse = clock.resolution_s > COARSE_CLOCK_S and clock.name == "perf_counter"
        yield Finding(
            "clock",
            "warn" if coarse else "ok",
            f"{clock.name} steps by {_time(clock.resolution_s)}; {said}",
            "stages of a few microseconds can't be told apart here" if coarse else "",
        )
    if found.clock_source in SLOW_CLOCKS:
        yield Finding(
            "clock source",
            "warn",
            f"{found.clock_source}: slow to read",
            "boot with clocksource=tsc, or use kvm-clock in a virtual machine",
        )


def _memory(found: Examination) -> Iterator[Finding]:
    available, swapped = found.fitness.memory_available_bytes, found.fitness.swap_used_bytes
    if available is not None:
        little = available < LITTLE_MEMORY * found.memory_bytes
        yield Finding(
            "memory",
            "warn" if little else "ok",
            f"{available / 2**30:.1f} of {found.memory_bytes / 2**30:.1f} GiB are free",
            "free some: a machine that reclaims memory measures that" if little else "",
        )
    if swapped:
        yield Finding(
            "swap",
            "warn",
            f"{swapped / 2**20:.0f} MiB are swapped out",
            "free memory, then sudo swapoff -a for a while",
        )


def _gpus(found: Examination) -> Iterator[Finding]:
    for gpu in found.gpus:
        reasons = sorted(set(gpu.state.throttle_reasons or ()) & SLOWDOWNS)
        clocks = [
            None if clock is None else f"{clock / 1e9:.2f} GHz"
            for clock in (gpu.state.sm_clock_hz, gpu.highest_sm_clock_hz)
        ]
        told = [
            f"{clocks[0]} now, {clocks[1]} at most" if None not in clocks else "",
            f"{gpu.state.temperature_c:.0f} °C" if gpu.state.temperature_c is not None else "",
            "partitioned (MIG)" if gpu.mig else "",
        ]
        yield Finding(
            gpu.name,
            "warn" if reasons else "ok",
            ", ".join(part for part in told if part) + (f"; slowed down: {', '.join(reasons)}" if reasons else ""),
            "cool it, or look at its power supply" if reasons else "",
        )
        if gpu.busy_share is not None and gpu.busy_share > BUSY_OTHERS:
            yield Finding(
                gpu.name, "warn", f"busy {percent(gpu.busy_share)} of the time with others' work", "see nvidia-smi"
            )
        if gpu.persistence is False:
            yield Finding(
                gpu.name,
                "warn",
                "persistence mode is off: the first call of each process initialises the GPU",
                "sudo nvidia-smi --persistence-mode=1",
            )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"


def _time(seconds: float) -> str:
    return f"{seconds * 1e9:.0f} ns" if seconds < 1e-6 else f"{seconds * 1e6:.1f} µs"
