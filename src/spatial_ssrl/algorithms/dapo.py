"""Decoupled clip and dynamic sampling policy optimisation."""

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


@ALGORITHMS.register("dapo")
class DAPO(GRPO):
    """GRPO with a wider upper clip, the mean over all tokens, and no divergence.

    Leaving out or resampling groups without signal is up to `update` of the RL module.

    Departures from the paper:
        1. Long completions are penalised only when `overlong.limit` is set, since the length
           limit is that of the run; the paper's is 20,480 with a margin of 4,096.
        2. 1e-4 is added to the standard deviation.

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
        DAPO, arXiv:2503.14476.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        clip: ClipSettings = ClipSettings(high=0.28),  # noqa: B008
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(over="token_mean"),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(
            kl_coefficient, clip, ratio, kl, advantage, aggregation, correction, overlong
        )
