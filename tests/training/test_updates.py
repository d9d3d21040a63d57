"""Micro-batches: every completion in one of them, within limits, adding up to the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch, Rollouts, ScoredRollouts
from spatial_ssrl.core.questions import Verdict
from spatial_ssrl.policies import SamplingSettings, TinyVLM, TokenCount
from spatial_ssrl.training.parts import parts_of
from spatial_ssrl.training.updates import micro_batches, score_in_micro_batches
from support.oracles import random_completions, rollouts_of
from support.tiny_vlm import loud_policy, mixed_questions

GROUP = 4
LIMITS = [None, 10_000, 130, 70, 1]


@pytest.fixture(scope="module")
def policy() -> TinyVLM:
    return loud_policy()


@pytest.fixture(scope="module")
def prompts(policy: TinyVLM) -> PromptBatch:
    return policy.collator()(mixed_questions())


@pytest.fixture(scope="module")
def rollouts(policy: TinyVLM, prompts: PromptBatch) -> Rollouts:
    tokens, mask = random_completions(policy, len(prompts) * GROUP, longest=12)
    tokens = tokens.clamp(min=5)  # No special tokens.
    tokens[2], mask[2] = tokens[0], mask[0]
    return rollouts_of(tokens, mask, GROUP)


def scored_of(rollouts: Rollouts) -> ScoredRollouts:
    shape = rollouts.mask.shape
    return ScoredRollouts(
        rollouts=rollouts,
        verdicts=(Verdict(reward=0.0, parts={}),) * len(rollouts),
        rewards=torch.zeros(len(rollouts) // GROUP, GROUP),
        advantages=torch.linspace(-1, 2, rollouts.mask.numel()).view(shape),
        old_logprobs=torch.arange(rollouts.mask.numel()).view(shape),
        ref_logprobs=None,
    )


@pytest.mark.parametrize("tokens", LIMITS)
@pytest.mark.parametrize("shared", [True, False])
def test_each_completion_is_in_one_part_within_the_limit(
    policy: TinyVLM,
    prompts: PromptBatch,
    rollouts: Rollouts,
    tokens: int | None,
    shared: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policy, "shares_prompts", shared)
    parts = list(parts_of(policy, prompts, rollouts, [0, 1, 2], 2, tokens))
    assert sorted(row for part in parts for row in part.completions) == list(range(len(rollouts)))
    for part in parts:
        each = len(part.completions) // len(part.questions)
        owners = [row // GROUP for row in part.completions]
        assert owners == [question for question in part.questions for _ in range(each)]
        chosen = rollouts_of(
            rollouts.tokens[part.completions], rollouts.mask[part.completions], each
        )
        policy.tokens = TokenCount()
        with torch.no_grad():
            policy.logprobs(policy.select(prompts, part.questions), chosen)
        distinct = len(torch.unique(chosen.tokens * chosen.mask, dim=0))
        if tokens is not None and distinct > 1:
            assert policy.tokens.computed <= tokens


def test_limits_split_no_more_than_they_must(
    policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts
) -> None:
    def count(tokens: int | None) -> int:
        return len(list(parts_of(policy, prompts, rollouts, [0, 1, 2], 3, tokens)))

    assert count(10_000) == count(None) < count(70) < count(1) == len(rollouts) - 1  # two are equal
    lengths = [int(row.sum()) for row in prompts.attention_mask]
    whole = policy.tokens_read([lengths[1]], [[int(n) for n in rollouts.mask[4:8].sum(1)]])
    assert len(list(parts_of(policy, prompts, rollouts, [1], 3, whole))) == 1
    assert len(list(parts_of(policy, prompts, rollouts, [1], 3, whole - 1))) == 2


def gradients(
    policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts, tokens: int | None
) -> list[Tensor]:
    policy.zero_grad()
    for part in micro_batches(policy, prompts, scored_of(rollouts), [0, 1, 2], 3, tokens):
        inputs = part.loss_inputs(policy.logprobs(part.prompts, part.rollouts))
        (inputs.logprobs * inputs.advantages)[inputs.mask].sum().backward()
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


def test_gradients_and_scores_do_not_depend_on_the_limit(
    policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts
) -> None:
    wanted = gradients(policy, prompts, rollouts, None)
    scale = max(float(gradient.abs().max()) for gradient in wanted)
    assert scale > 0
    arguments = (policy, prompts, rollouts, [0, 2], 3, SamplingSettings(temperature=0.7))
    scores = score_in_micro_batches(*arguments)
    assert (scores[:GROUP][rollouts.mask[:GROUP]] < 0).all()
    assert (scores[GROUP : 2 * GROUP] == 0).all()
    for tokens in LIMITS[1:]:
        for found, gradient in zip(
            gradients(policy, prompts, rollouts, tokens), wanted, strict=True
        ):
            torch.testing.assert_close(found, gradient, atol=1e-5 * scale, rtol=0)
        split = score_in_micro_batches(*arguments, tokens)
        torch.testing.assert_close(split, scores, atol=1e-5, rtol=0)


def test_parts_keep_what_belongs_to_each_completion(
    policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts
) -> None:
    scored, seen = scored_of(rollouts), []
    for part in micro_batches(policy, prompts, scored, [0, 1, 2], 3, 70):
        for row in range(len(part.rollouts)):
            kept = part.rollouts.mask[row]
            # Old log-probabilities are numbered, so each names its row.
            place = int(part.old_logprobs[row, 0]) // rollouts.mask.shape[1]
            seen.append(place)
            whole = rollouts.mask[place]
            assert torch.equal(part.rollouts.tokens[row][kept], rollouts.tokens[place][whole])
            assert torch.equal(part.advantages[row][kept], scored.advantages[place][whole])
            question = part.prompts.questions[row // part.rollouts.group_size]
            assert question == prompts.questions[place // GROUP]
    assert sorted(seen) == list(range(len(rollouts)))
