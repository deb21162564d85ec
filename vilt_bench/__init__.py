"""What does it cost a vision-and-language model to see?"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vilt_bench.config import Case, Sampling, ViltConfig
    from vilt_bench.lockstep import Contender, gate
    from vilt_bench.records import Run
    from vilt_bench.store import load
    from vilt_bench.stored import compare
    from vilt_bench.sweep import measure, measure_together
    from vilt_bench.trend import history

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
    "Case": "vilt_bench.config",
    "Contender": "vilt_bench.lockstep",
    "Run": "vilt_bench.records",
    "Sampling": "vilt_bench.config",
    "ViltConfig": "vilt_bench.config",
    "compare": "vilt_bench.stored",
    "gate": "vilt_bench.lockstep",
    "history": "vilt_bench.trend",
    "load": "vilt_bench.store",
    "measure": "vilt_bench.sweep",
    "measure_together": "vilt_bench.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
