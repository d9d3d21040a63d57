"""Group relative policy optimisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from spatial_ssrl.algorithms.advantages import (
    group_advantages,
    length_weighted_mean,
    normalised_parts,
)
from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.policy_gradient import (
    ClippedPolicyGradient,
    PolicyGradient,
    per_token,
    refuse_groups_of_one,
)
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


class GroupRelative(PolicyGradient):
    """A policy gradient whose advantages compare the rewards of one group.

    Subclasses set `advantage`, the conventions of that comparison.
    """

    advantage: AdvantageSettings

    def check(self, group_size: int, weights: Mapping[str, float]) -> None:
        """Refuse groups of one, and parts to be normalised that have no weights."""
        if self.advantage.singleton == "zero":
            refuse_groups_of_one(group_size)
        if self.advantage.parts == "sum":
            return
        if not weights:
            raise ConfigError(
                'advantage.parts is "normalise_each", but the verifier does not say how its parts '
                'are weighted; use one with part weights, such as WeightedSum, or parts: "sum".'
            )
        if self.kl_in_reward or self.overlong.limit is not None:
            raise ConfigError(
                'advantage.parts is "normalise_each", which cannot take a divergence or a penalty '
                'for length from the reward; set kl.place to "loss" and leave out overlong.limit.'
            )

    def estimate(self, feedback: Feedback) -> Tensor:
        """Return the compared rewards, the same for each token of a completion, (N, C)."""
        how = self.advantage
        if how.parts == "normalise_each":
            return self._normalised_each(feedback)
        rewards, baseline = self.completion_rewards(feedback), None
        if how.baseline == "length_weighted":
            baseline = length_weighted_mean(rewards, feedback.mask.sum(dim=1).view_as(rewards))
        values = group_advantages(rewards, how.eps, how.scale, how.bessel, how.singleton, baseline)
        return per_token(values, feedback.mask)

    def _normalised_each(self, feedback: Feedback) -> Tensor:
        how, mask = self.advantage, feedback.mask
        # A part may apply to no completion of this update.
        names = sorted(set(feedback.parts) & set(feedback.weights))
        if not names:
            return per_token(torch.zeros_like(feedback.rewards), mask)
        weights = feedback.rewards.new_tensor([feedback.weights[name] for name in names])
        parts = torch.stack([feedback.parts[name] for name in names])
        lengths = mask.sum(dim=1).view_as(feedback.rewards) if how.parts_over == "tokens" else None
        return per_token(normalised_parts(parts, weights, how.eps, how.bessel, lengths), mask)


@ALGORITHMS.register("grpo")
class GRPO(GroupRelative, ClippedPolicyGradient):
    """Clipped policy gradient whose baseline is the mean reward of the group.

    The loss of a token is the clipped surrogate plus `kl_coefficient` times the k3 estimate
    of the divergence from the reference; it is averaged over the tokens of each completion,
    then over completions.

    Departures from the paper:
        1. The standard deviation has Bessel's correction and 1e-4 is added to it, as public
           implementations do.
        2. Every convention can be set; `grpo_preset` sets those of other libraries together.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more; at 0
            the reference is never scored.
        clip: Bounds of the ratio.
        ratio: How the ratio of new to old probabilities is formed.
        kl: Estimator of the divergence and where it acts.
        advantage: How the rewards of a group are compared.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.

    References:
        DeepSeekMath, arXiv:2402.03300, equations 3 and 4. The coefficient .01 is that of
        Spatial-SSRL, arXiv:2510.27606.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.01,
        clip: ClipSettings = ClipSettings(),  # noqa: B008
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(kl_coefficient, clip, ratio, kl, aggregation, correction, overlong)
        self.advantage = advantage
