from __future__ import annotations

import pytest
import timm
import torch

import spatial_ssrl.policies.tiny.encoder  # noqa: F401 (registers the model)

NAME = "patch_resnet_nano"


def test_timm_finds_it() -> None:
    assert timm.is_model(NAME)
    model = timm.create_model(NAME, num_classes=0)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(0.34e6, abs=0.005e6)


def test_feature_maps_are_what_timm_is_told() -> None:
    model = timm.create_model(NAME, features_only=True, in_chans=5)
    maps = model(torch.zeros(2, 5, 64, 64))
    assert [features.shape[1] for features in maps] == model.feature_info.channels() == [32, 64, 96]
    sides = [64 // stride for stride in model.feature_info.reduction()]
    assert [tuple(features.shape[2:]) for features in maps] == [(side, side) for side in sides]
    assert sides == [16, 8, 4]


def test_classifier_pools_over_places() -> None:
    model = timm.create_model(NAME, num_classes=7).eval()
    pictures = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        pooled = model.forward_features(pictures).mean((2, 3))
        assert model(pictures).shape == (3, 7)
        torch.testing.assert_close(model(pictures), model.head(pooled))
        bare = timm.create_model(NAME, num_classes=0).eval()
        assert torch.equal(bare(pictures), bare.forward_features(pictures).mean((2, 3)))


def test_stem_looks_at_neighbouring_patches() -> None:
    # A change in the last row of one patch must reach the patch below: kernels overlap.
    model = timm.create_model(NAME, features_only=True).eval()
    pictures = torch.zeros(1, 3, 64, 64)
    changed = pictures.clone()
    changed[0, :, 31, 33] = 5
    with torch.no_grad():
        apart = (model.stem(changed) - model.stem(pictures)).abs().sum(1)[0]
    assert apart.nonzero().tolist() == [[7, 8], [8, 8]]


@pytest.mark.parametrize("patch", [1, 2, 4, 6, 8])
def test_widths_and_patch_can_be_set(patch: int) -> None:
    model = timm.create_model(NAME, features_only=True, channels=(8, 16, 24), patch=patch)
    sides = [16, 8, 4]
    pictures = torch.zeros(1, 3, 16 * patch, 16 * patch)
    shapes = [tuple(features.shape[1:]) for features in model(pictures)]
    assert shapes == [(8, 16, 16), (16, 8, 8), (24, 4, 4)]
    assert model.feature_info.reduction() == [16 * patch // side for side in sides]
