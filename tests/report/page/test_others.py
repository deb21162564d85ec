import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vilt_bench.cli import main
from vilt_bench.judge.comparison import Comparison
from vilt_bench.judge.history import history
from vilt_bench.report import verdicts
from vilt_bench.report.history import render

Show = Callable[..., Any]
TALLY = "▲ 1 of 5 regressed, 1 missing, 1 inconclusive, 1 improved, 1 unchanged"


@pytest.mark.parametrize(("width", "theme"), [(360, "dark"), (1600, "light")])
def test_a_page_of_histories_draws_the_level_that_changed(
    save_history: Callable[..., None], tmp_path: Path, show: Show, axe: str, width: int, theme: str
) -> None:
    save_history(tmp_path / "records", 30, since=20, slower=1.2)
    shown = show(render(history(tmp_path / "records"), "html").encode(), width=width, theme=theme)
    assert (len(shown.heard.requests), shown.heard.problems) == (1, [])
    lead = shown.locator(".lead").inner_text()
    assert re.match(r"patch32 takes .* ms in its newest run: 2026-09-20 at 00000015", lead)
    assert shown.locator("#plot-0 .mark").count() == 30
    assert shown.locator("#plot-0 line.s1").count() == 2  # two levels
    shown.get_by_role("combobox", name="Stage").select_option("backbone")
    first = shown.locator("#plot-0 .mark").first
    first.focus()
    shown.keyboard.press("End")
    # 170 ms, and a fifth more.
    told = shown.evaluate("document.activeElement.getAttribute('aria-label')")
    assert re.fullmatch(r"2026-09-29, 0000001e: 20\d\.\d \[.*\] ms, 3 trials", told)
    assert shown.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert shown.evaluate(f"{axe}; axe.run().then((found) => found.violations.map((each) => each.id))") == []


@pytest.mark.parametrize(("width", "theme"), [(360, "light"), (1600, "dark")])
def test_a_page_of_verdicts_says_the_worst_first_and_draws_ratios(
    all_kinds: list[Comparison], show: Show, axe: str, width: int, theme: str
) -> None:
    shown = show(verdicts.render(all_kinds, "html").encode(), width=width, theme=theme)
    assert (len(shown.heard.requests), shown.heard.problems) == (1, [])
    assert shown.locator(".lead").inner_text() == TALLY
    assert shown.locator("h2").first.inner_text() == "▲ patch32: regressed"
    marks = [each.get_attribute("aria-label") for each in shown.locator("#plot-0 .mark").all()]
    assert "transformer: 1.064 [1.055, 1.073], n = 12: regressed" in marks
    assert "▲ regressed" in shown.locator("table").first.inner_text()
    assert shown.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert shown.evaluate(f"{axe}; axe.run().then((found) => found.violations.map((each) => each.id))") == []


def test_nothing_compared_makes_a_page_that_says_so(show: Show) -> None:
    shown = show(verdicts.render([], "html").encode())
    assert shown.heard.problems == []
    assert shown.locator(".lead").inner_text() == "Nothing was compared: there is no baseline."


def test_compare_writes_the_page_beside_what_it_prints(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vilt_bench.record import store

    paths = [str(store.save(make_run(run_id=name), tmp_path / name)) for name in ("one", "two")]
    assert main(["compare", *paths, "--html", str(tmp_path / "page.html")]) in (0, 3)
    assert "patch32" in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert main(["compare", *paths, "--html", str(tmp_path / "page.json")]) == 2
    assert "give a name with .html" in capsys.readouterr().err
