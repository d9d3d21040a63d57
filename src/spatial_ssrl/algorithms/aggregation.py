"""From the losses of tokens to one number, the same however an update is split."""

from __future__ import annotations

import torch
from torch import Tensor

from spatial_ssrl.algorithms.settings import AggregationSettings


def aggregate(values: Tensor, mask: Tensor, normaliser: float, how: AggregationSettings) -> Tensor:
    """Return the share of some completions in the loss of an update, a scalar.

    Args:
        values: Loss of each token, shape (n, C), anything on padding.
        mask: True on completion tokens, shape (n, C), bool.
        normaliser: What `normaliser` says of the lengths of the whole update.
        how: Conventions.
    """
    kept = torch.where(mask, values, torch.zeros_like(values))
    lengths = mask.sum(dim=1)
    total = kept.sum()
    if how.over == "sequence_mean":
        total = (kept.sum(dim=1) / lengths.clamp(min=1)).sum()
    if how.scope == "micro_batch":
        # Micro-batches count by their completions, so that equal ones are averaged.
        total = total / _denominator(lengths, how) * len(mask)
    return total / normaliser


def normaliser(lengths: Tensor, how: AggregationSettings) -> float:
    """Return what the loss of a whole update divides by.

    Args:
        lengths: Tokens of each completion of the update, shape (N,), int64.
        how: Conventions.
    """
    if how.scope == "micro_batch":
        return float(max(len(lengths), 1))
    return _denominator(lengths, how)


def _denominator(lengths: Tensor, how: AggregationSettings) -> float:
    if how.over == "token_sum":
        return 1.0
    if how.over == "token_mean":
        return float(max(int(lengths.sum()), 1))
    counted = len(lengths) if how.count == "all" else int((lengths > 0).sum())
    if how.over == "fixed_length":
        longest = int(lengths.max()) if len(lengths) else 1
        counted *= max(longest, 1) if how.length is None else how.length
    return float(max(counted, 1))
