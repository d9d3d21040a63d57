"""Scoring by a plain forward of prompt and completion: the reference for shared reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import families
from spatial_ssrl.policies.counting import TokenCount
from spatial_ssrl.policies.image_packing import followed
from spatial_ssrl.policies.packing import distinct_completions
from spatial_ssrl.policies.recomputation import recomputed
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.policies.scoring import token_logprobs

if TYPE_CHECKING:
    from spatial_ssrl.policies.hf_vlm import HFVisionLanguagePolicy


def repeated_logprobs(
    policy: HFVisionLanguagePolicy,
    prompts: PromptBatch,
    rollouts: Rollouts,
    sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
) -> Tensor:
    """Return the log-probability of each completion token, the prompt read once for each.

    What shared reading must agree with, and the way for models that sharing does not hold for;
    slower by about the group size. Equal completions of a question are computed once here too.

    Args:
        policy: The policy, loaded.
        prompts: B prompts of P tokens.
        rollouts: Their completions, N = B * G rows of C tokens.
        sampling: The distribution asked about; temperature 0 counts as 1.

    Returns:
        Shape (N, C), float32, 0 on padding; with gradient when gradients are enabled.
    """
    inner = families.inner_model(policy.network)
    completions = distinct_completions(rollouts)
    tokens, mask = completions.tokens, completions.mask
    repeated = policy.select(prompts, completions.question.tolist())
    positions, following = families.prompt_positions(inner, repeated)
    later = families.next_positions(inner, following, mask)
    length = repeated.input_ids.shape[1]
    policy.tokens += TokenCount(computed=repeated.input_ids.numel() + tokens.numel())
    with recomputed(policy.network):
        output = inner(
            input_ids=torch.cat([repeated.input_ids, tokens], dim=1),
            attention_mask=torch.cat([repeated.attention_mask, mask], dim=1).long(),
            position_ids=torch.cat([positions, later], dim=-1),
            use_cache=False,
            **followed(repeated, policy.inputs, tokens.shape[1]),
        )
    hidden: Tensor = output.last_hidden_state[:, length - 1 : -1]
    scored = hidden.new_zeros(mask.shape, dtype=torch.float32)
    scored[mask] = token_logprobs(policy, hidden[mask], tokens[mask], sampling)
    return completions.spread(scored, rollouts)
