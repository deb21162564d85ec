"""The commands on a device whose times are scripted, as a user meets them: worker processes load it by themselves."""

import csv
import stat
import sys
from statistics import median

import pytest

from vilt_bench import load

pytestmark = pytest.mark.alone

STAGES = ("visual_embedder.backbone", "visual_embedder.projection")
WHERE = ["--device", "lagging", "--image", "synthetic"]
ALONE = [*WHERE, "--interaction", "none"]
QUICK = ["--trials", "1", "--max-time", "0.9"]
"""Too short for measuring the peak as well, which this device computes on the CPU."""
TINY = ["--hidden-size", "32", "--layers", "1", "--heads", "2", "--mlp-size", "64", "--text-length", "8"]


def embedder(**options):
    return ",".join(["lagging.embedder:scripted", *(f"{key}={value}" for key, value in options.items())])


def the_record(folder):
    (path,) = folder.glob("results/*.json")
    return load(path)


def told(done):
    """What it said, without its breaks of lines."""
    return " ".join(done.stdout.split())


def device_times_s(run, stage):
    return median(value for trial in run.trials for value in trial.samples.of(stage).device_time_s)


def close(scripted_s):
    return pytest.approx(scripted_s, rel=0.01, abs=30e-6)


def test_run_records_and_reports_the_devices_times_and_memory(vilt_bench, tmp_path):
    done = vilt_bench("run", embedder(backbone_ms=10, projection_ms=5, passing_mib=8), *WHERE, *TINY, *QUICK)
    assert done.returncode == 0, done.stderr
    run = the_record(tmp_path)
    assert (run.environment.device, run.environment.device_name) == ("lagging:0", "lagging")
    assert [device_times_s(run, stage) for stage in STAGES] == [close(0.010), close(0.005)]
    whole = run.trials[0].samples.whole
    assert all(wall >= device for wall, device in zip(whole.wall_time_s, whole.device_time_s, strict=True))
    backbone = next(stage.memory for stage in run.stages if stage.name == STAGES[0])
    assert backbone.peak_bytes >= backbone.live_before_bytes + 8 * 2**20
    assert backbone.live_after_bytes < backbone.live_before_bytes + 2**20
    # What the device does not tell is absent.
    assert run.energy is None
    conditions = run.trials[0].conditions
    assert conditions.gpu_before is conditions.gpu_after is conditions.throttle_reasons is conditions.cpu_share is None
    table = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if line.split()[1:]}
    assert float(table["backbone"]) * 1e-3 == close(0.010)
    assert float(table["projection"]) * 1e-3 == close(0.005)
    assert "lagging:0" in done.stdout
    assert not any(word in told(done) for word in ("Energy", "MHz", "work on other streams"))
    table = vilt_bench("report", "results", "--format", "csv").stdout
    rows = {row["stage"]: row for row in csv.DictReader(table.splitlines())}
    assert float(rows[STAGES[0]]["latency_median_s"]) == close(0.010)


def test_a_device_lost_midway_is_told_and_what_was_measured_is_kept(vilt_bench, tmp_path):
    done = vilt_bench("run", embedder(fail_in=200), *ALONE, "--trials", "1", "--max-time", "5")
    assert done.returncode == 2
    assert "AcceleratorError: the device is lost (an asynchronous failure of the device" in done.stderr
    assert "Traceback" not in done.stderr
    run = the_record(tmp_path)
    assert (run.failure.kind, run.failure.stage) == ("error", None)
    assert device_times_s(run, STAGES[0]) == close(0.004)


def test_memory_that_a_stage_lacks_is_told_with_the_stage(vilt_bench, tmp_path):
    done = vilt_bench("run", embedder(passing_mib=8), *ALONE, *QUICK, LAGGING_MEMORY="4000000")
    assert done.returncode == 2
    assert (
        "out-of-memory in visual_embedder.backbone: lagging is out of memory: tried to allocate 8388608" in done.stderr
    )
    assert the_record(tmp_path).failure.kind == "out-of-memory"


def test_work_on_a_side_stream_and_a_stage_that_waits_are_remarked(vilt_bench):
    done = vilt_bench("run", embedder(side_ms=20, wait=True), *ALONE, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "work on other streams is in no device time" in told(done)
    assert "The host takes as long as the device or longer in projection" in told(done)


def test_without_a_clock_between_stages_the_whole_is_measured_and_that_is_said(vilt_bench, tmp_path):
    done = vilt_bench("run", embedder(), *ALONE, *QUICK, LAGGING_TIMED_EVENTS="no")
    assert done.returncode == 0, done.stderr
    assert "lagging has no clock between stages" in told(done)
    run = the_record(tmp_path)
    assert median(run.trials[0].samples.whole.wall_time_s) >= 0.006
    assert not run.trials[0].samples.stages


def slower_python(folder, scale):
    """Returns an interpreter on which the device takes so many times as long."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nLAGGING_SCALE={scale} exec {sys.executable} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("scale", "verdict", "code"), [(1.1, "regressed", 1), pytest.param(1, "unchanged", 0, marks=pytest.mark.slow)]
)
def test_the_gate_judges_by_device_times(vilt_bench, tmp_path, scale, verdict, code):
    candidate = slower_python(tmp_path, scale)
    sides = ["--baseline-python", sys.executable, "--candidate-python", candidate]
    done = vilt_bench("gate", embedder(), *ALONE, *sides, "--max-time", "60", "--quiet")
    assert done.returncode == code, done.stdout + done.stderr
    whole = next(line for line in done.stdout.splitlines() if line.startswith("whole"))
    assert verdict in whole
    assert float(whole.split()[3]) == pytest.approx(scale, rel=0.01)
    assert "of device time" in told(done)


def test_the_doctor_looks_at_a_machine_that_has_the_device(vilt_bench):
    done = vilt_bench("doctor")
    assert done.returncode == 0, done.stderr
    assert "noise" in done.stdout


def test_a_row_of_the_paper_is_timed_on_the_device(vilt_bench, tmp_path):
    done = vilt_bench(
        *("paper", "--measure", "--rows", "ViLT-B/32", "--device", "lagging", "--output", "paper"), *QUICK
    )
    assert done.returncode == 0, done.stderr
    assert "Here: lagging · lagging:0" in told(done)
    (record,) = tmp_path.glob("**/records/*.json")
    run = load(record)
    assert run.environment.device == "lagging:0"
    assert run.trials[0].samples.whole.device_time_s
    assert (tmp_path / "paper/figure-1.svg").exists()


def test_a_pipeline_runs_at_the_devices_pace_where_preprocessing_is_faster(vilt_bench, tmp_path):
    where = ["--device", "lagging", "--interaction", "none", "--preprocessing-workers", "1"]
    name = embedder(backbone_ms=150, projection_ms=50)
    done = vilt_bench("run", name, *where, "--trials", "1", "--max-time", "4")
    assert done.returncode == 0, done.stderr
    found = the_record(tmp_path).trials[0].pipelined
    assert median(found.model_s) == pytest.approx(0.2, rel=0.02)
    assert min(found.pipelined_s) >= 0.198  # never faster than its device, while the host prepares more
    assert max(found.preprocessing_s) < 0.2
    assert "Pipelined with 1 worker: " in told(done)
    assert "bottleneck: model" in told(done)
    assert "one processor for both" not in told(done)
    refused = vilt_bench("run", name, *where, "--pin-memory", *QUICK)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(
        "vilt-bench: --pin-memory is not to be had with --device lagging:0 ("
    )
