"""What a measuring process does not import, and that it makes no difference."""

import json
import subprocess
import sys

import pytest
import torch
from torch.fx.experimental import symbolic_shapes

from vilt_bench.worker import deferred
from vilt_bench.worker.deferred import Deferred, deferring, lean_torchvision, plain_shapes

HEAVY = ("sympy", "triton", "torch._dynamo", "torch._inductor")

MEASURE = """
import io, json, sys
from vilt_bench import protocol
from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.worker.__main__ import serve

case = Case(
    sys.argv[1], vilt=ViltConfig(hidden_size=32, layers=1, heads=2, mlp_size=64), resolution=(64, 128), fit="exact",
    text_length=8, device="cpu", threads=1,
)
requests = [protocol.Prepare(case), protocol.Count(), protocol.Measure(0.001), protocol.Finish()]
replies = io.BytesIO()
serve([protocol.encode(request) + b"\\n" for request in requests], replies)
heavy = [name for name in sys.argv[2:] if name in sys.modules]
print(json.dumps([heavy, [json.loads(line) for line in replies.getvalue().splitlines()]]))
"""


@pytest.mark.parametrize("embedder", ["patch32", "grid-r50"])
def test_a_process_that_measures_and_counts_imports_no_compiler_and_no_symbolic_numbers(embedder):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, embedder, *HEAVY], capture_output=True, text=True, timeout=120, check=True
    )
    heavy, (_, counted, _, finished) = json.loads(done.stdout.splitlines()[-1])
    assert heavy == []
    assert finished["type"] == "Finished"
    assert counted["warnings"] == []
    assert all(stage["flops"] is not None for stage in counted["stages"])


PLAIN = (True, False)
NUMBERS = (0, 1, 7)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, (value,)) for name in ("guard_or_false", "guard_or_true", "statically_known_true") for value in PLAIN),
        *((name, (value,)) for name in ("guard_size_oblivious", "expect_true") for value in PLAIN),
        *((name, (one, other)) for name in ("sym_and", "sym_or") for one in PLAIN for other in PLAIN),
        *(("sym_eq", (one, other)) for one in NUMBERS for other in NUMBERS),
        *(("sym_eq", pair) for pair in (((1, 2), (1, 2)), ((1, 2), [1, 3]), ((1, (2,)), (1, (2,))), ((1,), (1, 2)))),
        *((name, (number,)) for name in ("guard_int", "is_nested_int") for number in NUMBERS),
        *((name, (number,)) for name in ("guarding_hint_or_throw", "has_guarding_hint") for number in NUMBERS),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:guard_size_oblivious will be removed:FutureWarning"
)  # torch, of older releases' own
def test_of_plain_values_a_stand_in_says_what_torch_itself_says(name, arguments):
    own = getattr(symbolic_shapes, name, None)
    if own is None:
        pytest.skip(f"this torch has no {name}")
    shapes, _ = plain_shapes()
    assert shapes._known[name](*arguments) == own(*arguments)


def test_of_symbolic_values_torch_itself_is_asked():
    shapes, _ = plain_shapes()
    number = symbolic_shapes.ShapeEnv().create_unbacked_symint()
    assert shapes._known["sym_eq"](number, 1) is not True
    assert shapes._known["guard_or_false"](number == 3) is False
    assert isinstance(shapes._known["sym_and"](number == 3, True), torch.SymBool)


def test_a_module_that_is_there_already_has_no_stand_in_and_one_that_is_not_leaves_none_behind():
    with deferring(Deferred("json", {"loads": None}), Deferred("vilt_bench_no_such", {"answer": 42})):
        assert sys.modules["json"] is json
        assert sys.modules["vilt_bench_no_such"].answer == 42
    assert "vilt_bench_no_such" not in sys.modules


def test_what_a_stand_in_does_not_know_comes_from_the_module_which_then_takes_its_place(monkeypatch, tmp_path):
    (tmp_path / "vilt_bench_heavy.py").write_text("answer = 42\nquestion = 'six by nine'\n")
    monkeypatch.syspath_prepend(tmp_path)
    stand_in = Deferred("vilt_bench_heavy", {"answer": 41})
    try:
        with deferring(stand_in):
            assert stand_in.answer == 41
            assert stand_in.question == "six by nine"
            assert stand_in.answer == 42
            assert sys.modules["vilt_bench_heavy"] is not stand_in
        assert "vilt_bench_heavy" in sys.modules
        with pytest.raises(AttributeError):
            _ = stand_in.nothing
    finally:
        sys.modules.pop("vilt_bench_heavy", None)


def test_no_finder_stays_where_torchvision_is_not_imported():
    before = list(sys.meta_path)
    with lean_torchvision():
        pass
    assert sys.meta_path == before


def test_torchvision_asks_the_compiler_itself_what_it_supports():
    from torch._dynamo.utils import is_compile_supported

    assert deferred._is_compile_supported("cpu") == is_compile_supported("cpu")
