import io
from collections import OrderedDict
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from embedders.patch import patch
from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import ImageBatch, TextBatch
from vilt_bench.model import Vilt, VisionLanguageModel
from vilt_bench.worker.backends import NotPreparedError, _packed_linear

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


def pack(module: nn.Module) -> nn.Module:
    try:
        return _packed_linear.pack(module)
    except NotPreparedError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("lengths", [[6, 6], [6, 3]])
def test_onednn_computes_the_same_pooled_output(lengths):
    model = build()
    inputs = batch((64, 96), lengths)
    expected = model(*inputs)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    names = set(model.state_dict())
    pack(model.shared.modality_interaction.stages["transformer"])
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
    pack(model.shared)
    assert (model(*inputs).pooled - expected).abs().max() < 1e-5


def test_a_tower_with_named_layers_a_gelu_by_tanh_and_a_linear_layer_alone_computes_the_same():
    layers = {
        "norm": nn.LayerNorm(8),
        "first": nn.Linear(8, 16),
        "gelu": nn.GELU(),
        "second": nn.Linear(16, 8),
        "tanh": nn.GELU(approximate="tanh"),
    }
    inputs = torch.randn(2, 3, 8)
    for module in (nn.Sequential(OrderedDict(layers)), nn.Linear(8, 16)):
        expected = module(inputs)
        packed = pack(module)
        assert not _packed_linear.linears(packed)
        torch.testing.assert_close(packed(inputs), expected, rtol=1e-5, atol=1e-5)


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
    with pytest.raises(NotPreparedError, match=reason):
        _packed_linear.pack(model)
    assert [type(module) for module in model.modules()] == modules


def test_onednn_falls_back_where_the_operator_is_gone(monkeypatch):
    monkeypatch.setattr(_packed_linear.PackedLinear, "__init__", _raise_attribute_error)
    with pytest.raises(NotPreparedError, match="does not offer it"):
        _packed_linear.pack(build())


def _raise_attribute_error(*args: object, **options: object) -> None:
    raise AttributeError("no such operator")


def test_a_packed_model_survives_a_round_trip_of_its_state():
    model = build()
    pack(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    restored = build()
    restored.load_state_dict(torch.load(file, weights_only=True))
    inputs = batch((64, 96), [6])
    torch.testing.assert_close(restored(*inputs).pooled, model(*inputs).pooled, atol=1e-5, rtol=0)
