import io
from collections.abc import Iterator

import pytest
import torch

from embedders.patch import patch
from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import ImageBatch, TextBatch
from vilt_bench.model import Vilt, VisionLanguageModel
from vilt_bench.worker.backends import onednn

SMALL = ViltConfig(hidden_size=32, layers=2, heads=4, mlp_size=64, vocabulary=200)


def build(config: ViltConfig = SMALL) -> VisionLanguageModel:
    return VisionLanguageModel(Vilt(config), patch(hidden_size=config.hidden_size)).eval()


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def batch(size: tuple[int, int], lengths: list[int], *, vocabulary: int = 200) -> tuple[ImageBatch, TextBatch]:
    text_mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    token_ids = torch.randint(1, vocabulary, text_mask.shape) * text_mask
    return (
        ImageBatch(torch.randn(len(lengths), 3, *size)),
        TextBatch(token_ids, None if text_mask.all() else text_mask),
    )


@pytest.mark.parametrize("lengths", [[6, 6], [6, 3]])
def test_onednn_computes_the_same_pooled_output(lengths):
    model = build()
    inputs = batch((64, 96), lengths)
    expected = model(*inputs)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    names = set(model.state_dict())
    description = onednn.prepare(model.shared.modality_interaction.stages["transformer"])
    if description != "oneDNN, prepacked weights":
        pytest.skip(description)
    assert (model(*inputs).pooled - expected.pooled).abs().max() < 1e-5
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert set(model.state_dict()) == names
    with torch.profiler.profile() as profile:
        model(*inputs)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["mkldnn::_linear_pointwise"] == 4 * SMALL.layers
    assert "aten::gelu" not in calls


@pytest.mark.slow
def test_onednn_computes_the_same_pooled_output_in_full_size():
    model = build(ViltConfig())
    inputs = batch((384, 640), [40], vocabulary=30_522)
    expected = model(*inputs).pooled
    onednn.prepare(model.shared)
    assert (model(*inputs).pooled - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: model.to("meta"), "on meta"),
        (lambda model: model.half(), "float16"),
        (lambda model: model.double(), "float64"),
    ],
)
def test_onednn_falls_back_and_says_why(change, reason):
    model = change(build())
    modules = [type(module) for module in model.modules()]
    description = onednn.prepare(model)
    assert description.startswith("torch (oneDNN asked for, but ")
    assert reason in description
    assert [type(module) for module in model.modules()] == modules


def test_onednn_falls_back_where_the_operator_is_gone(monkeypatch):
    monkeypatch.setattr("vilt_bench.worker.backends.onednn.PackedLinear.__init__", _raise_attribute_error)
    assert "does not offer it" in onednn.prepare(build())


def _raise_attribute_error(*args: object, **options: object) -> None:
    raise AttributeError("no such operator")


def test_a_packed_model_survives_a_round_trip_of_its_state():
    model = build()
    onednn.prepare(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    restored = build()
    restored.load_state_dict(torch.load(file, weights_only=True))
    inputs = batch((64, 96), [6])
    torch.testing.assert_close(restored(*inputs).pooled, model(*inputs).pooled, atol=1e-5, rtol=0)
