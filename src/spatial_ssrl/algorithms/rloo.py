"""REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from spatial_ssrl.algorithms.advantages import batch_normalised, leave_one_out
from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.policy_gradient import (
    ClippedPolicyGradient,
    per_token,
    refuse_groups_of_one,
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


@ALGORITHMS.register("rloo")
class RLOO(ClippedPolicyGradient):
    """REINFORCE whose baseline is the mean reward of the other completions of the group.

    A completion counts as one action: its ratio is that of all its tokens together. The
    divergence is taken from the reward.

    Departures from the paper: the ratio is clipped, which changes nothing on-policy.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more.
        normalise: Whether to centre and scale advantages over the batch (TRL: with 1e-4).
        clip: Bounds of the ratio.
        ratio: How the ratio of new to old probabilities is formed.
        kl: Estimator of the divergence and where it acts.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.

    References:
        RLOO, arXiv:2402.14740. Defaults as in TRL 1.16.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.05,
        normalise: bool = False,
        clip: ClipSettings = ClipSettings(),  # noqa: B008
        ratio: RatioSettings = RatioSettings(level="sequence_product"),  # noqa: B008
        kl: KLSettings = KLSettings(estimator="k1", place="reward"),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(kl_coefficient, clip, ratio, kl, aggregation, correction, overlong)
        self.normalise = normalise

    def check(self, group_size: int, weights: Mapping[str, float]) -> None:
        """Refuse groups of one."""
        refuse_groups_of_one(group_size)

    def estimate(self, feedback: Feedback) -> Tensor:
        """Return rewards less those of the others, the same for each token, (N, C)."""
        values = leave_one_out(self.completion_rewards(feedback))
        return per_token(batch_normalised(values) if self.normalise else values, feedback.mask)
