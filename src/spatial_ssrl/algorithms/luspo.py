"""Length-unbiased sequence policy optimisation."""

from __future__ import annotations

from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.grpo import GRPO
from spatial_ssrl.algorithms.settings import (
    AdvantageSettings,
    AggregationSettings,
    ClipSettings,
    CorrectionSettings,
    KLSettings,
    OverlongSettings,
    RatioSettings,
)


@ALGORITHMS.register("luspo")
class LUSPO(GRPO):
    """GSPO whose loss of a completion is multiplied by its length.

    A mean over the tokens of each completion lets those of a short one weigh more, which draws
    the policy to short answers; here every token weighs the same.

    Departures from the paper: 1e-4 is added to the standard deviation.

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
        LUSPO, arXiv:2602.05261.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        clip: ClipSettings = ClipSettings(low=2e-3, high=2.5e-3),  # noqa: B008
        ratio: RatioSettings = RatioSettings(level="sequence_mean"),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(over="sequence_sum"),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(
            kl_coefficient, clip, ratio, kl, advantage, aggregation, correction, overlong
        )
