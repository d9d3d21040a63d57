"""One group of four completions in float64, on which other libraries' own functions were run.

Values named after TRL 1.16.0, verl 0.10.0.dev, EasyR1 b44b311 and OpenRLHF 0.11.0 come from running
those functions on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spatial_ssrl.algorithms import Algorithm
from spatial_ssrl.core.batches import Feedback, LossInputs

_LOGPROBS = [
    [-0.9, -1.1, -0.4, -2.0, -0.7],
    [-1.2, -0.3, -0.8, 0, 0],
    [-0.5, -0.6, -1.5, -1.0, 0],
    [-2.2, -0.2, 0, 0, 0],
]
_NEW_LESS_OLD = [
    [0.30, -0.40, 0.05, 0.60, -0.10],
    [-0.25, 0.15, 1.40, 0, 0],
    [0.02, -0.50, 0.35, -0.05, 0],
    [0.20, -0.90, 0, 0, 0],
]
_OLD_LESS_REF = [
    [0.1, -0.2, 0.3, 0.0, 0.05],
    [0.2, 0.1, -0.3, 0, 0],
    [-0.1, 0.4, 0.0, 0.2, 0],
    [0.5, -0.5, 0, 0, 0],
]
_SAMPLING_LESS_OLD = [
    [0.05, -0.10, 0.00, 0.20, 0.00],
    [0.30, -0.10, 0.05, 0, 0],
    [0, 0, -0.4, 0.1, 0],
    [1.2, 0.3, 0, 0, 0],
]


def _tensor(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


LOGPROBS = _tensor(_LOGPROBS)
OLD = LOGPROBS - _tensor(_NEW_LESS_OLD)
REFERENCE = OLD - _tensor(_OLD_LESS_REF)
SAMPLING = OLD + _tensor(_SAMPLING_LESS_OLD)
LENGTHS = torch.tensor([5, 3, 4, 2])
MASK = torch.arange(5) < LENGTHS[:, None]
REWARDS = torch.tensor([[1.0, 0.1, 0.9, 0.0]], dtype=torch.float64)


def feedback(rewards: Tensor = REWARDS, **changes: object) -> Feedback:
    """Return what advantages read."""
    given: dict[str, object] = {"parts": {}, "weights": {}, "mask": MASK}
    return Feedback(rewards=rewards, **(given | changes))  # type: ignore[arg-type]


def loss_and_gradient(
    algorithm: Algorithm, advantages: Tensor | None = None
) -> tuple[float, Tensor]:
    """Return the loss of the whole group and its gradient, shape (4, 5)."""
    if advantages is None:
        advantages = algorithm.advantages(feedback(old_logprobs=OLD, ref_logprobs=REFERENCE))
    logprobs = LOGPROBS.clone().requires_grad_()
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=OLD,
        ref_logprobs=REFERENCE,
        sampling_logprobs=SAMPLING,
        advantages=advantages.expand(4, 5) * MASK,
        mask=MASK,
    )
    output = algorithm.loss(inputs, algorithm.normaliser(LENGTHS))
    output.loss.backward()
    assert logprobs.grad is not None
    return output.loss.item(), logprobs.grad
