"""REINFORCE with advantages normalised over the batch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from spatial_ssrl.algorithms.advantages import group_advantages, returns_to_go, whiten
from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.policy_gradient import (
    ClippedPolicyGradient,
    at_last_token,
    refuse_groups_of_one,
)
from spatial_ssrl.algorithms.settings import (
    AggregationSettings,
    ClipSettings,
    CorrectionSettings,
    KLSettings,
    OverlongSettings,
    RatioSettings,
    ReturnSettings,
)
from spatial_ssrl.core.batches import Feedback


@ALGORITHMS.register("reinforce_plus_plus")
class ReinforcePlusPlus(ClippedPolicyGradient):
    """PPO without a critic: returns of tokens, centred and scaled over the whole update.

    It needs no groups, and learns from groups whose rewards are equal. The divergence is taken
    from the reward of each token.

    Departures from the paper: none in form; 0.01 is the coefficient of OpenRLHF.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more.
        clip: Bounds of the ratio.
        ratio: How the ratio of new to old probabilities is formed.
        kl: Estimator of the divergence and where it acts.
        returns: How rewards of tokens become advantages of tokens.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.

    References:
        REINFORCE++, arXiv:2501.03262.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.01,
        clip: ClipSettings = ClipSettings(),  # noqa: B008
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(estimator="k1", place="reward"),  # noqa: B008
        returns: ReturnSettings = ReturnSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(over="token_mean"),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(kl_coefficient, clip, ratio, kl, aggregation, correction, overlong)
        self.returns = returns

    def estimate(self, feedback: Feedback) -> Tensor:
        """Return whitened returns, shape (N, C)."""
        rewards = at_last_token(self.scores(feedback.rewards), feedback.mask)
        values = returns_to_go(
            rewards - self.kl_penalty(feedback), feedback.mask, self.returns.gamma
        )
        return whiten(values, feedback.mask, self.returns) if self.returns.whiten else values

    def scores(self, rewards: Tensor) -> Tensor:
        """Return what the last token of each completion earns, shape (B, G)."""
        return rewards


@ALGORITHMS.register("reinforce_plus_plus_baseline")
class ReinforcePlusPlusBaseline(ReinforcePlusPlus):
    """REINFORCE++ whose rewards are first centred within their group.

    A group whose rewards are equal keeps a small advantage, since centring over tokens moves
    it where completions differ in length.

    Departures from the paper: none in form; 0.01 is the coefficient of OpenRLHF.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more.
        clip: Bounds of the ratio.
        ratio: How the ratio of new to old probabilities is formed.
        kl: Estimator of the divergence and where it acts.
        returns: How rewards of tokens become advantages of tokens.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.

    References:
        REINFORCE++, arXiv:2501.03262, the variant for several completions a question.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.01,
        clip: ClipSettings = ClipSettings(),  # noqa: B008
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(estimator="k2"),  # noqa: B008
        returns: ReturnSettings = ReturnSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(over="token_mean"),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(
            kl_coefficient, clip, ratio, kl, returns, aggregation, correction, overlong
        )

    def check(self, group_size: int, weights: Mapping[str, float]) -> None:
        """Refuse groups of one."""
        refuse_groups_of_one(group_size)

    def scores(self, rewards: Tensor) -> Tensor:
        """Return rewards less the mean of their group, shape (B, G)."""
        return group_advantages(rewards, scale="none")
