"""Records, comparisons and histories whose every text is hostile, through every writer, judged by others' parsers."""

import csv
import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from typing import Any, Literal, get_args, get_origin, get_type_hints

import junitparser
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from vilt_bench import report
from vilt_bench.ask import catalog
from vilt_bench.ask.case import Case
from vilt_bench.ask.presets import presets, used_by_models
from vilt_bench.cli import main, progress, screen
from vilt_bench.director.sweep import SweepProgress, TimeLeft
from vilt_bench.errors import ConfigError, ViltBenchError
from vilt_bench.judge.comparison import Comparison, CountChange, Ratio, Side, StageVerdict
from vilt_bench.judge.history import History, history
from vilt_bench.judge.summary import summarise
from vilt_bench.paper.pages import times
from vilt_bench.record import load, store
from vilt_bench.record.examination import ClockFacts, Examination, KernelPair, Neighbour
from vilt_bench.record.run import Bounds, Computation, Energy, Failure, Fitness, PreparedStage, Run, Source
from vilt_bench.report import clean, terminal, verdicts
from vilt_bench.report import doctor as report_doctor
from vilt_bench.report import history as report_history
from vilt_bench.report.embedders import listing
from vilt_bench.report.embedders.stages import show_stages
from vilt_bench.report.history import picture
from vilt_bench.report.runs import FORMATS

HOSTILE = {
    "controls": "a\x1b[31mred\x1b]8;;http://evil.example\x07b\x00\x08\x7f\x9b2Jc\ufffe",
    "lines": "a\n::error title=x::y\r\n::set-output name=z::1\x85\u2028::stop-commands::t\v\f##[error]no",
    "command": "::add-mask::everything",
    "old command": "##[set-env name=PATH]x",
    "directions": "a\u202eb\u2066c\u200fd\u061ce\u2069",
    "tags": "</summary></details><script>alert(1)</script><img src=x onerror=y><!-- <b> ]]> --> &lt;i&gt; &#60;",
    "links": "[l](http://evil.example) ![i](http://evil.example/i.png) [x]: http://evil.example <http://evil.example>",
    "definition": "[x]: http://evil.example",
    "bare links": "http://evil.example https://evil.example www.evil.example ftp://evil.example mailto:a@evil.example",
    "mentions": "@everyone @org/team a@evil.example #12 GH-34 org/repository#5",
    "marks": "*b* **b** _i_ __i__ ~~s~~ `c` ``c`` $m$ \\*x\\* \\| a|b \\\\| snake_case __init__",
    "heading": "# heading",
    "list": "- item",
    "number": "12. item",
    "quote": "> quote",
    "fence": "```",
    "rule": "---",
    "table": "| a | b |",
    "task": "[x] done",
    "formula": '=HYPERLINK("http://evil.example","x")',
    "plus": "+1+cmd|' /C calc'!A0",
    "minus": "-1+1",
    "at": "@SUM(1,2)",
    "tab": "\t=1+1",
    "return": "\r=1+1",
    "quotes": '"\'""id="a" href="#b" url(#c) ,;\\',
    "markup": "[bold]x[/bold] [/nothing] [link=http://evil.example]y[/link] :smile:",
}

PRINTED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
HARMLESS: dict[str, dict[str, dict[str, str]]] = {}
"""What is written of texts that are none of these, once for all tests."""


def replaced(value: Any, text: str, *, kind: Any = str) -> Any:
    """Returns the value with every text within it replaced, keys too, wherever its type lets it be any text."""
    kind = next((each for each in get_args(kind) if each is not type(None)), kind) if _is_optional(kind) else kind
    if get_origin(kind) is Literal:
        return value
    if isinstance(value, str):
        return text
    if isinstance(value, Mapping):
        return {f"{text}{index or ''}": replaced(each, text) for index, each in enumerate(value.values())}
    if isinstance(value, tuple):
        each_kind = (get_args(kind) or (str,))[0]
        return tuple(replaced(each, f"{text}{index or ''}", kind=each_kind) for index, each in enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value), vars(__import__(type(value).__module__, fromlist=["x"])))
        for field in dataclasses.fields(value):
            if not field.init:
                continue
            new = replaced(getattr(value, field.name), text, kind=hints[field.name])
            try:
                value = dataclasses.replace(value, **{field.name: new})
            except ViltBenchError:  # of a case, which takes not every text: it stays as it is
                continue
    return value


def _is_optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from texts(item)
    elif isinstance(value, tuple):
        for each in value:
            yield from texts(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from texts(getattr(value, field.name))


@pytest.fixture
def run(make_run) -> Run:
    """Returns a run that has a text wherever a run may have one."""
    made = make_run(
        run_id="0", blocks=(2, 2), case=Case("patch32", options={"weights": "x"}, images=("a.jpg",), checkpoint="y")
    )
    computation = Computation(
        "torch 1",
        (PreparedStage("visual_embedder.x", "torch", "float32", 0.1, "reason", None, "shapes"),),
        None,
        "shapes",
    )
    return dataclasses.replace(
        made,
        environment=dataclasses.replace(made.environment, omp_wait_policy="PASSIVE", device="cpu"),
        model=dataclasses.replace(made.model, memory_method="counted", interaction="lm:x", computation=computation),
        stages=tuple(dataclasses.replace(each, note="note", counts={"kept": 3}) for each in made.stages),
        trials=tuple(
            dataclasses.replace(each, conditions=dataclasses.replace(each.conditions, throttle_reasons=("hot",)))
            for each in made.trials
        ),
        energy=Energy((1.0,), (2.0,), (3,), 4.0, "counter"),
        warnings=("a warning",),
        source=Source("0123456789abcdef", "main", False, "2026-11-24T03:55:00+00:00"),
    )


@pytest.fixture
def comparison(run) -> Comparison:
    """Returns a comparison that has a text wherever a comparison may have one."""
    whole = StageVerdict("whole", "regressed", 0.1, 0.2, Ratio(2.0, 1.9, 2.1, 12), "wall_time", "slower")
    stages = [dataclasses.replace(whole, name=f"visual_embedder.{name}", verdict=name) for name in ("regressed",)]
    stages += [StageVerdict("x", "missing", 0.1, None, None, "wall_time", "gone", "candidate")]
    sides = [Side(name, ("1", "2"), 3, ("commit 0123",)) for name in ("main", "branch")]
    return Comparison(
        case=run.case,
        method="stored",
        baseline=sides[0],
        candidate=sides[1],
        environment=run.environment,
        total=whole,
        stages=tuple(stages),
        counts=(CountChange("visual_embedder.x", "parameters", 1, 2),),
        tolerance=0.025,
        error=0.01,
        gate="stages",
        detectable=0.05,
        spent_s=None,
        different=("torch 1 / 2",),
        notes=("a note", "another"),
    )


def hostile_runs(run: Run, text: str) -> list[Run]:
    failed = dataclasses.replace(run, run_id="1", trials=(), failure=Failure("error", "why", "where"))
    return [replaced(run, text), replaced(failed, text)]


def hostile_history(run: Run, text: str, folder: Any) -> History:
    """Returns a history of ten records, of which the last five are slower and of another version."""
    start = datetime.fromisoformat(run.started_at)
    for index in range(10):
        times = {"started_at": (start + timedelta(hours=index)).isoformat(), "run_id": f"{text}{index}"}
        series = run.trials[0].samples
        factor = 2.0 if index >= 5 else 1.0
        whole = dataclasses.replace(
            series.whole, wall_time_s=tuple(factor * (1 + 0.0001 * index) * t for t in series.whole.wall_time_s or ())
        )
        trials = tuple(
            dataclasses.replace(each, samples=dataclasses.replace(series, whole=whole)) for each in run.trials
        )
        hostile = dataclasses.replace(replaced(run, text), trials=trials, **times)
        assert hostile.environment is not None
        versions = {f"{text}torch": f"{text}{index // 5}"}
        hostile = dataclasses.replace(hostile, environment=dataclasses.replace(hostile.environment, versions=versions))
        store.save(hostile, folder)
    return history(folder)


def test_every_text_of_a_record_and_of_a_comparison_is_driven(run, comparison):
    for value in (hostile_runs(run, "hostile")[0], hostile_runs(run, "hostile")[1], replaced(comparison, "hostile")):
        kept = Counter(text for text in texts(value) if not text.startswith("hostile"))
        # Choices, and what a case checks itself.
        known = "textual_embedder visual_embedder modality_interaction regressed missing candidate stored stages"
        known += " parameters error aspect float32 torch auto vilt pillow"
        assert not kept.keys() - set(known.split())


def rendered(run: Run, comparison: Comparison, text: str, folder: Any) -> dict[str, dict[str, str]]:
    """Returns all that is written of hostile records, comparisons and histories, by what and format."""
    runs, comparisons = hostile_runs(run, text), [replaced(comparison, text)]
    comparisons.append(dataclasses.replace(comparisons[0], tolerance=0.03))
    gone = hostile_history(run, text, folder)
    found: dict[str, dict[str, str]] = {"report": {}, "verdicts": {}, "history": {}}
    for format in FORMATS:
        chosen = runs[:1] if format in ("bencher", "github-action-benchmark") else runs
        found["report"][format] = report.render(chosen, format)
    for format in verdicts.FORMATS:
        alone = [dataclasses.replace(comparisons[0], stages=())]  # as its stages are named alike
        chosen = alone if format in ("bencher", "github-action-benchmark") else comparisons
        found["verdicts"][format] = verdicts.render(chosen, format)
    for format in report_history.FORMATS:
        found["history"][format] = report_history.render(gone, format)
    return found


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> str:
    return HOSTILE[request.param]


@pytest.fixture
def written(run, comparison, hostile, tmp_path) -> dict[str, dict[str, str]]:
    return rendered(run, comparison, hostile, tmp_path / "hostile")


@pytest.fixture
def harmless(run, comparison, hostile, tmp_path) -> dict[str, dict[str, str]]:
    text = "harm.less" if "." in hostile else "harmless"  # a stage's name with a point has a component
    if text not in HARMLESS:
        HARMLESS[text] = rendered(run, comparison, text, tmp_path / "harmless")
    return HARMLESS[text]


def test_no_writer_lets_a_text_of_others_act(written, harmless, hostile):
    for kind, formats in written.items():
        for format, text in formats.items():
            # What is printed obeys nothing, and no line is a runner's command but those that are meant to be.
            where = f"{kind} as {format}"
            assert PRINTED.search(text) is None, where
            commands = [line for line in text.splitlines() if line.strip().startswith("::")]
            assert len(commands) == (len(text.splitlines()) if format == "github" else 0), where
            assert "##[" not in text, where
            judge = JUDGES.get(format)
            if judge is not None:
                judge(text, harmless[kind][format], hostile, where)


def judge_table(text: str, harmless: str, hostile: str, where: str) -> None:
    assert max(map(len, text.splitlines())) <= 200, where


def judge_csv(text: str, harmless: str, hostile: str, where: str) -> None:
    head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    plain = list(csv.reader(io.StringIO(harmless, newline="")))
    assert [len(row) for row in rows] == [len(head)] * (len(plain) - 1), where
    for row in rows:
        for cell in row:
            assert not re.match(r"\s*[=+\-@\t\r]", cell) or re.fullmatch(r"[-+]?[\d.]+(e[-+]\d+)?", cell), (where, cell)


def judge_json(text: str, harmless: str, hostile: str, where: str) -> None:
    found = json.loads(text)
    assert shape(found) == shape(json.loads(harmless)), where
    if "history" not in where and "bench" not in where:
        # Nothing is lost for programs but what no text can hold.
        assert hostile in json.dumps(found, ensure_ascii=False) or hostile in list(strings(found)), where


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return [shape(each) for each in value.values()]
    return [shape(each) for each in value] if isinstance(value, list) else type(value).__name__


def judge_junit(text: str, harmless: str, hostile: str, where: str) -> None:
    assert [element.tag for element in ET.fromstring(text).iter()] == [
        element.tag for element in ET.fromstring(harmless).iter()
    ], where
    assert len(list(junitparser.JUnitXml.fromstring(text.encode()))) == 2


def judge_github(text: str, harmless: str, hostile: str, where: str) -> None:
    lines = text.splitlines()
    assert len(lines) == len(harmless.splitlines()), where
    for each in lines:
        assert re.fullmatch(r"::(error|warning|notice) title=[^:,]*::.*", each), where
        assert not re.search(r"%(?!25|0A|0D|3A|2C)", each), where


def judge_markdown(text: str, harmless: str, hostile: str, where: str) -> None:
    def parsed(document: str) -> tuple[list[str], Counter[str], str]:
        blocks, inner, said = [], Counter[str](), []
        for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(document):
            blocks.append(f"{token.type} {re.sub(r'>.*?<', '><', token.content) if token.type == 'html_block' else ''}")
            if token.type == "html_block":
                said.append(unescape(re.sub(r"<[^>]*>", "", token.content)))
            for child in token.children or ():
                tag = child.content if child.type == "html_inline" else ""
                if child.type not in ("text", "softbreak", "text_special"):
                    inner[f"{child.type} {tag}"] += 1
                if child.type == "code_inline":
                    # Inert, whatever it holds.
                    continue
                if child.type == "text":
                    said.append(child.content)
        return blocks, inner, "\n".join(said)

    blocks, inner, said = parsed(text)
    assert blocks == parsed(harmless)[0], where
    assert inner == parsed(harmless)[1], where
    assert not re.search(r"@\w|#\d|\bGH-\d|\b(https?|ftp)://|\bmailto:[^\s\u200b]|\bwww\.", said, re.IGNORECASE), where


def judge_html(text: str, harmless: str, hostile: str, where: str) -> None:
    class Tags(HTMLParser):
        def __init__(self, document: str) -> None:
            super().__init__()
            self.found: list[str] = []
            self.attributes: set[str] = set()
            self.feed(document)

        def handle_starttag(self, tag: str, attributes: Any) -> None:
            self.found.append(tag)
            self.attributes |= {name for name, _ in attributes}

        def handle_endtag(self, tag: str) -> None:
            self.found.append(f"/{tag}")

    tags, plain = Tags(text), Tags(harmless)
    assert set(tags.found) == set(plain.found), where
    assert tags.attributes == plain.attributes, where
    # How many texts a picture has depends on how long they are.
    kinds = {"table", "tr", "td", "th", "p", "li", "ul", "h1", "h2", "figure", "strong", "style", "body"}
    counts = [Counter(tag for tag in each.found if tag in kinds) for each in (tags, plain)]
    assert counts[0] == counts[1], where
    ET.fromstring(text.partition("\n")[2])


def judge_latex(text: str, harmless: str, hostile: str, where: str) -> None:
    # Characters that stand for themselves, by the names of LaTeX: they begin, end and define nothing.
    signs = {"textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "dots"}
    signs |= {"textasciigrave", "times", "pm", "cdot", "rightarrow", "leq", "geq", "propto", "circ"}

    def parsed(document: str) -> tuple[int, Counter[str]]:
        body = re.sub(r"(?m)^%.*$", "", document)
        body = re.sub(r"\\\\(?=\n)", "<row>", body)
        commands = Counter(re.findall(r"\\([a-zA-Z]+)", body))
        bare = re.sub(r"\\([a-zA-Z]+|[^a-zA-Z])", "", body)  # what is left of commands and escaped marks
        assert not set("%#$~^_") & set(bare), where
        depth = 0
        for mark in re.findall(r"[{}]", bare):
            depth += 1 if mark == "{" else -1
            assert depth >= 0, where
        assert depth == 0, where
        counted = {name: count for name, count in commands.items() if name not in signs}
        return document.count("\n"), Counter(counted) + Counter({"&": bare.count("&"), "row": body.count("<row>")})

    assert parsed(text) == parsed(harmless), where
    assert not re.search(r"<row>\s*[\[*]", re.sub(r"\\\\(?=\n)", "<row>", text)), where


JUDGES = {
    "table": judge_table,
    "csv": judge_csv,
    "json": judge_json,
    "github-action-benchmark": judge_json,
    "bencher": judge_json,
    "junit": judge_junit,
    "github": judge_github,
    "markdown": judge_markdown,
    "latex": judge_latex,
    "html": judge_html,
}


def test_pictures_and_pages_are_well_formed_and_hold_nothing_live(run, tmp_path):
    text = "".join(HOSTILE[name] for name in ("controls", "lines", "directions", "tags", "quotes", "old command"))
    runs = hostile_runs(run, text)
    plain = hostile_runs(run, "harmless")
    for figure in report.FIGURES:
        ET.fromstring(report.render_picture(runs, "svg", figure=figure, allow_different=True))
    page = report.render_picture(runs, "html", allow_different=True).decode()
    judge_html(page, report.render_picture(plain, "html", allow_different=True).decode(), text, "page")
    assert PRINTED.search(page.replace("\t", "")) is None
    drawn = picture.render(hostile_history(run, text[:300], tmp_path), "svg")
    ET.fromstring(drawn)
    assert PRINTED.search(drawn.decode()) is None


def test_markdown_shows_the_text_itself(hostile):
    line = " ".join(clean.line(hostile).split())
    (_, inline, _) = MarkdownIt("commonmark").parse(clean.markdown(hostile))
    shown = "".join(child.content for child in inline.children or ())
    assert shown.replace("\u200b", "") == line


def test_code_holds_any_text_in_a_cell_and_elsewhere(hostile):
    text = " ".join(clean.line(hostile).split()).replace("##[", "##\u2045")
    for document in (clean.code(hostile), f"| a |\n| --- |\n| {clean.code(hostile, cell=True)} |"):
        tokens = MarkdownIt("commonmark").enable("table").parse(document)
        (found,) = [child for token in tokens for child in token.children or () if child.type == "code_inline"]
        assert found.content == text


def test_a_negative_number_stays_a_number_in_csv():
    text = clean.csv_text(["a", "b", "c"], [{"a": -1.5, "b": "-2e-05", "c": "-x"}])
    assert list(csv.reader(io.StringIO(text))) == [["a", "b", "c"], ["-1.5", "-2e-05", "'-x"]]


def test_what_is_complained_of_and_told_of_histories_is_harmless(run, tmp_path, capsys):
    text = "".join(HOSTILE.values())
    hostile_history(run, text[:500], tmp_path)
    main(["history", "check", str(tmp_path)])
    main(["history", str(tmp_path), "--stage", text])
    main(["report", str(tmp_path)])
    main(["report", text])
    main([text])
    captured = capsys.readouterr()
    assert captured.err.count("\n") == captured.err.count("vilt-bench: ")
    for printed in captured:
        assert printed
        assert PRINTED.search(printed) is None
        assert not any(line.strip().startswith("::") for line in printed.splitlines())
        assert "##[" not in printed


def hostile_listing(text: str) -> Iterator[Callable[[Console], None]]:
    entry = catalog.Entry(text, (1, 2), 3, 4, 5, stages=(text,), about=text)
    rows = [catalog.ListRow(text, text, entry), catalog.ListRow(text, text, None)]
    yield lambda console: listing.render_list(catalog.Listing(tuple(rows), {text: 2}), console, query=text)
    yield lambda console: listing.render_used([replaced(used_by_models()[0], text)], console)
    yield lambda console: listing.render_presets({text: replaced(next(iter(presets().values())), text)}, console)


@pytest.mark.parametrize("width", [40, 100])
def test_no_list_study_or_examination_lets_a_text_of_others_act(run, hostile, width):
    examined = Examination(
        environment=replaced(run.environment, hostile),
        fitness=Fitness(others_share=0.5),
        pairs=(KernelPair((0.1,) * 3, (0.1,) * 3, cpu_share=0.9, start_s=3.0),) * 3,
        clocks=(ClockFacts(hostile, 1e-9, 1e-3),),
        clock_source=hostile,
        load_average=1.0,
        frequency_hz=None,
        highest_frequency_hz=None,
        memory_bytes=2**30,
        neighbours=(Neighbour(hostile, 0.9),),
        gpus=(),
        took_s=1.0,
    )
    assert run.model is not None
    model, stages = replaced(run.model, hostile), replaced(run.stages, hostile)
    rows = {"ViLT-B/32": summarise(replaced(run, hostile))}
    shown = [
        *hostile_listing(hostile),
        lambda console: show_stages(replaced(run.case, hostile), model, stages, console, [Bounds(hostile, {})]),
        lambda console: report_doctor.show(examined, console),
        lambda console: times.show(rows, console),
        lambda console: console.print(hostile, f"wrote {hostile}", highlight=False, soft_wrap=True),
    ]
    for each in shown:
        text = terminal.text(each, width)
        assert PRINTED.search(text) is None
        assert not any(line.strip().startswith("::") for line in text.splitlines())
        assert "##[" not in text
    judge_markdown(
        times.markdown(rows), times.markdown({"ViLT-B/32": summarise(replaced(run, "harm"))}), hostile, "times"
    )
    judge_csv(times.render_csv(rows), times.render_csv({"ViLT-B/32": summarise(run)}), hostile, "times")
    told = report_doctor.to_json(examined)
    assert PRINTED.search(told) is None
    assert json.loads(told)["examination"]["clock_source"] == hostile


def test_what_is_told_while_measuring_is_harmless(hostile, run, capsys):
    failed = dataclasses.replace(run, failure=Failure("error", hostile))
    with progress.shown(quiet=False) as show:
        show(SweepProgress(1, 1, 2, 1, 1, TimeLeft(1, 2), ended=failed, name=hostile))
    screen.overhear(debug=True)(hostile)
    told = capsys.readouterr().err
    assert PRINTED.search(told) is None
    assert not any(line.strip().startswith("::") for line in told.splitlines())
    assert "##[" not in told


def test_a_message_that_quotes_what_is_no_utf_8_costs_no_record(run, tmp_path):
    failed = dataclasses.replace(run, failure=Failure("error", "no file a\udcff.png"))
    (loaded,) = load.load_all([store.save(failed, tmp_path)])
    assert loaded.failure == Failure("error", "no file a?.png")
    with pytest.raises(ConfigError, match=r"'a\\udcff.png' is no UTF-8"):
        Case("patch32", images=("a\udcff.png",))


def test_a_path_that_is_no_utf_8_is_written_everywhere(comparison):
    odd = dataclasses.replace(comparison, baseline=Side("results-\udcff"))
    for format in verdicts.FORMATS:
        assert verdicts.render([odd], format).encode()
