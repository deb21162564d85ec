import dataclasses
import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from PIL import Image

from vilt_bench import cli
from vilt_bench.ask.case import Case
from vilt_bench.errors import ConfigError
from vilt_bench.paper.pages.figures import accuracy_scatter, paper_figure1, read_accuracies
from vilt_bench.record import store
from vilt_bench.record.run import Environment, Failure, Run, Times
from vilt_bench.report import render_picture
from vilt_bench.report.pictures import style
from vilt_bench.report.pictures.latency import figure1, figure2

MakeRun = Callable[..., Run]

SHARED = {"textual_embedder": 0.0003, "modality_interaction.transformer": 0.014, "modality_interaction.pooler": 0.001}
REGION_S = {
    "textual_embedder": 0.0003,
    "visual_embedder.backbone": 0.075,
    "visual_embedder.roi_head": 0.26,
    "visual_embedder.class_nms": 0.55,
    "modality_interaction": 0.015,
}
GRID_S = {"textual_embedder": 0.0003, "visual_embedder.backbone": 0.045, "modality_interaction": 0.015}
PATCH_S = {"textual_embedder": 0.0003, "visual_embedder.projection": 0.0004, "modality_interaction": 0.015}


@pytest.fixture(autouse=True)
def style_() -> Iterator[None]:
    with style.styled():
        yield


@pytest.fixture
def runs(make_run: MakeRun) -> list[Run]:
    named = {"region-r101-c4": REGION_S, "grid-r50": GRID_S, "patch32": PATCH_S}
    return [make_run(name, latencies_s=latencies_s, noise=0) for name, latencies_s in named.items()]


@pytest.fixture
def elsewhere(make_run: MakeRun) -> Run:
    run = make_run("patch32", latencies_s=PATCH_S)
    return dataclasses.replace(run, environment=elsewhere_than(run.environment))


def elsewhere_than(here: Environment | None) -> Environment:
    assert here is not None
    return dataclasses.replace(
        here, machine="NVIDIA H200", device="cuda:0", device_name="NVIDIA H200", fingerprint="beef", threads=8,
        versions=here.versions | {"torch": "2.10.0"},
    )  # fmt: skip


def segments(figure: Figure) -> list[list[tuple[str, float, float]]]:
    """Returns by panel the segments' (stage, width in points, width in the axis' unit)."""
    found = []
    for axes in figure.axes[1:]:
        scale = axes.get_position().width * figure.get_figwidth() * 72 / axes.get_xlim()[1]
        boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        found.append([(str(box.get_gid()), box.get_width() * scale, box.get_width()) for box in boxes])
    return found


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def svg_text(svg: bytes) -> str:
    return "\n".join(ElementTree.fromstring(svg).itertext())


def test_svg_has_stages_and_milliseconds_as_text(runs: list[Run]) -> None:
    text = svg_text(render_picture(runs, "svg"))
    for said in ("backbone", "RoI head", "class NMS", "550", "260", "900.3 [900.3, 900.3] ms", "projection 0.4"):
        assert said in text
    for said in ("EPYC 7B13 · cpu · 2 threads · float32 · batch 1 · torch 2.9.0", "Random weights."):
        assert said in text


def test_widths_are_proportional_to_the_medians(runs: list[Run]) -> None:
    first = segments(figure1(runs))[0]
    stages = [(name.rpartition(".")[2], 1000 * latency) for latencies in (REGION_S, GRID_S, PATCH_S)
              for name, latency in latencies.items()]  # fmt: skip
    assert [(name, pytest.approx(length)) for name, _, length in first] == stages
    per_ms = {round(points / length, 6) for _, points, length in first}
    assert len(per_ms) == 1


def test_stages_of_the_interaction_are_one_segment(make_run: MakeRun) -> None:
    (panel,) = segments(figure1([make_run("x", latencies_s=SHARED, noise=0)]))
    assert [(name, pytest.approx(length)) for name, _, length in panel] == [
        ("textual_embedder", 0.3), ("modality_interaction", 15.0),
    ]  # fmt: skip


def test_short_bars_are_magnified_on_a_linear_axis_that_begins_at_zero(runs: list[Run]) -> None:
    figure = figure1(runs)
    full, magnified = segments(figure)
    assert [name for name, _, _ in magnified].count("modality_interaction") == 2
    assert all(axes.get_xscale() == "linear" and axes.get_xlim()[0] == 0 for axes in figure.axes[1:])
    factor = magnified[0][1] / full[len(REGION_S)][1]
    assert f"magnified ×{factor:.0f}" in words(figure)


def test_bars_of_like_length_are_not_magnified(make_run: MakeRun) -> None:
    assert len(segments(figure1([make_run("a"), make_run("b")]))) == 1


def test_whisker_spans_the_interval_of_the_number_beside_the_bar(make_run: MakeRun) -> None:
    (axes,) = figure1([make_run(noise=0.2)]).axes[1:]
    (whisker,) = {
        tuple(path.vertices[:, 0]) for lines in axes.collections for path in lines.get_paths()
        if path.vertices[0, 0] != path.vertices[1, 0]
    }  # fmt: skip
    value, low, high = map(float, re.findall(r"[\d.]+", re.search(r".*\] ms", words(axes.figure))[0]))  # type: ignore[arg-type, index]
    assert whisker == pytest.approx((low, high), abs=0.51)  # the number has no decimals here
    assert low < value < high


def test_run_without_interval_has_no_whisker(make_run: MakeRun) -> None:
    figure = figure1([make_run(trials=1, blocks=(2,))])
    assert "[–] ms" in words(figure)
    assert "Whisker" not in words(figure)


def test_failed_run_says_why_and_has_no_bar(make_run: MakeRun) -> None:
    failed = make_run("grid", trials=0, failure=Failure("out-of-memory", "2 GiB", "visual_embedder.backbone"))
    figure = figure1([failed, make_run("patch32", latencies_s=PATCH_S)])
    assert "failed in visual_embedder.backbone: out-of-memory" in words(figure)
    assert len(segments(figure)[0]) == len(PATCH_S)
    assert segments(figure1([failed])) == [[]]


def test_planted_tensors_are_told(make_run: MakeRun) -> None:
    run = make_run("region", latencies_s=REGION_S)
    noted = [dataclasses.replace(stage, note="planted boxes (seed 0)") for stage in run.stages[2:4]]
    figure = figure1([dataclasses.replace(run, stages=(*run.stages[:2], *noted, *run.stages[4:]))])
    assert "RoI head, class NMS: planted boxes (seed 0)." in words(figure)


def test_paper_has_its_own_bars_and_says_so(runs: list[Run]) -> None:
    figure = figure1(runs, beside=paper_figure1())
    paper = segments(figure)[2]
    assert [(name, length) for name, _, length in paper[:3]] == [
        ("backbone", 75), ("region_operations", 810), ("modality_interaction", 15),
    ]  # fmt: skip
    assert "ViLT paper, Figure 1 (P40 GPU)" in words(figure)


@pytest.mark.parametrize("field", ["machine", "device", "threads", "torch"])
def test_runs_of_different_machines_or_settings_are_refused_by_name(
    runs: list[Run], elsewhere: Run, field: str
) -> None:
    with pytest.raises(ConfigError, match=rf"differ in .*{field}") as caught:
        figure1([*runs, elsewhere])
    assert "\n" not in str(caught.value)


def test_runs_of_different_types_are_refused(runs: list[Run]) -> None:
    other = dataclasses.replace(runs[0], case=dataclasses.replace(runs[0].case, dtype="bfloat16"))
    with pytest.raises(ConfigError, match=r"differ in dtype \(float32, bfloat16\); "):
        figure1([runs[0], other])


def test_failed_run_without_a_machine_is_not_refused(runs: list[Run], make_run: MakeRun) -> None:
    failure = Failure("error", "no such file")
    figure1([*runs, make_run("x", trials=0, stages=(), model=None, environment=None, failure=failure)])


def test_different_runs_are_labelled_one_by_one_where_allowed(runs: list[Run], elsewhere: Run) -> None:
    text = words(figure1([runs[1], elsewhere], allow_different=True))
    assert "NVIDIA H200 · cuda:0 · 8 threads · float32 · batch 1 · torch 2.10.0" in text
    assert "EPYC 7B13 · cpu · 2 threads · float32 · batch 1 · torch 2.9.0" in text


def test_no_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one run"):
        figure1([])


@pytest.mark.parametrize("width_in", [style.COLUMN_IN, style.PAGE_IN])
def test_no_text_leaves_the_figure_or_covers_another(
    runs: list[Run], make_run: MakeRun, elsewhere: Run, width_in: float
) -> None:
    long = make_run("my.module.with.a.long.path:factory_of_a_thing_with_a_name", latencies_s=REGION_S, noise=0.1)
    spare = make_run("timm/vit", latencies_s={f"visual_embedder.part_{part}": 0.001 * part for part in range(1, 12)})
    figure = figure1([long, spare, *runs, elsewhere], beside=paper_figure1(), allow_different=True, width_in=width_in)
    figure.dpi = 72
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in axes.texts]
    ticks = [
        tick
        for axes in figure.axes[1:]
        for tick in axes.get_xticklabels()
        if tick.get_position()[0] <= axes.get_xlim()[1]
    ]
    boxes = [(text.get_text(), text.get_window_extent()) for text in [*texts, *ticks] if text.get_text()]
    for said, box in boxes:
        assert box.x0 >= 0, said
        assert box.x1 <= width_in * 72, said
        assert box.y0 >= 0, said
    for index, (said, box) in enumerate(boxes):
        # Line boxes have room for accents; what matters is that they do not overlap by more than that.
        for other, its in boxes[:index]:
            common = Bbox.intersection(box, its)
            assert common is None or min(common.width, common.height) < 2, (said, other)


def test_looks_differ_in_lightness_or_hatch() -> None:
    for looks in (list(style.LOOKS.values()), list(style.SPARE)):
        greys = [0.3 * red + 0.59 * green + 0.11 * blue for red, green, blue in (to_rgb(look.colour) for look in looks)]
        for index, look in enumerate(looks[:-1]):
            after = looks[index + 1]
            assert look.hatch != after.hatch or abs(greys[index] - greys[index + 1]) > 0.1


def test_dollar_signs_are_no_mathematics(make_run: MakeRun) -> None:
    assert "a$b$c" in svg_text(render_picture([make_run("a$b$c")], "svg"))


def test_computational_size_is_shown_as_shares(make_run: MakeRun) -> None:
    flops, sizes = segments(figure2([make_run()]))
    # 2, 4 and 6 GFLOPs; 1, 2 and 3 million parameters as the fixture counts them
    shares = [(name, pytest.approx(100 * part / 6)) for name, part in
              (("textual_embedder", 1), ("visual_embedder", 2), ("modality_interaction", 3))]  # fmt: skip
    assert [(name, length) for name, _, length in flops] == shares
    assert [(name, length) for name, _, length in sizes] == shares


def test_unknown_flops_are_said_to_be_unknown(make_run: MakeRun) -> None:
    run = make_run()
    stages = (*run.stages[:-1], dataclasses.replace(run.stages[-1], flops=None))
    figure = figure2([dataclasses.replace(run, stages=stages)])
    assert segments(figure)[0] == []
    assert "unknown" in words(figure)


def test_scatter_has_each_model_at_its_latency_and_accuracy(runs: list[Run]) -> None:
    models = dict(zip(("UNITER-Base", "Pixel-BERT-R50", "ViLT-B/32"), runs, strict=True))
    figure = accuracy_scatter(models, {"UNITER-Base": 72.7, "Pixel-BERT-R50": 71.35, "ViLT-B/32": 70.33})
    at = {text.get_text(): text.xy for text in figure.axes[1].texts}  # type: ignore[attr-defined]
    assert at["ViLT-B/32"] == pytest.approx((15.7, 70.33))
    assert at["UNITER-Base"] == pytest.approx((900.3, 72.7))


def test_scatter_refuses_a_model_without_accuracy(runs: list[Run]) -> None:
    with pytest.raises(ConfigError, match="'ViLT'"):
        accuracy_scatter({"ViLT": runs[0]}, {"ViLT-B/32": 70.33})


def test_published_accuracies_leave_out_what_is_not_published() -> None:
    assert read_accuracies()["ViLT-B/32"] == 70.33
    assert "ViLBERT" not in read_accuracies("nlvr2_dev")


def test_png_has_300_dots_per_inch_and_the_width_of_the_columns(runs: list[Run]) -> None:
    for columns, inches in ((1, 3.25), (2, 6.75)):
        image = Image.open(io.BytesIO(render_picture(runs, "png", span=columns)))
        image.load()
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.width == pytest.approx(300 * inches, abs=1)


@pytest.mark.parametrize("format", ["svg", pytest.param("pdf", marks=pytest.mark.slow), "html"])
def test_same_runs_give_the_same_file(runs: list[Run], format: str) -> None:
    assert render_picture(runs, format) == render_picture(runs, format)


def test_page_is_well_formed_and_loads_nothing(runs: list[Run], make_run: MakeRun) -> None:
    page = render_picture([*runs, make_run("a|b<c>&d")], "html").decode()
    root = ElementTree.fromstring(page.partition("\n")[2])
    assert not re.search(r"""\b(src|href)="(?!data:)|@import|url\((?!#)""", page)
    names = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(names) == len(set(names))
    assert "a|b<c>&d" in "".join(root.itertext())


def test_page_has_pictures_tables_remarks_and_machine(runs: list[Run]) -> None:
    root = ElementTree.fromstring(render_picture(runs, "html").partition(b"\n")[2])
    count = [tag.rpartition("}")[2] for tag in (element.tag for element in root.iter())].count
    assert (count("img"), count("table")) == (2, 5)  # the table of cases, and what Markdown has
    text = "".join(root.itertext())
    for said in ("EPYC 7B13", "Random weights: visual embedder, shared model.", "900.3 [900.3, 900.3]"):
        assert said in text


def test_unknown_picture_is_refused(runs: list[Run]) -> None:
    with pytest.raises(ConfigError, match="svg, png, pdf, html"):
        render_picture(runs, "gif")
    with pytest.raises(ConfigError, match="latency, size"):
        render_picture(runs, "svg", figure="scatter")
    with pytest.raises(ConfigError, match="leave out `figure` size"):
        render_picture(runs, "svg", figure="size", beside=paper_figure1())


def test_a_picture_of_sizes_is_not_one_of_latencies(runs: list[Run]) -> None:
    assert "GFLOPs" in svg_text(render_picture(runs, "svg", figure="size"))
    assert "GFLOPs" not in svg_text(render_picture(runs, "svg"))


def test_a_bar_may_have_a_title_of_its_own(runs: list[Run]) -> None:
    assert "UNITER-Base" in words(figure1(runs[:1], titles={runs[0].run_id: "UNITER-Base"}))


@pytest.mark.parametrize(
    ("format", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF-"), ("html", b"<!DOCTYPE html>")]
)
def test_command_line_writes_pictures(runs: list[Run], tmp_path: Path, format: str, start: bytes) -> None:
    for run in runs:
        store.save(run, tmp_path)
    picture = tmp_path / f"figure.{format}"
    asked = ["report", str(tmp_path), "--format", format, "--output", str(picture), "--with-paper", "--span", "2"]
    assert cli.main(asked) == 0
    assert picture.read_bytes().startswith(start)


def test_command_line_gives_no_picture_to_a_terminal(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.save(runs[0], tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["report", str(path), "--format", "png"]) == 2
    assert "--output FILE.png" in capsys.readouterr().err


def test_command_line_refuses_options_of_pictures_for_text(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.save(runs[0], tmp_path)
    assert cli.main(["report", str(path), "--format", "csv", "--with-paper"]) == 2
    assert "are for pictures" in capsys.readouterr().err


def test_pictures_need_neither_torch_nor_pyplot(runs: list[Run], tmp_path: Path) -> None:
    store.save(runs[0], tmp_path)
    code = (
        "import sys; from vilt_bench import report; from vilt_bench.record import load;"
        f"report.render_picture(load.load_all([{str(tmp_path)!r}]), 'svg');"
        "print([name for name in ('torch', 'pandas', 'matplotlib.pyplot') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_bar_number_and_parts_are_one_quantity_and_the_whole_stands_apart(make_run: MakeRun) -> None:
    run = make_run(trials=1, blocks=(1,), noise=0)
    trial = run.trials[0]
    whole = dataclasses.replace(trial.samples, whole=Times(wall_time_s=(0.284,)))
    figure = figure1([dataclasses.replace(run, trials=(dataclasses.replace(trial, samples=whole),))])
    end = sum(length for _, _, length in segments(figure)[0])
    assert end == pytest.approx(100.0)  # the fixture's stages: 0.3, 4.2 and 95.5 ms
    said = words(figure)
    assert "100.0 [–] ms" in said.splitlines()
    assert "384×640 pixels, 240 visual tokens · whole: 284.0 [–] ms" in said
    assert "Bar and number: the sum of the stages; no interval" in " ".join(said.split())


def test_pixels_and_tokens_stand_at_each_bar_and_differing_inputs_are_told(make_run: MakeRun) -> None:
    runs = [make_run("patch32", run_id="a"), make_run("grid-r50", run_id="b")]
    assert runs[1].model is not None
    runs[1] = dataclasses.replace(
        runs[1], model=dataclasses.replace(runs[1].model, resolution=(224, 320), visual_tokens=70)
    )
    drawn = [figure1(runs), figure2(runs), accuracy_scatter({"A": runs[0], "B": runs[1]}, {"A": 70.0, "B": 71.0})]
    for figure in drawn:
        said = " ".join(words(figure).split())
        assert "384×640 pixels, 240 visual tokens" in said
        assert "224×320 pixels, 70 visual tokens" in said
        assert "Not one input: " in said


def test_cases_of_two_sizes_bear_two_names_in_a_picture(make_run: MakeRun) -> None:
    cases = [Case("patch32", resolution=size) for size in ((384, 384), (512, 512))]
    runs = [make_run(case=case, run_id=str(index)) for index, case in enumerate(cases)]
    for figure in (figure1(runs), figure2(runs)):
        assert {"patch32 (384×384)", "patch32 (512×512)"} <= set(words(figure).splitlines())


def test_named_differences_are_allowed_and_no_others(runs: list[Run]) -> None:
    case = dataclasses.replace(runs[0].case, dtype="bfloat16", batch_size=2)
    other = dataclasses.replace(runs[1], case=case)
    figure1([runs[0], other], allow_different=["dtype", "batch-size"])
    with pytest.raises(ConfigError, match=r"differ in batch size .*`allow_different` batch-size"):
        figure1([runs[0], other], allow_different=["dtype"])
    with pytest.raises(ConfigError, match=r"'dtipe' is nothing that is checked; known: .*batch-size"):
        figure1(runs, allow_different=["dtipe"])


def test_what_was_asked_for_otherwise_is_not_to_be_measured_together(runs: list[Run], elsewhere: Run) -> None:
    other = dataclasses.replace(runs[0], case=dataclasses.replace(runs[0].case, batch_size=2))
    with pytest.raises(ConfigError, match=r"differ in batch size .*; draw those that are alike, or"):
        figure1([runs[0], other])
    with pytest.raises(ConfigError, match="measure them together"):
        figure1([runs[0], elsewhere])


def test_numbers_of_an_axis_are_within_the_picture(make_run: MakeRun) -> None:
    figure = figure1([make_run("x", latencies_s={"visual_embedder.backbone": 19.5, "modality_interaction": 0.12})])
    figure.draw_without_rendering()
    numbers = [
        tick.label1
        for axes in figure.axes
        for tick in axes.xaxis.get_major_ticks()
        if tick.get_loc() <= axes.get_xlim()[1] and tick.label1.get_text()
    ]
    assert "20,000" in [number.get_text() for number in numbers]
    assert all(number.get_window_extent().x1 <= figure.bbox.width for number in numbers)
