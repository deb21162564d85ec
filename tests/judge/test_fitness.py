import dataclasses
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from vilt_bench.judge.fitness import diagnose
from vilt_bench.record.examination import ClockFacts, Examination, GpuFacts, KernelPair, Neighbour
from vilt_bench.record.run import Environment, Fitness, GpuState
from vilt_bench.report.doctor import to_json

QUIET = Fitness(timer_resolution_s=40e-9, steal_share=0.0, others_share=0.01, quota_held_s=0.0, thermal_throttles=0)


def pairs(noise: float, count: int = 12) -> tuple[KernelPair, ...]:
    rng = random.Random(3)
    found = []
    for _ in range(count):
        first, second = (0.005 * (1 + rng.gauss(0, noise)) for _ in range(2))
        found.append(KernelPair((first,) * 30, (second,) * 30, cpu_share=0.99, start_s=3.0))
    return tuple(found)


def examination(**fields) -> Examination:
    environment = Environment(
        machine="EPYC",
        fingerprint="f00d",
        device="cpu",
        device_name="EPYC",
        threads=2,
        omp_wait_policy=None,
        versions={},
        settings={"governor": "performance", "turbo": "off"} | fields.pop("settings", {}),
        hardware={"usable_cores": "2", "logical_cores": "4"} | fields.pop("hardware", {}),
    )
    environment = dataclasses.replace(environment, **fields.pop("where", {}))
    usual = Examination(
        environment=environment,
        fitness=dataclasses.replace(QUIET, **fields.pop("fitness", {})),
        clocks=(ClockFacts("perf_counter", 40e-9, 70e-9),),
        pairs=pairs(0.002),
        neighbours=(),
        load_average=0.1,
        frequency_hz=None,
        highest_frequency_hz=None,
        clock_source="tsc",
        memory_bytes=2**34,
        gpus=(),
        took_s=40.0,
    )
    return dataclasses.replace(usual, **fields)


def warned(found: Examination) -> dict[str, str]:
    return {each.topic: f"{each.said} → {each.advice}" for each in diagnose(found).findings if each.mark == "warn"}


def test_a_quiet_machine_is_fit_and_nothing_is_warned_of() -> None:
    found = examination()
    assert diagnose(found).fit is True
    assert "Fit to measure on" in diagnose(found).verdict
    assert not warned(found)


def test_a_noisy_machine_is_not_fit_and_is_told_what_it_takes() -> None:
    told = diagnose(examination(pairs=pairs(0.05)))
    assert told.fit is False
    assert told.detectable > 0.05
    assert f"5% takes {told.pairs_for_fit} pairs" in told.verdict
    assert "more than 96 pairs" in diagnose(examination(pairs=pairs(0.4))).verdict


def test_noise_that_hides_every_slowdown_makes_the_smallest_unknown_and_the_machine_unfit() -> None:
    wild = tuple(
        KernelPair((0.005,) * 30, (0.005 * 20**sign,) * 30, cpu_share=0.9, start_s=3.0) for sign in (1, -1) * 4
    )
    told = diagnose(examination(pairs=wild))
    assert (told.fit, told.detectable) == (False, None)
    assert "in 95 of 100 cases is unknown" in told.verdict


def test_the_time_of_a_pair_is_that_of_a_gate_by_its_documented_passes() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "gate.md").read_text(encoding="utf-8").split())
    said = re.search(r"mean over 15 turns \((\d+) passes a process, after (\d+) of warm-up", text)
    assert said is not None
    passes = 2 * sum(map(int, said.groups()))  # of both processes
    (start_s,) = {pair.start_s for pair in pairs(0.002)}
    assert diagnose(examination()).pair_s == pytest.approx(start_s + passes * 0.1)  # a model of 100 ms


def test_a_short_look_says_what_it_does_not_see_and_a_thorough_one_does_not() -> None:
    (said,) = [each for each in diagnose(examination(forked=True, took_s=9.0)).findings if each.mark == "unknown"]
    assert said.topic == "fresh starts"
    assert "forked from one, within 9 s" in said.said
    assert "--thorough" in said.advice
    assert "fresh starts" not in {each.topic for each in diagnose(examination()).findings}


@pytest.mark.parametrize("count", [3, 12])
def test_the_verdict_tells_how_far_a_spread_of_so_few_pairs_may_be_off(count: int) -> None:
    rng = np.random.default_rng(1)
    off = rng.normal(size=(20_000, count)).std(axis=1, ddof=1).std()
    told = re.search(r"noise is known to (\d+)%", diagnose(examination(pairs=pairs(0.002, count=count))).verdict)
    assert told is not None
    assert int(told[1]) / 100 == pytest.approx(off, abs=0.05)


@pytest.mark.parametrize(("threads", "told"), [(2, ["OMP_WAIT_POLICY"]), (1, [])])
def test_what_sleeping_threads_cost_on_a_quiet_machine_is_told(threads: int, told: list[str]) -> None:
    findings = diagnose(examination(where={"omp_wait_policy": "PASSIVE", "threads": threads})).findings
    found = [each for each in findings if each.topic == "OMP_WAIT_POLICY"]
    assert [each.topic for each in found] == told
    text = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
    said = re.search(r"it costs something: (\d+) against (\d+) ms", text)
    assert said is not None
    assert all(f"{said[2]} instead of {said[1]} ms" in each.said and each.mark == "ok" for each in found)


def test_two_pairs_are_too_few_to_tell() -> None:
    told = diagnose(examination(pairs=pairs(0.002, count=2)))
    assert told.fit is None
    assert "Can't tell" in told.verdict


@pytest.mark.parametrize(
    ("fields", "topic", "said"),
    [
        ({"fitness": {"steal_share": 0.04}}, "steal", "4% of the processors"),
        ({"fitness": {"others_share": 0.3}, "neighbours": (Neighbour("make", 0.9),)}, "other processes", "make (90%"),
        ({"fitness": {"quota_held_s": 1.2}}, "quota", "1.2 s"),
        ({"fitness": {"thermal_throttles": 7}}, "heat", "7 times"),
        ({"fitness": {"swap_used_bytes": 2**20}}, "swap", "1 MiB"),
        ({"fitness": {"memory_available_bytes": 2**28}}, "memory", "0.2 of 16.0 GiB"),
        ({"fitness": {"others_share": 0.3}}, "OMP_WAIT_POLICY", "OMP_WAIT_POLICY=PASSIVE"),
        ({"settings": {"governor": "powersave"}}, "frequency governor", "governor performance"),
        ({"settings": {"turbo": "on"}}, "turbo", "no_turbo"),
        ({"hardware": {"virtual_machine": "yes"}}, "virtual machine", "measured together"),
        ({"where": {"threads": 8}}, "threads", "OMP_NUM_THREADS=2"),
        ({"load_average": 3.0}, "load", "on 4 processors"),
        ({"clock_source": "hpet"}, "clock source", "clocksource=tsc"),
        ({"clocks": (ClockFacts("perf_counter", 15e-3, 70e-9),)}, "clock", "can't be told apart"),
        ({"gpus": (GpuFacts("H200", GpuState(), False, None, None, None),)}, "H200", "--persistence-mode=1"),
        (
            {"gpus": (GpuFacts("H200", GpuState(throttle_reasons=("hw_thermal_slowdown",)), True, None, 0, None),)},
            "H200",
            "hw_thermal_slowdown",
        ),
    ],
)
def test_what_disturbs_is_warned_of_with_what_to_do(fields, topic, said) -> None:
    found = warned(examination(**fields))
    assert said in found[topic]
    assert set(found) - {topic} <= {"other processes", "OMP_WAIT_POLICY"}


def test_what_is_not_told_is_no_warning() -> None:
    untold = examination(fitness=dict.fromkeys(f.name for f in dataclasses.fields(Fitness)), load_average=None)
    untold = dataclasses.replace(untold, environment=dataclasses.replace(untold.environment, settings={}, hardware={}))
    assert not warned(untold)


def test_json_holds_diagnosis_and_raw_samples() -> None:
    told = json.loads(to_json(examination()))
    assert told["fit"] is True
    assert len(told["examination"]["pairs"][0]["first_s"]) == 30


def test_where_there_is_a_gpu_it_says_that_it_times_the_processor() -> None:
    gpu = GpuFacts("H200", GpuState(), True, None, None, None)
    assert "That is of the processor" in diagnose(examination(gpus=(gpu,))).verdict
    assert "processor;" not in diagnose(examination()).verdict
