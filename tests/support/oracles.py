"""Slow, obvious ways to the numbers that policies compute fast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import HFVisionLanguagePolicy, SamplingSettings


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
    """Return tokens of text (count, longest) and a mask of 1 to `longest` of them a row."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 250, (count, longest), generator=generator)
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
        model: The transformers model, adapters or not; computes its own positions. In float64 its
            rounding does not add to that of what is compared with it.
        alone: One prompt; padding is cut off.
        tokens: What follows it.
        unsayable: Token ids left out of the softmax.
        temperature: Divides the logits.
    """
    kept = alone.attention_mask[0]
    length = int(kept.sum())
    dtype = next(model.parameters()).dtype
    vision = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in alone.vision.items()
    }
    if "mm_token_type_ids" in vision:
        types = vision["mm_token_type_ids"][0, kept]
        vision["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(tokens)])[None]
    ids = torch.cat([alone.input_ids[0, kept], tokens])[None]
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **vision).logits
    scores = logits[0, length - 1 : -1].float() / temperature
    allowed = [token for token in range(scores.shape[-1]) if token not in unsayable]
    scores = scores - scores[:, allowed].logsumexp(-1, keepdim=True)
    return scores.gather(1, tokens[:, None])[:, 0]


def scores_and_gradients(
    policy: HFVisionLanguagePolicy, prompts: PromptBatch, rollouts: Rollouts
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return log-probabilities, (N, C), and the gradient of each trained tensor by name."""
    # Different weights for different tokens, so that no gradient cancels.
    weights = torch.linspace(-1, 2, rollouts.mask.numel()).view(rollouts.mask.shape)
    scored = policy.logprobs(prompts, rollouts, SamplingSettings(temperature=0.8))
    trained = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    found = torch.autograd.grad((scored * weights).sum(), list(trained.values()))
    return scored.detach(), dict(zip(trained, found, strict=True))


def assert_sharing_is_exact(
    policy: HFVisionLanguagePolicy, prompts: PromptBatch, rollouts: Rollouts
) -> dict[str, Tensor]:
    """Compare shared with repeated scoring, which it is left at; return all gradients."""
    policy.tokens -= policy.tokens
    shared, found = scores_and_gradients(policy, prompts, rollouts)
    # Read once per group, or this would compare the repeated forward with itself.
    assert policy.tokens.computed < policy.tokens.repeated
    policy.shares_prompts = False
    repeated, wanted = scores_and_gradients(policy, prompts, rollouts)
    torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=0)
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * scale, rtol=0, msg=name)
    return wanted
