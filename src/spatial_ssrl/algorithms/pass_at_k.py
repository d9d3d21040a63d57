"""GRPO for the best of a group."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from spatial_ssrl.algorithms.advantages import best_of_group
from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.grpo import GRPO
from spatial_ssrl.algorithms.policy_gradient import per_token, refuse_groups_of_one
from spatial_ssrl.algorithms.settings import (
    AdvantageSettings,
    AggregationSettings,
    ClipSettings,
    CorrectionSettings,
    KLSettings,
    OverlongSettings,
    RatioSettings,
)
from spatial_ssrl.core.batches import Feedback
from spatial_ssrl.core.errors import ConfigError


@ALGORITHMS.register("pass_at_k")
class PassAtK(GRPO):
    """GRPO that reinforces only the best completion of a group, by its lead over the second.

    Raises the reward of the best of G completions rather than of each. Of `advantage`, only
    `eps` and `bessel` apply.

    Departures from the paper: the estimator is that of verl.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more.
        clip: Bounds of the ratio.
        ratio: How the ratio of new to old probabilities is formed.
        kl: Estimator of the divergence and where it acts.
        advantage: How the rewards of a group are compared.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.

    References:
        arXiv:2503.19595.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.01,
        clip: ClipSettings = ClipSettings(),  # noqa: B008
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(eps=1e-6),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(
            kl_coefficient, clip, ratio, kl, advantage, aggregation, correction, overlong
        )
        if (advantage.scale, advantage.baseline, advantage.parts) != ("group", "mean", "sum"):
            raise ConfigError(
                "PassAtK compares the two best rewards of a group; of `advantage`, set only eps "
                "and bessel."
            )

    def check(self, group_size: int, weights: Mapping[str, float]) -> None:
        """Refuse groups of one."""
        refuse_groups_of_one(group_size)

    def estimate(self, feedback: Feedback) -> Tensor:
        """Return the lead of the best completion, the same for each of its tokens, (N, C)."""
        rewards = self.completion_rewards(feedback)
        values = best_of_group(rewards, self.advantage.eps, self.advantage.bessel)
        return per_token(values, feedback.mask)
