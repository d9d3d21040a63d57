"""Group relative policy optimisation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from spatial_ssrl.algorithms.advantages import group_advantages
from spatial_ssrl.algorithms.base import ALGORITHMS, Algorithm
from spatial_ssrl.algorithms.losses import (
    clipped_policy_loss,
    k3_divergence,
    log_ratio,
    sequence_means,
)
from spatial_ssrl.core.batches import Feedback, LossInputs, LossOutput
from spatial_ssrl.core.errors import ConfigError


@ALGORITHMS.register("grpo")
class GRPO(Algorithm):
    """Clipped policy gradient whose baseline is the mean reward of the group.

    The loss of a token is the clipped surrogate plus `kl_coefficient` times the k3 estimate
    of the divergence from the reference; it is averaged over the tokens of each completion,
    then over completions.

    Departures from the paper:
        1. The standard deviation has Bessel's correction and `advantage_eps` is added to it,
           as public implementations do.
        2. `clip_range_high` may differ from `clip_range` (arXiv:2503.14476).

    Args:
        clip_range: How far the probability ratio may fall below 1, in (0, 1).
        clip_range_high: How far it may rise above 1; None takes `clip_range`.
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more;
            at 0 the reference is never scored.
        advantage_eps: Added to the standard deviation of a group's rewards.
        scale_by_std: Whether advantages are divided by that standard deviation.

    References:
        DeepSeekMath, arXiv:2402.03300, equations 3 and 4. The coefficient .01 is that of
        Spatial-SSRL, arXiv:2510.27606.
    """

    def __init__(
        self,
        clip_range: float = 0.2,
        clip_range_high: float | None = None,
        kl_coefficient: float = 0.01,
        advantage_eps: float = 1e-4,
        scale_by_std: bool = True,
    ) -> None:
        if not 0 < clip_range < 1:
            raise ConfigError(f"clip_range must be in (0, 1), got {clip_range}.")
        if clip_range_high is not None and clip_range_high <= 0:
            raise ConfigError(
                f"clip_range_high must be above 0, got {clip_range_high}; "
                "leave it out to clip both ways alike."
            )
        if kl_coefficient < 0:
            raise ConfigError(
                f"kl_coefficient must be 0 (no reference) or more, got {kl_coefficient}."
            )
        if advantage_eps <= 0:
            raise ConfigError(f"advantage_eps must be above 0, got {advantage_eps}; try 1e-4.")
        self.clip_range = clip_range
        self.clip_range_high = clip_range if clip_range_high is None else clip_range_high
        self.kl_coefficient = kl_coefficient
        self.advantage_eps = advantage_eps
        self.scale_by_std = scale_by_std

    @property
    def needs_reference(self) -> bool:
        """Whether the loss has a divergence term."""
        return self.kl_coefficient > 0

    def check(self, group_size: int, weights: Mapping[str, float]) -> None:
        """Refuse groups of one."""
        if group_size < 2:
            raise ConfigError(
                f"group_size is {group_size}, but advantages compare the completions of one "
                "question with each other; set group_size to 2 or more."
            )

    def has_signal(self, feedback: Feedback) -> Tensor:
        """Return the groups whose rewards differ, shape (B,), bool."""
        return feedback.rewards.amax(dim=1) != feedback.rewards.amin(dim=1)

    def advantages(self, feedback: Feedback) -> Tensor:
        """Return group-centred advantages, the same for each token of a completion, (N, C)."""
        of_rows = group_advantages(feedback.rewards, self.advantage_eps, self.scale_by_std)
        return of_rows.flatten().unsqueeze(1) * feedback.mask

    def loss(self, inputs: LossInputs, normaliser: float) -> LossOutput:
        """Return the loss of some completions of an update; arguments as in the base class.

        `stats` holds sums over tokens: `tokens`, `clipped`, `old_kl` (k3 against the weights
        that sampled), `surprisal` (minus the log-probability of what was sampled, whose mean
        estimates the entropy) and, with a reference, `kl`.
        """
        logprobs, mask = inputs.logprobs, inputs.mask
        log_ratios = log_ratio(logprobs, inputs.old_logprobs, mask)
        per_token, clipped = clipped_policy_loss(
            log_ratios, inputs.advantages, self.clip_range, self.clip_range_high
        )
        stats = {
            "tokens": mask.sum(),
            "clipped": (clipped & mask).sum(),
            "old_kl": k3_divergence(logprobs, inputs.old_logprobs, mask).sum().detach(),
            "surprisal": -(logprobs.detach() * mask).sum(),
        }
        if self.needs_reference:
            if inputs.ref_logprobs is None:
                raise ValueError("kl_coefficient is above 0, so the loss needs ref_logprobs.")
            divergence = k3_divergence(logprobs, inputs.ref_logprobs, mask)
            per_token = per_token + self.kl_coefficient * divergence
            stats["kl"] = divergence.sum().detach()
        return LossOutput(sequence_means(per_token, mask).sum() / normaliser, stats)

    def normaliser(self, lengths: Tensor) -> float:
        """Return the number of completions of the update."""
        return float(len(lengths))
