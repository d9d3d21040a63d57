"""Rewards to advantages: pure functions.

Shapes: B questions, G completions each, N = B * G completions of at most C tokens. A reward that
is NaN is unknown: it leaves means and spreads alone, and its own advantage is 0.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from spatial_ssrl.algorithms.settings import ReturnSettings

_TOKEN_EPS = 1e-8  # that of verl's whitening


def group_advantages(
    rewards: Tensor,
    eps: float = 1e-4,
    scale: Literal["group", "batch", "none"] = "group",
    bessel: bool = True,
    singleton: Literal["zero", "reward"] = "zero",
    baseline: Tensor | None = None,
) -> Tensor:
    """Centre the rewards of each group, and divide them by a spread.

    Args:
        rewards: Reward of each completion, shape (B, G), float, any range.
        eps: Added to the standard deviation; same unit as `rewards`.
        scale: The standard deviation divided by: of the "group", of the whole "batch", or
            "none", where groups with little spread weigh less.
        bessel: Whether the standard deviation has Bessel's correction.
        singleton: Advantage of a completion alone in its group: "zero", or its "reward", as if
            the mean were 0 and the standard deviation 1.
        baseline: What is taken off each group, shape (B, 1); None takes its mean.

    Returns:
        Advantages, shape (B, G). Exactly zero in a group whose rewards are equal.

    References:
        GRPO, arXiv:2402.03300, section 4.1.2; without the division, arXiv:2503.20783.
    """
    centred = rewards - (_mean(rewards, 1) if baseline is None else baseline)
    if scale == "group":
        centred = centred / (_std(rewards, 1, bessel) + eps)
    elif scale == "batch":
        centred = centred / (_std(rewards.flatten(), 0, bessel) + eps)
    # The mean of equal floats may differ from them in the last bit, and eps is small enough to
    # turn that into a gradient.
    centred = torch.where(_flat(rewards) | rewards.isnan(), torch.zeros_like(centred), centred)
    if singleton == "reward":
        alone = (~rewards.isnan()).sum(dim=1, keepdim=True) == 1
        kept = rewards.nan_to_num(nan=0.0) / (1 + eps if scale == "group" else 1)
        centred = torch.where(alone, kept, centred)
    return centred


def leave_one_out(rewards: Tensor) -> Tensor:
    """Take off each reward the mean of the others in its group.

    Args:
        rewards: Reward of each completion, shape (B, G), G at least 2.

    Returns:
        Advantages, shape (B, G). Exactly zero in a group whose rewards are equal.

    References:
        RLOO, arXiv:2402.14740.
    """
    known = (~rewards.isnan()).sum(dim=1, keepdim=True)
    return group_advantages(rewards, scale="none") * known / (known - 1).clamp(min=1)


def batch_normalised(advantages: Tensor, eps: float = 1e-4) -> Tensor:
    """Centre and scale advantages over the batch, leaving groups of zeros at zero.

    Args:
        advantages: Of each completion, shape (B, G), with mean 0 in each group.
        eps: Added to the standard deviation, which has Bessel's correction.
    """
    idle = (advantages == 0).all(dim=1, keepdim=True)
    if bool(idle.all()):
        return advantages
    scaled = (advantages - advantages.mean()) / (advantages.std() + eps)
    return torch.where(idle, torch.zeros_like(scaled), scaled)


def best_of_group(rewards: Tensor, eps: float = 1e-6, bessel: bool = True) -> Tensor:
    """Give only the best completion of a group an advantage: its lead over the second best.

    Args:
        rewards: Reward of each completion, shape (B, G), G at least 2.
        eps: Added to the standard deviation of the group, which the lead is divided by.
        bessel: Whether that has Bessel's correction.

    Returns:
        Advantages, shape (B, G); all zero in a group whose two best are equal.

    References:
        Pass@k training, arXiv:2503.19595, as public implementations do it.
    """
    top, places = rewards.nan_to_num(nan=-torch.inf).topk(2, dim=1)
    lead = (top[:, :1] - top[:, 1:]) / (_std(rewards, 1, bessel) + eps)
    lead = torch.where(lead.isfinite(), lead, torch.zeros_like(lead))
    return torch.zeros_like(rewards).scatter(1, places[:, :1], lead)


def length_weighted_mean(rewards: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean reward of each group weighted by length, shape (B, 1).

    Args:
        rewards: Reward of each completion, shape (B, G), finite.
        lengths: Tokens of each, shape (B, G).

    References:
        OPO, arXiv:2505.23585.
    """
    total = lengths.sum(dim=1, keepdim=True).clamp(min=1)
    return (lengths * rewards).sum(dim=1, keepdim=True) / total


def normalised_parts(
    parts: Tensor,
    weights: Tensor,
    eps: float = 1e-4,
    bessel: bool = True,
    lengths: Tensor | None = None,
) -> Tensor:
    """Normalise each part of the reward within its group, add by weight, normalise the batch.

    Args:
        parts: Each part of the reward, shape (K, B, G); NaN where it does not apply.
        weights: Weight of each part, shape (K,).
        eps: Added to both standard deviations.
        bessel: Whether they have Bessel's correction.
        lengths: Tokens of each completion, shape (B, G), to normalise the batch over tokens,
            where 1e-8 is added to the variance in place of `eps`; None counts completions.

    Returns:
        Advantages, shape (B, G); 0 where no part applies.

    References:
        GDPO, arXiv:2601.05242.
    """
    each = torch.stack([group_advantages(part, eps, bessel=bessel) for part in parts])
    total = (each * weights.view(-1, 1, 1)).sum(dim=0)
    unknown = parts.isnan().all(dim=0)
    known = total[~unknown]
    if lengths is not None:
        known = known.repeat_interleave(lengths[~unknown])
    if len(known) < 2 or bool(known.amax() == known.amin()):
        return torch.zeros_like(total)
    variance = known.var(correction=int(bessel))
    spread = variance.sqrt() + eps if lengths is None else (variance + _TOKEN_EPS).sqrt()
    scaled = (total - known.mean()) / spread
    # A group flat in every part has sum 0, which the mean over completions is but for rounding.
    # Over tokens it is not 0, but what a group has not told apart is not to be learned.
    idle = unknown | (each == 0).all(dim=2).all(dim=0).unsqueeze(1)
    return torch.where(idle, torch.zeros_like(scaled), scaled)


def returns_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Return the discounted sum of the rewards of each token and those after it, shape (N, C).

    Args:
        rewards: Reward of each token, shape (N, C), anything on padding.
        mask: True on completion tokens, right padded, shape (N, C), bool.
        gamma: Discount, in (0, 1].
    """
    kept = torch.where(mask, rewards, torch.zeros_like(rewards))
    if gamma == 1:
        found = kept.flip(1).cumsum(dim=1).flip(1)
    else:
        found, running = torch.zeros_like(kept), torch.zeros_like(kept[:, :1])
        for column in reversed(range(kept.shape[1])):
            running = kept[:, column : column + 1] + gamma * running
            found[:, column : column + 1] = running
    return torch.where(mask, found, torch.zeros_like(found))


def whiten(values: Tensor, mask: Tensor, how: ReturnSettings) -> Tensor:
    """Centre values and scale them to variance 1 over all tokens.

    Args:
        values: Any value per token, shape (N, C), anything on padding.
        mask: True on completion tokens, shape (N, C), bool.
        how: Conventions of the variance.

    Returns:
        Whitened values, shape (N, C), 0 on padding; all exactly zero when they are equal.
    """
    kept = values[mask]
    if len(kept) < 2 or bool(kept.amax() == kept.amin()):
        return torch.zeros_like(values)
    variance = kept.var(correction=int(how.bessel))
    floored = variance + how.eps if how.eps_as == "added" else variance.clamp(min=how.eps)
    return torch.where(mask, (values - kept.mean()) * floored.rsqrt(), torch.zeros_like(values))


def overlong_penalty(lengths: Tensor, limit: int, margin: int) -> Tensor:
    """Return the soft penalty of long completions, in [-1, 0], same shape as `lengths`.

    Args:
        lengths: Tokens of each completion.
        limit: Length from which it is -1.
        margin: Tokens before `limit` over which it falls from 0 to -1, linearly.

    References:
        DAPO, arXiv:2503.14476, equation 13.
    """
    return ((limit - margin - lengths) / margin).clamp(-1, 0)


def _flat(rewards: Tensor) -> Tensor:
    """Return which groups have at most one value, shape (B, 1), bool."""
    unknown = rewards.isnan()
    top = rewards.masked_fill(unknown, -torch.inf).amax(dim=1, keepdim=True)
    bottom = rewards.masked_fill(unknown, torch.inf).amin(dim=1, keepdim=True)
    return top <= bottom


def _mean(values: Tensor, dim: int) -> Tensor:
    return values.nanmean(dim, keepdim=True) if values.isnan().any() else values.mean(dim, True)


def _std(values: Tensor, dim: int, bessel: bool) -> Tensor:
    if not values.isnan().any() and values.shape[dim] > 1:
        return values.std(dim, correction=int(bessel), keepdim=True)
    known = (~values.isnan()).sum(dim, keepdim=True)
    squares = (values - _mean(values, dim)).square().nansum(dim, keepdim=True)
    # One known value has no spread; what is divided by it is 0 or set otherwise.
    return (squares / (known - int(bessel)).clamp(min=1)).sqrt()
