"""Log-probabilities of completions: each prompt read once per group, each completion once."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import families
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.counting import TokenCount
from spatial_ssrl.policies.image_packing import in_one_row
from spatial_ssrl.policies.packing import (
    Completions,
    PackedRows,
    distinct_completions,
    packed_rows,
)
from spatial_ssrl.policies.recomputation import recomputed
from spatial_ssrl.policies.sampling import SamplingSettings, adjusted_logits
from spatial_ssrl.policies.shared_attention import Sharing, shared_layout

if TYPE_CHECKING:
    from spatial_ssrl.policies.hf_vlm import HFVisionLanguagePolicy

_LOGITS_PER_CHUNK = 2**26  # 256 MiB of float32 logits alive at once


def completion_logprobs(
    policy: HFVisionLanguagePolicy,
    prompts: PromptBatch,
    rollouts: Rollouts,
    sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
) -> Tensor:
    """Return the log-probability of each completion token under the policy.

    The vision tower and the prompt run once per question, and completions of a group that are
    equal run once: both are exact, since equal inputs give equal outputs and gradients add up.
    All tokens are read as one sequence, in which `shared_attention` lets each completion see
    its prompt and itself. Logits exist for completion tokens only, in chunks recomputed in the
    backward pass.

    Args:
        policy: The policy, loaded.
        prompts: B prompts.
        rollouts: Their completions, N = B * G rows.
        sampling: The distribution asked about; temperature 0 counts as 1.

    Returns:
        Shape (N, C), float32, 0 on padding; with gradient when gradients are enabled.
    """
    completions = distinct_completions(rollouts)
    rows = packed_rows(completions)
    hidden, mask = _read(policy, prompts, completions, rows), completions.mask
    hidden = hidden.index_select(0, _predictors(prompts, completions, rows)[mask])
    scored = hidden.new_zeros(mask.shape, dtype=torch.float32)
    scored[mask] = token_logprobs(policy, hidden, completions.tokens[mask], sampling)
    return completions.spread(scored, rollouts)


def _read(
    policy: HFVisionLanguagePolicy,
    prompts: PromptBatch,
    completions: Completions,
    rows: PackedRows,
) -> Tensor:
    """Return the hidden states of all prompts, then of all rows, shape (B P + R W, d)."""
    network = policy.network
    inner = families.inner_model(network)
    tokens = completions.tokens[rows.owner.clamp(min=0), rows.offset] * (rows.owner >= 0)
    positions, following = families.prompt_positions(inner, prompts)
    later = families.along_axes(inner, following[rows.question].unsqueeze(1) + rows.offset)
    mutual = families.mutual_tokens(network, prompts)
    input_ids = torch.cat([prompts.input_ids.flatten(), tokens.flatten()])
    policy.tokens += TokenCount(computed=len(input_ids))
    with ExitStack() as stack:
        sharing = Sharing(network)
        stack.enter_context(recomputed(network, sharing))
        stack.enter_context(sharing)
        output = inner(
            input_ids=input_ids.unsqueeze(0),
            # Of four dimensions, so that models take it for a ready mask and leave it alone.
            attention_mask=torch.zeros(1, 1, 1, 1, device=tokens.device),
            position_ids=torch.cat([positions.flatten(-2), later.flatten(-2)], -1).unsqueeze(-2),
            use_cache=False,
            shared_layout=shared_layout(prompts.attention_mask, rows, mutual, network.dtype),
            **in_one_row(prompts, policy.inputs, tokens.numel()),
        )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def _predictors(prompts: PromptBatch, completions: Completions, rows: PackedRows) -> Tensor:
    """Return which hidden state predicts each completion token, shape (U, C), int64.

    The last token of a prompt predicts the first of each of its completions.
    """
    count, length = prompts.input_ids.shape
    columns = torch.arange(completions.tokens.shape[1], device=rows.start.device)
    later = count * length + rows.start.unsqueeze(1) + columns - 1
    first = (completions.question + 1).unsqueeze(1) * length - 1
    return torch.where(columns == 0, first, later)


def token_logprobs(
    policy: PolicyBackbone, hidden: Tensor, tokens: Tensor, sampling: SamplingSettings
) -> Tensor:
    """Return the log-probability of M tokens, shape (M,), from hidden states (M, d)."""

    def score(hidden: Tensor, tokens: Tensor) -> Tensor:
        logits = adjusted_logits(policy.logits(hidden), sampling, spared=tokens)
        return -torch.nn.functional.cross_entropy(logits, tokens, reduction="none")

    rows = max(1, _LOGITS_PER_CHUNK // policy.vocabulary_size)
    if len(tokens) <= rows:  # Computing the only chunk again would not lower the peak.
        return score(hidden, tokens)
    chunks = zip(hidden.split(rows), tokens.split(rows), strict=True)
    return torch.cat([checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks])
