"""Encoders that start from weights saved from timm, against timm's own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import TinyVLM

SMALL: dict[str, Any] = {"hidden_size": 32, "layers": 1, "heads": 2}
VIT = "vit_tiny_patch16_224"


def saved(path: Path, encoder: str, **kwargs: Any) -> torch.nn.Module:
    """Return a timm model with its classifier, random statistics included, after saving it."""
    torch.manual_seed(1)
    model = timm.create_model(encoder, **kwargs).eval()
    state = model.state_dict()
    for name, value in state.items():
        if "running" in name:
            value.copy_(torch.rand_like(value) + 0.5)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    return model


def loaded(path: Path, encoder: str, **kwargs: Any) -> TinyVLM:
    policy = TinyVLM(**SMALL, encoder=encoder, encoder_kwargs=kwargs or None, encoder_weights=path)
    policy.load()
    return policy


def as_timm_wants_it(pictures: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    )
    return (pictures * 0.5 + 0.5 - mean) / std


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("encoder", ["resnet10t", "mobilenetv3_small_050"])
def test_features_of_a_cnn_are_those_of_the_plain_model(
    encoder: str, suffix: str, tmp_path: Path
) -> None:
    whole = saved(tmp_path / f"weights{suffix}", encoder)
    policy = loaded(tmp_path / f"weights{suffix}", encoder)
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    found = policy.network.model.visual(pictures)[1]
    maps = whole.forward_intermediates(as_timm_wants_it(pictures), intermediates_only=True)
    torch.testing.assert_close(found, maps[-1], atol=1e-4, rtol=1e-4)
    policy.save(tmp_path / "saved")
    again = TinyVLM(tmp_path / "saved")
    again.load()
    torch.testing.assert_close(again.network.model.visual(pictures)[1], found)


@torch.no_grad()
def test_features_of_a_vision_transformer_are_those_of_the_plain_model(tmp_path: Path) -> None:
    mean_std = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert {name: timm.get_pretrained_cfg(VIT).to_dict()[name] for name in mean_std} == mean_std
    whole = saved(tmp_path / "weights.safetensors", VIT, img_size=64)
    policy = loaded(tmp_path / "weights.safetensors", VIT, img_size=64)
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    found = policy.network.model.visual(pictures)[1]
    maps = whole.forward_intermediates(pictures, intermediates_only=True)
    torch.testing.assert_close(found, maps[-1], atol=1e-4, rtol=1e-4)


def test_positions_of_a_vision_transformer_are_fitted_to_the_size(tmp_path: Path) -> None:
    whole = saved(tmp_path / "weights.pth", VIT)
    policy = loaded(tmp_path / "weights.pth", VIT, img_size=64)
    body = policy.network.model.visual.body.model
    assert body.pos_embed.shape[1] < whole.pos_embed.shape[1]
    assert torch.equal(body.blocks[3].mlp.fc1.weight, whole.blocks[3].mlp.fc1.weight)
    assert torch.equal(body.patch_embed.proj.weight[:, :3], whole.patch_embed.proj.weight)
    assert not body.patch_embed.proj.weight[:, 3:].any()


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    saved(tmp_path / "resnet.pth", "resnet10t")
    saved(tmp_path / "small.pth", "vit_small_patch16_224", img_size=64)
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    (tmp_path / "weights.txt").write_text("no weights")
    for name, told in (
        ("nowhere.pth", "encoder_weights: .*nowhere.pth is no file of weights"),
        ("weights.txt", "is no file of weights; name one that ends in .safetensors"),
        ("broken.safetensors", "broken.safetensors cannot be read"),
        ("resnet.pth", r"lacks \d+ of \d+ tensors of 'vit_tiny_patch16_224', the first"),
        ("small.pth", "small.pth does not fit 'vit_tiny_patch16_224': "),
    ):
        with pytest.raises(ConfigError, match=told):
            loaded(tmp_path / name, VIT, img_size=64)
