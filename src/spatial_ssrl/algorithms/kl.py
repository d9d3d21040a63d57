"""Divergence between policies, estimated at sampled tokens: pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from spatial_ssrl.algorithms.settings import KLSettings


def divergence(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, how: KLSettings) -> Tensor:
    """Return an estimate of KL(policy || reference) at each token, 0 on padding.

    Args:
        logprobs: Under the policy, shape (N, C).
        ref_logprobs: Under the reference, shape (N, C).
        mask: True on completion tokens, shape (N, C), bool.
        how: Estimator, clamps and gradient; `place` and `ratio_weighted` are the caller's.

    References:
        J. Schulman, "Approximating KL divergence" (2020).
    """
    gap = torch.where(mask, ref_logprobs - logprobs, torch.zeros_like(logprobs))
    value = _estimate(gap, how)
    if how.clamp_output is not None:
        value = value.clamp(-how.clamp_output, how.clamp_output)
    if how.straight_through:
        gradient = gap.square() / 2
        return value.detach() + gradient - gradient.detach()
    return value


def _estimate(gap: Tensor, how: KLSettings) -> Tensor:
    if how.clamp_input is not None:
        gap = gap.clamp(-how.clamp_input, how.clamp_input)
    if how.estimator == "k1":
        return -gap
    if how.estimator == "abs":
        return gap.abs()
    if how.estimator == "k2":
        return gap.square() / 2
    return gap.exp() - gap - 1


def k3_divergence(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return the k3 estimate of KL(policy || reference) at each token, 0 on padding.

    Unbiased, never negative, and of lower variance than the plain log-ratio. Arguments as for
    `divergence`.
    """
    return divergence(logprobs, ref_logprobs, mask, KLSettings())
