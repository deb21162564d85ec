from dataclasses import replace

import pytest

from vilt_bench.ask.case import Case
from vilt_bench.judge.remarks import (
    AccuracyUnknown,
    Computed,
    FellBack,
    NothingQuantized,
    OutputDeviates,
    OutputUncompared,
    largest_deviation,
    remarks,
)
from vilt_bench.judge.summary import summaries, summarise
from vilt_bench.record.codec import decode, encode
from vilt_bench.record.run import Computation, Deviation, PreparedStage, Run
from vilt_bench.report import render
from vilt_bench.report.lines import comparison_remarks, verdict_words
from vilt_bench.report.page.data import facts
from vilt_bench.report.remarks import sentence
from vilt_bench.report.runs import markdown, table

STAGE = "visual_embedder.projection"


def computed(run: Run, stage: PreparedStage, deviation: Deviation | None, not_compared: str | None = None) -> Run:
    assert run.model is not None
    made = Computation("acme 1.2", (stage,), deviation, not_compared)
    trials = tuple(replace(trial, prepare_time_s=2.0) for trial in run.trials)
    return replace(run, model=replace(run.model, computation=made), trials=trials)


def differing(relative: float, precision: str = "float32") -> PreparedStage:
    return PreparedStage(STAGE, "acme", precision, 1.5, deviation=Deviation(relative, relative, relative))


@pytest.mark.parametrize(
    ("precision", "relative", "is_far"),
    [
        ("float32", 2e-5, False),
        ("float32", 2e-3, True),  # what tf32 makes of it
        ("tf32", 2e-3, False),
        ("bfloat16", 2e-2, False),
        ("bfloat16", 0.2, True),
        ("int8 weights, float32 activations", 0.1, False),
        ("int8 weights, float32 activations", 0.9, True),
    ],
)
def test_a_difference_beyond_what_its_precision_explains_comes_first(make_run, precision, relative, is_far):
    run = computed(make_run(), differing(relative, precision), Deviation(0.0, 0.0, 0.0))
    first = remarks(run)[0]
    assert isinstance(first, OutputDeviates) == is_far
    if isinstance(first, OutputDeviates):
        assert first.parts == ((STAGE, relative, largest_deviation(precision), precision),)
        assert sentence(first).startswith("NOT THE SAME OUTPUT as eager float32's: projection by ")


def test_side_by_side_a_run_of_another_answer_is_told_before_all_else_in_each_format(make_run):
    same = computed(make_run(case=Case("grid-r50")), differing(0.0, "float32"), Deviation(0.0, 0.0, 0.0))
    other = computed(make_run(), differing(0.3, "float32"), Deviation(0.0, 0.0, 0.0))
    found = summaries([same, other])
    for written in (markdown.render, table.render):
        text = " ".join(written(found).split())
        assert "NOT THE SAME OUTPUT as eager float32's: patch32. Times are of another answer." in text
    assert comparison_remarks(found)[0].startswith("NOT THE SAME OUTPUT")
    assert [words.endswith(" · NOT THE SAME OUTPUT") for words in map(verdict_words, found)] == [False, True]
    assert "1 NOT THE SAME OUTPUT" in dict(facts(found, []))["How sure"]


def test_the_whole_has_the_bound_of_its_coarsest_stage(make_run):
    run = computed(make_run(), differing(0.01, "bfloat16"), Deviation(0.3, 0.02, 0.06))
    (found,) = [each for each in remarks(run) if isinstance(each, OutputDeviates)]
    assert found.parts == (("whole", 0.06, 0.05, "bfloat16"),)


def test_eager_stages_and_what_could_not_be_compared_are_told_with_the_reason(make_run):
    fallen = PreparedStage(STAGE, "torch", "float32", fell_back="it has a loop", not_compared="it has other shapes")
    said = remarks(computed(make_run(), fallen, None, "other shapes"))
    assert OutputUncompared(((STAGE, "it has other shapes"), ("whole", "other shapes"))) in said
    assert FellBack("torch", ((STAGE, "it has a loop"),), True) in said
    assert "NOTHING was computed by torch, all by eager torch: projection (it has a loop)." in map(sentence, said)


def test_a_row_named_int8_of_which_nothing_is_in_int8_says_so(make_run):
    run = computed(make_run(), differing(0.0, "float32"), Deviation(0.0, 0.0, 0.0))
    said = remarks(replace(run, case=replace(run.case, quantize="int8")))
    (found,) = [each for each in said if isinstance(each, NothingQuantized)]
    assert sentence(found).startswith("NOTHING was computed in int8")
    run = computed(make_run(), differing(0.01, "int8"), Deviation(0.0, 0.0, 0.0))
    said = remarks(replace(run, case=replace(run.case, quantize="int8")))
    assert not any(isinstance(each, NothingQuantized) for each in said)


def test_random_weights_do_not_tell_what_int8_costs(make_run):
    said = remarks(computed(make_run(), differing(0.01, "int8"), Deviation(0.1, 0.01, 0.01)))
    assert AccuracyUnknown(("int8",)) in said
    said = remarks(computed(make_run(), differing(0.01, "bfloat16"), Deviation(0.1, 0.01, 0.01)))
    assert not any(isinstance(each, AccuracyUnknown) for each in said)


def test_every_row_tells_its_difference_and_what_preparing_took(make_run):
    run = decode(encode(computed(make_run(), differing(3e-6), Deviation(4e-6, 5e-6, 6e-6))), name="made")
    found = summarise(run)
    assert Computed("torch", "acme 1.2", ("float32",), 2.0, Deviation(4e-6, 5e-6, 6e-6)) in found.remarks
    rows = {row.name: row for row in found.rows}
    assert rows[STAGE].deviation == Deviation(3e-6, 3e-6, 3e-6)
    assert (rows[STAGE].prepare_time_s, rows["whole"].prepare_time_s) == (1.5, 2.0)
    for form in ("table", "markdown", "latex"):
        text = render([run], form)
        assert "3.0e-06" in text
        assert "5.0e-06" in text
    for form in ("csv", "json"):
        text = render([run], form)
        assert "difference_relative_l2" in text
        assert "acme 1.2" in text
    assert "5.0e-06" in render([run, replace(make_run(), run_id="other")], "markdown").partition("\n## ")[2]
