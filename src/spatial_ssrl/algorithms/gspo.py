"""Group sequence policy optimisation."""

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


@ALGORITHMS.register("gspo")
class GSPO(GRPO):
    """GRPO whose ratio is that of the whole completion, as a geometric mean over its tokens.

    The bounds are narrow because such a mean moves little: narrower than what bfloat16 lets
    sampling and scoring differ by, so completions are scored anew before an update of several
    optimiser steps.

    Departures from the paper: 1e-4 is added to the standard deviation. `ratio.level:
    "sequence_mean_token"` is the paper's token form.

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
        GSPO, arXiv:2507.18071.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        clip: ClipSettings = ClipSettings(low=3e-4, high=4e-4),  # noqa: B008
        ratio: RatioSettings = RatioSettings(level="sequence_mean"),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(
            kl_coefficient, clip, ratio, kl, advantage, aggregation, correction, overlong
        )
