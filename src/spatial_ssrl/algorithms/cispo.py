"""Clipped importance-sampling weight policy optimisation."""

from __future__ import annotations

from torch import Tensor

from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.grpo import GroupRelative
from spatial_ssrl.algorithms.losses import Surrogate, weighted_likelihood
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


@ALGORITHMS.register("cispo")
class CISPO(GroupRelative):
    """Policy gradient that bounds the weight of a token, so that every token keeps a gradient.

    Departures from the paper: none in form. It leaves its bounds open; the default, one-sided at
    5, is that of ScaleRL (arXiv:2510.13786).

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more.
        bounds: Least and greatest ratio, as such; None for no bound. verl's 1 - low and 1 + high.
        ratio: How the ratio of new to old probabilities is formed.
        kl: Estimator of the divergence and where it acts.
        advantage: How the rewards of a group are compared.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.

    References:
        CISPO, MiniMax-M1, arXiv:2506.13585.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        bounds: tuple[float | None, float | None] = (None, 5.0),
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(over="token_mean"),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(kl_coefficient, ratio, kl, aggregation, correction, overlong)
        low, high = bounds
        if (low or 0) < 0 or (high is not None and high <= (low or 0)):
            raise ConfigError(f"bounds must satisfy 0 <= low < high, got {list(bounds)}.")
        self.bounds = bounds
        self.advantage = advantage

    def surrogate(self, log_ratios: Tensor, inputs: LossInputs) -> Surrogate:
        """Return the weighted likelihood; arguments as in the base class."""
        return weighted_likelihood(log_ratios, inputs.logprobs, inputs.advantages, *self.bounds)
