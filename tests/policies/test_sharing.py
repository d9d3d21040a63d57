"""Sharing is exact in what no family's conformance shows: 4-bit weights, a frozen vision tower.

That shared and repeated scoring agree in every family is in tests/conformance/test_families.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spatial_ssrl.core.batches import Rollouts
from spatial_ssrl.policies import (
    HFVisionLanguagePolicy,
    LoraSettings,
    QuantSettings,
    SamplingSettings,
)
from spatial_ssrl.policies.attention_parts import as_on_other_devices
from spatial_ssrl.policies.packing import distinct_completions, packed_rows
from spatial_ssrl.rollout import InProcess
from support.four_bits import write_wide_qwen
from support.oracles import assert_sharing_is_exact, random_completions, rollouts_of
from support.tiny_models import random_question, write_tiny

GROUP = 3
ADAPTED = LoraSettings(rank=2, target_modules="all-linear")
QUESTIONS = (
    random_question(1, "Which one?", seed=0),
    random_question(5, "Order the five pictures from near to far, please.", seed=1),
    random_question(2, "", seed=2),
)


def policy_of(folder: Path, **settings: object) -> HFVisionLanguagePolicy:
    """Return a loaded policy whose adapters change its output."""
    policy = HFVisionLanguagePolicy(str(folder), lora=ADAPTED, **settings)
    policy.load()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator)
    return policy


def completions(policy: HFVisionLanguagePolicy) -> Rollouts:
    tokens, mask = random_completions(policy, len(QUESTIONS) * GROUP, longest=9)
    tokens[1], mask[1] = tokens[0], mask[0]
    return rollouts_of(tokens, mask, GROUP)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sharing_is_exact_over_four_bit_weights(checkpointing: bool, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    policy = policy_of(
        write_wide_qwen(tmp_path),
        gradient_checkpointing=checkpointing,
        quantization=QuantSettings(quant_type="nf4"),
    )
    gradients = assert_sharing_is_exact(policy, policy.collator()(QUESTIONS), completions(policy))
    assert any("visual" in name for name in gradients)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_vision_tower_runs_once_and_without_a_graph(
    checkpointing: bool, tiny_qwen_folder: Path
) -> None:
    policy = policy_of(
        tiny_qwen_folder,
        freeze=("vision_tower", "projector"),
        gradient_checkpointing=checkpointing,
    )
    outputs: list[Tensor] = []
    blocks: list[int] = []
    tower = policy.network.model.visual
    tower.blocks[0].attn.register_forward_pre_hook(lambda *_: blocks.append(1))
    tower.merger.register_forward_hook(lambda module, args, output: outputs.append(output))
    prompts = policy.collator()(QUESTIONS)
    policy.logprobs(prompts, completions(policy)).sum().backward()
    assert len(outputs) == len(blocks) == 1
    assert not outputs[0].requires_grad
    gradients = assert_sharing_is_exact(policy, prompts, completions(policy))
    assert all("language_model" in name for name in gradients)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "idefics3"])
def test_sharing_is_exact_as_done_on_other_devices(
    family: str, checkpointing: bool, tmp_path: Path
) -> None:
    policy = policy_of(write_tiny(tmp_path / family, family), gradient_checkpointing=checkpointing)
    prompts = policy.collator()(QUESTIONS)
    with as_on_other_devices():
        assert_sharing_is_exact(policy, prompts, completions(policy))
        policy.shares_prompts = True
        settings = SamplingSettings(max_new_tokens=8)
        rollouts = InProcess().sample(policy, prompts, GROUP, settings, seed=3)
        scored = policy.logprobs(prompts, rollouts)
    assert rollouts.logprobs is not None
    torch.testing.assert_close(rollouts.logprobs, scored.detach(), atol=1e-5, rtol=0)
    here = InProcess().sample(policy, prompts, GROUP, settings, seed=3)
    assert torch.equal(here.tokens, rollouts.tokens)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_several_rows_to_a_question_are_exact_as_done_on_other_devices(
    family: str, checkpointing: bool, tmp_path: Path
) -> None:
    policy = policy_of(write_tiny(tmp_path / family, family), gradient_checkpointing=checkpointing)
    some = completions(policy)
    rollouts = replace(some, mask=torch.ones_like(some.mask))
    # Two of nine tokens fill a row; the first question has no more that differ.
    assert packed_rows(distinct_completions(rollouts)).question.tolist() == [0, 1, 1, 2, 2]
    with as_on_other_devices():
        assert_sharing_is_exact(policy, policy.collator()(QUESTIONS), rollouts)
