import dataclasses
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from vilt_bench import cli
from vilt_bench.ask.case import Case
from vilt_bench.errors import ConfigError
from vilt_bench.judge.frontier import frontier
from vilt_bench.judge.summary import Summary, summaries, summarise
from vilt_bench.record import store
from vilt_bench.record.run import Run
from vilt_bench.report import columns, render_map
from vilt_bench.report.axes import AXES
from vilt_bench.report.labels import Labels
from vilt_bench.report.pictures import curves, heatmap, panels, pareto, style

MakeSweep = Callable[..., list[Run]]
BATCHES = (1, 2, 4, 8)
PER_IMAGE_S = {"patch32": 0.001, "grid-r50": 0.008, "region-grid": 0.03}
OVERHEAD_S = 0.002


def latency_s(case: Case) -> float:
    """The closed form of the sweep's latencies, as `make_sweep` has them."""
    height, width = case.resolution or (64, 64)
    return OVERHEAD_S + PER_IMAGE_S[case.embedder] * case.batch_size * height * width / 4096


@pytest.fixture(autouse=True)
def style_() -> Iterator[None]:
    with style.styled():
        yield


def curve(runs: list[Run] | list[Summary], x: str = "batch-size", y: str = "latency", **given: object) -> Figure:
    facet = given.pop("facet", None)
    return curves.curve(
        summaries(runs), AXES[x], columns.quantity(y.replace("-", "_")),
        facet=AXES[str(facet)] if facet else None, **{"labels": Labels()} | given,  # type: ignore[arg-type]
    )  # fmt: skip


def drawn(figure: Figure, panel: int = 0) -> dict[str, list[tuple[float, float]]]:
    """Returns the points of each line by its name."""
    lines = figure.axes[1 + panel].lines
    return {str(line.get_gid()): [*zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True)]
            for line in lines if line.get_gid()}  # fmt: skip


def words(figure: Figure) -> str:
    return " ".join("\n".join(text.get_text() for axes in figure.axes for text in axes.texts).split())


def test_lines_have_the_values_of_the_closed_form(make_sweep: MakeSweep) -> None:
    found = drawn(curve(make_sweep()))
    assert set(found) == {f"{name}, {side}×{side}" for name in ("patch32", "grid-r50") for side in (64, 128)}
    for name, points in found.items():
        embedder, _, size = name.partition(", ")
        side = int(size.partition("×")[0])
        expected = [(b, 1000 * latency_s(Case(embedder, batch_size=b, resolution=(side, side)))) for b in BATCHES]
        assert points == [pytest.approx(each) for each in expected]


def test_throughput_is_that_of_the_closed_form_and_grows_along_pixels(make_sweep: MakeSweep) -> None:
    runs = make_sweep(axes={"batch_size": (4,), "resolution": ((64, 64), (128, 128), (192, 128))})
    figure = curve(runs, "resolution", "images-per-second")
    for embedder, points in drawn(figure).items():
        sizes = ((64, 64), (128, 128), (192, 128))
        expected = [(h * w, 4 / latency_s(Case(embedder, batch_size=4, resolution=(h, w)))) for h, w in sizes]
        assert points == [pytest.approx(each) for each in expected]
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["64×64", "128×128", "192×128"]


def test_bands_are_the_intervals_of_tables(make_sweep: MakeSweep) -> None:
    runs = make_sweep(("patch32",), {"batch_size": BATCHES})
    (band,) = [each for each in curve(runs).axes[1].collections if len(each.get_paths()[0].vertices) > 4]
    ends = {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    for run in runs:
        latency = summarise(run).whole.latency
        assert latency is not None
        assert latency.low is not None
        assert latency.high is not None
        for end in (latency.low, latency.high):
            assert (run.case.batch_size, round(1000 * end, 6)) in ends


def test_failed_interrupted_and_missing_points_are_absent_break_the_line_and_are_said(make_sweep: MakeSweep) -> None:
    runs = make_sweep(
        ("patch32", "grid-r50", "region-grid"),
        {"batch_size": (1, 2, 4, 8)},
        failed=lambda case: case.embedder == "grid-r50" and case.batch_size == 2,
        stopped=lambda case: case.embedder == "region-grid" and case.batch_size == 8,
        left_out=lambda case: case.embedder == "patch32" and case.batch_size == 4,
    )
    figure = curve(runs)
    found = drawn(figure)
    for name, gap in (("grid-r50", 1), ("region-grid", 3), ("patch32", 2)):
        broken = [index for index, (_, y) in enumerate(found[name]) if math.isnan(y)]
        assert broken == [gap]
        assert all(y > 0 for index, (_, y) in enumerate(found[name]) if index != gap)
    said = words(figure)
    assert "Failed (out of memory): grid-r50, batch size 2." in said
    assert "Interrupted before it was measured as asked: region-grid, batch size 8." in said
    assert "Not measured: patch32, batch size 4." in said


def test_counts_of_a_run_that_failed_are_drawn(make_sweep: MakeSweep) -> None:
    runs = make_sweep(("patch32",), {"batch_size": BATCHES}, failed=lambda case: case.batch_size == 8)
    assert [x for x, _ in drawn(curve(runs, y="flops"))["patch32"]] == [1, 2, 4, 8]


def test_a_further_axis_is_a_line_style_and_two_more_want_a_facet(make_sweep: MakeSweep) -> None:
    axes = {"batch_size": (1, 2), "resolution": ((64, 64), (128, 128)), "dtype": ("float32", "bfloat16")}
    runs = make_sweep(axes=axes)
    with pytest.raises(ConfigError, match=r"vary in embedder, resolution and dtype.*`facet` dtype.*`only` dtype="):
        curve(runs)
    figure = curve(runs, facet="dtype")
    assert len(figure.axes) == 3
    for panel in (0, 1):
        assert len(drawn(figure, panel)) == 4
    dashes = {line.get_gid(): line.get_linestyle() for line in figure.axes[1].lines if line.get_gid()}
    assert dashes["patch32, 64×64"] != dashes["patch32, 128×128"]
    assert {"float32", "bfloat16"} <= set(words(figure).split())


def test_the_machine_and_what_weights_are_stand_on_the_picture(make_sweep: MakeSweep) -> None:
    said = words(curve(make_sweep()))
    for part in ("EPYC 7B13 · cpu · 2 threads · torch 2.9.0", "Random weights.", "float32", "Bands: 95% intervals."):
        assert part in said


def test_synthetic_images_are_said(make_sweep: MakeSweep) -> None:
    runs = make_sweep()
    assert runs[0].model is not None
    synthetic = [dataclasses.replace(run, model=dataclasses.replace(run.model, images=("synthetic",))) for run in runs]  # type: ignore[type-var]
    assert "Synthetic images." in words(curve(synthetic))
    assert "Synthetic" not in words(curve(runs))


def test_runs_of_several_machines_are_never_one_line(make_sweep: MakeSweep) -> None:
    here = make_sweep(("patch32",), {"batch_size": (1, 2)})
    there = make_sweep(("patch32",), {"batch_size": (4, 8)})
    assert there[0].environment is not None
    h200 = dataclasses.replace(there[0].environment, machine="NVIDIA H200", fingerprint="beef", device="cuda:0",
                               versions={"torch": "2.10.0", "python": "3.12.3"})  # fmt: skip
    there = [dataclasses.replace(run, run_id=f"h-{run.run_id}", environment=h200) for run in there]
    with pytest.raises(ConfigError, match=r"differ in machine .*not joined in one line; .*`facet` machine"):
        curve([*here, *there])
    figure = curve([*here, *there], facet="machine")
    assert [x for x, _ in drawn(figure, 0)["patch32"]] == pytest.approx([1, 2, math.nan, math.nan], nan_ok=True)
    said = words(figure)
    assert "EPYC 7B13 · cpu · 2 threads · torch 2.9.0" in said
    assert "NVIDIA H200 · cuda:0" in said
    lines = drawn(curve([*here, *there], allow_different=["machine", "device", "torch"]))
    assert set(lines) == {"EPYC 7B13", "NVIDIA H200"}


def test_of_a_case_that_was_measured_again_the_last_is_drawn_and_that_is_said(make_sweep: MakeSweep) -> None:
    first = make_sweep(("patch32",), {"batch_size": (1, 2)})
    again = dataclasses.replace(first[1], run_id="again", started_at="2026-11-25T00:00:00+00:00")
    figure = curve([*first, again])
    assert len(drawn(figure)["patch32"]) == 2
    assert "measured again the last is shown; 1 run left out" in words(figure)


def test_areas_are_the_stages_of_the_closed_form(make_sweep: MakeSweep) -> None:
    runs = make_sweep(("patch32",), {"batch_size": BATCHES})
    figure = curve(runs, stacked=True)
    wholes = [1000 * latency_s(run.case) for run in runs]
    tops = {}
    for area in figure.axes[1].collections:
        ys: dict[float, list[float]] = {}
        for x, y in area.get_paths()[0].vertices:
            ys.setdefault(round(float(x), 6), []).append(float(y))
        tops[str(area.get_gid())] = [(min(ys[batch]), max(ys[batch])) for batch in BATCHES]
    shares = {"backbone": (0, 0.25), "projection": (0.25, 0.75), "modality_interaction": (0.75, 1)}
    for name, (low, high) in shares.items():
        assert tops[name] == [pytest.approx((low * whole, high * whole)) for whole in wholes]
    assert [y for _, y in drawn(figure)["whole"]] == pytest.approx(wholes)
    with pytest.raises(ConfigError, match="images-per-second does not add up"):
        curve(runs, y="images-per-second", stacked=True)


def test_axes_are_logarithmic_where_values_lie_far_apart_or_as_asked(make_sweep: MakeSweep) -> None:
    def scales(figure: Figure) -> tuple[str, str]:
        return figure.axes[1].get_xscale(), figure.axes[1].get_yscale()

    far = make_sweep(("patch32", "region-grid"))
    near = make_sweep(("patch32",), {"batch_size": (1, 2, 3)})
    assert scales(curve(far)) == ("log", "log")
    assert scales(curve(near)) == ("linear", "linear")
    assert curve(near).axes[1].get_ylim()[0] == 0
    assert scales(curve(far, log="none")) == ("linear", "linear")
    assert scales(curve(near, log="y")) == ("linear", "log")
    assert "log scale" in words(curve(far))


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_the_frontier_is_that_of_brute_force(signs: tuple[int, int]) -> None:
    rng = random.Random(str(signs))
    for size in (1, 2, 7, 60):
        points = [(float(rng.randrange(12)), float(rng.randrange(12))) for _ in range(size)]
        costs = [(signs[0] * x, signs[1] * y) for x, y in points]
        brute = {
            index for index, own in enumerate(costs)
            if not any(other[0] <= own[0] and other[1] <= own[1] and other != own for other in costs)
        }  # fmt: skip
        assert set(frontier(points, more_is_better=(signs[0] < 0, signs[1] < 0))) == brute


def draw_pareto(runs: list[Run], x: str = "latency", y: str = "visual-tokens", **given: object) -> Figure:
    own = {"labels": Labels()} | given
    return pareto.pareto(summaries(runs), pareto.measure(x, "x"), pareto.measure(y, "y"), **own)  # type: ignore[arg-type]


def test_the_frontier_is_drawn_and_its_runs_are_named(make_sweep: MakeSweep) -> None:
    figure = draw_pareto(make_sweep())
    # 4 tokens of 64×64 and 16 of 128×128 pixels: the fastest of each, patch32 of one image
    steps = drawn(figure)["frontier"]
    assert sorted(steps) == [pytest.approx((3.0, 4)), pytest.approx((6.0, 16))]
    said = words(figure)
    assert re.search(r"Frontier: (1 )?patch32, 64×64, batch size 1; (2 )?patch32, 128×128, batch size 1\.", said)
    assert "Latency (ms), log scale; less is better" in said
    assert "Visual tokens; more is better" in said


def test_what_has_no_better_has_no_frontier(make_sweep: MakeSweep) -> None:
    with pytest.raises(ConfigError, match="neither more nor less of batch-size is better"):
        draw_pareto(make_sweep(), y="batch-size")
    with pytest.raises(ConfigError, match="both are latency"):
        draw_pareto(make_sweep(), y="latency")


def draw_heatmap(runs: list[Run], x: str = "batch-size", y: str = "resolution", **given: object) -> Figure:
    own = {"labels": Labels()} | given
    return heatmap.heatmap(summaries(runs), AXES[x], AXES[y], columns.quantity("latency"), **own)  # type: ignore[arg-type]


def test_a_heatmap_has_the_numbers_of_all_cells_and_says_what_is_not_there(make_sweep: MakeSweep) -> None:
    runs = make_sweep(
        ("patch32",), failed=lambda case: case.batch_size == 8, left_out=lambda case: case.batch_size == 2
        and case.resolution == (64, 64),
    )  # fmt: skip
    figure = draw_heatmap(runs)
    texts = [text.get_text() for text in figure.axes[0].texts]
    # 2 ms and 1 ms an image of 64×64 pixels; four times as much of 128×128
    for number in ("3.00", "6.00", "10.0", "18.0"):
        assert number in texts
    assert texts.count("–") == 1
    assert "Failed (out of memory)" in words(figure)
    cells = [patch for patch in figure.axes[0].patches if patch.get_gid() == "cell"]
    assert len(cells) == 8
    assert sum(cell.get_hatch() is not None for cell in cells) == 2


def test_shades_of_a_heatmap_rise_in_grey(make_sweep: MakeSweep) -> None:
    figure = draw_heatmap(make_sweep(("patch32",)))
    cells = [patch for patch in figure.axes[0].patches if patch.get_gid() == "cell"]
    greys = [0.3 * red + 0.59 * green + 0.11 * blue for red, green, blue in
             (to_rgb(cell.get_facecolor()[:3]) for cell in cells[:4])]  # fmt: skip
    assert greys == sorted(greys)
    assert greys[-1] - greys[0] > 0.2


def test_lines_can_be_told_apart_without_colour() -> None:
    markers = [marker for _, marker in panels.LINES]
    assert len(set(markers)) == len(markers)
    assert len({str(dash) for dash in panels.DASHES}) == len(panels.DASHES)


@pytest.mark.parametrize("width_in", [style.COLUMN_IN, style.PAGE_IN])
def test_no_text_of_a_map_leaves_the_picture_or_covers_another(make_sweep: MakeSweep, width_in: float) -> None:
    axes = {"batch_size": BATCHES, "resolution": ((64, 64), (128, 128)), "dtype": ("float32", "bfloat16")}
    runs = make_sweep(("patch32", "grid-r50", "region-grid"), axes)
    own: dict[str, object] = {"width_in": width_in}
    plain = [run for run in runs if run.case.dtype == "float32"]
    figures = [
        curve(runs, facet="dtype", **own), curve(runs, "resolution", facet="batch-size", **own),
        curve(plain, stacked=True, **own), draw_pareto(runs, **own), draw_heatmap(plain, **own),
    ]  # fmt: skip
    for figure in figures:
        figure.dpi = 72
        figure.draw_without_rendering()
        ticks = [tick for axes_ in figure.axes[1:] for tick in (*axes_.get_xticklabels(), *axes_.get_yticklabels())]
        texts = [text for axes_ in figure.axes for text in axes_.texts]
        boxes = [(text.get_text(), text.get_window_extent()) for text in [*texts, *ticks]
                 if text.get_text() and text.get_visible()]  # fmt: skip
        assert len(boxes) > 8
        for index, (said, box) in enumerate(boxes):
            assert box.x0 >= 0, said
            assert box.x1 <= width_in * 72, said
            assert box.y0 >= 0, said
            for other, its in boxes[:index]:
                common = Bbox.intersection(box, its)
                assert common is None or min(common.width, common.height) < 2.5, (said, other)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": "dtype"}, "dtype has no numbers.*batch-size"),
        ({"x": "text-length"}, r"text-length does not vary \(all are 40\); what varies: resolution, batch-size"),
        ({"x": "batchsize"}, "no axis 'batchsize'; did you mean 'batch-size'"),
        ({"y": "latancy"}, "no quantity 'latancy'; did you mean 'latency'"),
        ({"y": "memory"}, "no quantity 'memory'; did you mean 'peak-bytes'"),
        ({"y": "dtype"}, "'dtype' is an axis, not a quantity"),
        ({"facet": "colour"}, "no axis 'colour'"),
        ({"only": ["embedder=patch23"]}, "no run has embedder 'patch23'; did you mean 'patch32'"),
        ({"only": ["patch32"]}, "'patch32' is not AXIS=VALUE"),
        ({"only": ["bathc-size=1"]}, "no axis 'bathc-size'; did you mean 'batch-size'"),
        (
            {"x": "batch-size", "only": ["batch-size=1"]},
            r"batch-size does not vary \(all are 1\); what varies: res",
        ),
        ({"z": "latency"}, "`z` is for `figure` heatmap"),
        ({"figure": "heatmap", "stacked": True}, "`stacked` is for `figure` curve"),
        ({"figure": "heatmap", "y": "dtype"}, r"dtype does not vary \(all are float32\)"),
        ({"labels": ["nothing"]}, "neither a TOML file nor NAME=LABEL"),
        ({"labels": ["patch23=ViLT"]}, "no run has embedder 'patch23'; did you mean 'patch32'"),
        ({"labels": ["absent.toml"]}, "absent.toml"),
        ({"log": "z"}, "`log` must be one of auto, x, y, xy, none"),
        ({"figure": "bars"}, "curve, pareto, heatmap"),
    ],
)
def test_bad_input_is_one_clear_line(make_sweep: MakeSweep, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        render_map(make_sweep(), "svg", **{"x": None} | given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_one_point_and_nothing_but_failures_are_refused(make_sweep: MakeSweep) -> None:
    with pytest.raises(ConfigError, match=r"batch-size does not vary \(all are 1\)"):
        curve(make_sweep(("patch32",), {"batch_size": (1,)}))
    with pytest.raises(ConfigError, match=r"no run has latency to draw \(4 failed of 4\)"):
        curve(make_sweep(("patch32",), {"batch_size": BATCHES}, failed=lambda case: True))
    with pytest.raises(ConfigError, match=r"p99 to draw \(a run needs 368 passes for it, and has \d+ at most"):
        curve(make_sweep(("patch32",), {"batch_size": BATCHES}), y="p99")
    with pytest.raises(ConfigError, match="each line would have one point"):
        curve(make_sweep(("patch32",), {"batch_size": BATCHES}, failed=lambda case: case.batch_size > 1))
    with pytest.raises(ConfigError, match="at least one run"):
        curve([])


def test_labels_colours_and_order_are_the_users(make_sweep: MakeSweep, tmp_path: Path) -> None:
    path = tmp_path / "labels.toml"
    path.write_text(
        'order = ["grid-r50", "patch32"]\n[labels]\npatch32 = "ViLT"\n"resolution=64x64" = "small"\n'
        '[colours]\npatch32 = "#123456"\n[titles]\nlatency = "A pass"\nbatch-size = "Images"\n'
    )
    svg = render_map(make_sweep(), "svg", x="batch-size", labels=[str(path), "grid-r50=Pixel-BERT"]).decode()
    text = " ".join("".join(ElementTree.fromstring(svg).itertext()).split())
    assert text.index("Pixel-BERT") < text.index("ViLT")
    for part in ("small", "A pass (ms)", "Images"):
        assert part in text
    assert "patch32" not in text
    assert "#123456" in svg


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[label]\npatch32 = "a"\n', "'label' is not known; did you mean 'labels'"),
        (
            '[labels]\nvit = "a"\n',
            "labels: no run has embedder .vit.; there are .*, ",
        ),
        ('[labels]\n"dtype=int8" = "a"\n', "labels: no run has dtype 'dtype=int8'"),
        ('[colours]\npatch32 = "greenish"\n', "'greenish' of 'patch32' is no colour"),
        ("[labels]\npatch32 = 3\n", "'patch32' must be a text, got 3"),
        ("labels = 3\n", "labels must be a table"),
        ('order = "patch32"\n', "order must be a list"),
        ('[titles]\nlatencies = "a"\n', "'latencies' is neither an axis nor a quantity; did you mean 'latency'"),
        ("labels = [\n", "can't be read as TOML"),
    ],
)
def test_a_wrong_file_of_labels_is_one_clear_line(
    make_sweep: MakeSweep, tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in make_sweep():
        store.save(run, tmp_path / "runs")
    path = tmp_path / "own.toml"
    path.write_text(content)
    asked = ["report", str(tmp_path / "runs"), "--figure", "curve", "--labels", str(path), "--output", f"{path}.svg"]
    assert cli.main(asked) == 2
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert said.count("\n") == 1


def test_the_command_line_draws_every_map(make_sweep: MakeSweep, tmp_path: Path) -> None:
    for run in make_sweep():
        store.save(run, tmp_path / "runs")
    for name, options, start in (
        ("curve.svg", "--figure curve --x batch-size --y images-per-second", b"<?xml"),
        ("pareto.pdf", "--figure pareto --y flops --span 2", b"%PDF-"),
        ("heatmap.png", "--figure heatmap --only embedder=patch32", b"\x89PNG"),
        ("page.html", "--figure curve --stacked --only resolution=64x64 --columns latency,p50", b"<!DOCTYPE html>"),
    ):
        output = tmp_path / name
        assert cli.main(["report", str(tmp_path / "runs"), *options.split(), "--output", str(output)]) == 0
        assert output.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--x batch-size --output a.svg", "--x is of pictures of a sweep; add --figure curve|pareto|heatmap"),
        ("--figure curve", "are for pictures"),
        ("--figure curve --with-paper --output a.svg", "--with-paper adds the bars"),
        ("--figure curve --output a.gif", "no format is known by the ending .gif"),
        ("--figure curve --x batchsize --output a.svg", "--x there is no axis 'batchsize'"),
    ],
)
def test_the_command_line_refuses_in_one_line(
    make_sweep: MakeSweep, tmp_path: Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in make_sweep():
        store.save(run, tmp_path)
    assert cli.main(["report", str(tmp_path), *options.split()]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
