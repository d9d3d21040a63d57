"""QLoRA for real: GRPO over NF4 weights with quantised scales raises the reward on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spatial_ssrl.policies import (
    HFVisionLanguagePolicy,
    LoraSettings,
    QuantSettings,
    SamplingSettings,
    TinyVLM,
)
from support.four_bits import base_bits, write_wide_qwen
from support.tiny_training import StepLog, tiny_data, tiny_rl, tiny_trainer

pytest.importorskip("bitsandbytes")


def policy_of(kind: str, folder: Path) -> HFVisionLanguagePolicy:
    settings: dict[str, Any] = {
        "lora": LoraSettings(rank=8),
        "quantization": QuantSettings(quant_type="nf4", double=True),
    }
    if kind == "tiny":
        return TinyVLM(image_size=32, hidden_size=64, layers=2, heads=2, **settings)
    return HFVisionLanguagePolicy(str(write_wide_qwen(folder)), max_pixels=56 * 56, **settings)


@pytest.mark.parametrize("kind", ["tiny", "qwen"])
def test_twenty_steps_raise_the_reward_and_keep_every_bit_of_the_base(
    kind: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    policy, log = policy_of(kind, tmp_path / "model"), StepLog()
    policy.load()
    before = base_bits(policy)
    packed = [name for name, tensor in before.items() if tensor.dtype == torch.uint8]
    assert any(name.endswith("nested_absmax") for name in before)
    assert len(packed) >= 14  # seven layers in each of two blocks
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}

    module = tiny_rl(
        policy,
        group_size=8,
        sampling=SamplingSettings(max_new_tokens=6),
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2),
    )
    tiny_trainer(tmp_path, 20, [log]).fit(module, tiny_data(batch_size=2))

    rewards = [step["train/reward"] for step in log.metrics]
    assert len(rewards) == 20
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.3, rewards
    after = base_bits(policy)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
