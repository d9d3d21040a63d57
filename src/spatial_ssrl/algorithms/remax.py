"""REINFORCE with the reward of the most likely completion as baseline."""

from __future__ import annotations

from torch import Tensor

from spatial_ssrl.algorithms.advantages import returns_to_go
from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.policy_gradient import (
    ClippedPolicyGradient,
    at_last_token,
    per_token,
)
from spatial_ssrl.algorithms.settings import (
    AggregationSettings,
    ClipSettings,
    CorrectionSettings,
    KLSettings,
    OverlongSettings,
    RatioSettings,
)
from spatial_ssrl.core.batches import Feedback
from spatial_ssrl.core.errors import ConfigError


@ALGORITHMS.register("remax")
class ReMax(ClippedPolicyGradient):
    """REINFORCE whose baseline is the reward of each question's most likely completion.

    That completion is decoded besides the sampled ones. Groups may be of one.

    Departures from the paper: the ratio is clipped, which changes nothing on-policy, and the mean
    is over tokens.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more.
        gamma: Discount of what follows a token, in (0, 1].
        clip: Bounds of the ratio.
        ratio: How the ratio of new to old probabilities is formed.
        kl: Estimator of the divergence and where it acts.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.

    References:
        ReMax, arXiv:2310.10505.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.01,
        gamma: float = 1.0,
        clip: ClipSettings = ClipSettings(),  # noqa: B008
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(estimator="k1", place="reward"),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(over="token_mean"),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(kl_coefficient, clip, ratio, kl, aggregation, correction, overlong)
        if not 0 < gamma <= 1:
            raise ConfigError(f"gamma must be in (0, 1], got {gamma}.")
        self.gamma = gamma

    @property
    def needs_greedy(self) -> bool:
        """Always: the baseline is the greedy reward."""
        return True

    def estimate(self, feedback: Feedback) -> Tensor:
        """Return returns less the greedy reward of the question, shape (N, C)."""
        if feedback.greedy_rewards is None:
            raise ValueError("The baseline needs greedy_rewards.")
        rewards = at_last_token(feedback.rewards, feedback.mask) - self.kl_penalty(feedback)
        baseline = feedback.greedy_rewards.unsqueeze(1).expand_as(feedback.rewards)
        values = returns_to_go(rewards, feedback.mask, self.gamma)
        return values - per_token(baseline, feedback.mask)
