import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vilt_bench

PACKAGE = Path(vilt_bench.__file__).parent
ACTS = {"Popen", "Thread", "Timer", "clock", "monotonic", "nvmlInit", "open", "perf_counter", "run", "start"}


def functions(name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


@pytest.mark.parametrize("name", ["__init__", "__post_init__"])
def test_no_constructor_starts_a_process_a_thread_or_a_clock_or_opens_a_library(name: str) -> None:
    acting = [
        where
        for where, function in functions(name)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and (getattr(node.func, "attr", None) or getattr(node.func, "id", None)) in ACTS
    ]
    assert not acting


@pytest.mark.parametrize("folder", ["director", "judge", "record", "report"])
def test_no_module_reaches_into_what_another_keeps_to_itself(folder: str) -> None:
    reaching = []
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        reaching += [
            f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and getattr(node.value, "id", None) not in ("self", "cls")
            and node.attr not in defined
        ]
        reaching += [
            f"{path.relative_to(PACKAGE)}:{node.lineno} import {alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.name.startswith("_") and not alias.name.startswith("__")
        ]
    assert not reaching
