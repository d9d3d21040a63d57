"""Geometric-mean policy optimisation."""

from __future__ import annotations

from torch import Tensor

from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.grpo import GroupRelative
from spatial_ssrl.algorithms.losses import Surrogate, geometric_mean
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


@ALGORITHMS.register("gmpo")
class GMPO(GroupRelative):
    """Policy gradient of the geometric mean of a completion's ratios, each bounded before.

    A mean of logarithms hardly heeds a single token that moved far, so bounds can be wide.

    Departures from the paper: 1e-4 is added to the standard deviation.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more.
        log_bounds: How far below and above 0 the log-ratio of a token may go, in nats.
        kl: Estimator of the divergence and where it acts.
        advantage: How the rewards of a group are compared.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.

    References:
        GMPO, arXiv:2507.20673.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        log_bounds: tuple[float, float] = (0.4, 0.4),
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(kl_coefficient, RatioSettings(), kl, aggregation, correction, overlong)
        if min(log_bounds) <= 0:
            raise ConfigError(f"log_bounds must be above 0, got {list(log_bounds)}; try 0.4.")
        self.log_bounds = log_bounds
        self.advantage = advantage

    def surrogate(self, log_ratios: Tensor, inputs: LossInputs) -> Surrogate:
        """Return the geometric mean; arguments as in the base class."""
        return geometric_mean(log_ratios, inputs.advantages, inputs.mask, *self.log_bounds)
