import os
import sys

import psutil
import pytest

from vilt_bench.cli import main
from vilt_bench.director.doctor import FORKS, SHORT, THOROUGH, Effort, _forks, examine
from vilt_bench.director.process import WorkerFailedError
from vilt_bench.errors import MeasurementError
from vilt_bench.judge.fitness import diagnose


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's script")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\nexec sleep 600\n", "no answer for 0.3 s; --patience allows more"),
        ("#!/bin/sh\necho gone >&2\n", "gone"),
        ("#!/no/such/shell\n", "could not be started"),
        (
            "#!/usr/bin/env bash\neval exec 3'>&'${VILT_BENCH_WIRE%%:*}-\necho hello >&3\nexec sleep 600\n",
            "replied what can't be read",
        ),
    ],
)
def test_a_kernel_that_hangs_dies_or_does_not_start_is_told_in_one_line(script, said, tmp_path, monkeypatch) -> None:
    python = tmp_path / "python"
    python.write_text(script)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(MeasurementError, match=f"the doctor's kernel could not be run: .*{said}"):
        examine(Effort(pairs=1, look_s=0.01, max_time_s=1), patience_s=0.3)


def test_the_machine_at_hand_is_examined_for_real() -> None:
    found = examine(Effort(pairs=1, look_s=0.05, max_time_s=1))
    (pair,) = found.pairs
    assert len(pair.first_s) == len(pair.second_s) >= 10
    assert min(pair.first_s + pair.second_s) > 1e-6
    assert 0 < pair.cpu_share < 1.5
    assert found.environment.threads >= 1
    assert diagnose(found).fit is None


@pytest.mark.skipif(not FORKS, reason="processes are not forked here")
def test_forked_processes_time_the_same_kernel_and_leave_nothing() -> None:
    others = psutil.Process().children(recursive=True)  # such as a browser of other tests
    found = examine(Effort(pairs=2, look_s=0.05, max_time_s=300, forked=True))
    assert found.forked
    assert [len(each) for pair in found.pairs for each in (pair.first_s, pair.second_s)] == [30] * 4
    assert len({pair.start_s for pair in found.pairs}) == 1
    assert found.environment.omp_wait_policy == os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    assert set(psutil.Process().children(recursive=True)) <= set(others)


@pytest.mark.skipif(not FORKS, reason="processes are not forked here")
def test_a_fork_that_is_killed_is_told_in_one_line() -> None:
    others = psutil.Process().children()
    with _forks(60.0) as start, start() as (first, _, _):
        (kernel,) = set(psutil.Process().children()) - set(others)
        for fork in kernel.children():
            fork.kill()
        with pytest.raises(WorkerFailedError, match="a fork of the kernel has died"):
            first.ask("time", tuple[float, float])


@pytest.mark.parametrize(("flags", "effort"), [([], SHORT), (["--thorough"], THOROUGH)])
def test_the_short_look_is_the_usual_one(flags, effort, monkeypatch) -> None:
    asked = []

    def examine(effort, **_):
        asked.append(effort)
        raise MeasurementError("enough")

    monkeypatch.setattr("vilt_bench.director.doctor.examine", examine)
    assert main(["doctor", *flags]) == 2
    assert asked == [effort]


def test_the_short_look_has_15_seconds_with_the_start_of_the_command() -> None:
    assert SHORT.max_time_s <= 13
    assert SHORT.forked
    assert not THOROUGH.forked


@pytest.mark.slow
def test_the_command_prints_a_verdict(capsys) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "noise:" in printed
    assert any(text in printed for text in ("Fit to measure", "Not fit", "Can't tell"))
