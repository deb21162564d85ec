from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vilt_bench.embedding import VisualFeatures
from vilt_bench.worker.backends import NotPreparedError, StageToPrepare, _cuda_graphs, cudagraph


class Recorder:
    """Records calls as a graph does: where the input is copied to, and what is computed of it."""

    def __init__(self) -> None:
        self.captured = 0

    def __call__(self, module: nn.Module, inputs: Any) -> Callable[[list[Tensor]], Any]:
        self.captured += 1
        places = [inputs.embeddings.clone()]

        def replay(given: list[Tensor]) -> Any:
            for place, tensor in zip(places, given, strict=True):
                place.copy_(tensor)
            return module(inputs._replace(embeddings=places[0]))

        return replay


class Doubles(nn.Module):
    def forward(self, features: VisualFeatures) -> VisualFeatures:
        return features._replace(embeddings=2 * features.embeddings)


class Waits(nn.Module):
    def forward(self, features: VisualFeatures) -> VisualFeatures:
        count = int((features.embeddings > 0).sum())
        return features._replace(embeddings=features.embeddings + count)


def to_prepare(module: nn.Module, device: str = "cpu") -> StageToPrepare:
    inputs = VisualFeatures(torch.randn(1, 3, 4, device=device), grid=(1, 3))
    return StageToPrepare(
        "visual_embedder.backbone", module, inputs, module(inputs), torch.device(device), torch.float32, 1
    )


def test_a_graph_is_captured_once_a_size_and_those_of_passes_are_remarked() -> None:
    record = Recorder()
    run = _cuda_graphs.capture(to_prepare(Doubles()), record)
    for length in (3, 3, 5, 5):
        given = torch.randn(1, length, 4)
        with torch.inference_mode():
            assert torch.equal(run(VisualFeatures(given, grid=(1, length))).embeddings, 2 * given)
        assert bool(cudagraph.remarks()) == (length == 5)
    assert record.captured == 2


def test_a_stage_that_can_not_be_captured_says_whether_it_waits_for_the_device() -> None:
    def refusing(text: str) -> _cuda_graphs.Record:
        def record(module: nn.Module, inputs: Any) -> Any:
            raise RuntimeError(text)

        return record

    with pytest.raises(NotPreparedError, match="it waits for the device"):
        _cuda_graphs.capture(to_prepare(Doubles()), refusing("called a synchronizing CUDA operation"))
    with pytest.raises(NotPreparedError, match=r"it can't be captured \(no kernel\)"):
        _cuda_graphs.capture(to_prepare(Doubles()), refusing("no kernel\nat all"))


@pytest.mark.gpu
def test_on_a_gpu_a_stage_is_replayed_and_one_that_waits_is_not_prepared() -> None:
    ready = cudagraph.prepare(to_prepare(Doubles(), "cuda"), {})
    given = torch.randn(1, 3, 4, device="cuda")
    with torch.inference_mode():
        assert torch.equal(ready.run(VisualFeatures(given, grid=(1, 3))).embeddings, 2 * given)
    with pytest.raises(NotPreparedError, match="it waits for the device"):
        cudagraph.prepare(to_prepare(Waits(), "cuda"), {})
