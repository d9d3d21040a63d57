from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings


@pytest.fixture
def lora_policy(tiny_qwen_folder: Path) -> HFVisionLanguagePolicy:
    """Loaded tiny Qwen2.5-VL with LoRA that changes its output."""
    return with_effect(HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=4)))


def with_effect(policy: HFVisionLanguagePolicy) -> HFVisionLanguagePolicy:
    """Load a policy and give its adapters, which start without effect, one."""
    policy.load()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return policy
