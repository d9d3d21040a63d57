from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForImageTextToText

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import LoraSettings, SamplingSettings, TinyVLM
from spatial_ssrl.rollout import InProcess
from support.tiny_training import tiny_policy
from support.tiny_vlm import loud_policy, mixed_questions

SMALL: dict[str, Any] = {"hidden_size": 32, "layers": 1, "heads": 2}


def loaded(**settings: Any) -> TinyVLM:
    policy = tiny_policy(**settings)
    policy.load()
    return policy


def state(policy: TinyVLM) -> dict[str, Tensor]:
    return policy.network.state_dict()


def first_logits(policy: TinyVLM) -> Tensor:
    with torch.no_grad():
        return policy.logits(policy.read(policy.collator()(mixed_questions())).hidden)


def test_seed_names_the_weights_whatever_was_drawn_before() -> None:
    torch.manual_seed(5)
    one = loaded(seed=3)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn), "building must leave the global stream alone"
    torch.manual_seed(9)
    again, other = loaded(seed=3), loaded(seed=4)
    assert all(torch.equal(value, state(again)[name]) for name, value in state(one).items())
    assert not torch.equal(first_logits(other), first_logits(one))


def test_size_of_the_default_policy() -> None:
    policy = TinyVLM()
    policy.load()
    count = sum(parameter.numel() for parameter in policy.parameters())
    assert 0.6e6 < count < 1.2e6


def test_folder_of_a_trained_policy(tmp_path: Path) -> None:
    start = loud_policy(seed=7)
    start.save(tmp_path / "cold_start")
    policy = TinyVLM(tmp_path / "cold_start")
    policy.load()
    assert torch.equal(first_logits(policy), first_logits(start))
    # It reads pictures of the saved size, not of its own default.
    prompts = policy.collator()(mixed_questions())
    assert prompts.vision["pixel_values"].shape[-1] == 32 != policy.image_size


def test_lora_trains_adapters_only_and_plain_peft_reads_them(tmp_path: Path) -> None:
    loud_policy().save(tmp_path / "base")
    policy = TinyVLM(tmp_path / "base", lora=LoraSettings(rank=2))
    policy.load()
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    # Adapters stand beside convolution-free linear layers of the connector and the decoder.
    assert any("connector" in name for name in trained)
    assert any("language_model" in name for name in trained)
    before = first_logits(policy)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    assert (first_logits(policy) - before).abs().nan_to_num().max() > 1e-3
    policy.save(tmp_path / "adapter")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    model = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    prompts = policy.collator()(mixed_questions())
    with torch.no_grad():
        logits = model(
            input_ids=prompts.input_ids, attention_mask=prompts.attention_mask, **prompts.vision
        ).logits[:, -1]
    ours = first_logits(policy)
    sayable = torch.isfinite(ours)
    torch.testing.assert_close(logits[sayable], ours[sayable], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"encoder": "vit_tiny_patch16_224", "encoder_kwargs": {"img_size": 64}},
        {"encoder": "eva02_tiny_patch14_224", "encoder_kwargs": {"img_size": 56}, "image_size": 56},
        {"encoder": "resnet10t"},
        {"encoder": "mobilenetv3_small_050"},
        {"encoder": "resnet10t", "image_size": 72},  # no multiple of its stride of 32
        {"encoder": "edgenext_xx_small"},
    ],
    ids=lambda settings: f"{settings['encoder']}-{settings.get('image_size', 64)}",
)
def test_any_timm_encoder_reads_trains_and_is_saved(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    policy = TinyVLM(**SMALL, **settings)
    policy.load()
    before = first_logits(policy)
    assert (before[0] - before[1]).abs().nan_to_num().max() > 1e-6
    prompts = policy.collator()(mixed_questions())
    rollouts = InProcess().sample(policy, prompts, 2, SamplingSettings(max_new_tokens=3), seed=0)
    policy.logprobs(prompts, rollouts).sum().backward()
    first = next(p for name, p in policy.named_parameters() if "visual.body" in name)
    assert first.grad is not None
    assert first.grad.abs().max() > 0
    policy.save(tmp_path / "saved")
    again = TinyVLM(tmp_path / "saved")
    again.load()
    assert torch.equal(first_logits(again), before)


def test_feature_maps_with_channels_last_are_turned() -> None:
    class ChannelsLast(torch.nn.Module):
        output_fmt = "NHWC"

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pictures: Tensor) -> list[Tensor]:
            return [pictures.permute(0, 2, 3, 1), pictures[..., ::2, ::2].permute(0, 2, 3, 1)]

    policy = loaded()
    tower = policy.network.model.visual
    tower.body = ChannelsLast()
    pictures = torch.rand(2, 3, 32, 32)
    fine, coarse = tower(pictures)
    assert torch.equal(fine[:, :3], pictures)
    assert torch.equal(coarse[:, :3], pictures[..., ::2, ::2])
    assert tower.map_shapes() == ((5, 32, 32), (5, 16, 16))


def test_looking_at_an_encoder_changes_nothing_in_it() -> None:
    policy = loaded()
    assert not policy.training
    policy.train()
    tower = policy.network.model.visual
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower.map_shapes()
    assert tower.training
    assert all(module.training for module in tower.modules())
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"encoder": "resnet1Ot"}, "timm has no model 'resnet1Ot'. Did you mean resnet1"),
        ({"encoder": "vit_tiny_patch16_224"}, "64-pixel pictures .*set encoder_kwargs"),
        ({"encoder_kwargs": {"chanels": 3}}, "patch_resnet_nano.*chanels"),
        ({"image_size": 2}, "cannot be built for 2-pixel pictures"),
    ],
)
def test_encoders_that_do_not_fit(settings: dict[str, Any], told: str) -> None:
    policy = TinyVLM(**SMALL, **settings)
    with pytest.raises(ConfigError, match=told):
        policy.load()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="heads must divide hidden_size, got 5 and 32"):
        TinyVLM(hidden_size=32, heads=5)


def test_folder_that_is_none(tmp_path: Path) -> None:
    policy = TinyVLM(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="nowhere"):
        policy.load()
