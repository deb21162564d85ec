"""Every report, in every format, of the records in `tests/golden/records`, equals its golden file.

The golden files lie in `tests/golden/expected`. Where a change of a report is meant, read the difference that the test
shows, then renew them, and commit them with the change:

    python -m pytest tests/test_golden.py --update-golden

`python tests/golden/make_records.py` writes the records. A change of layout alone changes no golden file.

All text is compared to the letter, but for the tenth and later digits of a number, which are the machine's. Of pictures
it is what they draw that is compared, in their order: texts with places, and shapes with colours and extents, in points
and to within one, so that another version of matplotlib makes no difference.
"""

import base64
import contextlib
import difflib
import io
import re
import runpy
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

import vilt_bench.director.doctor
from vilt_bench.cli import main
from vilt_bench.judge.comparison import Comparison
from vilt_bench.report import verdicts

GOLDEN = Path(__file__).parent / "golden"
RECORDS = GOLDEN / "records"
EXPECTED = GOLDEN / "expected"

MOST_BYTES = 480_000
"""Of all golden files together."""
PLACE_PT = 1.0
"""How far a shape of a picture may lie from where it was."""

Check = Callable[[str, str], None]
Tell = Callable[..., str]

# What is asked of the command line, by golden file. FILE stands for one whose content is compared instead of what is
# printed; a number after `-` in the name is the terminal's width.
COMMANDS = {
    "report-80.txt": "report sitting others",
    "report-120.txt": "report sitting others",
    "report.md": "report sitting others --format markdown",
    "report.tex": "report sitting others --format latex",
    "report.csv": "report sitting --format csv",
    "report.json": "report others --format json",
    "report-github-action-benchmark.json": "report sitting --format github-action-benchmark",
    "report-bencher.json": "report sitting --format bencher",
    "report.html": "report sitting --format html --output FILE",
    "report-latency.svg": "report sitting --format svg --output FILE",
    "report-latency-with-paper.svg": "report sitting --format svg --with-paper --span 2 --output FILE",
    "report-latency-different.svg": "report sitting others --format svg --allow-different --output FILE",
    "report-size.svg": "report sitting --format svg --figure size --output FILE",
    "history-80.txt": "history history",
    "history-120.txt": "history history",
    "history.md": "history history --format markdown",
    "history.csv": "history history --format csv --stage whole",
    "history.json": "history history --format json --stage whole --limit 3",
    "history.svg": "history history --format svg --output FILE",
    "history-check.txt": "history check history",
    "compare-80.txt": "compare history candidate",
    "compare-120.txt": "compare history candidate",
    "compare.md": "compare history candidate --format markdown",
    "compare.json": "compare history candidate --format json",
    "compare-junit.xml": "compare history candidate --format junit",
    "compare-github.txt": "compare history candidate --format github",
    "compare-github-action-benchmark.json": "compare history candidate --format github-action-benchmark",
    "compare-bencher.json": "compare history candidate --format bencher",
    "list-80.txt": "list",
    "list-120.txt": "list",
    "list-vlm.txt": "list --vlm",
    "list-presets.txt": "list --presets",
    "show-patch32.txt": "show patch32 --no-peak",
    "show-region-r101-c4-80.txt": "show region-r101-c4 --no-peak",
}
GATE = {
    "gate.md": "markdown",
    "gate.json": "json",
    "gate-junit.xml": "junit",
    "gate-github.txt": "github",
    "gate-github-action-benchmark.json": "github-action-benchmark",
    "gate-bencher.json": "bencher",
}
"""Verdicts of measurements together, by golden file: the format."""
DOCTOR = {"doctor-80.txt": "doctor", "doctor-120.txt": "doctor", "doctor.json": "doctor --format json"}
PAPER = (
    *("README.md", "table6.csv", "times.csv", "nms.csv", "sequence.csv"),
    *("figure-1.svg", "figure-2.svg", "accuracy.svg", "nms.svg", "sequence.svg"),
)
"""Files that the paper's report consists of."""
WIDTHS = (80, 120)


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Check:
    """Returns what holds a text to the golden file of that name, or rewrites the file where that was asked for."""

    def check(name: str, text: str) -> None:
        file = EXPECTED / name
        found = "".join(f"{line}\n" for line in simplified(name, text))
        if request.config.getoption("--update-golden"):
            if not file.is_file() or not alike(file.read_text(encoding="utf-8"), found):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(found, encoding="utf-8", newline="\n")
            return
        expected = file.read_text(encoding="utf-8") if file.is_file() else ""
        if not alike(expected, found):
            lines = difflib.unified_diff(
                expected.splitlines(), found.splitlines(), f"golden/expected/{name}", "now", lineterm=""
            )
            pytest.fail("\n".join([*lines, "If it is meant to: --update-golden, see this module."]), pytrace=False)

    return check


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Returns what gives a command's output, printed to a terminal of that width or written to its FILE."""
    monkeypatch.chdir(RECORDS)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "CI", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)

    def tell(name: str, command: str) -> str:
        file = tmp_path / Path(name).name
        if width := re.search(r"-(\d+)\.txt$", name):
            # To rich this is a terminal without colours.
            for variable, value in {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": width[1], "LINES": "60"}.items():
                monkeypatch.setenv(variable, value)
        main([str(file) if word == "FILE" else word for word in command.split()])
        printed = capsys.readouterr().out
        return file.read_text(encoding="utf-8") if "FILE" in command else printed

    return tell


def simplified(name: str, text: str) -> Iterator[str]:
    """Yields the lines that are compared: of pictures what they draw, of what other packages offer no numbers."""
    if name.endswith(".svg"):
        yield from drawn(text)
    elif name.endswith(".html"):
        # Script and style are held by the browser's tests; what they are given stands here.
        text = re.sub(r"(?s)(<style>|<script>).*?(</style>|</script>)|sha256-[\w+/=]+", "", text)
        for part in re.split(r"data:image/svg\+xml;base64,([\w+/=]+)", text):
            yield from drawn(svg.decode()) if (svg := picture_of(part)) else part.strip().splitlines()
    elif name.startswith("list"):
        yield from re.sub(r"[\d,]+ models", "N models", text).splitlines()
    else:
        yield from (line.rstrip() for line in text.splitlines())


def picture_of(text: str) -> bytes:
    """Returns the SVG file that the text holds in base 64; nothing where it holds another text."""
    return base64.b64decode(text) if re.fullmatch(r"[\w+/=]{99,}", text) else b""


def drawn(svg: str) -> Iterator[str]:
    """Yields a line for each shape and text of an SVG file, in the order in which they are drawn."""
    root = ET.fromstring(svg.replace("xlink:href", "href"))
    yield f"picture {' '.join(rounded(root.get('viewBox', '')))}"
    hidden = {child for kind in ("defs", "metadata") for each in elements(root, kind) for child in each.iter()}
    for each in root.iter():
        style = re.sub(r"\s", "", each.get("style", "")) + "".join(
            f";{key}:{each.get(key)}" for key in ("fill", "stroke") if each.get(key)
        )
        look = re.findall(r"(?:^|;)((?:fill|stroke|opacity|stroke-dasharray):[^;]+)", style)
        match "" if each in hidden else each.tag.rpartition("}")[2]:
            case "text":
                place = rounded(f"{each.get('x', '')} {each.get('y', '')}") or rounded(each.get("transform", ""))
                turned = "turned " if re.search(r"rotate\(-?[1-9]", each.get("transform", "")) else ""
                yield f"text {' '.join(place)} {turned}{''.join(each.itertext())!r}"
            case "path":
                numbers = [float(number) for number in re.findall(NUMBER, each.get("d", ""))]
                sides = [side(numbers[axis::2]) for side in (min, max) for axis in (0, 1)]
                fill = ["fill:a hatch" if part.startswith("fill:url") else part for part in look]
                yield " ".join(["shape", *(f"{number:.1f}" for number in sides), *sorted(set(fill))])
            case "use":
                yield " ".join(["mark", *rounded(f"{each.get('x', '')} {each.get('y', '')}"), *sorted(set(look))])


def elements(root: ET.Element, kind: str) -> Iterator[ET.Element]:
    return (each for each in root.iter() if each.tag.rpartition("}")[2] == kind)


NUMBER = r"-?\d+\.?\d*(?:e[-+]?\d+)?"


def rounded(text: str) -> list[str]:
    return [f"{float(number):.1f}" for number in re.findall(NUMBER, text)]


def alike(expected: str, found: str) -> bool:
    """Returns whether texts are equal, but for digits that depend on the machine, and for places in a picture."""
    lines, others = expected.splitlines(), found.splitlines()
    return len(lines) == len(others) and all(map(near, lines, others))


def near(one: str, other: str) -> bool:
    number = re.compile(rf"(?<![\w.])({NUMBER})(?![\w.])")
    parts, others = number.split(one), number.split(other)
    if len(parts) != len(others) or parts[::2] != others[::2]:
        return False
    tolerance_pt = PLACE_PT if re.match(r"(picture|shape|text|mark) [-\d]", one) else 0.0
    for first, second in zip(parts[1::2], others[1::2], strict=True):
        long = min(len(re.sub(r"\D|^0+", "", text)) for text in (first, second)) > 9
        allowed = max(tolerance_pt, 1e-9 * abs(float(first)) if long else 0.0)
        if first != second and (not allowed or abs(float(first) - float(second)) > allowed):
            return False
    return True


@pytest.mark.parametrize("name", COMMANDS)
def test_reports_of_stored_runs_are_as_they_were(name: str, tell: Tell, check: Check) -> None:
    check(name, tell(name, COMMANDS[name]))


@pytest.fixture(scope="module")
def comparisons() -> list[Comparison]:
    return msgspec.json.decode((RECORDS / "comparisons.json").read_bytes(), type=list[Comparison])


@pytest.mark.parametrize("name", GATE)
def test_verdicts_of_a_gate_are_written_as_they_were(name: str, comparisons: list[Comparison], check: Check) -> None:
    check(name, verdicts.render(comparisons, GATE[name]))


@pytest.mark.parametrize("width", WIDTHS)
def test_verdicts_of_a_gate_are_shown_as_they_were(
    width: int, comparisons: list[Comparison], check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts.show(comparisons, Console(width=width))
    check(f"gate-{width}.txt", capsys.readouterr().out)


@pytest.mark.parametrize("name", DOCTOR)
def test_what_the_doctor_says_of_a_machine_is_as_it_was(
    name: str, tell: Tell, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (RECORDS / "examination.json").read_bytes()
    found = msgspec.json.decode(text, type=vilt_bench.director.doctor.Examination)
    monkeypatch.setattr(vilt_bench.director.doctor, "examine", lambda *_, **__: found)
    check(name, tell(name, DOCTOR[name]))


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Returns what the paper's report consists of, by golden file."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "records").symlink_to(RECORDS / "paper")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(["paper", "--output", str(folder)])
    written = {f"paper/{name}": (folder / name).read_text(encoding="utf-8") for name in PAPER}
    return written | {"paper.txt": printed.getvalue().replace(str(folder), "FOLDER")}


@pytest.mark.parametrize("name", ["paper.txt", *(f"paper/{name}" for name in PAPER)])
def test_the_papers_report_is_as_it_was(name: str, paper: dict[str, str], check: Check) -> None:
    check(name, paper[name])


def test_golden_files_are_those_of_these_tests_and_small() -> None:
    names = {*COMMANDS, *GATE, *DOCTOR, *(f"gate-{width}.txt" for width in WIDTHS), "paper.txt"}
    names |= {f"paper/{name}" for name in PAPER}
    assert {str(path.relative_to(EXPECTED)) for path in EXPECTED.rglob("*.*")} == names
    assert sum(path.stat().st_size for path in EXPECTED.rglob("*.*")) < MOST_BYTES


def test_records_are_those_that_their_script_makes(tmp_path: Path) -> None:
    runpy.run_path(str(GOLDEN / "make_records.py"))["write"](tmp_path)
    made, kept = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}
        for folder in (tmp_path, RECORDS)
    )
    assert made == kept


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("12.5 ms", "12.5 ms", True),
        ("12.5 ms", "12.50 ms", False),
        ("12.5 ms", "12.6 ms", False),
        ("0.1234567891", "0.1234568891", False),
        ("0.12345678912", "0.12345678913", True),
        ("12,345.6 ms", "12,345.7 ms", False),
        ("0.30000000000000004", "0.3", False),
        ("text 10.0 20.0 'ms'", "text 10.4 19.6 'ms'", True),
        ("text 10.0 20.0 'ms'", "text 12.0 20.0 'ms'", False),
        ("text 10.0 20.0 'ms'", "text 10.0 20.0 's'", False),
    ],
)
def test_what_counts_as_alike(one: str, other: str, same: bool) -> None:
    assert alike(one, other) is same
