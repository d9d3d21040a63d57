"""Soft adaptive policy optimisation."""

from __future__ import annotations

from torch import Tensor

from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.grpo import GroupRelative
from spatial_ssrl.algorithms.losses import Surrogate, soft_gated
from spatial_ssrl.algorithms.settings import (
    AdvantageSettings,
    AggregationSettings,
    CorrectionSettings,
    KLSettings,
    OverlongSettings,
    RatioSettings,
)
from spatial_ssrl.core.batches import LossInputs
from spatial_ssrl.core.errors import ConfigError


@ALGORITHMS.register("sapo")
class SAPO(GroupRelative):
    """Policy gradient whose trust region fades out smoothly instead of being clipped.

    Departures from the paper: 1e-4 is added to the standard deviation.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more.
        temperatures: Where the advantage is above 0, and elsewhere; larger fades sooner.
        ratio: How the ratio of new to old probabilities is formed.
        kl: Estimator of the divergence and where it acts.
        advantage: How the rewards of a group are compared.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.

    References:
        SAPO, arXiv:2511.20347.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        temperatures: tuple[float, float] = (1.0, 1.05),
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(kl_coefficient, ratio, kl, aggregation, correction, overlong)
        if min(temperatures) <= 0:
            raise ConfigError(f"temperatures must be above 0, got {list(temperatures)}.")
        self.temperatures = temperatures
        self.advantage = advantage

    def surrogate(self, log_ratios: Tensor, inputs: LossInputs) -> Surrogate:
        """Return the softly gated surrogate; arguments as in the base class."""
        return soft_gated(log_ratios, inputs.advantages, *self.temperatures)
