import ast
import inspect
import pkgutil
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vilt_bench
from vilt_bench import errors

ROOT = Path(__file__).parents[1]
OFFERED = (
    "Case",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "Installation",
    "DeviceError",
    "EmbedderError",
    "Estimate",
    "FileError",
    "History",
    "ImageBatch",
    "InputError",
    "MeasurementError",
    "Outcome",
    "Ranking",
    "RecordError",
    "Run",
    "Sampling",
    "Sweep",
    "UnknownEmbedderError",
    "ViltBenchError",
    "ViltConfig",
    "VisualEmbedder",
    "VisualTokens",
    "__version__",
    "check_embedder",
    "compare",
    "compare_all",
    "embedders",
    "figure",
    "gate",
    "gate_all",
    "history",
    "latency",
    "load",
    "load_all",
    "measure",
    "measure_sweep",
    "measure_together",
    "rank",
    "render",
    "save",
    "table",
)


def test_the_package_offers_just_these_names():
    assert sorted(vilt_bench.__all__) == sorted(OFFERED) == sorted(dir(vilt_bench))


@pytest.mark.parametrize("name", sorted(set(OFFERED) - {"__version__"}))
def test_each_name_is_there_documented_and_called_so_at_home(name):
    member = getattr(vilt_bench, name)

    assert (member.__module__, member.__name__) == (vilt_bench._HOMES[name], name)
    assert inspect.getdoc(member)


def test_all_errors_are_offered():
    there = {name for name, member in vars(errors).items() if inspect.isclass(member)}

    assert there < set(OFFERED)


def test_type_checkers_see_the_same_names_from_the_same_homes():
    module = ast.parse(Path(inspect.getsourcefile(vilt_bench) or "").read_text(encoding="utf-8"))
    checked = next(node for node in module.body if isinstance(node, ast.If))
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    seen = {(alias.name, alias.asname, node.module) for node in imports for alias in node.names}

    assert seen == {(name, name, home) for home, names in vilt_bench._NAMES.items() for name in names}


def test_no_module_of_the_package_hides_a_name_that_it_offers():
    assert not {module.name for module in pkgutil.iter_modules(vilt_bench.__path__)} & set(OFFERED)


def test_no_module_bears_a_name_that_the_package_takes_from_the_standard_library():
    files = [path for folder in (ROOT / "vilt_bench", ROOT / "embedders") for path in folder.rglob("*.py")]
    imports = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    taken = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    taken |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}

    assert not {path.stem for path in files} & taken & set(sys.stdlib_module_names)


def test_a_name_that_is_not_offered_is_no_attribute():
    with pytest.raises(AttributeError, match="'vilt_bench' has no attribute 'mesure'"):
        getattr(vilt_bench, "mesure")  # noqa: B009 – type checkers know it, too


def test_help_begins_with_an_example_and_has_all_names():
    page = pydoc.plain(pydoc.render_doc(vilt_bench))
    start = page[: page.index("PACKAGE CONTENTS")]

    assert "run = vilt_bench.measure(Case(" in start
    assert all(name in page for name in set(OFFERED) - {"__version__"})


def test_the_example_of_help_calls_what_is_there_with_arguments_that_are_taken():
    example = "\n".join(line[4:] for line in (vilt_bench.__doc__ or "").splitlines() if line.startswith("    "))
    calls = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Call)]
    named = {ast.unparse(call.func).removeprefix("vilt_bench."): call for call in calls}
    offered = {name: call for name, call in named.items() if name in OFFERED}

    assert offered.keys() >= {"measure", "save", "render", "gate", "history", "latency", "Installation"}
    for name, call in offered.items():
        keywords = {keyword.arg or "": None for keyword in call.keywords}
        inspect.signature(getattr(vilt_bench, name)).bind(*call.args, **keywords)


def test_measuring_one_case_or_several_takes_like_arguments():
    one, several = (inspect.signature(each).parameters for each in (vilt_bench.measure, vilt_bench.measure_together))
    shared = {"sampling", "count", "patience_s"}

    assert {"report", *shared} <= one.keys() & several.keys()
    for name in shared:
        assert (one[name].kind, one[name].annotation) == (several[name].kind, several[name].annotation)
        assert (one[name].default is None) == (several[name].default is None)


def test_the_package_imports_no_torch_until_a_name_needs_it():
    code = (
        "import sys, vilt_bench; assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules); "
        "vilt_bench.Case, vilt_bench.measure, vilt_bench.gate, vilt_bench.compare, vilt_bench.history, vilt_bench.load;"
        "vilt_bench.Run, vilt_bench.Comparison, vilt_bench.render, vilt_bench.ConfigError; "
        "assert 'torch' not in sys.modules; vilt_bench.VisualEmbedder; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_homes_of_errors_and_embedders_keep_their_addresses():
    for home in ("vilt_bench.errors", "vilt_bench.embedding", "vilt_bench.testing"):
        import_module(home)
    from vilt_bench.embedding import ImageBatch, VisualEmbedder, VisualTokens

    assert (vilt_bench.ImageBatch, vilt_bench.VisualEmbedder, vilt_bench.VisualTokens) == (
        ImageBatch,
        VisualEmbedder,
        VisualTokens,
    )
