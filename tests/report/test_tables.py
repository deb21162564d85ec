import csv
import io
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from vilt_bench.judge.summary import summarise
from vilt_bench.record.run import Run
from vilt_bench.report import clean, latex, tables, terminal
from vilt_bench.report.runs.tables import side_by_side
from vilt_bench.report.tables import Cell, Column, Line, Table, text_column

COLUMNS = (
    text_column("Stage", long="fold"),
    Column("Latency", "ms", "95% interval"),
    Column("Parameters", "M", screen="Params"),
    text_column("Verdict"),
)
TABLE = Table(
    COLUMNS,
    [
        Line(["visual embedder", "9.10 [9.10, 9.11]", "2.36"], strong=True),
        Line(["projection", "9.10 [9.10, 9.11]", "2.36", Cell("unchanged", "green", mark="⚪ ", under=("so",))], 1),
        Line([Cell("a|b", code=True, after="(CPU time)"), Cell("1.0 [0.9, 1.1]", whole=True)], apart=True),
    ],
    title="Stages",
    caption="and 3 more",
    notes=("50% of it",),
)


def on_terminal(table: Table, width: int = 80) -> list[str]:
    return terminal.text(lambda console: tables.show(table, console), width).splitlines()


def test_a_terminal_has_units_beneath_titles_and_figures_to_the_right() -> None:
    assert on_terminal(TABLE) == [
        "Stages",
        "                      Latency (ms)  Params",
        "Stage               [95% interval]     (M)  Verdict",
        "─────────────────────────────────────────────────────",
        "visual embedder  9.10 [9.10, 9.11]    2.36",
        "  projection     9.10 [9.10, 9.11]    2.36  unchanged",
        "",
        "a|b (CPU time)      1.0 [0.9, 1.1]",
        "and 3 more",
        "",
        "• 50% of it",
    ]


def test_markdown_has_a_cell_a_column_in_every_row() -> None:
    assert tables.markdown(TABLE).splitlines() == [
        "| Stage | Latency (ms) [95% interval] | Parameters (M) | Verdict |",
        "| --- | ---: | ---: | --- |",
        "| **visual embedder** | 9.10 [9.10, 9.11] | 2.36 |  |",
        "| &emsp;projection | 9.10 [9.10, 9.11] | 2.36 | ⚪ unchanged<br><sub>so</sub> |",
        r"| `a\|b` (CPU time) | 1.0&nbsp;[0.9,&nbsp;1.1] |  |  |",
        "",
        "and 3 more",
        "",
        "- 50% of it",
    ]
    assert tables.markdown(TABLE, broken=True).splitlines()[0] == (
        "| Stage | Latency&nbsp;(ms)<br>[95%&nbsp;interval] | Parameters<br>(M) | Verdict |"
    )


def test_html_is_well_formed_and_says_what_markdown_says() -> None:
    root = ET.fromstring(f"<page>{tables.html(TABLE)}</page>")
    assert [each.text for each in root.iter("th")] == [
        "Stage", "Latency (ms) [95% interval]", "Parameters (M)", "Verdict"
    ]  # fmt: skip
    rows = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")][1:]
    assert [row[:3] for row in rows] == [
        ["visual embedder", "9.10 [9.10, 9.11]", "2.36"],
        ["\u2003projection", "9.10 [9.10, 9.11]", "2.36"],
        ["a|b (CPU time)", "1.0 [0.9, 1.1]", ""],
    ]
    assert [each.get("class") for each in root.iter("th")] == [None, None, None, "text"]


def test_latex_is_a_table_of_booktabs_whose_numbers_stand_in_siunitx_columns() -> None:
    assert latex.table(TABLE).splitlines() == [
        r"\begin{table}[htbp]",
        r"  \centering",
        r"  \caption{Stages}",
        r"  \begin{tabular}{@{}lS[table-format=1.2]lS[table-format=1.2]l@{}}",
        r"    \toprule",
        r"     & \multicolumn{2}{c}{Latency (ms)} & {Params} &  \\",
        r"    Stage & \multicolumn{2}{c}{{[}95\% interval{]}} & {(M)} & Verdict \\",
        r"    \midrule",
        r"    \textbf{visual embedder} & 9.10 & {[}\num{9.10}, \num{9.11}{]} & 2.36 &  \\",
        r"    \quad projection & 9.10 & {[}\num{9.10}, \num{9.11}{]} & 2.36 & unchanged \\",
        r"    \midrule",
        r"    \texttt{a\textbar{}b} (CPU time) & 1.0 & {[}\num{0.9}, \num{1.1}{]} &  &  \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\smallskip {\footnotesize and 3 more}",
        r"  \par\smallskip {\footnotesize 50\% of it}",
        r"\end{table}",
    ]


SIUNITX = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage{booktabs,siunitx}
\begin{document}
%s
\end{document}
"""


def test_a_table_holds_numbers_as_siunitx_takes_them() -> None:
    told = Table(
        (text_column("Name"), Column("A", "ms", "95% interval"), Column("Share"), Column("Pixels"), Column("Rank")),
        tables.lines([
            ["a", "1,568.9 [1,568.5, 1,569.4]", "2.5%", "384×640", "1"],
            ["b & c", "failed", "78.8%", "–", "–"],
            ["d", "−0.02 [–]", "–", "224×224", "12"],
        ]),
        "T",
    )  # fmt: skip
    written = latex.table(told)
    assert r"{@{}lS[table-format=-4.2]lS[table-format=2.1]rS[table-format=2]@{}}" in written
    rows = [line.removesuffix(r" \\").strip().split(" & ") for line in written.splitlines() if line.endswith(r"\\")]
    assert rows[-3] == ["a", "1568.9", r"{[}\num{1568.5}, \num{1569.4}{]}", "2.5", r"384\(\times\)640", "1"]
    assert rows[-2] == [r"b \& c", "{failed}", "", "78.8", "{--}", "{--}"]
    assert rows[-1] == ["d", "-0.02", "{[}{--}{]}", "{--}", r"224\(\times\)224", "12"]
    assert r"{Share (\%)}" in written
    # What siunitx's manual says a number is; all else in its columns stands in braces.
    for row in rows[-3:]:
        assert all(re.fullmatch(r"-?\d+(\.\d+)?|\{.*\}", row[at]) for at in (1, 3, 5))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex is on PATH")
def test_the_tables_of_a_report_are_set_by_latex(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden" / "expected" / "report.tex"
    (tmp_path / "paper.tex").write_text(SIUNITX % golden.read_text("utf-8"), "utf-8")
    if b"siunitx.sty" not in subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True).stdout:
        pytest.skip("this LaTeX has no siunitx")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:].decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("50% & $x_1$ #1 ~^", r"50\% \& \$x\_1\$ \#1 \textasciitilde{}\textasciicircum{}"),
        ("[10pt] *", "{[}10pt{]} {*}"),  # after the end of a line they would be its options
        ("--fit 'a'' <b>|\"c\"", r"-{}-fit 'a'{}' \textless{}b\textgreater{}\textbar{}{''}c{''}"),
        ("a–-b", "a{--}-b"),
        ("384×640 ±2%", r"384\(\times\)640 \(\pm\)2\%"),
        ("::error::x\n\n\\par\x1b", r":{}:error:{}:x \textbackslash{}par?"),
    ],
)
def test_latex_shows_a_text_and_does_nothing_else(text: str, written: str) -> None:
    assert clean.latex(text) == written


def test_no_text_adds_a_cell_a_row_or_a_command_to_latex() -> None:
    hostile = "a & b \\\\ \\end{tabular} % c\n[1em]"
    plain, found = (
        latex.table(Table((text_column(text), Column(text)), [Line([text, text], 1, strong=True)], text, text, [text]))
        for text in ("x", hostile)
    )
    assert found.count("\n") == plain.count("\n")
    for mark in (r"(?<!\\)&", r"\\\\", r"\\end\b", r"(?<!\\)%"):
        assert len(re.findall(mark, found)) == len(re.findall(mark, plain))


def test_a_column_that_needs_width_is_left_out_on_a_narrow_terminal() -> None:
    table = Table([text_column("A"), Column("B", least_width=100)], tables.lines([["a", "b"]]))
    assert on_terminal(table, 99) == ["A", "─", "a"]
    assert on_terminal(table, 100) == ["A  B", "────", "a  b"]


def test_csv_is_empty_where_a_value_is_unknown() -> None:
    text = tables.csv([{"a": 1, "b": None}, {"a": "=x", "b": 0.5}])
    assert list(csv.reader(io.StringIO(text))) == [["a", "b"], ["1", ""], ["'=x", "0.5"]]
    assert tables.csv([], ["a"]) == "a\n"


def test_runs_side_by_side_have_their_intervals_and_verdicts(make_run: Callable[..., Run]) -> None:
    runs = [make_run(noise=0.01), make_run("grid-r50", trials=1, blocks=(2,), noise=0.01)]
    found = side_by_side([summarise(run) for run in runs])
    titles = [column.title for column in found.columns]
    at = titles.index("95% interval")
    assert titles[at - 1 : at + 2] == ["Whole", "95% interval", "Verdict"]
    for line, run in zip(found.lines, runs, strict=True):
        latency = summarise(run).whole.latency
        assert latency is not None
        told = str(line.cells[at])
        if latency.low is None:
            assert told == "–"
        else:
            low, high = (float(end) for end in told.strip("[]").split(", "))
            assert low < 1000 * latency.value < high
        assert line.cells[at + 1] == summarise(run).verdict


def test_of_a_table_in_parts_what_is_first_asked_stands_in_the_first_however_narrow() -> None:
    columns = [text_column("Name"), *(Column(f"Column {letter}") for letter in "abc")]
    asked = [Column("Whole", is_first=True), Column("Share", least_width=100, is_first=True)]
    table = Table([*columns, *asked], tables.lines([["x", "1", "2", "3", "4", "5"]]))
    assert [[column.title for column in part.columns] for part in tables.in_parts(table, 31)] == [
        ["Name", "Whole", "Share", "Column a"],
        ["Name", "Column b", "Column c"],
    ]
    assert on_terminal(table, 60)[0] == "Name  Column a  Column b  Column c  Whole"
