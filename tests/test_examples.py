from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "acme_embedder"
DOCUMENT = ROOT / "docs" / "write-an-embedder.md"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling, which builds the example, is not installed")
    target = tmp_path_factory.mktemp("site")
    arguments = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", *arguments, str(EXAMPLE)], check=True, capture_output=True)
    return target


def python(site: Path, *arguments: str, folder: Path = ROOT) -> str:
    paths = os.pathsep.join([str(site), *sys.path])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_own_tests_pass_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    said = python(
        installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(EXAMPLE / "tests")
    )
    assert "4 passed" in said


def test_the_installed_example_is_offered_by_its_name(installed: Path) -> None:
    assert re.search(r"^acme\b", python(installed, "-m", "vilt_bench.cli", "list", "acme"), re.MULTILINE)
    shown = python(installed, "-m", "vilt_bench.cli", "show", "acme,patch_size=32")
    assert "patches" in shown
    assert "projection" in shown


def test_the_example_runs_from_its_folder_without_packaging() -> None:
    shown = python(EXAMPLE, "-m", "vilt_bench.cli", "show", "two_scales:acme", folder=EXAMPLE / "src" / "acme_embedder")
    # 427×640 pixels, the shorter edge at 384 and both multiples of 64: 384×576; patches of 16 and of 64 pixels.
    assert f"{384 // 16 * (576 // 16) + 384 // 64 * (576 // 64)} visual" in shown


def test_the_documents_code_is_the_examples() -> None:
    blocks = re.findall(r"<!-- (\S+) -->\n```\w+\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert {path for path, _ in blocks} == {
        f"examples/acme_embedder/{part}"
        for part in ("pyproject.toml", "src/acme_embedder/two_scales.py", "tests/test_two_scales.py")
    }
    for path, code in blocks:
        assert code == (ROOT / path).read_text(encoding="utf-8"), f"docs/write-an-embedder.md differs from {path}"
