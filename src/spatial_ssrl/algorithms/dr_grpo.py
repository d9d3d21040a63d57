"""GRPO without its two biases."""

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


@ALGORITHMS.register("dr_grpo")
class DrGRPO(GRPO):
    """GRPO that neither divides by the spread of a group nor by a completion's own length.

    Dividing by the spread favours questions that are nearly always or nearly never answered;
    dividing by the length lets long wrong completions off.

    Departures from the paper: none on-policy. `aggregation.length` is best set to the length
    limit of sampling; any constant only scales the loss.

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
        Dr. GRPO, arXiv:2503.20783, section 3.2.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        clip: ClipSettings = ClipSettings(),  # noqa: B008
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(scale="none"),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(over="fixed_length", length=512),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(
            kl_coefficient, clip, ratio, kl, advantage, aggregation, correction, overlong
        )
