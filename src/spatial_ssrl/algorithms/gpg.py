"""Group policy gradient."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from spatial_ssrl.algorithms.base import ALGORITHMS
from spatial_ssrl.algorithms.grpo import GroupRelative
from spatial_ssrl.algorithms.losses import Surrogate, unweighted_likelihood
from spatial_ssrl.algorithms.settings import (
    AdvantageSettings,
    AggregationSettings,
    CorrectionSettings,
    KLSettings,
    OverlongSettings,
    RatioSettings,
)
from spatial_ssrl.core.batches import Feedback, LossInputs


@ALGORITHMS.register("gpg")
class GPG(GroupRelative):
    """Plain policy gradient: no ratio, no bounds, the reward less the mean of its group.

    Without a ratio, completions that an update uses again are taken as if the policy that is
    trained had sampled them.

    Departures from the paper: none in form; where `update.flat_groups` leaves groups without
    signal out, `made_up` knows nothing of them, so set that to "keep" for the paper's figures.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more.
        made_up: What the advantages are multiplied by to make up for completions from which
            nothing is learned: completions by those in groups with "signal", whose rewards
            differ (the paper); completions by those whose "reward" is not 0 (verl); or "none".
        kl: Estimator of the divergence and where it acts.
        advantage: How the rewards of a group are compared.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.

    References:
        GPG, arXiv:2504.02546.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        made_up: Literal["signal", "reward", "none"] = "signal",
        kl: KLSettings = KLSettings(),  # noqa: B008
        advantage: AdvantageSettings = AdvantageSettings(scale="none"),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(over="token_mean"),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(kl_coefficient, RatioSettings(), kl, aggregation, correction, overlong)
        self.made_up = made_up
        self.advantage = advantage

    def estimate(self, feedback: Feedback) -> Tensor:
        """Return the compared rewards, made up, the same for each token, (N, C)."""
        values = super().estimate(feedback)
        rewards = feedback.rewards
        if self.made_up == "none":
            return values
        if self.made_up == "reward":
            counted = int((rewards != 0).sum())
        else:
            flat = rewards.amax(dim=1) == rewards.amin(dim=1)
            counted = int((~flat).sum()) * rewards.shape[1]
        return values * (rewards.numel() / max(counted, 1))

    def surrogate(self, log_ratios: Tensor, inputs: LossInputs) -> Surrogate:
        """Return the likelihood; arguments as in the base class."""
        return unweighted_likelihood(inputs.logprobs, inputs.advantages)
