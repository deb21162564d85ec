import dataclasses
import re
from collections.abc import Callable
from typing import get_args

import pytest

from vilt_bench.ask.case import Sampling
from vilt_bench.judge import remarks as of
from vilt_bench.judge.latency import latency
from vilt_bench.judge.remarks import remarks, verdict
from vilt_bench.record.peak import Peak
from vilt_bench.record.run import Conditions, Energy, Failure, Fitness, Run, Series, Stage, Times, Trial
from vilt_bench.report.remarks import sentences

MakeRun = Callable[..., Run]


def told(run: Run) -> list[str]:
    return sentences(remarks(run))


def said(run: Run, part: str) -> list[str]:
    return [remark for remark in told(run) if part in remark]


def with_trials(run: Run, *samples: Series) -> Run:
    trials = tuple(Trial(index=index, started_at="", samples=series) for index, series in enumerate(samples))
    return dataclasses.replace(run, trials=trials)


def whole(*blocks: float, passes: int = 10) -> Series:
    times = tuple(value for value in blocks for _ in range(passes))
    return Series(whole=Times(wall_time_s=times), blocks=(passes,) * len(blocks))


def test_quiet_run_is_precise_and_says_how_precise(make_run: MakeRun) -> None:
    run = make_run()
    assert verdict(run) == "precise"
    assert said(run, "Precise: the whole is known to ±")
    assert not said(run, "contention")
    assert not said(run, "trials measured")


def test_trials_that_differ_are_named_as_the_reason_of_noise(make_run: MakeRun) -> None:
    run = with_trials(make_run(), whole(1, 1, 1), whole(1.2, 1.2, 1.2), whole(1.1, 1.1, 1.1))
    assert verdict(run) == "noisy"
    assert said(run, "trials differ by 18%")
    assert not said(run, "drift")


def test_drift_within_a_trial_is_named_with_its_size(make_run: MakeRun) -> None:
    run = with_trials(make_run(), whole(1, 1, 1.1, 1.1))
    assert verdict(run) == "noisy"
    assert said(run, "+10% drift within a trial")


def test_time_that_was_over_is_named(make_run: MakeRun) -> None:
    run = with_trials(make_run(sampling=Sampling(max_time_s=50, trials=1)), whole(1, 1, 1.5, 1.5))
    assert said(run, "the 50 s were over")
    assert not said(dataclasses.replace(run, sampling=Sampling(max_time_s=500, trials=1)), "were over")


def held_up(cpu_share: float | None, switches: int | None = 500) -> Conditions:
    return Conditions(cpu_share=cpu_share, involuntary_context_switches=switches, watched_s=10.0)


def test_contention_is_named_where_threads_ran_less_than_nine_tenths_and_were_taken_off_their_cores(
    make_run: MakeRun,
) -> None:
    expected = "contention (threads ran 55% of the time, 50 involuntary context switches a second)"
    assert said(make_run(conditions=held_up(0.55)), expected)
    assert said(make_run(noise=0.5, conditions=held_up(0.55)), "contention")
    for quiet in (held_up(0.95), held_up(None), held_up(0.55, switches=5), held_up(0.55, switches=None)):
        assert not said(make_run(conditions=quiet), "contention")


def test_throttling_is_named_with_its_reasons_and_idling_or_a_power_cap_is_none(make_run: MakeRun) -> None:
    hot = Conditions(throttle_reasons=("sw_thermal_slowdown", "gpu_idle", "sw_power_cap"))
    idle = Conditions(throttle_reasons=("gpu_idle", "sw_power_cap", "applications_clocks_setting"))
    assert said(make_run(conditions=hot), "GPU throttling (sw_thermal_slowdown)")
    assert not said(make_run(conditions=idle), "throttling")


def test_energy_is_told_with_its_spread_and_the_idle_power(make_run: MakeRun) -> None:
    energy = Energy((4.0, 4.4, 4.2), (5.1, 5.2, 5.3), (10, 10, 10), 60.0, "NVML")
    assert said(make_run(energy=energy), "Energy: 4.2 J a pass (4 to 4.4 in 3 windows of 5.1 s or more); idle 60 W")
    assert not said(make_run(), "Energy")


def test_time_that_did_not_do_for_all_trials_says_how_much_does(make_run: MakeRun) -> None:
    run = with_trials(make_run(sampling=Sampling(max_time_s=60, trials=3)), whole(10, passes=1))
    assert said(run, "1 of 3 trials measured: one takes about 10 s, so give --max-time 40 for all.")


def test_large_and_small_numbers_have_no_exponent(make_run: MakeRun) -> None:
    run = with_trials(make_run(), whole(1, 1, 1), whole(9, 9, 9), whole(5, 5, 5))
    assert not any("e+" in remark or "e-" in remark for remark in told(run) if "±" in remark)
    assert said(run, "trials differ by 160%")


def test_stages_that_differ_from_the_whole_by_chance_only_are_told_as_noise(make_run: MakeRun) -> None:
    def noisy(*stage_s: float) -> Series:
        stages = {"textual_embedder": Times(wall_time_s=stage_s)}
        return Series(whole=Times(wall_time_s=(1.0,) * 3), stages=stages, blocks=(3,))

    run = with_trials(make_run(), noisy(1.2, 1.2, 1.2), noisy(0.9, 0.9, 0.9), noisy(1.0, 1.0, 1.0))
    assert said(run, "+3.3% from the whole, which is timed apart (within the noise)")
    assert not said(run, "more than 2%")


def test_what_took_the_machine_away_is_named_where_it_matters(make_run: MakeRun) -> None:
    taken = Fitness(steal_share=0.04, quota_held_s=1.5, thermal_throttles=2, others_share=0.5)
    run = make_run(noise=0.5, conditions=Conditions(cpu_share=0.99, fitness=taken))
    assert said(run, "a hypervisor that gave 4% of the processors to other machines")
    assert said(run, "a CPU quota that held the process up for 4.5 s")
    assert said(run, "a hot processor (slowed down 6 times)")
    quiet = Fitness(steal_share=0.001, quota_held_s=0.0, thermal_throttles=0)
    assert not said(make_run(conditions=Conditions(fitness=quiet)), "Measured under")


def test_one_trial_says_that_its_interval_is_of_this_process_only(make_run: MakeRun) -> None:
    assert said(make_run(trials=1, sampling=Sampling(trials=1)), "these processes only")
    assert not said(make_run(trials=3), "these processes only")


def test_two_blocks_are_too_few_for_an_interval(make_run: MakeRun) -> None:
    run = with_trials(make_run(), whole(1, 1))
    assert said(run, "No interval: 20 passes, 2 blocks are too few")
    assert verdict(run) == "noisy"


@pytest.mark.parametrize(
    ("stage_s", "told", "warned"),
    [(1.0, " 0.0%", False), (1.015, "+1.5%", False), (1.03, "+3.0%", True), (0.96, "-4.0%", True)],
)
def test_sum_of_stages_more_than_two_percent_from_the_whole_is_warned_of(
    make_run: MakeRun, stage_s: float, told: str, warned: bool
) -> None:
    series = Series(
        whole=Times(wall_time_s=(1.0,) * 9),
        stages={"textual_embedder": Times(wall_time_s=(stage_s,) * 9)},
        blocks=(3, 3, 3),
    )
    run = with_trials(make_run(), series, series, series)
    assert said(run, f"{told} from the whole")
    assert bool(said(run, "more than 2%")) == warned


def test_failure_comes_first_with_its_stage(make_run: MakeRun) -> None:
    run = make_run(trials=0, failure=Failure("out-of-memory", "asked for 2 GiB", "visual_embedder.backbone"))
    assert verdict(run) == "failed"
    assert told(run)[0] == "Failed in visual_embedder.backbone (out-of-memory): asked for 2 GiB"


def test_interrupted_run_says_how_many_trials_it_has(make_run: MakeRun) -> None:
    run = make_run(trials=1, interrupted=True)
    assert verdict(run) == "interrupted"
    assert said(run, "Interrupted")
    assert said(run, "1 of 3 trials measured")


def test_random_weights_and_planted_tensors_are_told(make_run: MakeRun) -> None:
    stage = Stage(
        name="visual_embedder.class_nms",
        component="visual_embedder",
        output="",
        parameters=0,
        counts={"nms_candidates": 4000, "kept": 36},
        note="planted scores",
    )
    run = make_run(stages=(stage,))
    assert said(run, "Random weights: visual embedder, shared model.")
    assert said(run, "class_nms: 4000 nms candidates, 36 kept; planted scores.")
    assert run.model is not None
    loaded = dataclasses.replace(run.model, visual_weights="vilt.pt", shared_weights="vilt.pt")
    assert not said(dataclasses.replace(run, model=loaded), "Random weights")


def test_stage_whose_host_time_exceeds_device_time_is_launch_bound(make_run: MakeRun) -> None:
    stages = {
        "visual_embedder.roi_head": Times(device_time_s=(2.0,) * 3, host_time_s=(1.0,) * 3),
        "visual_embedder.class_nms": Times(device_time_s=(1.0,) * 3, host_time_s=(2.0,) * 3),
    }
    found = said(with_trials(make_run(), Series(stages=stages, blocks=(3,))), "launch-bound")
    assert len(found) == 1
    assert "class_nms" in found[0]
    assert "roi_head" not in found[0]


def test_a_stage_that_takes_the_host_nearly_as_long_as_the_device_is_launch_bound_too(make_run: MakeRun) -> None:
    # A device that waits for launches stamps its events as they come: both clocks tell the host's time.
    stages = {"visual_embedder.class_nms": Times(device_time_s=(2.00, 2.02, 2.01), host_time_s=(1.99, 2.01, 2.00))}
    assert said(with_trials(make_run(), Series(stages=stages, blocks=(3,))), "launch-bound")


@pytest.mark.parametrize(
    ("wall_s", "host_s", "is_told"),
    [
        (0.020, 0.0005, True),  # of which device events saw one
        (0.0012, 0.0005, False),  # the host takes its time to wake
        (0.020, 0.0199, False),  # the host was at work, not the device
    ],
)
def test_time_that_a_device_goes_on_after_its_last_event_is_told(
    make_run: MakeRun, wall_s: float, host_s: float, is_told: bool
) -> None:
    whole = Times(wall_time_s=(wall_s,) * 3, device_time_s=(0.00105,) * 3, host_time_s=(host_s,) * 3)
    found = said(with_trials(make_run(), Series(whole=whole, blocks=(3,))), "work on other streams")
    assert bool(found) == is_told
    if is_told:
        assert "went on for 19 ms, 94.8% of the pass" in found[0]


def test_a_host_that_others_keep_from_waking_in_most_passes_is_no_work_of_the_device(make_run: MakeRun) -> None:
    whole = Times(wall_time_s=(0.0101, *(0.013,) * 8), device_time_s=(0.010,) * 9, host_time_s=(0.001,) * 9)
    assert not said(with_trials(make_run(), Series(whole=whole, blocks=(9,))), "work on other streams")


def test_first_call_and_warm_up_that_did_not_settle_are_told(make_run: MakeRun) -> None:
    run = make_run()
    assert said(run, "First call: 400 ms, 4 times the latency")
    trials = tuple(dataclasses.replace(trial, settled=False) for trial in run.trials[:2])
    assert said(dataclasses.replace(run, trials=trials), "not settled when warm-up ended, in 2 of 2 trials")


def test_warnings_of_the_run_are_passed_on(make_run: MakeRun) -> None:
    assert said(make_run(warnings=("TF32 is on",)), "TF32 is on")


def test_empty_run_has_remarks_and_does_not_fail(make_run: MakeRun) -> None:
    run = make_run(trials=0, model=None, environment=None, stages=())
    assert told(run) == ["0 of 3 trials measured."]
    assert verdict(run) == "noisy"


def test_one_pass_calls_no_difference_noise(make_run: MakeRun) -> None:
    run = make_run(trials=1, blocks=(1,), noise=0)
    samples = dataclasses.replace(run.trials[0].samples, whole=Times(wall_time_s=(0.0352,)))
    alone = dataclasses.replace(run, trials=(dataclasses.replace(run.trials[0], samples=samples),))
    (said,) = [remark for remark in told(alone) if "sum of stages" in remark]
    assert "+184.1% from the whole" in said  # 100 / 35.2
    assert "within the noise" not in said
    assert "too few to tell noise from a difference" in said


def test_a_spread_hardly_above_what_was_asked_is_told_with_the_digits_that_show_it(make_run: MakeRun) -> None:
    run = make_run(noise=0.05)
    whole = latency(run)
    assert whole is not None
    assert whole.half_width is not None
    asked = dataclasses.replace(run.sampling, precision=whole.half_width / 1.0004)
    (said,) = [remark for remark in told(dataclasses.replace(run, sampling=asked)) if remark.startswith("Noisy")]
    known, wanted = map(float, re.findall(r"±([\d.]+)%", said))
    assert known > wanted


def test_remarks_are_values_with_their_facts(make_run: MakeRun) -> None:
    busy = Conditions(cpu_share=0.5, involuntary_context_switches=500, watched_s=10.0)
    run = with_trials(
        make_run(sampling=Sampling(precision=0.05, max_time_s=600)), whole(1, 1, 1), whole(1.2, 1.2, 1.2), whole(1.1)
    )
    trials = tuple(dataclasses.replace(trial, conditions=busy) for trial in run.trials)
    found = remarks(dataclasses.replace(run, trials=trials, failure=Failure("crashed", "gone", None)))
    assert found[0] == of.Failed("crashed", "gone", None)
    (noisy,) = [remark for remark in found if isinstance(remark, of.Noisy)]
    assert noisy.evidence == of.Evidence(samples=70, units=3, unit="trial")
    # medians 1.0, 1.1, 1.2: a mean of 1.1, a standard deviation of 0.1, Student's 4.303 with two degrees of freedom
    assert noisy.half_width == pytest.approx(4.3027 * 0.1 / 3**0.5 / 1.1, rel=1e-4)
    assert noisy.reasons[0] == of.TrialsDiffer(pytest.approx(0.2 / 1.1))
    assert of.disturbed_by(found) == (of.Contention(cpu_share=0.5, switches_per_s=50.0),)


def test_every_kind_of_remark_has_words() -> None:
    evidence, peak = of.Evidence(90, 3, "trial"), Peak(1e11, ((2**26, 1e10),))
    reasons = (
        of.TimeOver(60), of.TrialsDiffer(0.1), of.Drift(-0.1), of.Contention(0.5, 50), of.Steal(0.04),
        of.QuotaHeld(1.5), of.HotProcessor(2), of.GpuThrottled(("hw_slowdown",)),
    )  # fmt: skip
    facts: tuple[of.Remark, ...] = (
        of.Failed("error", "why", None), of.Interrupted(), of.TrialsLacking(1, 3), of.FirstToken(0.1, 9, 9, {}),
        of.NoInterval(evidence), of.Precise(0.01, 0.02, evidence), of.Noisy(0.1, 0.02, evidence, reasons),
        of.TheseProcessesOnly(), of.SumOfStages(0.1, "large"), of.SlowedByClocks(0.1), of.RandomWeights(("a",)),
        of.StageFound("a.b", {}, "note"), of.LaunchBound(("a.b",)), of.Unsettled(1, 3),
            of.WorkUnseen(0.02, 0.9), of.Disturbed(reasons[3:4]),
        of.FirstCall(0.4, 4), of.ProcessorTime(0.4, 2), of.EnergyUsed(Energy((1.0,), (5.0,), (1,), None, "NVML")),
        of.GpuBetweenBlocks((1e9, 2e9), (50, 60)), of.Warned("as it is"),
        of.OutputDeviates((("a.b", 0.1, 1e-4, "float32"),)), of.OutputUncompared((("a.b", "why"),)),
        of.FellBack("acme", (("a.b", "why"),), False), of.AccuracyUnknown(("int8",)),
        of.NothingQuantized("int8", "acme"),
        of.Computed("acme", "acme 1", ("int8",), 0.1, None),
        of.GroupsDiffer((1, 2), "patch32", 1.1, 1.08, 1.12), of.BoundWrong((("a.b", 0.1, 0.2),), peak),
        of.LeastTimes(peak, "cpu", 2, 0.1, 0.9),
    )  # fmt: skip
    assert {type(each) for each in facts} == set(get_args(of.Remark))
    assert {type(each) for each in reasons} == set(get_args(of.Reason))
    assert all(isinstance(text, str) and text for text in sentences(facts))
