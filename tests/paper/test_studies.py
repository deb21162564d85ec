"""The two studies: NMS over classes, and interaction against sequence length."""

import csv
import io
import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from vilt_bench.ask import registry
from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import ImageBatch
from vilt_bench.errors import ConfigError, EmbedderError, RecordError
from vilt_bench.paper.studies import figures, nms, rounds, sequence
from vilt_bench.record.run import Environment, Series, Times
from vilt_bench.record.thin import MOST_PASSES
from vilt_bench.worker.meters.latency import Interval

SMALL = ViltConfig(hidden_size=16, layers=1, heads=2, mlp_size=32)
PAPER = {"per-class-unthresholded": 0.512, "per-class": 0.004, "class-agnostic": 0.002}
"""Seconds at 300 proposals, of a study made up."""


class ScriptedTimer:
    def __init__(self, cost_s=lambda output: 0.1):
        self.cost_s = cost_s
        self.now_s = 0.0
        self.outputs = []

    def whole(self, forward):
        output = forward(None)
        self.outputs.append(output)
        cost_s = self.cost_s(output)
        self.now_s += cost_s
        return Interval(wall_time_s=cost_s, cpu_time_s=cost_s)

    def by_stage(self, forward):
        raise AssertionError("studies time wholes")

    def seconds(self):
        return self.now_s


def environment():
    return Environment(
        machine="EPYC 7B13",
        fingerprint="f00d",
        device="cpu",
        device_name="EPYC 7B13",
        threads=2,
        omp_wait_policy=None,
        versions={"torch": "2.9.0"},
        settings={},
        hardware={},
    )


def samples(*rounds_s):
    return Series(whole=Times(wall_time_s=rounds_s), blocks=(1,) * len(rounds_s))


def steady(seconds):
    return samples(seconds * 0.99, seconds, seconds * 1.01)


def nms_study(at_300=PAPER):
    def point(mode, proposals, pool, objects=40):
        return nms.NmsPoint(
            mode=mode,
            proposals=proposals,
            pool=pool,
            objects=objects,
            candidates=proposals * 1600 if mode == "per-class-unthresholded" else 120,
            classes=1600 if mode == "per-class-unthresholded" else pool,
            kept=36,
            samples=steady(at_300[mode] * proposals / 300 * objects / 40),
        )

    cells = [(100, 18), (300, 18), (1000, 18), (300, 4), (300, 400), (300, 18, 60)]
    return nms.NmsStudy(
        started_at="2026-01-02T03:04:05+00:00",
        environment=environment(),
        points=tuple(point(mode, *cell) for cell in cells for mode in nms.MODES),
        detector_classes=1600,
        score_threshold=0.2,
        seed=0,
    )


def sequence_study(latency_s, lengths=(100, 200, 400, 800)):
    return sequence.SequenceStudy(
        started_at="2026-01-02T03:04:05+00:00",
        environment=environment(),
        points=tuple(sequence.SequencePoint(length, steady(latency_s(length))) for length in lengths),
        seed=0,
    )


def naive_counts(*, proposals, pool, classes, threshold, objects=40):
    """Candidates and classes of each mode, counted one by one."""
    options = {"proposals": proposals, "pool": pool, "classes": classes, "objects": objects}
    embedder = registry.build("embedders.region.planted:region_planted", options, hidden_size=8).eval()
    with torch.inference_mode():
        regions = embedder.stages["proposals"](ImageBatch(torch.zeros(1, 3, *nms.IMAGE)))
        scores = embedder.stages["predictor"](regions).scores.tolist()
    pairs = [(row, label) for row, line in enumerate(scores) for label, score in enumerate(line) if score > threshold]
    best = [max(line) for line in scores]
    agnostic = [(row, scores[row].index(score)) for row, score in enumerate(best) if score > threshold]
    everything = [(row, label) for row in range(len(scores)) for label in range(classes)]
    return {
        mode: (len(entered), len({label for _, label in entered}))
        for mode, entered in zip(nms.MODES, (everything, pairs, agnostic), strict=True)
    }


def tiny_nms_study(**changes):
    timer = ScriptedTimer()
    asked = {
        "proposals": (12, 40),
        "classes": (4, 18),
        "objects": (40, 90),
        "detector_classes": 50,
        "max_time_s": 1.0,
        "device": "cpu",
    }
    return nms.run_nms_study(**asked | changes, timer=timer, seconds=timer.seconds)


def test_counts_are_what_a_naive_count_of_the_planted_scores_gives():
    found = tiny_nms_study()
    for point in found.points:
        counted = naive_counts(
            proposals=point.proposals, pool=point.pool, classes=50, threshold=0.2, objects=point.objects
        )
        assert (point.candidates, point.classes) == counted[point.mode]
        assert 0 < point.kept <= 36


def test_each_mode_is_swept_over_proposals_and_over_classes():
    found = tiny_nms_study()
    for mode in nms.MODES:
        assert [point.proposals for point in found.by_proposals(mode)] == [12, 40]
        assert {point.pool for point in found.by_proposals(mode)} == {18}
        assert [point.pool for point in found.by_classes(mode)] == [4, 18]
        assert {point.proposals for point in found.by_classes(mode)} == {40}
        assert [point.objects for point in found.by_objects(mode)] == [40, 90]
        assert {point.objects for point in found.by_classes(mode)} == {40}


def test_the_seed_decides_what_is_planted():
    once, again, other = (
        [point.candidates for point in tiny_nms_study(proposals=(40,), seed=seed).points] for seed in (0, 0, 1)
    )
    assert once == again != other


def test_more_planted_classes_are_more_detected_classes():
    few, many = naive_counts(proposals=100, pool=4, classes=200, threshold=0.2), naive_counts(
        proposals=100, pool=80, classes=200, threshold=0.2
    )  # fmt: skip
    assert few["per-class"][1] == 4
    assert many["per-class"][1] > 10


def test_a_pool_larger_than_the_detector_is_refused():
    with pytest.raises(EmbedderError, match="pool=60 is out of range; expected 1 to 50"):
        registry.build("embedders.region.planted:region_planted", {"pool": 60, "classes": 50}, hidden_size=8)


def test_points_take_turns_forth_and_back_after_a_warm_up():
    ran = []
    timer = ScriptedTimer()
    passes = [lambda name=name: ran.append(name) for name in "abc"]
    rounds.time_in_rounds(passes, timer, max_time_s=0.1, seconds=timer.seconds)
    assert "".join(ran) in ("abc" + "abc" + "cba" + "abc", "abc" + "cba" + "abc" + "cba")


def test_rounds_go_on_until_the_time_is_spent():
    timer = ScriptedTimer()
    shares = []
    found = rounds.time_in_rounds([lambda: None], timer, max_time_s=2.0, seconds=timer.seconds, progress=shares.append)
    assert 18 <= len(found[0].blocks) <= 20  # 0.1 s each, one of them warm-up
    assert timer.now_s <= 2.0
    assert shares == sorted(shares)
    assert len(shares) == len(found[0].blocks)


def test_what_is_fast_is_run_several_times_a_round():
    timer = ScriptedTimer(lambda output: output)
    slow, fast = rounds.time_in_rounds([lambda: 0.2, lambda: 0.005], timer, max_time_s=1.0, seconds=timer.seconds)
    assert set(slow.blocks) == {1}
    assert set(fast.blocks) <= {9, 10}
    assert rounds.latency(fast).value == pytest.approx(0.005)
    assert rounds.latency(slow).value == pytest.approx(0.2)


def test_a_long_study_keeps_a_bounded_number_of_passes_and_is_estimated_from_all():
    timer = ScriptedTimer(lambda output: output)
    lengths = itertools.cycle([0.001, 0.0012, 0.0011])
    (found,) = rounds.time_in_rounds([lambda: next(lengths)], timer, max_time_s=60.0, seconds=timer.seconds)
    assert found.passes > 10 * MOST_PASSES
    assert len(found.whole.wall_time_s) <= MOST_PASSES
    assert rounds.latency(found).value == pytest.approx(0.0011)
    assert rounds.latency(found).samples == found.passes


def test_the_finding_on_nms_says_the_numbers_of_the_data():
    first, proposals, classes, crowds = nms.findings(nms_study())
    assert "over 300 proposals takes 512 [" in first
    assert "768 [" in first
    assert "where they spread over 60" in first
    assert "×1.50" in crowds
    assert "(480,000 candidates in 1,600 classes, 36 kept)" in first
    assert "above 0.2 takes 4.00 [" in first
    assert "class-agnostic NMS 2.00 [" in first
    assert "128 times and 256 times less" in first
    low, high = map(float, re.search(r"takes 512 \[(\d+), (\d+)\]", first).groups())
    estimate = nms_study().by_proposals(nms.MODES[0])[1].latency
    assert (low, high) == (round(1000 * estimate.low), round(1000 * estimate.high))
    assert proposals.count("from 300 on as proposals^1.00") == 3  # made up as proportional
    assert "4 to 400 classes entered" in classes


def test_a_change_within_the_noise_is_not_called_one():
    found = nms_study()
    points = tuple(
        replace(point, samples=samples(0.2, 0.5, 0.9) if point.pool == 18 else samples(0.3, 0.5, 0.8))
        for point in found.points
    )
    said = nms.findings(replace(found, points=points))
    assert "no clear change" in said[2]
    assert "proposals^" not in said[1]


@pytest.mark.parametrize(
    ("loop_s", "said"),
    [
        (0.9, "and so it is here"),
        (0.4, "reached here where they spread over 60"),
        (0.2, "here less"),
        (0.5 / 1.5, "within the interval here"),
    ],
)
def test_the_paper_s_claim_is_held_against_the_interval(loop_s, said):
    assert said in nms.findings(nms_study(PAPER | {"per-class-unthresholded": loop_s}))[0]


def test_the_paper_s_claim_is_not_judged_for_another_detector():
    assert " here" not in nms.findings(replace(nms_study(), detector_classes=80))[0]


def test_the_whole_interaction_runs_at_each_length():
    timer = ScriptedTimer(lambda output: 1e-3 * output.tokens.shape[1])
    found = sequence.run_sequence_study(
        lengths=(60, 24, 41), vilt=SMALL, max_time_s=0.1, device="cpu", timer=timer, seconds=timer.seconds
    )
    assert {tuple(output.tokens.shape) for output in timer.outputs} == {(1, n, 16) for n in (24, 41, 60)}
    assert {tuple(output.pooled.shape) for output in timer.outputs} == {(1, 16)}
    assert [point.length for point in found.points] == [24, 41, 60]
    assert [point.latency.value for point in found.points] == pytest.approx([0.024, 0.041, 0.060])
    assert sequence.exponent(found) == pytest.approx(1.0)
    assert sequence.slope_ms(found.points) == pytest.approx(100)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_the_data_s(power):
    found = sequence_study(lambda length: 1e-4 * length**power)
    assert sequence.exponent(found) == pytest.approx(power)
    assert f"length^{power:.2f}" in sequence.findings(found)[-1]


def test_the_variation_is_that_of_lengths_under_300():
    said = sequence.findings(sequence_study(lambda length: 1e-3 * length))[0]
    assert "varies by 100 ms" in said
    assert "between 100 [" in said
    assert "(200 tokens)" in said
    assert "does not hold here" in said


def test_a_variation_below_a_millisecond_holds_the_claim():
    said = sequence.findings(sequence_study(lambda length: 0.015 + 1e-6 * length))[0]
    assert "varies by 0.10 ms" in said
    assert "and so it does here" in said


def test_slopes_are_told_apart_at_300_tokens():
    said = sequence.findings(sequence_study(lambda length: length * (1e-3 if length < 300 else 2e-3)))[-1]
    assert "100 under 300 tokens and 200 from there" in said


def test_studies_survive_json():
    for found in (nms_study(), sequence_study(lambda length: 1e-3 * length)):
        assert rounds.decode(rounds.encode(found), type(found), name="study.json") == found


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"points": 3}', b"\xff"])
def test_what_is_no_study_is_refused_in_one_line(data):
    with pytest.raises(RecordError, match=r"^study\.json is no NmsStudy .*$"):
        rounds.decode(data, nms.NmsStudy, name="study.json")


@pytest.mark.parametrize("counts", [(), (0,), (30, 30), (10**9,)])
def test_impossible_sweeps_are_refused(counts):
    with pytest.raises(ConfigError, match="`proposals` must be different numbers between 1 and 1000"):
        nms.run_nms_study(proposals=counts)
    with pytest.raises(ConfigError, match="`classes` must be different numbers between 1 and 1600"):
        nms.run_nms_study(classes=counts)
    with pytest.raises(ConfigError, match="`lengths` must be different numbers between 22"):
        sequence.run_sequence_study(lengths=counts)


@pytest.mark.parametrize("max_time_s", [0, -1, float("nan"), float("inf")])
def test_impossible_budgets_are_refused(max_time_s):
    with pytest.raises(ConfigError, match="`max_time_s` must be between"):
        nms.run_nms_study(max_time_s=max_time_s)
    with pytest.raises(ConfigError, match="`max_time_s` must be between"):
        sequence.run_sequence_study(max_time_s=max_time_s)


def test_csv_holds_each_point_in_seconds():
    lines = list(csv.DictReader(io.StringIO(nms.render_csv(nms_study()))))
    assert len(lines) == 18
    loop = next(line for line in lines if (line["mode"], line["proposals"]) == (nms.MODES[0], "300"))
    assert float(loop["latency_median_s"]) == pytest.approx(0.512)
    assert loop["candidates"] == "480000"
    assert loop["input"] == "planted tensors"
    by_length = csv.DictReader(io.StringIO(sequence.render_csv(sequence_study(lambda length: 1e-3 * length))))
    assert {int(line["length"]): float(line["latency_median_s"]) for line in by_length} == pytest.approx(
        {100: 0.1, 200: 0.2, 400: 0.4, 800: 0.8}
    )


def test_tables_fit_a_terminal_and_say_counts_and_conditions():
    for module, found, needed in (
        (nms, nms_study(), ("planted tensors", "480,000", "1,600", "512 [", "EPYC 7B13")),
        (sequence, sequence_study(lambda length: 1e-3 * length), ("800", "random weights", "EPYC 7B13")),
    ):
        console = Console(width=90, file=io.StringIO(), record=True)
        module.render_table(found, console)
        text = console.export_text()
        assert "…" not in text
        for word in needed:
            assert word in text
            assert word.lower() in module.markdown(found).lower()


@pytest.mark.parametrize("format", ["svg", "png"])
def test_pictures_are_the_same_for_the_same_study(format):
    found = sequence_study(lambda length: 1e-3 * length)
    assert figures.draw_sequence(found, format) == figures.draw_sequence(found, format)
    assert figures.draw_nms(nms_study(), format) == figures.draw_nms(nms_study(), format)


def test_pictures_are_also_drawn_as_pdf():
    assert figures.draw_nms(nms_study(), "pdf").startswith(b"%PDF")


def test_pictures_name_modes_axes_and_conditions():
    words = " ".join(ET.fromstring(figures.draw_nms(nms_study(), "svg")).itertext())
    for word in (
        "Proposals",
        "Planted classes",
        "Objects that they crowd around",
        "no threshold",
        "class-agnostic",
        "planted tensors",
        "EPYC 7B13",
    ):
        assert word in words
    drawn = figures.draw_sequence(sequence_study(lambda length: 1e-3 * length), "svg")
    words = " ".join(ET.fromstring(drawn).itertext())
    for word in ("Sequence length (tokens)", "Latency (ms)", "EPYC 7B13"):
        assert word in words


def test_pictures_show_the_data():
    figure = figures.sequence_figure(sequence_study(lambda length: 1e-3 * length))
    curve = next(line for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == 4)
    assert list(curve.get_xdata()) == [100, 200, 400, 800]
    assert list(curve.get_ydata()) == pytest.approx([100, 200, 400, 800])


def test_a_point_without_interval_is_drawn_without_a_band():
    found = sequence_study(lambda length: 1e-3 * length)
    points = tuple(replace(point, samples=samples(0.1, 0.1)) for point in found.points)
    assert figures.draw_sequence(replace(found, points=points), "svg")


def test_reading_a_study_needs_no_torch():
    script = "import sys; from vilt_bench.paper.studies import figures, nms, sequence; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.slow
def test_on_this_machine_the_unthresholded_loop_is_far_slower_than_the_other_modes():
    found = nms.run_nms_study(proposals=(300,), classes=(18,), max_time_s=10, device="cpu")
    loop, thresholded, agnostic = (found.by_proposals(mode)[0].latency.value for mode in nms.MODES)
    assert loop > 10 * max(thresholded, agnostic)
    assert rounds.decode(rounds.encode(found), nms.NmsStudy, name="study.json") == found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_device_times_are_taken():
    found = sequence.run_sequence_study(lengths=(24, 60), vilt=SMALL, max_time_s=1, device="cuda")
    assert all(point.samples.whole.device_time_s for point in found.points)
    assert all(
        point.samples.whole.device_time_s
        for point in nms.run_nms_study(proposals=(40,), classes=(4,), detector_classes=50, device="cuda").points
    )


def test_proposals_that_are_spread_leave_more_survivors_in_a_class():
    from torchvision.ops import nms as keep

    def survivors(objects):
        options = {"proposals": 100, "classes": 10, "pool": 4, "objects": objects}
        embedder = registry.build("embedders.region.planted:region_planted", options, hidden_size=8).eval()
        with torch.inference_mode():
            regions = embedder.stages["proposals"](ImageBatch(torch.zeros(1, 3, *nms.IMAGE)))
        (boxes,) = regions.boxes
        return len(keep(boxes, torch.rand(len(boxes), generator=torch.Generator().manual_seed(0)), 0.3))

    assert survivors(10) < survivors(40) < survivors(640)
