from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.ask.images import read_image
from vilt_bench.errors import ConfigError
from vilt_bench.judge import summary
from vilt_bench.record.run import Run
from vilt_bench.report import render
from vilt_bench.report.pictures import style
from vilt_bench.report.pictures.latency import figure1
from vilt_bench.worker.inputs import Inputs, make_inputs
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.preprocessing import Decoded, Encoded, Preprocessing
from vilt_bench.worker.runner import Runner, prepare

MakeRun = Callable[..., Run]
LATENCIES_S = {"textual_embedder": 0.0003, "visual_embedder.projection": 0.0042, "modality_interaction": 0.0955}

TINY = ViltConfig(hidden_size=32, layers=1, heads=2, mlp_size=32)


def inputs_of(case: Case) -> Inputs:
    return make_inputs(
        case,
        resolution=case.resolution or (64, 96),
        size_divisor=32,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        device=torch.device("cpu"),
        dtype=torch.float32,
        vocabulary=30_522,
    )


def preprocessing_of(inputs: Inputs) -> Preprocessing:
    assert inputs.preprocessing is not None
    return inputs.preprocessing


def photographs(folder: Path, *sizes: tuple[int, int], name: str = "photo{}.jpg") -> tuple[str, ...]:
    paths = []
    for index, (height, width) in enumerate(sizes):
        noise = torch.randint(
            256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(index)
        )
        path = folder / name.format(index)
        Image.fromarray(noise.numpy()).resize((width, height)).save(path)
        paths.append(str(path))
    return tuple(paths)


@pytest.mark.parametrize("fit", ["aspect", "crop"])
@pytest.mark.parametrize("sizes", [((80, 120),), ((80, 120), (120, 80))])
def test_preprocessed_batches_equal_those_made_beforehand(
    tmp_path: Path, fit: str, sizes: tuple[tuple[int, int], ...]
) -> None:
    images = photographs(tmp_path, *sizes)
    case = Case("patch32", images=images, batch_size=len(sizes), fit=fit, preprocessing=True)  # type: ignore[arg-type]
    inputs = inputs_of(case)
    expected = inputs.batches[0][0]
    found = preprocessing_of(inputs)(inputs.encoded[0])
    assert torch.equal(found.pixels, expected.pixels)
    assert (found.mask is None) == (expected.mask is None)
    if found.mask is not None and expected.mask is not None:
        assert torch.equal(found.mask, expected.mask)


def test_decoding_gives_what_the_file_holds(tmp_path: Path) -> None:
    (path,) = photographs(tmp_path, (70, 90))
    inputs = inputs_of(Case("patch32", images=(path,), preprocessing=True))
    decoded = preprocessing_of(inputs).stages["decode"](Encoded((Path(path).read_bytes(),)))
    assert isinstance(decoded, Decoded)
    assert decoded.images[0].tobytes() == read_image(path).tobytes()


def test_files_take_turns(tmp_path: Path) -> None:
    paths = photographs(tmp_path, (64, 64), (64, 64), (64, 64))
    inputs = inputs_of(Case("patch32", images=paths, batch_size=2, preprocessing=True))
    contents = [Path(path).read_bytes() for path in paths]
    order = [contents.index(content) for batch in inputs.encoded for content in batch.files]
    assert order == [0, 1, 2, 0, 1, 2, 0, 1]


def test_what_was_decoded_is_said_with_format_and_size(tmp_path: Path) -> None:
    (path,) = photographs(tmp_path, (64, 80), name="photo{}.png")
    note = preprocessing_of(inputs_of(Case("patch32", images=(path,), preprocessing=True))).notes["decode"]
    assert f"photo0.png (PNG, 64×80 pixels, {Path(path).stat().st_size:,} bytes)" in note


def test_noise_is_refused_as_there_is_nothing_to_decode() -> None:
    with pytest.raises(ConfigError, match="`preprocessing` decodes files"):
        Case("patch32", images=("synthetic",), preprocessing=True)


def test_without_being_asked_for_it_is_no_part_of_the_pass() -> None:
    inputs = inputs_of(Case("patch32"))
    assert inputs.preprocessing is None
    assert inputs.encoded == ()


def tiny_runner(folder: Path) -> Runner:
    case = Case(
        "patch32",
        images=photographs(folder, (64, 96)),
        resolution=(64, 96),
        vilt=TINY,
        preprocessing=True,
        device="cpu",
    )
    return prepare(case, torch.device("cpu"), HostTimer())


def test_its_stages_are_timed_before_the_textual_embedder_and_belong_to_the_whole(tmp_path: Path) -> None:
    runner = tiny_runner(tmp_path)
    assert runner.first_call() > 0
    series = runner.block(0.01)
    names = list(series.stages)
    assert names[:4] == [
        "preprocessing.decode",
        "preprocessing.resize",
        "preprocessing.normalise",
        "textual_embedder",
    ]
    whole = series.instrumented.wall_time_s
    assert whole is not None
    for index, total in enumerate(whole):
        parts = sum((times.wall_time_s or ())[index] for times in series.stages.values())
        assert parts == pytest.approx(total)


def test_it_has_no_parameters_and_its_work_is_not_counted(tmp_path: Path) -> None:
    runner = tiny_runner(tmp_path)
    runner.first_call()
    stages, _, _ = runner.count()
    mine = [stage for stage in stages if stage.component == "preprocessing"]
    assert [(stage.parameters, stage.flops, stage.memory) for stage in mine] == [(0, None, None)] * 3
    assert "photo0.jpg (JPEG" in mine[0].note


def test_the_whole_counts_the_models_flops_though_preprocessing_has_none(make_run: MakeRun) -> None:
    run = make_run(latencies_s={"preprocessing.decode": 0.01, "preprocessing.resize": 0.005, **LATENCIES_S})
    uncounted = tuple(
        replace(stage, flops=None, memory=None) if stage.component == "preprocessing" else stage for stage in run.stages
    )
    found = {row.name: row for row in summary.summarise(replace(run, stages=uncounted)).rows}
    assert found["preprocessing"].flops is None
    assert found["whole"].flops == sum(stage.flops or 0 for stage in uncounted)
    assert found["whole"].peak_bytes is not None


def test_reports_show_it_only_where_it_was_measured(make_run: MakeRun) -> None:
    without = make_run()
    with_it = make_run(
        "grid-r50", latencies_s={"preprocessing.decode": 0.01, "preprocessing.resize": 0.02, **LATENCIES_S}
    )
    for form in ("table", "markdown", "csv"):
        assert "decode" not in render([without, without], form)
        told = render([without, without], form).lower()
        assert "reproc" not in (told.partition("\n")[2] if form == "csv" else told)  # whose header has all fields
        assert "decode" in render([without, with_it], form)
        assert "reproc" in render([without, with_it], form).lower()


def test_the_figure_draws_it_before_the_textual_embedder(make_run: MakeRun) -> None:
    run = make_run(latencies_s={"preprocessing.decode": 0.01, "preprocessing.resize": 0.02, **LATENCIES_S})
    with style.styled():
        svg = style.write(figure1(summary.summaries([run])), "svg", title="figure").decode()
    assert svg.index('id="preprocessing"') < svg.index('id="textual_embedder"')
    assert "preprocessing" in svg
