import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from vilt_bench.ask.case import Case
from vilt_bench.embedding import ImageBatch, TextBatch
from vilt_bench.errors import ConfigError
from vilt_bench.worker.pipeline import Pipeline, check_pinning
from vilt_bench.worker.preprocessing import Encoded

CPU = torch.device("cpu")


class Sleep(nn.Module):
    """Takes a while and no processor, and makes a batch."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, encoded: Encoded) -> ImageBatch:
        time.sleep(self.seconds)
        return ImageBatch(torch.full((1, 3, 2, 2), float(encoded.files[0][0])))


def pipeline(*, host_s: float, model_s: float, workers: int) -> tuple[Pipeline, list[float]]:
    seen: list[float] = []

    def model(images: ImageBatch, _: TextBatch) -> None:
        seen.append(float(images.pixels[0, 0, 0, 0]))
        time.sleep(model_s)

    text = TextBatch(torch.zeros(1, 0, dtype=torch.int64))
    inputs: Any = SimpleNamespace(
        loading=SimpleNamespace(on_host=lambda: [Sleep(host_s)]),
        encoded=tuple(Encoded((bytes([index]),)) for index in range(3)),
        batches=((ImageBatch(torch.full((1, 3, 2, 2), 9.0)), text),),
    )
    return Pipeline(model, inputs, CPU, torch.float32, workers, pinned=False), seen


@pytest.mark.alone
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # of DataLoader's own forks
@pytest.mark.parametrize(
    ("workers", "host_s", "model_s", "expected_s"),
    [
        (0, 0.06, 0.03, 0.09),  # one after the other
        (1, 0.06, 0.03, 0.06),  # the model waits
        (2, 0.03, 0.06, 0.06),  # preprocessing waits
    ],
)
def test_what_overlaps_takes_as_long_as_the_slower_of_both(
    workers: int, host_s: float, model_s: float, expected_s: float
) -> None:
    subject, seen = pipeline(host_s=host_s, model_s=model_s, workers=workers)
    rounds = [subject.measure(0.2) for _ in range(3)]
    subject.close()
    found = rounds[0]
    # Sleeps are never shorter than asked, and on a busy machine may be longer: the quickest round tells.
    assert min(each.preprocessing_s[0] for each in rounds) == pytest.approx(host_s / max(1, workers), rel=0.3)
    assert min(each.model_s[0] for each in rounds) == pytest.approx(model_s, rel=0.3)
    assert min(each.pipelined_s[0] for each in rounds) == pytest.approx(expected_s, rel=0.3)
    assert min(each.batches[0] for each in rounds) >= 3
    assert found.workers == workers
    assert set(seen) == {0.0, 1.0, 2.0, 9.0}  # batches that were prepared, and, alone, the one that is there
    assert ("process" if workers else "without processes") in found.method


def test_pinned_memory_is_for_accelerators() -> None:
    check_pinning(Case("patch32", preprocessing_workers=1), CPU)
    with pytest.raises(
        ConfigError, match=r"`pin_memory` is memory that accelerators copy from .* `device` cpu is none"
    ):
        check_pinning(Case("patch32", preprocessing_workers=1, pin_memory=True), CPU)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"preprocessing_workers": 0, "pin_memory": True}, "and there are 0; give `preprocessing_workers` 1 or more"),
        ({"pin_memory": True}, "and none is asked for; give `preprocessing_workers` 1 or more"),
        ({"preprocessing_workers": -1}, "`preprocessing_workers` must be between 0 and 256, got -1"),
        ({"preprocessing_workers": 0, "images": ("synthetic",)}, "`images` synthetic is none; give photographs"),
        ({"preprocessing_workers": 2, "images": ("synthetic",)}, "`images` synthetic is none; give photographs"),
    ],
)
def test_a_pipeline_that_can_not_be_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Case("patch32", **asked)
