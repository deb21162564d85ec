"""What does it cost a vision-and-language model to see?

Measures any visual embedder before one shared ViLT transformer, stage by stage, in fresh processes:

    import vilt_bench
    from vilt_bench import Case, Installation, Sampling

    run = vilt_bench.measure(Case("patch32", resolution=(384, 640)), Sampling(trials=3, max_time_s=60))
    vilt_bench.save(run, "results")
    vilt_bench.measure(my_module, image_size=224, stages=["stem", "blocks"])  # any nn.Module, from a notebook too
    vilt_bench.table([run])  # a notebook shows it; print() does elsewhere
    vilt_bench.figure([run]).save("latency.pdf")
    print(vilt_bench.render([run], "markdown"))
    run.to_frame()  # tidy pandas: one row a sample
    vilt_bench.latency(run, "visual_embedder.projection")  # an Estimate: a median and its interval, in seconds
    vilt_bench.rank(runs)  # of several that `measure_together` made: which is faster, by what factor, how surely?

    baseline = Installation("main", python="../main/.venv/bin/python")
    vilt_bench.gate(run.case, baseline).comparison.total  # is this installation slower than that one?
    vilt_bench.history("results").cases[0].changes  # where latency changed, over commits

Whatever a user can mend is a `ViltBenchError` of one line. Authors of embedders need `vilt_bench.embedding` alone, and
`check_embedder`, which holds an embedder to its contract. `vilt-bench --help` tells of the command line.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "vilt_bench.ask.axes": ("Sweep",),
    "vilt_bench.ask.case": ("Case", "Sampling", "ViltConfig"),
    "vilt_bench.director.measure": ("measure_together",),
    "vilt_bench.notebook.measuring": ("measure",),
    "vilt_bench.notebook.showing": ("embedders", "figure", "table"),
    "vilt_bench.director.sweep": ("measure_sweep",),
    "vilt_bench.director.installation": ("Installation",),
    "vilt_bench.director.gate": ("Outcome", "gate", "gate_all"),
    "vilt_bench.record.run": ("Run",),
    "vilt_bench.record.store": ("save",),
    "vilt_bench.record.load": ("load", "load_all"),
    "vilt_bench.judge.estimate": ("Estimate",),
    "vilt_bench.judge.latency": ("latency",),
    "vilt_bench.judge.comparison": ("Comparison",),
    "vilt_bench.judge.compare": ("compare", "compare_all"),
    "vilt_bench.judge.history": ("History", "history"),
    "vilt_bench.judge.ranking": ("Ranking", "rank"),
    "vilt_bench.report": ("render",),
    "vilt_bench.embedding.contract": ("ImageBatch", "VisualEmbedder", "VisualTokens"),
    "vilt_bench.testing": ("check_embedder",),
    "vilt_bench.errors": (
        "CheckpointError",
        "ConfigError",
        "DeviceError",
        "EmbedderError",
        "FileError",
        "InputError",
        "MeasurementError",
        "RecordError",
        "UnknownEmbedderError",
        "ViltBenchError",
    ),
}
"""What the package offers, by home; a home is imported when a name of it is asked for, so that the start is fast."""

if TYPE_CHECKING:  # the same, for type checkers, which see no table
    from vilt_bench.ask.axes import Sweep as Sweep
    from vilt_bench.ask.case import Case as Case
    from vilt_bench.ask.case import Sampling as Sampling
    from vilt_bench.ask.case import ViltConfig as ViltConfig
    from vilt_bench.director.gate import Outcome as Outcome
    from vilt_bench.director.gate import gate as gate
    from vilt_bench.director.gate import gate_all as gate_all
    from vilt_bench.director.installation import Installation as Installation
    from vilt_bench.director.measure import measure_together as measure_together
    from vilt_bench.director.sweep import measure_sweep as measure_sweep
    from vilt_bench.embedding.contract import ImageBatch as ImageBatch
    from vilt_bench.embedding.contract import VisualEmbedder as VisualEmbedder
    from vilt_bench.embedding.contract import VisualTokens as VisualTokens
    from vilt_bench.errors import CheckpointError as CheckpointError
    from vilt_bench.errors import ConfigError as ConfigError
    from vilt_bench.errors import DeviceError as DeviceError
    from vilt_bench.errors import EmbedderError as EmbedderError
    from vilt_bench.errors import FileError as FileError
    from vilt_bench.errors import InputError as InputError
    from vilt_bench.errors import MeasurementError as MeasurementError
    from vilt_bench.errors import RecordError as RecordError
    from vilt_bench.errors import UnknownEmbedderError as UnknownEmbedderError
    from vilt_bench.errors import ViltBenchError as ViltBenchError
    from vilt_bench.judge.compare import compare as compare
    from vilt_bench.judge.compare import compare_all as compare_all
    from vilt_bench.judge.comparison import Comparison as Comparison
    from vilt_bench.judge.estimate import Estimate as Estimate
    from vilt_bench.judge.history import History as History
    from vilt_bench.judge.history import history as history
    from vilt_bench.judge.latency import latency as latency
    from vilt_bench.judge.ranking import Ranking as Ranking
    from vilt_bench.judge.ranking import rank as rank
    from vilt_bench.notebook.measuring import measure as measure
    from vilt_bench.notebook.showing import embedders as embedders
    from vilt_bench.notebook.showing import figure as figure
    from vilt_bench.notebook.showing import table as table
    from vilt_bench.record.load import load as load
    from vilt_bench.record.load import load_all as load_all
    from vilt_bench.record.run import Run as Run
    from vilt_bench.record.store import save as save
    from vilt_bench.report import render as render
    from vilt_bench.testing import check_embedder as check_embedder

_HOMES = {name: home for home, names in _NAMES.items() for name in names}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
