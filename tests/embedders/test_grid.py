import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import ResNet50_Weights, ResNet101_Weights, resnet50
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from embedders.grid import grid_r50, grid_r50_c4, grid_r101, grid_x152
from embedders.resnet import ResNetBackbone, res5
from vilt_bench.embedding import EmbedderFactory, ImageBatch, VisualEmbedder
from vilt_bench.errors import EmbedderError


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def paper_count(backbone: nn.Module, *, norms: bool) -> int:
    """The trainable parameters of the detectors' configurations: stem and res2 frozen, norms as told."""
    counted = list(backbone.layers)[1:]
    convolutions = sum(count(m) for layer in counted for m in layer.modules() if isinstance(m, nn.Conv2d))
    return convolutions + norms * sum(
        count(m) for layer in counted for m in layer.modules() if type(m) is nn.BatchNorm2d
    )


def closed_form(blocks: tuple[int, ...], *, groups: int = 1) -> int:
    """Convolutions and two parameters a channel of norm, written down from the architecture's table."""
    total, inputs = 3 * 64 * 49 + 2 * 64, 64
    for number, repeats in enumerate(blocks):
        width, outputs = 64 * 2**number * (1 if groups == 1 else 2), 256 * 2**number
        total += inputs * outputs + 2 * outputs
        for _ in range(repeats):
            total += inputs * width + width * width * 9 // groups + width * outputs + 4 * width + 2 * outputs
            inputs = outputs
    return total


def meta(factory: EmbedderFactory, **options: bool) -> nn.Module:
    with torch.device("meta"):
        return factory(**options).eval()


@pytest.mark.parametrize(
    ("factory", "norms", "expected"), [(grid_r50_c4, False, 8_290_304), (grid_x152, True, 57_687_040)]
)
def test_backbones_have_the_papers_parameters_as_it_counted(
    factory: EmbedderFactory, norms: bool, expected: int
) -> None:
    assert paper_count(meta(factory).stages["backbone"], norms=norms) == expected


@pytest.mark.parametrize(
    ("factory", "blocks", "groups"),
    [
        (grid_r50, (3, 4, 6, 3), 1),
        (grid_r101, (3, 4, 23, 3), 1),
        (grid_x152, (3, 8, 36, 3), 32),
        (grid_r50_c4, (3, 4, 6), 1),
    ],
)
def test_backbones_have_every_parameter_of_the_architecture(
    factory: EmbedderFactory, blocks: tuple[int, ...], groups: int
) -> None:
    assert count(meta(factory).stages["backbone"]) == closed_form(blocks, groups=groups)


def test_pixel_bert_x152_has_144_53_million_parameters_with_twelve_layers() -> None:
    features = 2048 * 768 + 768
    assert (count(meta(grid_x152).stages["backbone"]) + features + 85_054_464) / 1e6 == pytest.approx(144.53, abs=0.005)


@pytest.mark.parametrize(("factory", "weights"), [(grid_r50, ResNet50_Weights), (grid_r101, ResNet101_Weights)])
def test_a_backbones_flops_are_those_that_torchvision_publishes(factory: EmbedderFactory, weights: type) -> None:
    backbone = meta(factory).stages["backbone"]
    with FlopCounterMode(display=False) as counter:
        backbone(ImageBatch(torch.empty(1, 3, 224, 224, device="meta")))
    classifier = 2048 * 1000
    assert counter.get_total_flops() / 2e9 == pytest.approx(
        weights.IMAGENET1K_V1.meta["_ops"] - classifier / 1e9, abs=0.001
    )


@pytest.mark.parametrize(("caffe", "gmacs"), [(True, 0.732), (False, 0.809)])
def test_the_stride_of_res5_decides_its_flops(caffe: bool, gmacs: float) -> None:
    with torch.device("meta"):
        layer = res5(caffe=caffe)
    with FlopCounterMode(display=False) as counter:
        layer(torch.empty(1, 1024, 14, 14, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.0005)


def test_a_backbone_equals_torchvisions_with_the_same_weights() -> None:
    ours, theirs = ResNetBackbone(depth=50, every=True).eval(), resnet50().eval()
    for mine, other in zip(
        [ours.stem[0], ours.stem[1], *ours.layers],
        [theirs.conv1, theirs.bn1, theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4],
        strict=True,
    ):
        other.load_state_dict(mine.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(pixels))))
    maps = ours(ImageBatch(pixels)).maps
    for layer, found in zip([theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4], maps, strict=True):
        x = layer(x)
        torch.testing.assert_close(found, x)


@pytest.mark.parametrize(("pool", "tokens"), [(True, 12 * 21), (False, 25 * 42)])
def test_pooling_decides_the_number_of_tokens(pool: bool, tokens: int) -> None:
    embedder = meta(grid_r50, pool=pool)
    assert list(embedder.stages) == ["backbone", *["pooling"] * pool, "projection"]
    found = embedder(ImageBatch(torch.empty(1, 3, 800, 1344, device="meta")))
    assert found.embeddings.shape == (1, tokens, 768)
    assert found.grid is None


def test_each_cell_has_its_own_position() -> None:
    embedder = grid_r50(hidden_size=16, pool=False).eval()
    projection = embedder.stages["projection"]
    nn.init.zeros_(projection.convolution.weight)
    tokens = embedder(ImageBatch(torch.zeros(1, 3, 64, 96))).embeddings[0]
    assert len(torch.unique(tokens, dim=0)) == 6


def test_activations_of_random_weights_stay_sane() -> None:
    torch.manual_seed(0)
    (cells,) = grid_r101(hidden_size=8).eval().stages["backbone"](ImageBatch(torch.randn(1, 3, 64, 64))).maps
    assert 0.01 < cells.std() < 10


def test_cells_of_padding_are_masked_out() -> None:
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, :32, :64] = True
    tokens = grid_r50(hidden_size=8, pool=False).eval()(ImageBatch(torch.randn(1, 3, 64, 96), mask))
    assert tokens.mask is not None
    assert tokens.mask.tolist() == [[True, True, False, False, False, False]]


def test_an_image_too_small_to_pool_is_refused() -> None:
    with pytest.raises(EmbedderError, match="image of 32x64 pixels leaves 1x2 cells"):
        meta(grid_r50)(ImageBatch(torch.empty(1, 3, 32, 64, device="meta")))


def test_what_detectors_freeze_of_a_resnet_is_what_torchvisions_do() -> None:
    with torch.device("meta"):
        theirs = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=3
        )
    frozen = [parameter.shape for parameter in theirs.body.parameters() if not parameter.requires_grad]
    embedder = meta(grid_r50)
    assert isinstance(embedder, VisualEmbedder)
    assert sorted(parameter.shape for parameter in embedder.frozen()) == sorted(frozen)
