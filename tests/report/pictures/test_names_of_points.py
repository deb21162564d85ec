"""Names beside points: no line to a point crosses a name."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from vilt_bench.report.pictures import style

# As the paper's accuracies against latencies measured once: two with wide intervals, one close below the other.
POINTS = [
    (19_100, 75.95, "VinVL-Base"),
    (2_700, 74.45, "Pixel-BERT-X152"),
    (17_600, 72.42, "LXMERT"),
    (19_716, 72.70, "UNITER-Base"),
    (20_500, 73.16, "OSCAR-Base"),
]
BARS = [(4_527, 34_905, 72.70), (4_450, 36_600, 73.16), (14_200, 20_900, 72.42)]


def test_no_line_from_a_name_to_its_point_crosses_another_name():
    with style.styled():
        sheet = style.Sheet(style.COLUMN_IN, 200)
        axes = sheet.axes(32, 6, 190, 145)
        axes.set(xscale="log", xlim=(200, 60_000), ylim=(69.5, 76.8))
        style.label_points(axes, POINTS, BARS)
        canvas = FigureCanvasAgg(sheet.figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        names = [each for each in axes.texts if each.get_text() in {name for *_, name in POINTS}]
        boxes = {each.get_text(): Text.get_window_extent(each, renderer) for each in names}
        joined = [each for each in names if each.arrow_patch is not None]
        assert joined
        for each in joined:
            transform = each.arrow_patch.get_transform()
            drawn = Path(transform.transform(each.arrow_patch.get_path().vertices))
            crossed = [name for name, box in boxes.items() if name != each.get_text() and drawn.intersects_bbox(box)]
            assert crossed == [], each.get_text()


def test_no_name_covers_a_marker_of_another_named_or_not():
    hollow = [(1_430, 1.41), (1_050, 1.9), (1_900, 2.13), (600, 1.8), (620, 1.65), (690, 1.5), (950, 1.05)]
    named = [(540, 1.87, "patch32, batch size 1"), (900, 2.22, "grid-r50, batch size 2"), (1_600, 2.52, "grid-r50")]
    with style.styled():
        sheet = style.Sheet(style.COLUMN_IN, 200)
        axes = sheet.axes(32, 6, 190, 145)
        axes.set(xscale="log", xlim=(250, 30_000), ylim=(0, 4.2))
        style.label_points(axes, named, others=hollow)
        canvas = FigureCanvasAgg(sheet.figure)
        canvas.draw()
        for each in axes.texts:
            box = Text.get_window_extent(each, canvas.get_renderer())
            covered = [(x, y) for x, y in [*hollow, *(each[:2] for each in named)]
                       if box.contains(*axes.transData.transform((x, y)))]  # fmt: skip
            assert covered == [], each.get_text()


def test_no_line_to_a_point_crosses_the_marker_of_another():
    hollow = [(178, 11.0), (220, 9.3), (300, 6.7), (265, 3.8), (240, 16.7)]
    bars = [(100, 500, height) for height in (3.8, 6, 6.7, 9.3, 11, 16.7)]
    with style.styled():
        sheet = style.Sheet(style.COLUMN_IN, 200)
        axes = sheet.axes(32, 6, 190, 145)
        axes.set(xscale="log", xlim=(55, 5_000), ylim=(-2, 57))
        style.label_points(axes, [(165, 6.0, "1"), (225, 35.8, "3")], bars, others=hollow)
        FigureCanvasAgg(sheet.figure).draw()
        for each in axes.texts:
            if each.arrow_patch is not None:
                path = Path(each.arrow_patch.get_transform().transform(each.arrow_patch.get_path().vertices))
                places = axes.transData.transform(hollow)
                assert not any(
                    path.intersects_bbox(Bbox([(x - 3, y - 3), (x + 3, y + 3)]), filled=True) for x, y in places
                )
