"""Sharing is exact: shared and repeated scoring agree in every family, with every gradient.

Questions of one to five pictures of mixed size, prompts of mixed length and left padded,
completions of mixed length, some equal; in float32, with and without activation checkpointing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import (
    HFVisionLanguagePolicy,
    LoraSettings,
    QuantSettings,
    SamplingSettings,
    TinyVLM,
)
from spatial_ssrl.rollout import InProcess
from support.oracles import random_completions, rollouts_of
from support.tiny_models import FAMILIES, random_question, write_tiny

GROUP = 3
ALL = (*FAMILIES, "tiny_vlm")
QUESTIONS = (
    random_question(1, "Which one?", seed=0),
    random_question(5, "Order the five pictures from near to far, please.", seed=1),
    random_question(2, "", seed=2),
)
TOWERS = {
    "qwen2_5_vl": "visual",
    "qwen3_vl": "visual",
    "llava": "vision_tower",
    "idefics3": "vision_model",
    "smolvlm": "vision_model",
    "tiny_vlm": "visual",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: write_tiny(root / family, family) for family in FAMILIES}


def policy_of(family: str, folders: dict[str, Path], **settings: object) -> HFVisionLanguagePolicy:
    """Return a loaded policy whose adapters change its output."""
    lora = LoraSettings(rank=2)
    if family == "tiny_vlm":
        policy: HFVisionLanguagePolicy = TinyVLM(
            lora=LoraSettings(rank=2, target_modules=r".*(_proj|inward|outward|squeeze|conv\d?)"),
            image_size=32,
            hidden_size=32,
            layers=2,
            heads=2,
        )
        policy.gradient_checkpointing = bool(settings.get("gradient_checkpointing"))
    else:
        policy = HFVisionLanguagePolicy(str(folders[family]), lora=lora, **settings)
    policy.load()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator)
    return policy


def completions(policy: HFVisionLanguagePolicy, seed: int = 0) -> Rollouts:
    tokens, mask = random_completions(policy, len(QUESTIONS) * GROUP, seed, longest=9)
    tokens = tokens.clamp(min=5)  # TinyVLM's placeholder is below.
    tokens[1], mask[1] = tokens[0], mask[0]
    return rollouts_of(tokens, mask, GROUP)


def scores_and_gradients(
    policy: HFVisionLanguagePolicy, prompts: PromptBatch, rollouts: Rollouts
) -> tuple[Tensor, dict[str, Tensor]]:
    # Different weights for different tokens, so that no gradient cancels.
    weights = torch.linspace(-1, 2, rollouts.mask.numel()).view(rollouts.mask.shape)
    scored = policy.logprobs(prompts, rollouts, SamplingSettings(temperature=0.8))
    trained = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    found = torch.autograd.grad((scored * weights).sum(), list(trained.values()))
    return scored.detach(), dict(zip(trained, found, strict=True))


def assert_sharing_is_exact(policy: HFVisionLanguagePolicy, checked: str) -> None:
    prompts = policy.collator()(QUESTIONS)
    rollouts = completions(policy)
    assert not prompts.attention_mask.all()
    policy.tokens -= policy.tokens
    shared, found = scores_and_gradients(policy, prompts, rollouts)
    # Read once per group, or this would compare the repeated forward with itself.
    assert policy.tokens.computed < policy.tokens.repeated
    policy.shares_prompts = False
    repeated, wanted = scores_and_gradients(policy, prompts, rollouts)
    torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=0)
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    assert scale > 0
    assert any(checked in name for name in wanted)
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ALL)
def test_shared_scores_and_gradients_are_those_of_the_repeated_forward(
    family: str, checkpointing: bool, folders: dict[str, Path]
) -> None:
    policy = policy_of(family, folders, gradient_checkpointing=checkpointing)
    assert_sharing_is_exact(policy, TOWERS[family])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sharing_is_exact_over_four_bit_weights(
    checkpointing: bool, folders: dict[str, Path]
) -> None:
    pytest.importorskip("bitsandbytes")
    policy = policy_of(
        "qwen2_5_vl",
        folders,
        gradient_checkpointing=checkpointing,
        quantization=QuantSettings(quant_type="nf4"),
    )
    assert_sharing_is_exact(policy, TOWERS["qwen2_5_vl"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_vision_tower_runs_once_and_without_a_graph(
    checkpointing: bool, folders: dict[str, Path]
) -> None:
    policy = policy_of(
        "qwen2_5_vl", folders, freeze_vision=True, gradient_checkpointing=checkpointing
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
    assert_sharing_is_exact(policy, "language_model")


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingSettings(max_new_tokens=7),
        SamplingSettings(max_new_tokens=7, temperature=1.3, top_p=0.8, top_k=40),
    ],
    ids=["plain", "limited"],
)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ALL)
def test_logprobs_kept_while_sampling_are_those_scored(
    family: str, checkpointing: bool, sampling: SamplingSettings, folders: dict[str, Path]
) -> None:
    policy = policy_of(family, folders, gradient_checkpointing=checkpointing)
    prompts = policy.collator()(QUESTIONS)
    rollouts = InProcess().sample(policy, prompts, GROUP, sampling, seed=5)
    assert rollouts.logprobs is not None
    with torch.no_grad():
        scored = policy.logprobs(prompts, rollouts, sampling)
    torch.testing.assert_close(scored, rollouts.logprobs, atol=1e-5, rtol=0)
