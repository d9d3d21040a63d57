"""The RL algorithm contract and its registry."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from spatial_ssrl.core.batches import LossOutput
from spatial_ssrl.core.registry import Registry


class Algorithm(ABC):
    """Rewards to advantages to loss: pure functions of tensors, without state."""

    @property
    def needs_reference(self) -> bool:
        """Whether `loss` reads `ref_logprobs`."""
        return False

    @abstractmethod
    def advantages(self, rewards: Tensor) -> Tensor:
        """Return the advantage of each completion, shape (B, G), from its reward, (B, G).

        Raises:
            ValueError: If the group size cannot work, such as groups of one.
        """

    @abstractmethod
    def loss(
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        ref_logprobs: Tensor | None,
        advantages: Tensor,
        mask: Tensor,
        normaliser: float,
    ) -> LossOutput:
        """Return the loss of some rows of an update.

        Args:
            logprobs: Under the weights being trained, shape (N, C), with gradient.
            old_logprobs: Under the weights that sampled, shape (N, C).
            ref_logprobs: Under the reference policy, shape (N, C), or None.
            advantages: Of each row, shape (N,).
            mask: True on completion tokens, shape (N, C), bool.
            normaliser: What the loss of the whole update divides by (`normaliser` of the
                update, not of these rows), so that micro-batches add up to the whole.
        """

    @abstractmethod
    def normaliser(self, mask: Tensor) -> float:
        """Return what the loss of a whole update divides by.

        Args:
            mask: True on the completion tokens of the whole update, shape (N, C), bool.
        """


ALGORITHMS: Registry[Algorithm] = Registry(Algorithm, "algorithm")
