"""Tokens read, against what the lengths of prompts and completions say."""

from __future__ import annotations

import pytest
import torch

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import SamplingSettings, TinyVLM, TokenCount
from spatial_ssrl.rollout import InProcess
from support.oracles import rollouts_of
from support.tiny_models import random_question
from support.tiny_vlm import loud_policy, mixed_questions

GROUP = 4


@pytest.fixture(scope="module")
def policy() -> TinyVLM:
    return loud_policy()


def completions(prompts: PromptBatch, longest: int = 6) -> Rollouts:
    """Return completions no two of which are equal, of 1 to `longest` tokens."""
    rows = len(prompts) * GROUP
    tokens = torch.arange(20, 20 + rows).unsqueeze(1).expand(-1, longest).contiguous()
    lengths = torch.arange(rows).unsqueeze(1) % longest + 1
    return rollouts_of(tokens, torch.arange(longest) < lengths, GROUP)


def test_counts_add_up() -> None:
    total = TokenCount(3, 5, 2) + TokenCount(1, 2, 1)
    assert total == TokenCount(4, 7, 3)
    assert total - TokenCount(3, 5, 2) == TokenCount(1, 2, 1)


def spent_by_scoring(policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts) -> TokenCount:
    policy.tokens = TokenCount()
    with torch.no_grad():
        policy.logprobs(prompts, rollouts)
    return policy.tokens


def test_scoring_counts_what_it_reads(policy: TinyVLM) -> None:
    prompts = policy.collator()(mixed_questions())
    rollouts = completions(prompts)
    lengths = [int(row.sum()) for row in prompts.attention_mask]
    rows = [int(row.sum()) for row in rollouts.mask]
    repeated = sum(lengths) * GROUP + sum(rows)
    shared = spent_by_scoring(policy, prompts, rollouts)
    assert shared.repeated == repeated
    # Padding is computed too; the last token of a completion is not.
    assert sum(lengths) + sum(rows) - len(rows) <= shared.computed
    assert shared.computed <= prompts.input_ids.numel() + rollouts.mask.numel() - len(rows)

    by_question = [rows[start : start + GROUP] for start in range(0, len(rows), GROUP)]
    assert shared.computed == policy.tokens_read(lengths, by_question)

    policy.shares_prompts = False
    alone = spent_by_scoring(policy, prompts, rollouts)
    expected = policy.tokens_read(lengths, by_question)
    policy.shares_prompts = True
    assert alone.computed == expected
    assert alone.repeated == repeated
    assert alone.computed == prompts.input_ids.numel() * GROUP + rollouts.mask.numel()


def test_sampling_counts_what_it_reads(policy: TinyVLM) -> None:
    prompts = policy.collator()(mixed_questions())
    policy.tokens = TokenCount()
    rollouts = InProcess().sample(policy, prompts, GROUP, SamplingSettings(5), seed=1)
    real = int(prompts.attention_mask.sum())
    assert policy.tokens.repeated == real * GROUP + int(rollouts.mask.sum())
    assert real <= policy.tokens.computed <= prompts.input_ids.numel() + len(rollouts) * 5


def test_sharing_reads_a_third_of_what_a_repeated_forward_reads(policy: TinyVLM) -> None:
    # The lengths of one question with a long prompt, all about 20 times shorter.
    prompts = policy.collator()([random_question(4, "Order them.", seed=4)])
    length = prompts.input_ids.shape[1]
    tokens = torch.arange(20, 20 + 8).unsqueeze(1).expand(-1, length // 5).contiguous()
    rollouts = rollouts_of(tokens, torch.ones_like(tokens, dtype=torch.bool), 8)
    spent = spent_by_scoring(policy, prompts, rollouts)
    assert spent.repeated == 8 * (length + length // 5)
    assert 3 * spent.computed <= spent.repeated
