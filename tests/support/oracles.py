"""Slow, obvious ways to the numbers that policies compute fast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import HFVisionLanguagePolicy


def rollouts_of(tokens: Tensor, mask: Tensor, group_size: int) -> Rollouts:
    """Return given completions as rollouts."""
    return Rollouts(
        tokens=tokens,
        mask=mask,
        logprobs=None,
        texts=("",) * len(tokens),
        truncated=torch.zeros(len(tokens), dtype=torch.bool),
        group_size=group_size,
    )


def random_completions(
    policy: HFVisionLanguagePolicy, count: int, seed: int = 0, longest: int = 6
) -> tuple[Tensor, Tensor]:
    """Return random tokens (count, longest) and a mask of 1 to `longest` of them a row."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 250, (count, longest), generator=generator)
    lengths = torch.randint(1, longest + 1, (count, 1), generator=generator)
    lengths[0] = longest
    return tokens, torch.arange(longest) < lengths


def plain_logprobs(
    model: nn.Module,
    alone: PromptBatch,
    tokens: Tensor,
    unsayable: list[int],
    temperature: float = 1.0,
) -> Tensor:
    """Return log-probabilities (K,) of tokens (K,) after one prompt, by one plain forward.

    Args:
        model: The transformers model, adapters or not; computes its own positions.
        alone: One prompt; padding is cut off.
        tokens: What follows it.
        unsayable: Token ids left out of the softmax.
        temperature: Divides the logits.
    """
    kept = alone.attention_mask[0]
    length = int(kept.sum())
    vision = dict(alone.vision)
    if "mm_token_type_ids" in vision:
        types = vision["mm_token_type_ids"][0, kept]
        vision["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(tokens)])[None]
    ids = torch.cat([alone.input_ids[0, kept], tokens])[None]
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **vision).logits
    scores = logits[0, length - 1 : -1].float() / temperature
    allowed = [token for token in range(scores.shape[-1]) if token not in unsayable]
    scores = scores - scores[:, allowed].logsumexp(-1, keepdim=True)
    return scores.gather(1, tokens[:, None])[:, 0]
