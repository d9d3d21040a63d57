"""What corrects a loss where completions come from another policy than the one trained."""

from __future__ import annotations

import torch
from torch import Tensor

from spatial_ssrl.algorithms.settings import CorrectionSettings


def correction_weights(
    old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, how: CorrectionSettings
) -> tuple[Tensor, Tensor]:
    """Return the weight of each token's loss, and where a bound acted.

    Args:
        old_logprobs: Under the weights that sampled, as the policy scores them, shape (N, C).
        sampling_logprobs: As the sampler noted them, shape (N, C); NaN where it did not, which
            counts as no difference.
        mask: True on completion tokens, shape (N, C), bool.
        how: Level and bounds of the ratio.

    Returns:
        Weights, shape (N, C), 0 or more, and a bool mask of tokens truncated or masked, (N, C).
    """
    gaps = (old_logprobs - sampling_logprobs).detach()
    gaps = torch.where(mask & ~gaps.isnan(), gaps, torch.zeros_like(gaps))
    ratios = _ratios(gaps, mask, how.level)
    judged = ratios if how.judged is None else _ratios(gaps, mask, how.judged)
    outside = torch.zeros_like(mask)
    if how.low is not None:
        outside = outside | (judged < how.low)
    if how.high is not None:
        outside = outside | (judged > how.high)
    if how.outside == "mask":
        ratios = ratios.masked_fill(outside, 0)
    elif how.low is not None or how.high is not None:
        ratios = ratios.clamp(how.low, how.high)
    return ratios, outside & mask


def off_policy(
    logprobs: Tensor, sampling_logprobs: Tensor, advantages: Tensor, mask: Tensor, limit: float
) -> Tensor:
    """Return the tokens of bad completions that the policy would hardly give, (N, C), bool.

    Args:
        logprobs: Under the weights being trained, shape (N, C).
        sampling_logprobs: As the sampler noted them, shape (N, C); NaN where it did not, which
            counts as no difference.
        advantages: Of each token, shape (N, C); only negative ones are left out.
        mask: True on completion tokens, shape (N, C), bool.
        limit: Greatest mean of log(sampler / policy) over a completion, in nats.

    References:
        DeepSeek-V3.2, arXiv:2512.02556, equation 9.
    """
    gaps = sampling_logprobs - logprobs.detach()
    gaps = torch.where(mask & ~gaps.isnan(), gaps, torch.zeros_like(gaps))
    means = gaps.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (means > limit) & (advantages < 0) & mask


def _ratios(gaps: Tensor, mask: Tensor, level: str) -> Tensor:
    if level != "token":
        whole = gaps.sum(dim=1, keepdim=True)
        if level == "sequence_mean":
            whole = whole / mask.sum(dim=1, keepdim=True).clamp(min=1)
        gaps = whole.expand_as(gaps)
    return gaps.exp()
