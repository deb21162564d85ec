import io
import itertools

import pytest
from rich.console import Console

from vilt_bench.report.tables import Cell, Column, Line, Table, drawn, drawn_by_rich
from vilt_bench.report.terminal import Terminal

NAMES = ("whole", "a rather long name of a stage, with 漢字 in it", "modality interaction", "x" * 70, "")
COLUMNS = (
    Column("Stage", align="left", long="fold"),
    Column("Latency", "ms", "95% interval"),
    Column("Visual tokens", screen="Visual\ntokens"),
    Column("GMACs", least_width=90),
)


def printed(renderable: object, width: int, *, encoding: str = "utf-8", colour: str | None = None) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", write_through=True)
    Terminal(file=file, width=width, color_system=colour, force_terminal=colour is not None).print(renderable)
    file.seek(0)
    return file.read()


def table(names: tuple[str, ...], *, gap: int = 2, style: str = "") -> Table:
    lines = [
        Line(
            [Cell(name, style), "1,234.5 [1,200.0, 1,300.0]"[: 6 + 9 * index], str(index), Cell("0.5", after="M")],
            depth=index % 2, strong=not index % 2, apart=index == len(names) - 1,
        )
        for index, name in enumerate(names)
    ]  # fmt: skip
    return Table(COLUMNS, lines, gap=gap)


@pytest.mark.parametrize("width", [40, 57, 60, 61, 80, 100, 160])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_table_is_drawn_to_the_letter_as_rich_draws_it(width: int, encoding: str) -> None:
    for count, gap in itertools.product((0, 1, 3, 5), (1, 2)):
        own = table(NAMES[:count], gap=gap)
        found, expected = (printed(draw(own, width), width, encoding=encoding) for draw in (drawn, drawn_by_rich))
        assert found == expected


def test_styles_stand_on_the_same_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    def looks(draw: object) -> list[tuple[str, str]]:
        console = Console(width=100, color_system="standard", force_terminal=True, file=io.StringIO())
        segments = console.render(draw)  # type: ignore[arg-type]
        return [
            (letter, str(segment.style or "none")) for segment in segments for letter in segment.text if letter.strip()
        ]

    own = table(NAMES[:3], style="red")
    assert looks(drawn(own, 100)) == looks(drawn_by_rich(own, 100))
