"""Rewards to advantages: pure functions, one group of completions per row."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, eps: float = 1e-4, scale_by_std: bool = True) -> Tensor:
    """Centre the rewards of each group, and divide them by the spread of the group.

    Args:
        rewards: Reward of each completion, shape (B, G), float, any range.
        eps: Added to the standard deviation; same unit as `rewards`.
        scale_by_std: Whether to divide by the standard deviation (with Bessel's correction);
            without it, groups with little spread weigh less.

    Returns:
        Advantages, shape (B, G). Exactly zero in a group whose rewards are equal.

    References:
        GRPO, arXiv:2402.03300, section 4.1.2; without the division, arXiv:2503.20783.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale_by_std:
        centred = centred / (rewards.std(dim=1, keepdim=True) + eps)
    # The mean of equal floats may differ from them in the last bit, and eps is small enough to
    # turn that into a gradient.
    flat = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    return torch.where(flat, torch.zeros_like(centred), centred)
