"""Pieces policy-gradient losses are made of: pure functions of tensors.

Shapes: N completions of at most C tokens. Every function looks at masked tokens only, so
that whatever stands on padding can reach neither the value nor the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return log(new / old) of each token, 0 on padding.

    Args:
        logprobs: Under the weights being trained, shape (N, C).
        old_logprobs: Under the weights that sampled, shape (N, C).
        mask: True on completion tokens, shape (N, C), bool.
    """
    # Masking the difference, not the product: inf on padding would turn into NaN gradients.
    return torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))


def clipped_policy_loss(
    log_ratios: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Return the clipped surrogate loss of each token, and where clipping cut the gradient.

    Args:
        log_ratios: log(new / old) of each token, shape (N, C).
        advantages: Advantage of each token, shape (N, C).
        clip_low: How far below 1 the ratio may fall, in (0, 1).
        clip_high: How far above 1 the ratio may rise, above 0.

    Returns:
        The loss, shape (N, C), and a bool mask of the tokens whose gradient is cut, (N, C).

    References:
        PPO, arXiv:1707.06347, equation 7.
    """
    ratios = log_ratios.exp()
    free = ratios * advantages
    clipped = ratios.clamp(1 - clip_low, 1 + clip_high) * advantages
    return -torch.minimum(free, clipped), clipped < free


def k3_divergence(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return the k3 estimate of KL(policy || reference) at each token, 0 on padding.

    Unbiased, never negative, and of lower variance than the plain log-ratio.

    Args:
        logprobs: Under the policy that is trained, shape (N, C).
        ref_logprobs: Under the reference, shape (N, C).
        mask: True on completion tokens, shape (N, C), bool.

    References:
        J. Schulman, "Approximating KL divergence" (2020); GRPO, arXiv:2402.03300, equation 4.
    """
    difference = torch.where(mask, ref_logprobs - logprobs, torch.zeros_like(logprobs))
    return difference.exp() - difference - 1


def sequence_means(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the tokens of each completion, shape (N,); 0 for an empty one.

    Args:
        values: Any value per token, shape (N, C).
        mask: True on completion tokens, shape (N, C), bool.
    """
    kept = torch.where(mask, values, torch.zeros_like(values))
    return kept.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
