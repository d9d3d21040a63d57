from __future__ import annotations

from pathlib import Path

import bitsandbytes
import pytest
import torch

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, QuantSettings
from support.oracles import random_completions, rollouts_of
from support.tiny_models import random_question


def test_only_four_bits() -> None:
    with pytest.raises(ConfigError, match=r"quantization\.bits must be 4, got 8"):
        QuantSettings(bits=8)


def test_adapters_learn_over_four_bit_weights(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    whole = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=2))
    policy = HFVisionLanguagePolicy(
        str(tiny_qwen_folder), lora=LoraSettings(rank=2), quantization=QuantSettings()
    )
    whole.load()
    policy.load()
    kinds = {
        name: isinstance(module, bitsandbytes.nn.Linear4bit)
        for name, module in policy.network.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    }
    assert kinds
    for name, quantised in kinds.items():
        assert quantised == ("language_model" in name), name

    prompts = policy.collator()([random_question(2)])
    tokens, mask = random_completions(policy, 1)
    exact = whole.logprobs(prompts, rollouts_of(tokens, mask, 1))
    logprobs = policy.logprobs(prompts, rollouts_of(tokens, mask, 1))
    difference = (logprobs - exact).abs().max()
    assert 1e-4 < difference < 1.0  # rounded to 4 bits, but the same model

    with torch.no_grad():
        policy.logprobs(prompts, rollouts_of(tokens, mask, 1))
    policy.logprobs(prompts, rollouts_of(tokens, mask, 1)).sum().backward()
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:  # lora_A has no gradient yet: its partner starts at zero
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    policy.save(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
