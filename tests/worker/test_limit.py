"""That no stage of real embedders beats the least time that its record tells, on this machine."""

from collections.abc import Iterator

import pytest
import torch

from vilt_bench.ask.case import Case, Sampling, ViltConfig
from vilt_bench.judge.latency import latencies
from vilt_bench.judge.limit import beaten, limits
from vilt_bench.protocol import PeakMeasured
from vilt_bench.record import codec
from vilt_bench.record.peak import best
from vilt_bench.record.run import Run, Trial
from vilt_bench.worker import limit
from vilt_bench.worker.limit import peak_after_passes
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.runner import prepare

CPU = torch.device("cpu")
pytestmark = pytest.mark.alone

SMALL = ViltConfig(hidden_size=64, layers=2, heads=4, mlp_size=256)
LOOKS = 8
SPREAD = [
    ("patch32", {}, (384, 640), "float32", 1),
    ("patch32", {}, (384, 640), "float32", 2),
    ("patch32", {}, (384, 640), "bfloat16", 1),
    ("grid-r50", {}, (128, 128), "float32", 2),
    ("region-r101-c4", {"regions": 4, "proposals": 8}, (64, 96), "float32", 1),
    ("timm/vit_tiny_patch16_224", {}, (224, 224), "float32", 1),
    pytest.param("timm/vit_tiny_patch16_224", {}, (224, 224), "bfloat16", 2, marks=pytest.mark.slow),
    ("torchvision/ssdlite320_mobilenet_v3_large", {"regions": 10}, None, "float32", 1),
    pytest.param("torchvision/fcos_resnet50_fpn", {"regions": 10}, (64, 96), "float32", 2, marks=pytest.mark.slow),
]
"""Linear, grid, region and encoder; dense heads, whose outputs are mappings."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def measured(case: Case) -> Run:
    """Returns the run of a few passes in this process, as a record keeps it, without a peak yet."""
    runner = prepare(case, CPU, HostTimer())
    runner.first_call()
    runner.block(0.05)
    trial = Trial(0, "", samples=runner.block(0.2))
    run = Run("id", "", case, Sampling(), "group", None, runner.facts(), runner.count().stages, (trial,))
    return codec.decode(codec.encode(run), name="a record")


@pytest.mark.parametrize(("embedder", "options", "resolution", "dtype", "threads"), SPREAD)
def test_no_stage_takes_less_than_its_least_time(embedder, options, resolution, dtype, threads):
    case = Case(
        embedder, options, resolution=resolution, dtype=dtype, threads=threads, device="cpu", vilt=SMALL, text_length=8
    )
    assert_no_stage_beats_its_least_time(case)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onednn", "onnxruntime", "openvino", "onnxruntime:whole", "openvino:whole"])
@pytest.mark.parametrize(("embedder", "resolution"), [("patch32", (384, 640)), ("grid-r50", (128, 128))])
def test_no_stage_by_another_backend_takes_less_than_its_least_time_either(embedder, resolution, backend):
    assert_no_stage_beats_its_least_time(
        Case(embedder, backend=backend, resolution=resolution, threads=1, device="cpu", vilt=SMALL, text_length=8)
    )


def assert_no_stage_beats_its_least_time(case: Case) -> None:
    torch.set_num_threads(case.threads)
    run = measured(case)
    peak = None
    for _ in range(LOOKS):  # a machine that is busy while the peak is measured shows too low a peak
        found = peak_after_passes(case, CPU, 0.01)
        peak = found if peak is None else best(peak, found)
        run = codec.decode(codec.encode(Run(**{**vars(run), "peak": peak})), name="a record")
        known = limits(run, latencies(run))
        assert {stage.name for stage in run.stages} <= known.keys()
        if not (below := beaten(run, latencies(run))):
            return
    raise AssertionError(f"{below}, by {peak}")


def test_a_peak_that_cannot_be_measured_costs_nothing_that_was(monkeypatch):
    def fail(*_, **__):
        raise TypeError("a product of another package")

    monkeypatch.setattr(limit, "measure_peak", fail)
    assert peak_after_passes(Case("patch32"), CPU, 0.01) is None


def test_a_process_of_its_own_measures_the_peak_and_waits_as_those_do_that_measure(monkeypatch):
    from vilt_bench.director.limits import measure_peak

    found = measure_peak(Case("patch32", threads=1, device="cpu"))
    assert isinstance(found, PeakMeasured)
    assert (found.device, found.threads, found.peak.dtype) == ("cpu", 1, "float32")


def test_a_device_that_is_not_there_is_told_by_the_command_as_before():
    from vilt_bench.director.limits import measure_peak
    from vilt_bench.errors import DeviceError

    with pytest.raises(DeviceError, match="cuda:99"):
        measure_peak(Case("patch32", device="cuda:99"))
