"""What does it cost a vision-and-language model to see?"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vilt_bench.ask.case import Case, Sampling, ViltConfig
    from vilt_bench.director.gate import gate
    from vilt_bench.director.lockstep import Contender
    from vilt_bench.director.measure import measure, measure_together
    from vilt_bench.judge.compare import compare
    from vilt_bench.judge.history import history
    from vilt_bench.record.load import load
    from vilt_bench.record.run import Run

__all__ = [
    "Case",
    "Contender",
    "Run",
    "Sampling",
    "ViltConfig",
    "__version__",
    "compare",
    "gate",
    "history",
    "load",
    "measure",
    "measure_together",
]

# By name: the module that has it. Imported when first asked for, so that the command line starts fast.
_HOMES = {
    "Case": "vilt_bench.ask.case",
    "Contender": "vilt_bench.director.lockstep",
    "Run": "vilt_bench.record.run",
    "Sampling": "vilt_bench.ask.case",
    "ViltConfig": "vilt_bench.ask.case",
    "compare": "vilt_bench.judge.compare",
    "gate": "vilt_bench.director.gate",
    "history": "vilt_bench.judge.history",
    "load": "vilt_bench.record.load",
    "measure": "vilt_bench.director.measure",
    "measure_together": "vilt_bench.director.measure",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
