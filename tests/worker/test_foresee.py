"""Cases before they are measured."""

import json
from dataclasses import replace

import pytest

from vilt_bench.ask.axes import Sweep
from vilt_bench.ask.case import Case
from vilt_bench.cli import main
from vilt_bench.worker import foresee as module
from vilt_bench.worker.foresee import foresee

COMMON = {"images": ("synthetic",), "device": "cpu"}


def test_pixels_tokens_and_memory_are_known_beforehand():
    case = Case("patch32", resolution=(384, 640), batch_size=2, interaction="none", **COMMON)
    (found,) = foresee([case])
    assert (found.resolution, found.visual_tokens, found.problem) == ((384, 640), 12 * 20, "")
    scalars = 3 * 384 * 640
    weights = 4 * (3 * 32 * 32 * 768 + 768)
    batches = 4 * 2 * 4 * scalars  # of float32, four that passes take in turn
    beside = 4 * 2 * scalars + 2 * 4 * scalars  # noise as bytes; a batch of it as float32
    assert found.least_bytes == weights + batches + beside


def test_what_differs_in_other_things_than_the_embedder_is_looked_at_once(monkeypatch):
    seen = []
    inspect = module.inspect
    monkeypatch.setattr(module, "inspect", lambda case: seen.append(case) or inspect(case))
    axes = {"batch_size": [1, 2], "dtype": ["float32", "bfloat16"], "interaction": ["vilt", "none"], "seed": [0, 1]}
    sweep = Sweep(["patch32"], {**axes, "resolution": ["64x64", "64x96"]}, COMMON)
    found = list(foresee(sweep.cases()))
    assert len(seen) == 2
    assert {(each.case.resolution, each.visual_tokens) for each in found} == {((64, 64), 4), ((64, 96), 6)}
    by_size = {(each.case.dtype, each.case.batch_size): each.least_bytes for each in found if each.case.seed == 1}
    assert by_size["float32", 1] < by_size["float32", 2]


def test_a_case_that_can_not_be_built_says_why_and_the_others_are_looked_at():
    cases = Sweep(["region-r101-c4,reduce=pixel-shuffle:2", "patch32"], {"resolution": ["64x64"]}, COMMON).cases()
    region, patch = foresee(cases)
    assert "pixel-shuffle" in region.problem
    assert patch.visual_tokens == 4


def test_when_the_time_is_over_the_others_are_named_only():
    times = iter([0.0, 0.5, 1.5, 2.5])
    cases = Sweep(["patch32"], {"batch_size": [1, 2, 3], "resolution": ["64x64"]}, COMMON).cases()
    found = list(foresee(cases, within_s=1, clock=lambda: next(times)))
    assert [each.visual_tokens for each in found] == [4, None, None]
    assert [each.case for each in found] == cases


def test_a_dry_run_lists_the_cases_and_how_long_they_take_and_saves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = ["--resolution", "64x64,64x96", "--batch-size", "1,2", "--image", "synthetic", "--device", "cpu"]
    assert main(["run", "patch32", *sizes, "--interaction", "none", "--max-time", "90", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "64×96" in shown
    assert "4 cases: at most 6 min of measuring, 90 s each in 3 trials or more" in " ".join(shown.split())
    assert "an estimate" in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("embedder", "said"),
    [("region-r101-c4,reduce=pixel-shuffle:2", "can't be measured so"), ("patch3", "did you mean 'patch32'")],
)
def test_a_dry_run_tells_what_can_not_be_measured(embedder, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["run", embedder, "--dry-run", "--device", "cpu"])
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_tokens_of_all_images_of_a_text_are_counted_and_held_against_the_models_positions(tmp_path):
    pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 300, "max_position_embeddings": 64,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    axes = {"images_per_text": [1, 4, 5], "interaction": [f"lm:{tmp_path}"], "text_length": [8]}
    one, several, many = foresee(Sweep(["patch32"], {**axes, "resolution": ["96x128"]}, COMMON).cases())
    assert (one.visual_tokens, several.visual_tokens) == (12, 48)
    of_an_image = 4 * 4 + 4 + 4  # four batches of float32, their noise as bytes, one of them while it is made
    assert several.least_bytes - one.least_bytes == 3 * of_an_image * 3 * 96 * 128
    assert "60 visual and 8 text tokens are more than the 64 positions" in many.problem
    assert "lower `images_per_text`, `resolution` or `text_length`, or use `reduce`" in many.problem
    (clip,) = foresee([replace(one.case, frames=5)])
    assert "lower `frames`, `resolution`" in clip.problem
    (tiled,) = foresee([replace(one.case, tiles="internvl:1")])
    assert tiled.problem.endswith("or use `reduce`, or cut fewer `tiles`")
