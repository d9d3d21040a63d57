"""Surrogate losses of policy gradients: pure functions of tensors.

Shapes: N completions of at most C tokens. Log-ratios are 0 and advantages finite on padding,
whose losses are the caller's to drop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spatial_ssrl.algorithms.settings import ClipSettings, RatioSettings


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A surrogate loss and where its bounds acted.

    Args:
        loss: Of each token, shape (N, C), with gradient.
        low: Tokens bounded because their ratio was too low, shape (N, C), bool.
        high: Tokens bounded because their ratio was too high, shape (N, C), bool.
    """

    loss: Tensor
    low: Tensor
    high: Tensor


def log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return log(new / old) of each token, 0 on padding.

    Args:
        logprobs: Under the weights being trained, shape (N, C).
        old_logprobs: Under the weights that sampled, shape (N, C).
        mask: True on completion tokens, shape (N, C), bool.
    """
    # Masking the difference, not the product: inf on padding would turn into NaN gradients.
    return torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))


def levelled(log_ratios: Tensor, mask: Tensor, how: RatioSettings) -> Tensor:
    """Return the log-ratio that counts for each token, shape (N, C).

    Args:
        log_ratios: log(new / old) of each token, 0 on padding, shape (N, C).
        mask: True on completion tokens, shape (N, C), bool.
        how: Over what ratios are taken, and their limits.

    References:
        GSPO and its token form, arXiv:2507.18071.
    """
    if how.level != "token":
        whole = log_ratios.sum(dim=1, keepdim=True)
        if how.level != "sequence_product":
            whole = whole / mask.sum(dim=1, keepdim=True).clamp(min=1)
        if how.level == "sequence_mean_token":
            log_ratios = log_ratios - log_ratios.detach() + whole.detach()
        else:
            log_ratios = whole.expand_as(log_ratios)
    if how.log_min is not None or how.log_max is not None:
        log_ratios = log_ratios.clamp(how.log_min, how.log_max)
    return log_ratios


def clipped(log_ratios: Tensor, advantages: Tensor, how: ClipSettings) -> Surrogate:
    """Return the clipped surrogate loss; a bounded token has no gradient.

    Args:
        log_ratios: log(new / old), shape (N, C).
        advantages: Advantage of each token, shape (N, C).
        how: Bounds of the ratio.

    References:
        PPO, arXiv:1707.06347, equation 7; dual clip, arXiv:1912.09729.
    """
    ratios = log_ratios.exp()
    free = ratios * advantages
    bounded = ratios.clamp(1 - how.low, 1 + how.above) * advantages
    loss, cut = -torch.minimum(free, bounded), bounded < free
    if how.dual is not None:
        most = torch.where(advantages < 0, -how.dual * advantages, torch.inf)
        cut = cut | (loss > most)
        loss = torch.minimum(loss, most)
    return Surrogate(loss, cut & (ratios < 1), cut & (ratios > 1))


def weighted_likelihood(
    log_ratios: Tensor,
    logprobs: Tensor,
    advantages: Tensor,
    low: float | None,
    high: float | None,
) -> Surrogate:
    """Return minus advantage times log-probability, weighted by the bounded ratio.

    The weight has no gradient, so that every token keeps one.

    Args:
        log_ratios: log(new / old), shape (N, C).
        logprobs: Under the weights being trained, finite on padding, shape (N, C).
        advantages: Advantage of each token, shape (N, C).
        low: Least ratio, or None.
        high: Greatest ratio, or None.

    References:
        CISPO, MiniMax-M1, arXiv:2506.13585.
    """
    ratios = log_ratios.detach().exp()
    weights = ratios.clamp(low, high) if (low, high) != (None, None) else ratios
    return Surrogate(-weights * advantages * logprobs, ratios < weights, ratios > weights)


def soft_gated(
    log_ratios: Tensor, advantages: Tensor, positive: float, negative: float
) -> Surrogate:
    """Return the loss whose trust region fades out instead of being cut off.

    Args:
        log_ratios: log(new / old), shape (N, C).
        advantages: Advantage of each token, shape (N, C).
        positive: Temperature where the advantage is above 0; larger fades sooner.
        negative: Temperature elsewhere.

    References:
        SAPO, arXiv:2511.20347.
    """
    temperatures = torch.full_like(log_ratios, negative).masked_fill(advantages > 0, positive)
    gates = torch.sigmoid(temperatures * (log_ratios.exp() - 1)) * 4 / temperatures
    nowhere = torch.zeros_like(log_ratios, dtype=torch.bool)
    return Surrogate(-gates * advantages, nowhere, nowhere)


def unweighted_likelihood(logprobs: Tensor, advantages: Tensor) -> Surrogate:
    """Return minus advantage times log-probability, whatever the weights that sampled.

    Args:
        logprobs: Under the weights being trained, finite on padding, shape (N, C).
        advantages: Advantage of each token, shape (N, C).

    References:
        REINFORCE, R. J. Williams (1992); GPG, arXiv:2504.02546.
    """
    nowhere = torch.zeros_like(logprobs, dtype=torch.bool)
    return Surrogate(-advantages * logprobs, nowhere, nowhere)


def gamma_weighted(
    log_ratios: Tensor,
    logprobs: Tensor,
    advantages: Tensor,
    positive: tuple[float, float],
    negative: tuple[float, float],
) -> Surrogate:
    """Return minus advantage times log-probability, weighted by a gamma curve of the ratio.

    The weight of ratio w is w^k exp(l (1 - w)): 1 at w = 1, and falling to 0 on both sides of
    its top at w = k / l. It has no gradient.

    Args:
        log_ratios: log w of each completion, shape (N, 1).
        logprobs: Under the weights being trained, finite on padding, shape (N, C).
        advantages: Advantage of each token, shape (N, C).
        positive: k and l where the advantage is 0 or more.
        negative: k and l elsewhere.

    References:
        VESPO, arXiv:2602.10693.
    """
    log_ratios = log_ratios.detach()
    above, below = (
        power * log_ratios + fall * (1 - log_ratios.exp()) for power, fall in (positive, negative)
    )
    weights = torch.where(advantages >= 0, above, below).exp()
    nowhere = torch.zeros_like(logprobs, dtype=torch.bool)
    return Surrogate(-weights * advantages * logprobs, nowhere, nowhere)


def geometric_mean(
    log_ratios: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float
) -> Surrogate:
    """Return minus advantage times the geometric mean of a completion's bounded ratios.

    Args:
        log_ratios: log(new / old) of each token, 0 on padding, shape (N, C).
        advantages: Advantage of each token, shape (N, C).
        mask: True on completion tokens, shape (N, C), bool.
        low: How far below 0 a log-ratio counts where the advantage is negative, above 0.
        high: How far above 0 it counts elsewhere, above 0.

    Returns:
        A loss that is the same on all tokens of a completion whose advantages are.

    References:
        GMPO, arXiv:2507.20673, equation 4.
    """
    over = (log_ratios > high) & (advantages >= 0)
    under = (log_ratios < -low) & (advantages < 0)
    bounded = log_ratios.masked_fill(over, high).masked_fill(under, -low)
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
    ratios = (bounded.sum(dim=1, keepdim=True) / lengths).exp()
    return Surrogate(-advantages * ratios, under, over)
