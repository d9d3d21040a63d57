"""The RL algorithm contract and its registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from spatial_ssrl.core.batches import Feedback, LossInputs, LossOutput
from spatial_ssrl.core.registry import Registry


class Algorithm(ABC):
    """Rewards to advantages to loss: pure functions of tensors, without state."""

    @property
    def needs_reference(self) -> bool:
        """Whether `advantages` or `loss` reads `ref_logprobs`."""
        return False

    @property
    def needs_old_scores(self) -> bool:
        """Whether `old_logprobs` must be scored by the policy, not taken from the sampler.

        Where an update is one optimiser step they are what `loss` scores, whatever this says.
        """
        return False

    @property
    def needs_greedy(self) -> bool:
        """Whether `advantages` reads `greedy_rewards`."""
        return False

    @abstractmethod
    def check(self, group_size: int, weights: Mapping[str, float]) -> None:
        """Check that the algorithm can work in a run.

        Args:
            group_size: Completions per question.
            weights: Weight of each part of the reward, by name; empty when unknown.

        Raises:
            ConfigError: If it cannot, with the remedy.
        """

    @abstractmethod
    def has_signal(self, feedback: Feedback) -> Tensor:
        """Return which questions' rewards tell completions apart, shape (B,), bool.

        A divergence that is taken from the reward does not count. Asked before anything is
        scored: `old_logprobs` and `ref_logprobs` may be None.
        """

    def shaped(self, rewards: Tensor, lengths: Tensor) -> Tensor:
        """Return what is compared of the rewards of completions of some lengths.

        Args:
            rewards: As the verifier gave them, of any shape.
            lengths: Tokens of each completion, of the same shape, int64.
        """
        return rewards

    @abstractmethod
    def advantages(self, feedback: Feedback) -> Tensor:
        """Return the advantage of each token, shape (N, C), 0 on padding.

        Args:
            feedback: Of all B questions that take part in the update, on every process.
        """

    @abstractmethod
    def loss(self, inputs: LossInputs, normaliser: float) -> LossOutput:
        """Return the loss of some completions of an update.

        Args:
            inputs: Their log-probabilities and advantages.
            normaliser: What the loss of the whole update divides by (`normaliser` of the
                update, not of these rows), so that micro-batches add up to the whole.
        """

    @abstractmethod
    def normaliser(self, lengths: Tensor) -> float:
        """Return what the loss of a whole update divides by.

        Args:
            lengths: Tokens of each completion of the whole update, those of groups left out
                and of other processes included, shape (N,), int64.
        """


ALGORITHMS: Registry[Algorithm] = Registry(Algorithm, "algorithm")
