"""The visual embedder alone: without text, without shared model."""

import re
import sys
from dataclasses import replace

import pytest
import torch

from embedders.patch import patch
from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.cli import main
from vilt_bench.embedding import ImageBatch
from vilt_bench.errors import ConfigError
from vilt_bench.judge.compare import compare
from vilt_bench.judge.history import history
from vilt_bench.judge.summary import summarise
from vilt_bench.record.load import load
from vilt_bench.record.store import save
from vilt_bench.report import CAPTIONS, render
from vilt_bench.worker.build import build_model
from vilt_bench.worker.count import inspect
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.runner import prepare


def alone(embedder="patch32", **changes):
    return Case(embedder, **{"interaction": "none", "device": "cpu", "images": ("synthetic",), **changes})


def test_the_tokens_are_those_of_the_embedder_run_by_hand():
    case = alone(resolution=(64, 96), vilt=ViltConfig(hidden_size=32))
    subject = prepare(case, torch.device("cpu"), HostTimer())
    images, text = subject.inputs.batches[0]
    assert text.token_ids.numel() == 0
    torch.manual_seed(case.seed)  # weights are drawn from the case's seed, and nothing else is drawn before them
    by_hand = patch(patch_size=32, hidden_size=32).eval()
    with torch.inference_mode():
        tokens = subject.model(images, text)
        assert torch.equal(tokens.embeddings, by_hand(ImageBatch(images.pixels)).embeddings)
    assert tokens.embeddings.shape == (1, 2 * 3, 32)


def test_its_counts_are_the_embedders_alone():
    # ViLT paper, section 3.1: a projection of 32×32 patches; weights and bias, and 2 FLOPs a multiply-add.
    model, stages = inspect(alone(resolution=(384, 640)))
    assert [stage.name for stage in stages] == ["visual_embedder.projection"]
    assert stages[0].parameters == 3 * 32 * 32 * 768 + 768
    assert stages[0].flops == 2 * 240 * 3072 * 768
    assert (model.visual_tokens, model.text_tokens, model.layers, model.hidden_size) == (240, 0, 0, 768)
    assert (model.shared_weights, model.vocabulary) == ("none", None)


def test_an_embedder_alone_counts_what_it_counts_before_a_shared_model():
    _, stages = inspect(alone("grid-r50", resolution=(224, 224)))
    _, whole = inspect(Case("grid-r50", device="cpu", images=("synthetic",), resolution=(224, 224)))
    assert [stage for stage in whole if stage.component == "visual_embedder"] == list(stages)


def test_its_width_is_as_asked_and_needs_to_go_into_no_heads():
    model = build_model(alone(vilt=ViltConfig(hidden_size=1000)))
    assert model.visual_embedder.hidden_size == 1000
    assert all(name.startswith("visual_embedder") for name, _ in model.named_parameters())
    with pytest.raises(ConfigError, match="multiple of `heads` 12"):
        Case("patch32", vilt=ViltConfig(hidden_size=1000))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text_length": 8}, "`text_length`"),
        ({"vilt": ViltConfig(layers=2)}, "`hidden_size` alone"),
        ({"checkpoint": "vilt.bin"}, "`checkpoint` is of a ViLT"),
    ],
)
def test_what_is_of_a_text_or_a_shared_model_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        alone(**fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    options = ["--interaction", "none", "--hidden-size", "32", "--resolution", "64x96", "--image", "synthetic"]
    sampling = ["--trials", "1", "--max-time", "0.5", "--device", "cpu", "--threads", "1", "--quiet"]
    assert main(["run", "patch32", "patch16", *options, *sampling, "--output", str(folder)]) == 0
    return folder


def test_its_record_has_the_embedders_stages_and_shares_of_its_own_whole(folder):
    run = next(run for run in map(load, folder.iterdir()) if run.case.embedder == "patch32")
    assert set(run.trials[0].samples.stages) == {"visual_embedder.projection"}
    summary = summarise(run)
    assert [row.name for row in summary.rows] == ["visual_embedder", "visual_embedder.projection", "whole"]
    assert summary.components["visual_embedder"].share == 1
    assert summary.whole.parameters == 3 * 32 * 32 * 32 + 32


@pytest.mark.parametrize("format", ["table", "markdown", "html", "svg"])
def test_its_reports_show_neither_text_nor_interaction(folder, format, tmp_path):
    page = tmp_path / f"page.{format}"
    assert main(["report", str(folder), "--format", format, "--output", str(page)]) == 0
    # A page's own script draws what a page of other runs has.
    shown = re.sub(r"<script(?![^>]*json).*?</script>", "", page.read_text(), flags=re.DOTALL)
    for title in CAPTIONS.values():  # say of what kind a picture is
        shown = shown.replace(title, "")
    assert "visual embedder" in shown
    for word in ("extual embedder", "odality interaction", "Interact.", "text tokens", "linear layers"):
        assert word not in shown


def test_beside_a_whole_model_its_text_and_interaction_are_absent(folder, make_run):
    runs = [next(map(load, folder.iterdir())), make_run()]
    line = next(line for line in render(runs, "markdown").splitlines() if line.startswith("| patch"))
    assert [cell.strip() for cell in line.split("|")][4] == "–"
    assert "The modality interaction gets" not in render(runs, "markdown")


def test_its_records_are_compared_and_have_a_history_of_their_own(folder, tmp_path, make_run):
    runs = [run for run in map(load, folder.iterdir()) if run.case.embedder == "patch32"]
    found = compare(runs, [replace(run, run_id="again") for run in runs])
    assert [each.name for each in found.stages] == ["visual_embedder.projection"]
    save(make_run(), tmp_path)
    cases = history(folder, tmp_path).cases
    assert {case.case.interaction for case in cases if case.case.embedder == "patch32"} == {"none", "vilt"}


def test_show_tells_of_no_text(capsys):
    assert main(["show", "patch32", "--interaction", "none", "--no-peak", "--resolution", "64x64"]) == 0
    shown = capsys.readouterr().out
    assert "text" not in shown
    assert "transformer" not in shown


def test_a_gate_measures_it_too(tmp_path, capsys):
    sizes = ["--interaction", "none", "--hidden-size", "32", "--resolution", "64x64", "--image", "synthetic"]
    where = ["--device", "cpu", "--threads", "1", "--baseline-python", sys.executable, "--output", str(tmp_path)]
    code = main(["gate", "patch32", *sizes, *where, "--max-time", "6", "--quiet"])
    assert code in (0, 1, 3)  # the time is too short to tell which
    runs = list(map(load, tmp_path.rglob("*.json")))
    assert {run.side for run in runs} == {"baseline", "candidate"}
    for run in runs:
        assert set(run.trials[0].samples.stages) == {"visual_embedder.projection"}
    assert "extual" not in capsys.readouterr().out
