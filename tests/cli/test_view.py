import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import url2pathname

import pytest

from vilt_bench.cli import main
from vilt_bench.record import store
from vilt_bench.record.run import Run


def viewed(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vilt_bench", "view", "records"],
        cwd=folder,
        env={"PATH": "", "TMPDIR": str(folder), "PYTHONSAFEPATH": "1", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for a browser is a shell script")
def test_view_writes_a_page_and_opens_it_in_the_users_browser(make_run: Callable[..., Run], tmp_path: Path) -> None:
    store.save(make_run(), tmp_path / "records")
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/asked\n')
    browser.chmod(0o700)
    done = viewed(tmp_path, BROWSER=f"{browser} %s")
    assert (done.returncode, done.stderr) == (0, "")
    page = Path(done.stdout.strip())
    assert page.read_bytes().startswith(b"<!DOCTYPE html>")
    assert (tmp_path / "asked").read_text().strip() == page.as_uri()
    assert url2pathname(page.as_uri().removeprefix("file://")) == str(page)


def test_view_without_a_browser_prints_where_the_page_is(make_run: Callable[..., Run], tmp_path: Path) -> None:
    store.save(make_run(), tmp_path / "records")
    done = viewed(tmp_path)
    assert done.returncode == 0
    assert Path(done.stdout.strip()).read_bytes().startswith(b"<!DOCTYPE html>")
    assert done.stderr == "vilt-bench: no browser was found here; open that file in one\n"


def test_view_of_nothing_says_what_saves_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(tmp_path)]) == 2
    assert "'vilt-bench run --output FOLDER' saves one" in capsys.readouterr().err
