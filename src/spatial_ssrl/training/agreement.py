"""Whether two ways of computing the same log-probabilities agree, given their precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Distance:
    """How far apart two ways are on the completions of one question.

    Args:
        largest: Largest difference of a token's log-probability, in nats.
        mean: Mean difference over tokens, in nats.
        row: Completion of the largest difference, counted from 0 over the batch.
        token: Its place in the completion, counted from 0.
    """

    largest: float
    mean: float
    row: int = 0
    token: int = 0


def distances(found: Tensor, wanted: Tensor, mask: Tensor, group_size: int) -> list[Distance]:
    """Return the distance between two tensors of log-probabilities, question by question.

    Args:
        found: Shape (N, C).
        wanted: Shape (N, C).
        mask: True on real tokens, shape (N, C), bool.
        group_size: Completions of each question.
    """
    apart = (found.double() - wanted.double()).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    apart = apart.masked_fill(~mask, 0.0)
    together = []
    for first in range(0, len(apart), group_size):
        part, count = apart[first : first + group_size], mask[first : first + group_size].sum()
        row, token = divmod(int(part.argmax()), part.shape[1])
        mean = float(part.sum()) / max(int(count), 1)
        together.append(Distance(float(part.max()), mean, first + row, token))
    return together


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart two ways may be that round differently.

    Args:
        largest: Bound on the largest difference, in nats.
        mean: Bound on the mean difference, in nats.
        precision: What products are rounded to, for messages.
    """

    largest: float
    mean: float
    precision: str

    def allows(self, distance: Distance) -> bool:
        """Return whether a distance is within both bounds."""
        return distance.largest <= self.largest and distance.mean <= self.mean


def tolerance(policy: nn.Module, device: torch.device, spread: Sequence[Distance]) -> Tolerance:
    """Return how far apart two ways may be, from the precision and what it does to this model.

    The floor is 1e-4 nats in float32. In a coarser precision of relative rounding eps it is 64 eps
    for the largest and 8 eps for the mean difference (bfloat16: 0.5 and 0.06 nats), since a token
    may be far off by rounding alone, but not many are; wrong positions or pictures move the mean by
    tenths of a nat or more. A deep or steep model multiplies rounding, by how much is seen from the
    spread between two forwards of the very same rows in batches of different size: four times as
    much is allowed, but never more than eight times the floor, beyond which the spread itself is a
    fault.

    Args:
        policy: The policy, loaded.
        device: Where it computes.
        spread: Distances between forwards of equal rows in batches of different size.
    """
    precision, eps = _coarsest(policy, device)
    floors = max(1e-4, 64 * eps), max(1e-4, 8 * eps)
    seen = max(d.largest for d in spread), max(d.mean for d in spread)
    largest, mean = (
        min(max(floor, 4 * value), 8 * floor) for floor, value in zip(floors, seen, strict=True)
    )
    return Tolerance(largest, mean, precision)


def _coarsest(policy: nn.Module, device: torch.device) -> tuple[str, float]:
    """Return the coarsest precision products are rounded to, and its relative rounding."""
    dtypes = {p.dtype for p in policy.parameters() if p.is_floating_point()}
    # Layers of 4-bit weights name what they compute in.
    named = (getattr(module, "compute_dtype", None) for module in policy.modules())
    dtypes |= {dtype for dtype in named if isinstance(dtype, torch.dtype)}
    if torch.is_autocast_enabled(device.type):
        dtypes.add(torch.get_autocast_dtype(device.type))
    found = {str(dtype).removeprefix("torch."): torch.finfo(dtype).eps for dtype in dtypes}
    if device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        found["tf32"] = 2.0**-10
    return max(found.items(), key=lambda item: item[1], default=("float32", 0.0))
