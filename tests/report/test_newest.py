import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vilt_bench.cli import main
from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import summaries
from vilt_bench.record import store
from vilt_bench.record.run import Run
from vilt_bench.report import NEWEST, newest_of, render_picture

MakeRun = Callable[..., Run]
SAID = "Of 5 runs the 2 newest are shown; --newest 5 shows all."


@pytest.fixture
def runs(make_run: MakeRun) -> list[Run]:
    """Five runs; the fourth started last, of another time zone the second before it."""
    starts = ["2026-11-01T03:00:00+00:00", "2026-11-05T23:30:00-02:00", "2026-11-03T03:00:00+00:00"]
    starts += ["2026-11-06T03:00:00+00:00", "2026-11-06T01:00:00+00:00"]
    return [make_run(f"e{index}", run_id=str(index), started_at=start) for index, start in enumerate(starts)]


def test_the_newest_are_those_that_started_last_in_the_order_given(runs: list[Run]) -> None:
    kept, said = newest_of(runs, 2)
    assert [run.case.embedder for run in kept] == ["e1", "e3"]
    assert said == [SAID]
    assert newest_of(runs, 5) == newest_of(runs, None) == (summaries(runs), [])
    with pytest.raises(ConfigError, match="must be at least 1, got 0"):
        newest_of(runs, 0)


@pytest.mark.parametrize("figure", ["latency", "size"])
def test_a_picture_draws_the_newest_and_says_how_many_there_are(runs: list[Run], figure: str) -> None:
    svg = render_picture(runs, "svg", figure=figure, newest=2).decode()
    text = " ".join(re.findall(r">([^<>]+)</text>", svg))
    assert {"e1", "e3"} <= set(text.split())
    assert not {"e0", "e2", "e4"} & set(text.split())
    assert SAID in text


def test_a_page_shows_the_newest_and_says_once_how_many_there_are(runs: list[Run]) -> None:
    page = render_picture(runs, "html", newest=2).decode()
    assert page.count(SAID) == 1
    assert re.findall(r"<h2>(e\d)</h2>", page) == ["e1", "e3"]


def test_a_picture_is_bounded_unless_more_is_asked_for(make_run: MakeRun) -> None:
    alike = [make_run(run_id=str(index), trials=1, blocks=(1,)) for index in range(NEWEST + 1)]
    assert f"Of {NEWEST + 1} runs" in re.sub(r"\s+", " ", render_picture(alike, "svg").decode())


@pytest.mark.parametrize("name", ["report.txt", "report.md", "report.csv", "report.svg"])
def test_reports_of_all_formats_are_of_the_newest_where_that_is_asked(
    runs: list[Run], tmp_path: Path, name: str
) -> None:
    for run in runs:
        store.save(run, tmp_path)
    main(["report", str(tmp_path), "--newest", "1", "--output", str(tmp_path / name)])
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert re.search(r"\be3\b", text)
    assert not re.search(r"\be[0124]\b(?!-)", re.sub(r"<style.*?</style>|#\w+", "", text, flags=re.DOTALL))


def test_none_at_all_is_refused(runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.save(runs[0], tmp_path)
    assert main(["report", str(tmp_path), "--newest", "0"]) == 2
    assert "--newest must be at least 1, got 0" in capsys.readouterr().err
