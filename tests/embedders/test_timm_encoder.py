from argparse import Namespace
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from embedders.timm_encoder import MergingBlocks, _plan, timm_encoder
from vilt_bench.embedding import ImageBatch, VisualEmbedder
from vilt_bench.errors import CheckpointError, EmbedderError
from vilt_bench.testing import check_embedder


def build(model: str, **options: Any) -> VisualEmbedder:
    torch.manual_seed(0)
    return timm_encoder(model=model, **options).eval().requires_grad_(False)


def on_meta(model: str, **options: Any) -> VisualEmbedder:
    with torch.device("meta"):
        return timm_encoder(model=model, **options).eval()


def noise(height: int, width: int, *, batch_size: int = 1) -> Tensor:
    return torch.randn(batch_size, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "resolution"),
    [
        ("test_resnet", (64, 96)),  # NCHW
        ("test_convnext", (96, 64)),
        ("test_efficientnet", (64, 64)),
        ("test_byobnet", (64, 64)),
        ("test_nfnet", (64, 64)),
        ("test_mambaout", (64, 64)),  # NHWC, with a head that is not used
        ("test_vit", (64, 96)),  # NLC with a class token
        ("test_vit3", (96, 96)),  # NLC with an attention pool that is not used
        *(
            pytest.param(model, resolution, marks=pytest.mark.slow)
            for model, resolution in [
                ("test_coatnet", (160, 160)),
                ("test_maxvit", (160, 160)),
                ("swin_tiny_patch4_window7_224", (224, 224)),
                ("vit_tiny_patch16_224", (64, 32)),
                ("mixer_s32_224", (224, 224)),
                ("levit_128", (64, 64)),
                ("pit_ti_224", (224, 224)),  # only a class token: intermediate features
                ("coat_lite_tiny", (224, 224)),  # a class token that it does not declare
                ("crossvit_9_240", (240, 240)),  # a list
                ("fastvit_t8", (64, 64)),
                ("volo_d1_224", (224, 224)),
                ("hiera_tiny_224", (224, 224)),
                ("eva02_tiny_patch14_224", (224, 224)),
                ("convit_tiny", (224, 224)),
                ("pvt_v2_b0", (64, 64)),
                ("edgenext_xx_small", (64, 64)),
                ("repvit_m0_9", (64, 64)),
                ("regnetx_002", (64, 64)),
                ("mobilenetv4_conv_small", (64, 64)),
                ("xcit_nano_12_p16_224", (64, 64)),
            ]
        ),
    ],
)
def test_every_layout_keeps_the_contract(model: str, resolution: tuple[int, int]) -> None:
    check_embedder(partial(timm_encoder, model=model), resolution=resolution)


@pytest.mark.parametrize(
    ("model", "cells", "tokens", "kind"),
    [
        ("test_resnet", (5, 5), 25, "grid"),
        ("gcresnet50t", (8, 8), 64, "grid"),
        ("test_mambaout", (5, 5), 25, "grid"),
        ("vit_tiny_patch16_224", (14, 14), 196, "encoder"),
        ("vit_small_patch16_dinov3", (16, 16), 256, "encoder"),
        ("swin_tiny_patch4_window7_224", (7, 7), 49, "encoder"),
        ("mixer_s32_224", (7, 7), 49, "encoder"),
        ("qwen3_vit_88m_merge", (24, 24), 576, "encoder"),
        ("crossvit_9_240", (14, 14), 196, "encoder"),
        ("efficientvim_m1", (4, 4), 16, "encoder"),
        ("volo_d1_224", (14, 14), 196, "encoder"),
    ],
)
def test_tokens_are_the_cells_of_the_last_features(model: str, cells: tuple[int, int], tokens: int, kind: str) -> None:
    embedder = on_meta(model)
    found = embedder(ImageBatch(torch.empty(1, 3, *embedder.resolution, device="meta")))
    assert found.embeddings.shape == (1, tokens, 768)
    assert found.cells == cells
    assert embedder.kind == kind
    # What knows nothing of positions leaves them to the shared model.
    assert found.grid == (cells if kind == "grid" else None)


def test_features_are_those_that_timm_computes() -> None:
    pixels = noise(64, 64)
    for model, as_tokens in (
        ("test_vit", lambda features: features[:, 1:]),
        ("test_resnet", lambda features: features.flatten(2).transpose(1, 2)),
        ("test_mambaout", lambda features: features.flatten(1, 2)),
    ):
        backbone = build(model, resolution=(64, 64)).stages["backbone"]
        expected = as_tokens(backbone.tower.forward_features(pixels))
        torch.testing.assert_close(backbone(ImageBatch(pixels)).embeddings, expected)


def test_prefix_tokens_are_kept_when_asked_for() -> None:
    without, kept = (on_meta("vit_small_patch16_dinov3", keep_prefix=keep) for keep in (False, True))
    images = ImageBatch(torch.empty(1, 3, 256, 256, device="meta"))
    assert kept(images).embeddings.shape[1] == without(images).embeddings.shape[1] + 5
    assert kept(images).cells is None


def test_the_normalisation_may_be_that_of_the_model_around_the_tower() -> None:
    assert on_meta("test_vit", normalisation="none").mean == (0.0, 0.0, 0.0)
    clip = on_meta("test_vit", normalisation="clip")
    assert (clip.mean[0], clip.std[0]) == (0.48145466, 0.26862954)  # of openai/CLIP, clip.py
    assert on_meta("test_vit").mean == (0.5, 0.5, 0.5)


def test_what_no_token_comes_from_is_dropped() -> None:
    with torch.device("meta"):
        whole = timm.create_model("vit_base_patch16_siglip_224", num_classes=0)
    pool = sum(parameter.numel() for parameter in whole.attn_pool.parameters())
    tower = on_meta("vit_base_patch16_siglip_224").stages["backbone"].tower
    assert pool > 0
    assert sum(p.numel() for p in tower.parameters()) == sum(p.numel() for p in whole.parameters()) - pool


def test_resolution_and_normalisation_are_the_models_own() -> None:
    clip = on_meta("vit_base_patch32_clip_224")
    assert (clip.resolution, clip.fixed_size) == ((224, 224), True)
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    convnext = on_meta("convnext_tiny")
    assert (convnext.resolution, convnext.size_divisor, convnext.fixed_size) == ((224, 224), 32, False)


def test_a_fixed_model_is_built_for_the_resolution_asked_for() -> None:
    embedder = on_meta("vit_base_patch32_clip_224", resolution=(96, 160))
    assert embedder.fixed_size
    found = embedder(ImageBatch(torch.empty(1, 3, 96, 160, device="meta")))
    assert found.cells == (3, 5)


def test_a_dynamic_vit_takes_any_multiple_of_its_patch() -> None:
    embedder = build("test_vit", dynamic=True, hidden_size=8)
    assert not embedder.fixed_size
    assert embedder.size_divisor == 16
    for cells in ((2, 3), (5, 4)):
        found = embedder(ImageBatch(noise(16 * cells[0], 16 * cells[1])))
        assert found.cells == cells
        assert found.embeddings.shape[1] == cells[0] * cells[1]


def test_cells_of_padding_are_masked_out() -> None:
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, :32, :64] = True
    found = build("test_resnet", hidden_size=8)(ImageBatch(noise(64, 96), mask))
    assert found.mask is not None
    assert found.mask.tolist() == [[True, True, False, False, False, False]]


# Parameters, deployed, with the classifier of 1000 classes. Sources: the papers of RepVGG (2021) and MobileOne (2023).
@pytest.mark.parametrize(
    ("model", "channels", "published"),
    [
        ("repvgg_a0", 1280, 8.30e6),
        ("mobileone_s0", 1024, 2.1e6),
        ("mobileone_s1", 1280, 4.8e6),
        ("mobileone_s4", 2048, 14.8e6),
    ],
)
def test_models_run_with_the_parameters_that_they_are_deployed_with(
    model: str, channels: int, published: float
) -> None:
    backbone = on_meta(model).stages["backbone"]
    assert backbone.plan.channels == channels
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    assert parameters + (channels + 1) * 1000 == pytest.approx(published, rel=0.02)


def test_fastvit_is_as_timm_builds_it_for_inference() -> None:
    with torch.device("meta"):
        theirs = timm.create_model("fastvit_t8", num_classes=0, inference_mode=True).eval()
    ours = on_meta("fastvit_t8").stages["backbone"].tower
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    "model",
    [
        "test_byobnet",
        "fastvit_t8",
        *(
            pytest.param(model, marks=pytest.mark.slow)
            for model in (
                "repvgg_a0", "mobileone_s0", "efficientvim_m1", "efficientvit_m0", "ghostnetv3_050", "iformer_t",
                "lcnetv2_base", "levit_128s", "levit_conv_128s", "nextvit_small", "repghostnet_050", "repvit_m0_9",
                "shvit_s1", "tiny_vit_5m_224",
            )
        ),
    ],
)  # fmt: skip
def test_what_is_for_training_only_is_merged_and_the_tokens_are_the_same(model: str, tmp_path: Any) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    trained = timm.create_model(model, num_classes=0)
    for name, tensor in trained.state_dict().items():  # as training leaves normalisations
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.3)
    path = tmp_path / "trained.safetensors"
    save_file(trained.state_dict(), path)
    kept, merged = (build(model, weights=str(path), **options) for options in ({"fuse": False}, {}))
    pixels = noise(*(kept.resolution if kept.fixed_size else (64, 64)))
    with torch.inference_mode():
        expected, found = (each.stages["backbone"](ImageBatch(pixels)).embeddings for each in (kept, merged))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    before, after = (sum(p.numel() for p in each.parameters()) for each in (kept, merged))
    if model == "test_byobnet":  # which has nothing of the kind
        assert (before, kept.notes, merged.notes) == (after, {}, {})
    else:
        assert after < before
        assert kept.notes["backbone"].endswith("deployed, it is merged (fuse=true)")
        assert merged.notes["backbone"].endswith("is merged (fuse=false keeps it)")


def test_merging_no_token_is_the_plain_vit() -> None:
    tower = build("test_vit").stages["backbone"].tower
    tokens = torch.randn(2, 101, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(MergingBlocks(tower.blocks, count=0, prefix=1)(tokens), tower.blocks(tokens))


def test_each_block_merges_so_many_tokens_and_at_most_half() -> None:
    depth = len(on_meta("test_vit").stages["backbone"].tower.blocks)
    images = ImageBatch(torch.empty(1, 3, 160, 160, device="meta"))
    assert on_meta("test_vit", tome=3)(images).embeddings.shape[1] == 100 - 3 * depth
    count = 100
    for _ in range(depth):
        count -= count // 2
    assert on_meta("test_vit", tome=1000)(images).embeddings.shape[1] == count
    check_embedder(partial(timm_encoder, model="test_vit", tome=2), resolution=(64, 64))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_a_file_are_loaded_and_its_classifier_left(tmp_path: Any, suffix: str) -> None:
    from safetensors.torch import save_file

    model = timm.create_model("test_resnet")
    path = tmp_path / f"test_resnet.{suffix}"
    save_file(model.state_dict(), path) if suffix == "safetensors" else torch.save(model.state_dict(), path)
    embedder = build("test_resnet", weights=str(path))
    for key, tensor in embedder.stages["backbone"].tower.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key])
    assert "test_resnet" in embedder.weights
    assert "projection random" in embedder.weights


def test_weights_that_timms_own_training_wrote_are_loaded(tmp_path: Any) -> None:
    from timm.utils.checkpoint_saver import CheckpointSaver

    model = nn.DataParallel(timm.create_model("test_resnet"))
    saver = CheckpointSaver(
        model, torch.optim.SGD(model.parameters(), lr=0.1), args=Namespace(model="test_resnet"),
        checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path), unwrap_fn=lambda whole: whole,
    )  # fmt: skip
    saver.save_checkpoint(epoch=0)
    path = tmp_path / "last.pth.tar"
    embedder = build("test_resnet", weights=str(path))
    assert embedder.weights == f"{path}, its names without module., projection random"
    tower = embedder.stages["backbone"].tower
    assert all(torch.equal(tensor, model.module.state_dict()[key]) for key, tensor in tower.state_dict().items())


def test_weights_of_another_model_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    with pytest.raises(CheckpointError, match=r"other.pth does not fit the model"):
        build("test_resnet", weights=str(path))


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("reznet18", {}, "did you mean 'timm/resnet18'"),
        ("resnet18.no_such_tag", {}, "its tags: .*a1_in1k"),
        ("swin_tiny_patch4_window7_224", {"tome": 4}, "is no plain ViT"),
        ("test_vit", {"tome": 4, "keep_prefix": True}, "drop keep_prefix"),
        ("test_vit", {"tome": -1}, "expected 0 or more"),
        ("resnet18", {"dynamic": True}, "dynamic=true; leave it out"),
        ("efficientvim_m1", {"tome": 1}, "is no plain ViT"),
        ("xcit_nano_12_p16_224", {"resolution": (100, 100)}, "refuses `resolution` 100x100; its own is 224x224"),
    ],
)
def test_what_a_model_refuses_is_told_in_one_line(model: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(EmbedderError, match=said) as caught:
        on_meta(model, **options)
    assert "\n" not in str(caught.value)


def test_pretrained_without_the_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"timm/test_vit.*can't be fetched.*weights=FILE") as caught:
        build("test_vit", pretrained=True)
    assert "\n" not in str(caught.value)


def test_nothing_is_fetched_where_only_shapes_are_wanted() -> None:
    assert isinstance(on_meta("test_vit", pretrained=True).stages["backbone"], nn.Module)


def test_an_image_that_is_no_whole_number_of_a_dynamic_models_patches_is_refused() -> None:
    embedder = on_meta("test_vit", dynamic=True)
    with pytest.raises(EmbedderError, match="162x160 pixels can't be cut into squares of 16"):
        embedder(ImageBatch(torch.empty(1, 3, 162, 160, device="meta")))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("stem"), "it has no 'stem'"),
        (AttributeError("x", name="neck", obj=3), "its int has no 'neck'"),
        (ImportError("a line\nand another"), r"a line and another \(ImportError\)"),
    ],
)
def test_whatever_timm_raises_is_a_sentence_with_its_version(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    _plan.cache_clear()
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(EmbedderError, match=f"timm/resnet18 of timm {timm.__version__} can't be built here: {said}"):
        timm_encoder(model="resnet18")
