"""Variational sequence-level soft policy optimisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.grpo import GroupRelative
from spatial_ssrl.algorithms.losses import Surrogate, gamma_weighted, log_ratio
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

# Limits of log-ratios in TRL 1.16. The weight of a masked token is 0, without a finite logarithm.
_MOST, _LEAST = 20.0, math.log(1e-8)


@ALGORITHMS.register("vespo")
class VESPO(GroupRelative):
    """Policy gradient whose completions weigh less the further their ratio is from 1.

    The ratio w is that of the whole completion, and weighs it by w^k exp(l (1 - w)), without a
    gradient. A correction for the sampler is part of w.

    Departures from the paper: 1e-4 is added to the standard deviation.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more.
        positive: k and l where the advantage is 0 or more: how fast weights fall below and above
            the top of the curve at w = k / l.
        negative: The same elsewhere.
        kl: Estimator of the divergence and where it acts.
        advantage: How the rewards of a group are compared.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy; of its
            levels, "token".
        overlong: What becomes of completions that are too long.

    References:
        VESPO, arXiv:2602.10693.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        positive: tuple[float, float] = (2.0, 3.0),
        negative: tuple[float, float] = (3.0, 2.0),
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(over="token_mean"),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        whole = RatioSettings(level="sequence_product", log_min=_LEAST, log_max=_MOST)
        super().__init__(kl_coefficient, whole, kl, aggregation, correction, overlong)
        for name, (power, fall) in (("positive", positive), ("negative", negative)):
            if power < 0 or fall <= 0:
                raise ConfigError(
                    f"{name} must be a power of 0 or more and a rate above 0, "
                    f"got {[power, fall]}; usually [2, 3] and [3, 2]."
                )
        if correction.level not in {"none", "token"}:
            raise ConfigError(
                f'correction.level is "{correction.level}", but VESPO multiplies the corrections '
                'of the tokens itself; set it to "token".'
            )
        self.positive = positive
        self.negative = negative
        self.advantage = advantage

    @property
    def correction_in_ratio(self) -> bool:
        """Always: a completion has one weight."""
        return True

    def surrogate(self, log_ratios: Tensor, inputs: LossInputs) -> Surrogate:
        """Return the weighted likelihood; arguments as in the base class."""
        steps = log_ratio(inputs.logprobs, inputs.old_logprobs, inputs.mask).clamp(-_MOST, _MOST)
        if self.correction.active:
            gaps = self.correction_of(inputs)[0].log().clamp(_LEAST, _MOST)
            steps = steps + torch.where(inputs.mask, gaps, torch.zeros_like(gaps))
        whole = steps.sum(dim=1, keepdim=True)
        return gamma_weighted(
            whole, inputs.logprobs, inputs.advantages, self.positive, self.negative
        )
