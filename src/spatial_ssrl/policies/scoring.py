"""Log-probabilities of completions: each prompt read once per group, each completion once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.sampling import SamplingSettings, adjusted_logits

_LOGITS_PER_CHUNK = 2**26  # 256 MiB of float32 logits alive at once


def completion_logprobs(
    policy: PolicyBackbone,
    prompts: PromptBatch,
    rollouts: Rollouts,
    sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
) -> Tensor:
    """Return the log-probability of each completion token under the policy.

    The vision tower and the prompt run once per question, and completions of a group that are
    equal run once: both are exact, since equal inputs give equal outputs and gradients add up.
    Logits exist for completion tokens only, in chunks recomputed in the backward pass.

    Args:
        policy: The policy, loaded.
        prompts: B prompts.
        rollouts: Their completions, N = B * G rows.
        sampling: The distribution asked about; temperature 0 counts as 1.

    Returns:
        Shape (N, C), float32, 0 on padding; with gradient when gradients are enabled.
    """
    width = max(int(rollouts.mask.sum(1).max()), 1)
    tokens = rollouts.tokens[:, :width] * rollouts.mask[:, :width]
    mask = rollouts.mask[:, :width]
    question = torch.arange(len(rollouts), device=tokens.device) // rollouts.group_size
    keys = torch.cat([question.unsqueeze(1), mask.sum(1, keepdim=True), tokens], dim=1)
    unique, inverse = torch.unique(keys, dim=0, return_inverse=True)
    question, lengths, tokens = unique[:, 0], unique[:, 1:2], unique[:, 2:]
    mask = torch.arange(width, device=tokens.device) < lengths

    state = policy.read(prompts)
    if not torch.equal(question, torch.arange(len(prompts), device=question.device)):
        state = state.select(question)
    hidden = state.hidden.unsqueeze(1)
    if width > 1:
        _, later = policy.read_on(state, tokens[:, :-1], mask[:, :-1])
        hidden = torch.cat([hidden, later], dim=1)
    scored = hidden.new_zeros(mask.shape, dtype=torch.float32)
    scored[mask] = token_logprobs(policy, hidden[mask], tokens[mask], sampling)
    out = scored.new_zeros(rollouts.mask.shape)
    out[:, :width] = scored.index_select(0, inverse)  # indexing would add gradients in any order
    return out


def token_logprobs(
    policy: PolicyBackbone, hidden: Tensor, tokens: Tensor, sampling: SamplingSettings
) -> Tensor:
    """Return the log-probability of M tokens, shape (M,), from hidden states (M, d)."""

    def score(hidden: Tensor, tokens: Tensor) -> Tensor:
        logits = adjusted_logits(policy.logits(hidden), sampling, spared=tokens)
        return -torch.nn.functional.cross_entropy(logits, tokens, reduction="none")

    rows = max(1, _LOGITS_PER_CHUNK // policy.vocabulary_size)
    if len(tokens) <= rows:
        return score(hidden, tokens)
    chunks = zip(hidden.split(rows), tokens.split(rows), strict=True)
    return torch.cat([checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks])
