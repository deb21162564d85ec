import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
Show = Callable[..., Any]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Returns a real browser; without one tests skip, but in CI, where there has to be one."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI has to have a browser: .ci/run installs chromium")
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # Debian's chromium has no sandbox for root, as in containers.
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """Returns axe-core, which judges whether all can read a page, and asks for nothing."""
    return files(pytest.importorskip("axe_playwright_python")).joinpath("axe.min.js").read_text("utf-8")


@dataclass
class Heard:
    """What a page asked for, and what went wrong on it."""

    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Show]:
    """Returns a function that opens a page's bytes in a window of their own; `heard` hears it."""
    contexts = []

    def open_page(content: bytes, *, fragment: str = "", width: int = 1280, theme: str = "light", **given: Any) -> Any:
        path = tmp_path / "page.html"
        path.write_bytes(content)
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **given)
        contexts.append(context)
        shown = context.new_page()
        heard = Heard()
        shown.on("request", lambda request: heard.requests.append(request.url))
        shown.on("pageerror", lambda error: heard.problems.append(str(error)))
        shown.on(
            "console", lambda said: heard.problems.append(said.text) if said.type in ("error", "warning") else None
        )
        shown.goto(f"{path.as_uri()}{fragment}")
        shown.heard = heard
        return shown

    yield open_page
    for context in contexts:
        context.close()
